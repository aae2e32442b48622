"""No rule: every operation keeps its own derivative (gradient × activation)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lrp_lens.hosts.sites import ActivationSite, AttentionSite, LinearSite, NormSite
from lrp_lens.ops.gates import scale_gradient
from lrp_lens.ops.norms import Width
from lrp_lens.rules.activations import ActivationRule, Compute, GatedSite, ProductRule, Shares, SoftcapRule
from lrp_lens.rules.attention import AttentionRows, AttentionRule
from lrp_lens.rules.experts import ExpertsRule
from lrp_lens.rules.linear import LinearRule
from lrp_lens.rules.norms import NormRule
from lrp_lens.rules.rule import Hook, scaled
from lrp_lens.rules.softmax import SoftmaxRows, SoftmaxRule, Square, plain_softmax


@dataclass(frozen=True)
class Plain(
    NormRule, ActivationRule, ProductRule, AttentionRule, SoftmaxRule, SoftcapRule, ExpertsRule, LinearRule
):
    """No rule: the operation keeps its own derivative (gradient × activation)."""

    def __str__(self) -> str:
        return "plain gradient"

    def words(self, operation: str) -> str:
        """A linear map's own derivative is the 0-rule."""
        return "0-rule" if operation == "linear" else str(self)

    def hooks(self, site: Any, shares: Shares = (1.0, 1.0)) -> tuple[Hook, ...]:
        """None, but for the shares of a gated product."""
        if not isinstance(site, ActivationSite) or site.up is None:
            return ()
        return (*scaled(site.pre, shares[0]), *scaled(site.up, shares[1], detach=False))

    def conserves(self, site: Any) -> bool:
        """Linear maps do."""
        return isinstance(site, LinearSite)

    def share(self, part: str) -> float:
        """Every factor receives the whole."""
        return 1.0

    # ------------------------------------------------------------------------------- norms
    def transpose(self, site: NormSite, x: Width, gradient: Width) -> Width:
        """The norm's own."""
        return site.bare.transpose(x, gradient)

    def derivative(self, site: NormSite, x: Width, direction: Width) -> Width:
        """The norm's own."""
        return site.bare.derivative(x, direction)

    def kept(self, site: NormSite, x: Width) -> Tensor:
        """ε / (variance + ε)."""
        return site.epsilon / site.bare.scale(x).pow(2)

    # ------------------------------------------------------------------------------- attention
    def sinks(self, site: AttentionSite, within: Sequence[str]) -> tuple[str, ...]:
        """What the softmax takes, and the products."""
        return (*within, "products")

    def row_gradients(self, rows: AttentionRows, softmax: SoftmaxRule) -> tuple[Square, Square | None]:
        """The pattern, and the softmax rule's gradient."""
        return rows.pattern, softmax.at_scores(rows, rows.at_pattern)

    def at_scores(self, rows: SoftmaxRows, gradient: Square) -> Square:
        """P ⊙ (g - Σ P ⊙ g)."""
        return plain_softmax(rows, gradient)

    # ------------------------------------------------------------------------------- the others
    def gate(
        self, site: GatedSite, pre: Tensor, up: Tensor | None, shares: Shares, compute: Compute
    ) -> Tensor:
        """The host's own graph, with the shares of the product where the branches enter."""
        if up is None:
            return compute(pre, None)
        return compute(scale_gradient(pre, shares[0]), scale_gradient(up, shares[1]))

    def slope(self, u: Tensor) -> Tensor:
        """1 - tanh(u)²."""
        capped = u.tanh()
        return 1 - capped * capped

    def factor(self, z: Tensor) -> float:
        """1."""
        return 1.0

    def absorbed(self, z: Tensor) -> Tensor:
        """Nothing."""
        return z.new_zeros(())
