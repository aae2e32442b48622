"""Masked prompts, literally: each by itself, every position run and unembedded, nothing kept from one to the next."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_lens.masking import Question


def masked_alone(model: Any, ids: Tensor, mask: Tensor, replacement: Tensor) -> Tensor:
    """Logits [pos, d_vocab] of one prompt with some embeddings replaced; mask and replacement cover its beginning."""

    def hide(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        for position in mask.nonzero()[:, 0].tolist():
            value[0, position] = replacement[position].to(value)
        return value

    with torch.no_grad():
        return model.run_with_hooks(ids[None], fwd_hooks=[("hook_embed", hide)])[0]


def run_alone(question: Question, masks: np.ndarray, tick: Any = None) -> list[tuple[float, int, float]]:
    """What `Question` finds for each mask: metric, first choice, probability of the unmasked first choice."""
    plain = masked_alone(
        question.model,
        question.tokens,
        torch.zeros(len(question.tokens), dtype=torch.bool),
        question.replacement,
    )
    first = int(plain[question.decision].argmax())
    found = []
    for mask in torch.as_tensor(masks):
        rows = torch.stack(
            [masked_alone(question.model, ids, mask, question.replacement) for ids in question.batch.ids]
        )
        decision = rows[0, question.decision].double()
        value = float(question.bound(1)(rows)[0])
        found.append((value, int(decision.argmax()), float(decision.softmax(-1)[first])))
    return found
