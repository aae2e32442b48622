"""Rules at mixtures of experts: routing weight × expert output, and the hooks of a whole mixture.

1. An expert's output is multiplied by its routing weight; HookedTransformer has hook points for both factors.
2. TransformerBridge has none inside a mixture: the host computes the mixture once more (`lrp_lens.hosts.experts`) with
   the same gates, and its output stands behind the host's value.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lrp_lens.hosts.experts import mixture
from lrp_lens.hosts.sites import ExpertsSite, RouterSite
from lrp_lens.ops.gates import scale_gradient, stop_relevance
from lrp_lens.rules.activations import ActivationRule, Shares
from lrp_lens.rules.rule import Hook, Rule, question, require_share, scaled


class ExpertsRule(Rule):
    """How the relevance of routing weight × expert output goes to its factors."""

    @question("which share of a mixture's output goes to its router and to its experts")
    def share(self, part: Literal["router", "expert"]) -> float:
        """The factor on the gradient of one of them."""
        raise NotImplementedError

    @question("whether a mixture's routing hands on all the relevance that it receives")
    def conserves(self, site: Any) -> bool:
        """Whether the experts receive all, and the router's softmax none."""
        raise NotImplementedError

    def hooks(self, site: RouterSite) -> tuple[Hook, ...]:
        """Scale what flows back into the routing weights."""
        return scaled(site.weights, self.share("router"))


@dataclass(frozen=True)
class ExpertWeights(ExpertsRule):
    """Shares of routing weight × expert output in a mixture of experts.

    Half rule (½, ½) with the router's softmax plain; (0, 1) holds the routing constant.
    """

    router: float | int
    expert: float | int

    def __post_init__(self) -> None:
        require_share(self, router=self.router, expert=self.expert)

    def __str__(self) -> str:
        names = {(0.5, 0.5): "half rule", (0.0, 1.0): "routing frozen"}
        return names.get((self.router, self.expert), f"router {self.router:g}, expert {self.expert:g}")

    def share(self, part: Literal["router", "expert"]) -> float:
        """As given."""
        return float(self.router if part == "router" else self.expert)

    def conserves(self, site: Any) -> bool:
        """With the routing held constant."""
        return (self.router, self.expert) == (0, 1)

    def cuts(self, site: Any) -> frozenset[str]:
        """The routing weights, with a share of 0."""
        return frozenset({"weights"} if self.router == 0 else ())


def experts_hooks(
    site: ExpertsSite, activation: ActivationRule, shares: Shares, experts: ExpertsRule
) -> tuple[Hook, ...]:
    """Replace a whole mixture by the same mixture with gates inside."""
    kept: list[Tensor] = []
    to_router, to_expert = experts.share("router"), experts.share("expert")

    def read(tensor: Tensor, hook: object) -> None:
        kept[:] = [tensor]

    def replace(tensor: Tensor, hook: object) -> Tensor:
        again = mixture(
            site,
            kept.pop(),
            routing=lambda weights: (
                scale_gradient(weights, to_router) if to_router else stop_relevance(weights)
            ),
            inner=lambda pre, up, compute: activation.gate(site, pre, up, shares, compute),
            output=lambda output: scale_gradient(output, to_expert),
        ).reshape(tensor.shape)
        return tensor.detach() + (again - again.detach())

    return Hook(site.input, read, "read"), Hook(site.output, replace, "replace")
