"""Check of the claim: hide the tokens that relevance blames, and see whether the preference flips.

1. Rank the non-special tokens by their relevance towards the wrong token, largest first.
2. For k = 0 … K, replace the embeddings of the first k by the mean embedding over the vocabulary, rerun the
   model without any rule, and read the logit gap (wrong − right). Positions and attention stay as they are.
3. Do the same with k random non-special tokens (nested draws), over several seeds, as a control.

A claim that survives flips the preference at a small k while the control does not.
Masking until the wrong token is gone: Contrastive Attribution in the Wild (arXiv 2604.17761), appendix G.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.perturbation.replacement import BASELINE, logits_with_masked_embeddings, mean_embedding


@dataclass(frozen=True)
class MaskingStep:
    """The model after k masked tokens."""

    masked: int
    """How many tokens are masked (k)."""
    position: int | None
    """Position of the k-th token, None for k = 0."""
    token: str
    """Text of the k-th token, "" for k = 0."""
    gap: float
    """Logit of the wrong minus logit of the right token."""
    first_choice: str
    """The token that the model now ranks first."""
    control: float
    """Mean gap with k random tokens masked instead."""
    control_spread: float
    """Standard deviation of that gap over the seeds."""
    control_flips: float
    """Share of the seeds whose k random tokens flip the preference."""


@dataclass(frozen=True)
class MaskingCheck:
    """Logit gaps after masking the blamed tokens, beside masking random ones."""

    steps: tuple[MaskingStep, ...]
    """k = 0, 1, …, K; fewer than asked where fewer tokens favour the wrong token."""
    seeds: int
    """Random orders behind the control."""
    baseline: str = BASELINE
    """What a masked embedding is replaced by."""

    @property
    def flip_at(self) -> int | None:
        """Smallest k ≥ 1 at which the right token overtakes the wrong one, None if it never does."""
        return next((step.masked for step in self.steps if step.masked and step.gap < 0), None)

    @property
    def confirmed(self) -> bool:
        """Whether masking flips the preference where the same number of random tokens mostly does not."""
        return self.flip_at is not None and self.steps[self.flip_at].control_flips < 0.5

    def __str__(self) -> str:
        if self.steps[0].gap <= 0:
            return "The model does not prefer the wrong token here, so there is no preference to flip."
        last = self.steps[-1].masked
        if last == 0:
            return "No token favours the wrong token, so there is nothing to mask."
        if self.flip_at is None:
            return (
                f"Masking the top {last} tokens does not flip the preference (gap {self.steps[-1].gap:+.2f})."
            )
        step = self.steps[self.flip_at]
        flips = round(step.control_flips * self.seeds)
        plural = "s" if step.masked > 1 else ""
        return (
            f"Masking the top {step.masked} token{plural} flips the preference (gap {step.gap:+.2f}); "
            f"masking {step.masked} random token{plural} does so in {flips} of {self.seeds} "
            f"draws (mean gap {step.control:+.2f})."
        )


def masking_check(
    model: Any,
    tokens: Int[Tensor, " pos"],
    relevance: Float[np.ndarray, " pos"],
    special: Bool[np.ndarray, " pos"],
    *,
    target_id: int,
    contrast_id: int,
    text_of: Callable[[int], str],
    top_k: int = 5,
    seeds: int = 20,
) -> MaskingCheck:
    """Mask the top-k tokens for k = 0 … top_k and compare with random tokens.

    Args:
        model: a HookedTransformer or TransformerBridge; the preference is read at the last position.
        tokens: token ids of the prompt, shape [pos].
        relevance: relevance per token, positive towards the target, shape [pos].
        special: True at tokens that are never masked, shape [pos].
        target_id: the wrong token.
        contrast_id: the right token.
        text_of: token id to its text.
        top_k: how many tokens to mask at most.
        seeds: number of random orders.

    Raises:
        InputError: top_k or seeds below 1.
    """
    if top_k < 1 or seeds < 1:
        raise InputError(f"The masking check needs top_k ≥ 1 and seeds ≥ 1; received {top_k} and {seeds}.")
    candidates = [int(i) for i in np.flatnonzero(~np.asarray(special))]
    ranked = sorted(candidates, key=lambda i: -relevance[i])
    blamed = [i for i in ranked if relevance[i] > 0][:top_k]
    orders = [blamed]
    for seed in range(seeds):
        orders.append([int(i) for i in np.random.default_rng(seed).permutation(candidates)[: len(blamed)]])
    masks = _nested_masks(orders, len(tokens))
    baseline = mean_embedding(model, model.cfg.d_vocab)
    logits = logits_with_masked_embeddings(model, tokens.expand(len(masks), -1), masks, baseline)
    gaps = (
        (logits[:, target_id] - logits[:, contrast_id])
        .double()
        .cpu()
        .numpy()
        .reshape(len(orders), len(blamed) + 1)
    )
    first = logits[: len(blamed) + 1].argmax(-1).tolist()
    steps = []
    for k in range(len(blamed) + 1):
        position = blamed[k - 1] if k else None
        steps.append(
            MaskingStep(
                masked=k,
                position=position,
                token="" if position is None else text_of(int(tokens[position])),
                gap=float(gaps[0, k]),
                first_choice=text_of(first[k]),
                control=float(gaps[1:, k].mean()),
                control_spread=float(gaps[1:, k].std()),
                control_flips=float((gaps[1:, k] < 0).mean()),
            )
        )
    return MaskingCheck(tuple(steps), seeds)


def _nested_masks(orders: Sequence[Sequence[int]], length: int) -> Bool[Tensor, "rows pos"]:
    """Row (o, k) is True at the first k positions of order o; shape [orders · (K + 1), pos]."""
    masks = torch.zeros(len(orders), len(orders[0]) + 1, length, dtype=torch.bool)
    for row, order in enumerate(orders):
        for k, position in enumerate(order, start=1):
            masks[row, k:, position] = True
    return masks.flatten(0, 1)
