"""Norms as maps between the stream and what reads or writes it.

1. `normalized`: what a reader's norm makes of its input, (x - mean) / σ · gain + bias.
2. `written`: a share of a sublayer's output taken through the norm after it, whose σ is that of the whole output.
   Shares so taken sum to what the sublayer writes, whatever the rule.
3. `at_input`: a gradient at a norm's output taken back to its input: σ held constant (LN-rule), or the exact
   Jacobian where the rule is the plain gradient.
"""

from jaxtyping import Float
from torch import Tensor

from lrp_lens.decomposition.linear import scale_of, through
from lrp_lens.hosts.sites import NormSite


def normalized(norm: NormSite | None, x: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest d_model"]:
    """A norm's output; the input itself without a norm."""
    if norm is None:
        return x
    result = written(norm, x, scale_of(norm, x))
    bias = norm.bias()
    return result if bias is None else result + bias.to(result)


def written(
    norm: NormSite, x: Float[Tensor, "*rest d_model"], scale: Float[Tensor, "*other 1"]
) -> Float[Tensor, "*rest d_model"]:
    """The linear part of a norm with a given σ: (x - mean) / σ · gain."""
    result = (x - x.mean(-1, keepdim=True) if norm.centred else x) / scale
    gain = norm.gain()
    return result if gain is None else result * gain.to(result)


def at_input(
    norm: NormSite | None,
    gradient: Float[Tensor, "*rest d_model"],
    x: Float[Tensor, "*other d_model"],
    frozen: bool,
) -> Float[Tensor, "*rest d_model"]:
    """The gradient at a norm's input x, from the one at its output."""
    if norm is None:
        return gradient
    scale = scale_of(norm, x)
    result = through(norm, gradient, scale.expand(*gradient.shape[:-1], 1))
    if frozen:
        return result
    gain = norm.gain()
    weighted = gradient if gain is None else gradient * gain.to(gradient)
    unit = (x - x.mean(-1, keepdim=True) if norm.centred else x) / scale
    return result - unit * (weighted * unit).mean(-1, keepdim=True) / scale
