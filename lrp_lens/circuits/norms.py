"""Norms as maps between the stream and what reads or writes it.

1. `normalized`: what a reader's norm makes of its input, (x - mean) / σ · gain + bias.
2. `written`: a share of a sublayer's output taken through the norm after it, whose σ is that of the whole output.
   Shares so taken sum to what the sublayer writes, whatever the rule.

A gradient at a norm's output goes back to its input by the norm's rule (`lrp_lens.rules.norms`).
"""

from jaxtyping import Float
from torch import Tensor

from lrp_lens.decomposition.linear import scale_of
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
