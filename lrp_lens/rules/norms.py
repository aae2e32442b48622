"""Rules at norms: how relevance passes the division by the standard deviation (or root mean square).

1. A norm is y = gain ⊙ (x - mean) / σ + bias.  Gain and bias are linear, whatever the rule; a rule answers for the
   standardised part n = (x - mean) / σ alone: its linear map there (`derivative`), its adjoint (`transpose`), and how
   much of x's own direction it keeps (`kept`).
2. `at_input` and `along` apply these answers to a whole norm, gain included; analyses ask for them.
3. A rule that only defines `transpose` acts, too: `hooks` sends the gradient through it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.hosts.sites import NormSite
from lrp_lens.ops.gates import accumulation_dtype, frozen_normalizer, rerouted, stop_relevance, wide
from lrp_lens.ops.norms import Width
from lrp_lens.rules.rule import Hook, Rule, question


class NormRule(Rule):
    """How relevance passes a norm; answers are for n = (x - mean) / σ, gain and bias left out."""

    @question("whether a norm hands on all the relevance that it receives")
    def conserves(self, site: NormSite) -> bool:
        """Whether nothing but the norm's bias takes relevance; then `kept` is 1."""
        raise NotImplementedError

    @question("what a norm's gradient at its input is (the transpose of its linear map)")
    def transpose(self, site: NormSite, x: Width, gradient: Width) -> Width:
        """The gradient at x from the one at n."""
        raise NotImplementedError

    @question("what a norm's linear map does along a direction")
    def derivative(self, site: NormSite, x: Width, direction: Width) -> Width:
        """The change of n along a change of x; the adjoint of `transpose`."""
        raise NotImplementedError

    @question("how much of its input's relevance a norm keeps")
    def kept(self, site: NormSite, x: Width) -> Float[Tensor, "... 1"]:
        """c with derivative(x, x) = c · n, one number for each position."""
        raise NotImplementedError

    def hooks(self, site: NormSite) -> tuple[Hook, ...] | None:
        """Send the gradient through `transpose`."""
        kept: list[Tensor] = []

        def read(tensor: Tensor, hook: object) -> Tensor | None:
            kept[:] = [tensor]
            return None

        if site.scale is None:  # the host shows the input, and the gain lies inside the output
            assert site.input is not None and site.output is not None

            def replace(tensor: Tensor, hook: object) -> Tensor:
                x = kept.pop()
                at = wide(x)
                return rerouted(tensor, x, lambda gradient: self.at_input(site, gradient.to(at), at))

            return Hook(site.input, read, "read"), Hook(site.output, replace, "replace")
        assert site.normalized is not None

        def freeze(tensor: Tensor, hook: object) -> Tensor:
            kept[:] = [tensor.detach()]
            return stop_relevance(tensor)

        def behind(tensor: Tensor, hook: object) -> Tensor:
            scale = kept.pop().to(accumulation_dtype(tensor.dtype))
            x = (
                tensor.detach().to(scale) * scale
            )  # (x - mean): a norm does not depend on the mean it subtracts
            return rerouted(tensor, tensor, lambda gradient: self.transpose(site, x, gradient.to(x)) * scale)

        return Hook(site.scale, freeze, "scale"), Hook(site.normalized, behind, "replace")

    # ------------------------------------------------------------------- for analyses, gain included
    def at_input(self, site: NormSite | None, gradient: Width, x: Width) -> Width:
        """The gradient at a norm's input x, from the one at its output; the same one without a norm."""
        if site is None:
            return gradient
        return self.transpose(site, x, site.norm.gained(gradient))

    def along(self, site: NormSite | None, x: Width, direction: Width) -> Width:
        """The derivative of a norm at x along a direction; the direction itself without a norm."""
        if site is None:
            return direction
        norm = site.norm
        result = self.derivative(site, norm.over_width(x), norm.over_width(direction))
        return norm.gained(result).reshape(direction.shape)


@dataclass(frozen=True)
class FrozenNorm(NormRule):
    """LN-rule: the standard deviation (or root mean square) is a constant.

    y = (x - mean) / σ · gain + bias with σ frozen, so R(x) = x ⊙ ∂/∂x of a linear map.
    Source: Ali et al. 2022 (2202.07304), Equation 12; AttnLRP (2402.05602), Proposition 3.4.
    """

    def __str__(self) -> str:
        return "normaliser frozen (LN-rule)"

    def hooks(self, site: NormSite) -> tuple[Hook, ...]:
        """Detach the scale where the host lets it be edited, else replace the norm's output."""
        if site.scale is not None:

            def freeze(tensor: Tensor, hook: object) -> Tensor:
                return stop_relevance(tensor)

            return (Hook(site.scale, freeze, "scale"),)
        assert site.input is not None and site.output is not None
        kept: list[Tensor] = []

        def read(tensor: Tensor, hook: object) -> None:
            kept[:] = [tensor]

        def replace(tensor: Tensor, hook: object) -> Tensor:
            return frozen_normalizer(tensor, kept.pop(), site.norm)

        return Hook(site.input, read, "read"), Hook(site.output, replace, "replace")

    def cuts(self, site: NormSite) -> frozenset[str]:
        """The scale."""
        return frozenset({"scale"} if site.scale is not None else ())

    def conserves(self, site: NormSite) -> bool:
        """A linear map does."""
        return True

    def transpose(self, site: NormSite, x: Width, gradient: Width) -> Width:
        """g / σ, centred for LayerNorm."""
        return site.bare.linear_transpose(gradient, site.bare.scale(x))

    def derivative(self, site: NormSite, x: Width, direction: Width) -> Width:
        """(d - mean d) / σ."""
        return site.bare.linear(direction, site.bare.scale(x))

    def kept(self, site: NormSite, x: Width) -> Float[Tensor, "... 1"]:
        """Everything."""
        return torch.ones_like(x[..., :1])
