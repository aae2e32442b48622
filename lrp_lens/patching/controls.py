"""Controls: what a method must beat, and what needs no counterfactual.

1. Random ranking: normal noise, seeded, drawn anew for each site; `compare` averages over several draws.
2. Gradient × input: the activation of the run itself in place of the change, a ⊙ g.
3. Attention rollout (Abnar & Zuidema 2005.00928, section 3): with A = mean over heads of P + I per layer, its rows
   normalised, the product of A over this and all later layers says how much of each stream arrives at the position
   that the metric reads.  Unsigned, and defined on the residual stream only.
   Rows of P sum to 1, so that A is ½ P + ½ I, as the paper writes it, but for attention sinks (GPT-OSS): what goes to
   a sink carries no value, the residual stream is all the more of what arrives, and the paper's "re-normalize" says so.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import SiteError
from lrp_lens.hosts.forward import vocabulary_size
from lrp_lens.patching.atp_star import read_softmax
from lrp_lens.patching.attribution import PatchingPass
from lrp_lens.patching.facets import Facet
from lrp_lens.patching.inputs import per_prompt


def random_scores(like: Float[Tensor, "batch layer ..."], seed: int) -> Float[Tensor, "batch layer ..."]:
    """Normal noise in the shape of other scores, the same for every prompt: a random ranking of the cells."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(like.shape[1:], generator=generator, dtype=torch.float64)
    return noise.to(like).expand_as(like)


def random_draws(shape: Sequence[int], site: str, seed: int, draws: int) -> Float[np.ndarray, "draw ..."]:
    """Several random rankings of a site's cells, independent of each other and of every other site's.

    Args:
        shape: of the cells, [layer, *axes].
        site: the facet's name.
        seed: of all sites together.
        draws: how many.

    Example:
        >>> random_draws((4, 15), "mlp_out", 0, 20).shape
        (20, 4, 15)
    """
    return np.random.default_rng([seed, *site.encode()]).normal(size=(draws, *shape))


def gradient_times_input(passed: PatchingPass, facet: Facet) -> Float[Tensor, "batch layer ..."]:
    """Activation ⊙ gradient (under rules: relevance) of the run itself, summed as a facet's patches are."""
    names = passed.require(facet)
    zeros = {name: torch.zeros_like(passed.activations[name]) for name in names if name in passed.gradients}
    return -replace(passed, path_end=None).scores(zeros, facet)


def attention_rollout(passed: PatchingPass, facet: Facet) -> Float[Tensor, "batch layer pos"]:
    """How much of each position's stream, before each layer, reaches the position that the metric reads.

    Raises:
        SiteError: for a facet other than resid_pre.
    """
    if facet.part != "resid_pre":
        raise SiteError(
            f"Attention rollout is defined on resid_pre; received {facet.name}. Leave it out there."
        )
    layers = read_softmax(passed.model, passed.batch.ids, {}, passed.activations)
    batch, length = passed.batch.ids.shape
    metric = per_prompt(passed.metric, passed.model)
    bound = metric.bind(passed.batch.starts, passed.batch.prompt_lengths, vocabulary_size(passed.model))
    read = torch.tensor([[-1]] * batch) if bound.positions is None else bound.positions[:, :1]
    row = torch.nn.functional.one_hot(read[:, 0] % length, length).to(layers[0][1])
    return rollout([pattern.mean(1) for _, pattern in layers], row)[passed.batch.first_rows]


def rollout(
    patterns: Sequence[Float[Tensor, "batch query key"]], row: Float[Tensor, "batch pos"]
) -> Float[Tensor, "batch layer pos"]:
    """Attention rollout to one position of each example.

    Args:
        patterns: of each layer, mean over heads.
        row: 1 at the position whose sources are asked for, else 0.

    Returns:
        How much of each position's stream before each layer arrives there; sums to 1 over positions.

    Example:
        >>> uniform = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
        >>> rollout([uniform], torch.tensor([[0.0, 1.0]])).tolist()
        [[[0.25, 0.75]]]
    """
    rows = []
    for pattern in reversed(patterns):
        mixed = pattern + torch.eye(pattern.shape[-1], device=pattern.device, dtype=pattern.dtype)
        row = torch.einsum("bi,bij->bj", row.to(mixed), mixed / mixed.sum(-1, keepdim=True))
        rows.append(row)
    return torch.stack(rows[::-1], dim=1)
