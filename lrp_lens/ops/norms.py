"""LayerNorm and RMSNorm as algebra on tensors: the map, its scale, its derivatives and their transposes.

y = gain ⊙ n + bias,  n = (x - mean) / σ,  σ = sqrt(variance + ε);  an RMSNorm subtracts no mean.

1. `forward` is the map, `scale` is σ.
2. With σ a constant the map is linear: `linear` takes a change of x, or a share of x, to y; `linear_transpose` takes a
   gradient at y back to x.  Shares of x, each taken through with the σ of the whole, sum to y - bias.
3. With σ differentiated: `derivative` and `transpose`; ∂n/∂x = (1 - n nᵀ / width) (1 - mean) / σ is symmetric.
4. Another treatment of n, a rule's, is put between `gained` (the gain, diagonal and its own transpose) and the caller.

Tensors are [..., width] and keep their dtype: widen them first (`lrp_lens.ops.gates.wide`).
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

Width = Float[Tensor, "... width"]
"""One vector at each place; one argument may lack leading axes of another."""
Place = Float[Tensor, "... 1"]
"""One number at each place."""


@dataclass(frozen=True, eq=False)
class Norm:
    """y = gain ⊙ (x - mean) / sqrt(variance + epsilon) + bias.

    Example:
        >>> import torch
        >>> norm = Norm(centred=True, epsilon=0.0, gain=torch.tensor([2.0, 2.0]))
        >>> norm.forward(torch.tensor([1.0, 3.0])).tolist()
        [-2.0, 2.0]
    """

    centred: bool
    """True for LayerNorm, False for RMSNorm."""
    epsilon: float
    """The constant under the square root."""
    gain: Tensor | None = None
    """[width]; None for 1."""
    bias: Tensor | None = None
    """[width]; None for 0."""

    def centre(self, x: Width) -> Width:
        """x - mean for a LayerNorm; x for an RMSNorm."""
        return x - x.mean(-1, keepdim=True) if self.centred else x

    def scale(self, x: Width) -> Place:
        """σ = sqrt(variance + ε) of a norm's input."""
        return (self.centre(x).pow(2).mean(-1, keepdim=True) + self.epsilon).sqrt()

    def gained(self, tensor: Width) -> Width:
        """gain ⊙ tensor."""
        return tensor if self.gain is None else tensor * self.gain.to(tensor)

    def forward(self, x: Width) -> Width:
        """y."""
        over = self.over_width(x)
        y = self.linear(over, self.scale(over))
        return (y if self.bias is None else y + self.bias.to(y)).reshape(x.shape)

    # ------------------------------------------------------------------- σ a constant
    def linear(self, direction: Width, scale: Place) -> Width:
        """gain ⊙ (direction - mean) / σ: a share of x on its way to y, whose σ is given."""
        return self.gained(self.centre(direction) / scale)

    def linear_transpose(self, gradient: Width, scale: Place) -> Width:
        """(gain ⊙ gradient) / σ, centred for LayerNorm: a gradient at y on its way to x."""
        return self.centre(self.gained(gradient / scale))

    # ------------------------------------------------------------------- σ differentiated
    def derivative(self, x: Width, direction: Width) -> Width:
        """The derivative of y at x along a direction."""
        return self.gained(self._standard(x, direction))

    def transpose(self, x: Width, gradient: Width) -> Width:
        """The gradient at x, from the one at y."""
        return self._standard(x, self.gained(gradient))

    def _standard(self, x: Width, direction: Width) -> Width:
        """∂n/∂x · direction."""
        scale, direction = self.scale(x), self.centre(direction)
        n = self.centre(x) / scale
        return (direction - n * (n * direction).mean(-1, keepdim=True)) / scale

    # ------------------------------------------------------------------- one norm over all heads
    def over_width(self, tensor: Tensor) -> Tensor:
        """[..., width], from [..., head, d_head] where one norm goes over all heads (OLMo 2)."""
        spread = self.gain is not None and self.gain.numel() != tensor.shape[-1]
        return tensor.flatten(-2) if spread else tensor
