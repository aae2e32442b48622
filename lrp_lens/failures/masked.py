"""A decided prompt as masking asks about it."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.masking import Question
from lrp_lens.masking.replacement import mean_embedding
from lrp_lens.metrics import LogitDiff


def maskable(batch: TokenBatch, metric: LogitDiff) -> Int[np.ndarray, " maskable"]:
    """Positions of one prompt that may be changed: no special token, and not the one that the metric reads."""
    special = batch.special[0].cpu().numpy().copy()
    special[metric.pos] = True
    return np.flatnonzero(~special)


def masking_question(
    model: Any,
    batch: TokenBatch,
    metric: LogitDiff,
    replacement: Float[Tensor, "pos d_model"] | None = None,
    seed: int = 0,
) -> Question:
    """The prompt as masking asks about it: special tokens and the position that is read are never masked.

    Args:
        model: a HookedTransformer or TransformerBridge.
        batch: one prompt.
        metric: target against contrast.
        replacement: what masked embeddings become, at each position; None is the mean over the vocabulary.
        seed: seed of everything random about it.
    """
    if replacement is None:
        replacement = mean_embedding(model, int(model.cfg.d_vocab)).expand(batch.ids.shape[1], -1)
    return Question(
        model=model,
        tokens=batch.ids[0],
        strings=batch.strings[0],
        maskable=maskable(batch, metric),
        metric=metric,
        replacement=replacement,
        seed=seed,
    )
