"""A decided prompt as masking asks about it."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.hosts.token_batch import TEMPLATE, TokenBatch
from lrp_lens.masking import Question
from lrp_lens.masking.replacement import mean_embedding
from lrp_lens.metrics import LogitDiff


def maskable(batch: TokenBatch, metric: LogitDiff) -> Int[np.ndarray, " maskable"]:
    """Positions of one prompt that may be changed: no special token, none that a chat template writes, and not the one
    that the metric reads.
    """
    kept = batch.special[0].cpu().numpy().copy()
    kept[metric.pos] = True
    kept[template_positions(batch)] = True
    return np.flatnonzero(~kept)


def template_positions(batch: TokenBatch) -> list[int]:
    """Positions of one prompt that its chat template writes."""
    segments = batch.segments[0] if batch.segments else ()
    return [at for one in segments if one.role == TEMPLATE for at in range(one.start, one.stop)]


def masking_question(
    model: Any,
    batch: TokenBatch,
    metric: LogitDiff,
    replacement: Float[Tensor, "pos d_model"] | None = None,
    seed: int = 0,
) -> Question:
    """The prompt as masking asks about it: special tokens, a template's and the position that is read are never masked.

    Args:
        model: a HookedTransformer or TransformerBridge.
        batch: one prompt.
        metric: target against contrast.
        replacement: what masked embeddings become, at each position; None is the mean over the vocabulary.
        seed: seed of everything random about it.
    """
    if replacement is None:
        replacement = mean_embedding(model).expand(batch.ids.shape[1], -1)
    return Question(
        model=model,
        tokens=batch.ids[0],
        strings=batch.strings[0],
        maskable=maskable(batch, metric),
        metric=metric,
        replacement=replacement,
        seed=seed,
    )
