"""Rules at the nonlinearity of an MLP, gated or plain, dense or one expert of a mixture, and at soft-caps.

1. `ProductRule`: the shares of a gated product f(gate) · up.
2. `ActivationRule`: how relevance passes f.  Activation and product share one gate, so the activation's rule is handed
   the shares: R(pre) = gate_share · R, R(up) = up_share · R with f(pre) written as pre · ratio(pre) (`Identity`).
3. `SoftcapRule`: how relevance passes cap · tanh(s / cap), at attention scores and at the logits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from lrp_lens.hosts.sites import ActivationSite, AttentionSite, ExpertsSite, LogitSite
from lrp_lens.ops.gates import Ratio, accumulation_dtype, product_gate, scale_gradient
from lrp_lens.ops.ratios import GPT_OSS_SLOPE, RATIOS, clamp_ratio, clamped_swiglu, softcap_ratio
from lrp_lens.rules.rule import Hook, Rule, question, require_share

Shares = tuple[float, float]
"""Of the activation branch and of the linear branch; (1, 0) without a product."""
Compute = Callable[[Tensor, Tensor | None], Tensor]
"""(pre, up) → f(pre) · up as the model computes it."""
GatedSite = ActivationSite | ExpertsSite
"""Where an activation's gate stands: in an MLP, or in every expert of a mixture."""


class ActivationRule(Rule):
    """How relevance passes an activation and the product behind it."""

    @question("whether an activation hands on all the relevance that it receives")
    def conserves(self, site: Any) -> bool:
        """Whether R(pre) is R(f(pre)), the product's shares left aside."""
        raise NotImplementedError

    @question("which graph stands behind an activation")
    def gate(
        self, site: GatedSite, pre: Tensor, up: Tensor | None, shares: Shares, compute: Compute
    ) -> Tensor:
        """compute(pre, up), unchanged, with the rule's graph behind it."""
        raise NotImplementedError

    def hooks(self, site: Any, shares: Shares = (1.0, 0.0)) -> tuple[Hook, ...] | None:
        """Read both branches and put `gate` behind the host's value."""
        kept: dict[str, Tensor] = {}

        def read(role: str) -> Any:
            def hook(tensor: Tensor, hook: object) -> None:
                kept[role] = tensor

            return hook

        def replace(tensor: Tensor, hook: object) -> Tensor:
            return self.gate(site, kept.pop("pre"), kept.pop("up", None), shares, lambda pre, up: tensor)

        reads = [Hook(site.pre, read("pre"), "read")]
        if site.up is not None:
            reads.append(Hook(site.up, read("up"), "read"))
        return (*reads, Hook(site.post, replace, "replace"))


class ProductRule(Rule):
    """How the relevance of f(gate) · up goes to its factors; the activation's rule applies the shares."""

    @question("which share of a gated product goes to its gate and to its linear branch")
    def share(self, part: Literal["gate", "up"]) -> float:
        """The factor on the gradient of one branch."""
        raise NotImplementedError

    @question("whether a gated product hands on all the relevance that it receives")
    def conserves(self, site: Any) -> bool:
        """Whether the shares sum to 1."""
        raise NotImplementedError


class SoftcapRule(Rule):
    """How relevance passes cap · tanh(s / cap)."""

    @question("whether a soft-cap hands on all the relevance that it receives")
    def conserves(self, site: Any) -> bool:
        """Whether R(s) is R(cap · tanh(s / cap))."""
        raise NotImplementedError

    @question("which local derivative a soft-cap has")
    def slope(self, u: Tensor) -> Tensor:
        """The local derivative at s = cap · u."""
        raise NotImplementedError


@dataclass(frozen=True)
class ProductWeights(ProductRule):
    """Shares of a gated product f(gate) · up: R(gate) = gate_share · R, R(up) = up_share · R.

    Half rule (½, ½): Arras et al. 2019; AttnLRP, Equation 7.  Frozen gate (0, 1): CP-LRP.
    """

    gate: float | int
    up: float | int

    def __post_init__(self) -> None:
        require_share(self, gate=self.gate, up=self.up)

    def __str__(self) -> str:
        names = {(0.5, 0.5): "half rule", (0.0, 1.0): "gate frozen"}
        return names.get((self.gate, self.up), f"gate {self.gate:g}, up {self.up:g}")

    def share(self, part: Literal["gate", "up"]) -> float:
        """As given."""
        return float(self.gate if part == "gate" else self.up)

    def conserves(self, site: Any) -> bool:
        """If the shares sum to 1."""
        return self.gate + self.up == 1

    def cuts(self, site: Any) -> frozenset[str]:
        """Branches with the share 0."""
        return frozenset({"pre"} if self.gate == 0 else ()) | ({"up"} if self.up == 0 else set())


@dataclass(frozen=True)
class Identity(ActivationRule, SoftcapRule):
    """Identity rule: R(x) = R(f(x)), i.e. the local derivative is f(x)/x in closed form.

    Source: AttnLRP (2402.05602), Equation 9.  Used for activations and for soft-caps.
    """

    def __str__(self) -> str:
        return "identity rule"

    def conserves(self, site: Any) -> bool:
        """By definition."""
        return True

    def slope(self, u: Tensor) -> Tensor:
        """tanh(u) / u."""
        return softcap_ratio(u)

    def gate(
        self, site: GatedSite, pre: Tensor, up: Tensor | None, shares: Shares, compute: Compute
    ) -> Tensor:
        """Identity rule on the activation, weighted shares of the product."""
        value, limit = compute(pre, up), site.limit
        ratio: Ratio = RATIOS[site.function] if limit is None else clamped_swiglu(GPT_OSS_SLOPE, limit)
        if up is None or limit is None:
            weights = (1.0, 0.0) if up is None else shares
            return product_gate(value, pre, up, ratio, weights=weights)
        clamped = product_gate(
            up.clamp(-limit, limit), up, None, lambda tensor: clamp_ratio(tensor, -limit, limit)
        )
        return product_gate(value, pre, clamped, ratio, weights=shares, offset=1.0)

    def hooks(self, site: Any, shares: Shares = (1.0, 0.0)) -> tuple[Hook, ...] | None:
        """At an activation the gate; at a soft-cap the quotient of the two derivatives."""
        if isinstance(site, AttentionSite | LogitSite):
            return _softcap_hooks(site)
        return ActivationRule.hooks(self, site, shares)


def _softcap_hooks(site: AttentionSite | LogitSite) -> tuple[Hook, ...] | None:
    """Identity rule on cap · tanh(s / cap): the local derivative tanh(u)/u instead of 1 - tanh(u)², u = s / cap.

    Logits are hooked before the cap, attention scores after it (masked entries are -inf there); either way the
    gradient is scaled by the quotient of the two derivatives, since the host's own one is applied as well.
    """
    cap = site.softcap
    if cap is None:
        return ()
    if isinstance(site, LogitSite):

        def before(tensor: Tensor, hook: object) -> Tensor:
            u = tensor.detach().to(accumulation_dtype(tensor.dtype)) / cap
            return scale_gradient(tensor, _quotient(u, torch.tanh(u)))

        return (Hook(site.output, before, "scale"),)
    if site.scores is None:
        return None

    def after(tensor: Tensor, hook: object) -> Tensor:
        wide = tensor.detach().to(accumulation_dtype(tensor.dtype)) / cap
        edge = 1 - torch.finfo(wide.dtype).eps
        t = wide.clamp(-edge, edge)
        masked = wide.abs() > 1 + 1e-3  # beyond what a cap returns
        return scale_gradient(tensor, torch.where(masked, 1.0, _quotient(torch.atanh(t), t)))

    return (Hook(site.scores, after, "scale"),)


def _quotient(u: Tensor, t: Tensor) -> Tensor:
    slope = 1 - t * t
    return torch.where(slope > 0, softcap_ratio(u) / slope.clamp_min(torch.finfo(u.dtype).tiny), 0)
