"""The frozen linear maps between a component's output and the metric.

1. `coefficient`: u, the gradient of the metric at the final norm's output, taken back with the norm's scale held
   constant.  Of the rule set it depends only on how that takes the unembedding (soft-cap, ε-rule).
2. Behind a norm a coefficient is taken back through it, too, with its scale held constant (`lrp_lens.ops.norms`).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import NormSite
from lrp_lens.ops.gates import wide
from lrp_lens.run.balance import Balance, Calls
from lrp_lens.run.cache import RelevanceCache
from lrp_lens.run.recording import total


def coefficient(
    cache: RelevanceCache, balance: Balance, norm: NormSite | None, columns: Int[Tensor, " read"]
) -> Float[Tensor, "batch read d_model"]:
    """∂metric/∂(final residual stream) through the frozen final norm, at the positions that are read."""
    last = Names.resid_post(cache.n_layers - 1)
    if norm is None:
        return wide(cache.gradients[last][:, columns])
    inputs = wide(cache.activations[last][:, columns])
    gradient = wide(total(balance.calls[norm.result].gradients)[:, columns])
    return norm.norm.linear_transpose(gradient, norm.norm.scale(inputs))


def per_position(factor: Tensor, calls: Calls, batch: int, length: int) -> Float[Tensor, "batch pos"]:
    """Σ factor ⊙ gradient over all but batch and position, summed over the calls of one point."""
    parts = [
        (wide(factor) * wide(gradient)).reshape(batch, length, -1).sum(-1) for gradient in calls.gradients
    ]
    return torch.stack(parts).sum(0)
