"""Where the oracle writes relevance down: hook points and sinks.

Whatever an operation keeps instead of passing on is booked as a sink, so that the metric

    m = sum of hook_embed + sum of hook_pos_embed + sum of all sinks.

Sinks are keyed (layer or None, site):

    "ln1 bias", "ln1_post bias", "ln2 bias", "ln2_post bias", "ln_final bias",
    "b_Q", "b_K", "b_V", "b_O", "b_in", "b_up", "b_out", "b_U"      bias * its coefficient
    "b_product"            HookedTransformer's b_in of a gated MLP, added after the product ("b_in": the bias
                           before the activation, in a gated MLP the gate's)
    "mlp norm bias"        SoLU's norm
    "ln1", "ln1_post", "ln2", "ln2_post", "ln_final", "mlp norm"    a norm's scale, zero when frozen
    "q_norm", "k_norm"     likewise, times the rule's factor for q or k
    "logit soft-cap", "attention soft-cap"      zero under the identity rule
    "attention product"    what pattern @ v and q @ k do not hand on, or (negative) duplicate
    "softmax"              sum P gP - sum S gS over the keys and the sink (AttnLRP Prop. 3.1)
    "attention sink", "alibi"                   the sink's logit and ALiBi's bias, times their coefficients
    "activation"           zero under the identity rule; GPT-OSS's clamps are included
    "gated product"        likewise what activated gate times up does not hand on, or duplicates
    "up offset"            the 1 of GPT-OSS's up + 1
    "routing product"      likewise what routing weight times expert output does not hand on, or duplicates
    "router"               renormalization and softmax of the routing weights
    "router bias", "expert bias"                the latter sums the biases of all experts

One choice is bookkeeping only and moves no relevance: rules act on attention at q, k and v, so the sinks
between its two products ("softmax", "attention soft-cap", "attention sink", "alibi") are counted at the share
of the output that goes to the pattern, min(1, factor of q + factor of k).
"""

from collections import defaultdict
from dataclasses import dataclass, field

from torch import Tensor

Site = tuple[int | None, str]


@dataclass
class Ledger:
    """Values and coefficients by hook name, and sinks by site."""

    values: dict[str, Tensor] = field(default_factory=dict)
    coefficients: dict[str, Tensor] = field(default_factory=dict)
    sinks: dict[Site, float] = field(default_factory=lambda: defaultdict(float))

    def note(self, name: str, value: Tensor, coefficient: Tensor) -> None:
        """Keep the value and coefficient of one hook point."""
        self.values[name], self.coefficients[name] = value, coefficient

    def absorb(self, layer: int | None, site: str, amount: Tensor | float) -> None:
        """Book relevance that ends here."""
        self.sinks[layer, site] += float(amount)

    def absorb_bias(self, layer: int | None, site: str, bias: Tensor | None, coefficient: Tensor) -> None:
        """Book bias * coefficient, over all positions."""
        if bias is not None:
            self.absorb(layer, site, (bias * coefficient).sum())


@dataclass(frozen=True)
class Relevance:
    """The oracle's answer for one example; tensors have no batch dimension, names are TransformerLens's."""

    metric: float
    logits: Tensor
    relevance: dict[str, Tensor]
    """value * coefficient"""
    coefficients: dict[str, Tensor]
    """The gated gradient; under GRADIENT, the gradient."""
    values: dict[str, Tensor]
    sinks: dict[Site, float]

    @property
    def total(self) -> float:
        """Token relevance + position relevance + sinks; equal to `metric`."""
        inputs = [
            self.relevance[name].sum().item()
            for name in ("hook_embed", "hook_pos_embed")
            if name in self.values
        ]
        return sum(inputs) + sum(self.sinks.values())
