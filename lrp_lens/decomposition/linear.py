"""The frozen linear maps between a component's output and the metric.

1. `coefficient`: u, the gradient of the metric at the final norm's output, taken back with the norm's scale held
   constant.  Of the rule set it depends only on how that takes the unembedding (soft-cap, ε-rule).
2. `through`: a coefficient taken back through a norm of frozen scale, c ↦ (c ⊙ gain) / σ, centred for LayerNorm.
3. `scale_of`: σ = sqrt(variance + ε) of a norm's input.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import NormSite
from lrp_lens.ops.gates import accumulation_dtype
from lrp_lens.rules.norms import deviation
from lrp_lens.run.balance import Balance, Calls
from lrp_lens.run.cache import RelevanceCache
from lrp_lens.run.recording import total


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least."""
    return tensor.detach().to(accumulation_dtype(tensor.dtype))


def scale_of(norm: NormSite | None, inputs: Float[Tensor, "*rest d_model"]) -> Float[Tensor, "*rest 1"]:
    """σ of a norm at these inputs; 1 without a norm."""
    return torch.ones_like(inputs[..., :1]) if norm is None else deviation(norm, inputs)


def through(
    norm: NormSite | None, coefficient: Float[Tensor, "*rest d_model"], scale: Float[Tensor, "*rest 1"]
) -> Float[Tensor, "*rest d_model"]:
    """The coefficient at a norm's input, from the one at its output, with its scale held constant."""
    if norm is None:
        return coefficient
    gain = norm.gain()
    result = coefficient / scale if gain is None else coefficient * gain.to(coefficient) / scale
    return result - result.mean(-1, keepdim=True) if norm.centred else result


def coefficient(
    cache: RelevanceCache, balance: Balance, norm: NormSite | None, columns: Int[Tensor, " read"]
) -> Float[Tensor, "batch read d_model"]:
    """∂metric/∂(final residual stream) through the frozen final norm, at the positions that are read."""
    last = Names.resid_post(cache.n_layers - 1)
    if norm is None:
        return wide(cache.gradients[last][:, columns])
    inputs = wide(cache.activations[last][:, columns])
    gradient = wide(total(balance.calls[norm.result].gradients)[:, columns])
    return through(norm, gradient, scale_of(norm, inputs))


def per_position(factor: Tensor, calls: Calls, batch: int, length: int) -> Float[Tensor, "batch pos"]:
    """Σ factor ⊙ gradient over all but batch and position, summed over the calls of one point."""
    parts = [
        (wide(factor) * wide(gradient)).reshape(batch, length, -1).sum(-1) for gradient in calls.gradients
    ]
    return torch.stack(parts).sum(0)
