"""A question: one prompt, one metric, and the model's answers to it with any tokens masked.

1. The prompt, its maskable tokens, the metric and the replacement are given (`questions` makes them of cases).
2. `masked(masks)` runs all masks that were not seen before as batches, and remembers them: curves of different
   methods share most of their first and last steps, and leave-one-out is a curve's first step.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.masking.replacement import masked_logits
from lrp_lens.methods.question import MaskedRuns, TokenQuestion


@dataclass(eq=False)
class Question(TokenQuestion):
    """One prompt with its metric, and what the model says with any of its tokens masked."""

    _seen: dict[bytes, tuple[float, int, float]] = field(default_factory=dict, repr=False)
    _first: int | None = field(default=None, repr=False)

    @property
    def full(self) -> float:
        """The metric of the unmasked prompt."""
        return float(self.masked(np.zeros((1, len(self.tokens)), dtype=bool)).values[0])

    def know_unmasked(self, logits: Float[Tensor, "read d_vocab"]) -> None:
        """Take the unmasked prompt's logits, at the positions that are read, from a pass that was run anyway."""
        self._seen[np.zeros(len(self.tokens), dtype=bool).tobytes()] = self._read(logits[None])[0]

    def fresh(self, masks: Bool[np.ndarray, "rows pos"]) -> int:
        """How many of these masks were not run before."""
        return len({row.tobytes() for row in masks} - self._seen.keys())

    def masked(
        self, masks: Bool[np.ndarray, "rows pos"], tick: Callable[[int], Any] | None = None
    ) -> MaskedRuns:
        """Run the model with these tokens masked, all unseen masks as batches.

        Args:
            masks: True where the embedding is replaced; those that are not maskable may not be masked.
            tick: called with the number of masks that were run, after each batch.

        Raises:
            InputError: a mask of another length, or one that covers a token that is not maskable.
        """
        kept = np.setdiff1d(np.arange(len(self.tokens)), self.maskable)
        if masks.shape[1] != len(self.tokens) or masks[:, kept].any():
            raise InputError(
                f"A mask covers the {len(self.tokens)} tokens of the prompt, those excepted that are never masked; "
                f"received shape {masks.shape}, never masked are the positions {kept.tolist()}."
            )
        keys = [row.tobytes() for row in masks]
        fresh = {key: row for key, row in zip(keys, masks, strict=True) if key not in self._seen}
        if fresh:
            if self._first is None:  # the unmasked prompt says which token is the decision
                empty = np.zeros(len(self.tokens), dtype=bool)
                fresh[empty.tobytes()] = empty
            ordered = sorted(fresh)  # neighbours begin alike, and share what they begin with
            found = self._run(np.stack([fresh[key] for key in ordered]), tick)
            self._seen.update(zip(ordered, found, strict=True))
        runs = [self._seen[key] for key in keys]
        return MaskedRuns(
            np.array([one[0] for one in runs], dtype=np.float64),
            np.array([one[1] for one in runs], dtype=np.int64),
            np.array([one[2] for one in runs], dtype=np.float64),
        )

    def leave_one_out(self) -> Float[np.ndarray, " n"]:
        """Metric lost by masking each maskable token alone."""
        return self.full - self.masked(self.single_masks()).values

    def _columns(self) -> list[int] | None:
        """The positions that are unembedded: those the metric reads, and that of the decision; None for all."""
        read = self._positions()
        return None if read is None else [*read, *({self.decision} - set(read))]

    def _run(
        self, masks: Bool[np.ndarray, "rows pos"], tick: Callable[[int], Any] | None
    ) -> list[tuple[float, int, float]]:
        """What `_read` finds for each mask."""
        rows, width = self.batch.ids.shape
        behind = width - len(self.tokens)
        wide = torch.nn.functional.pad(torch.as_tensor(masks), (0, behind)).repeat_interleave(rows, 0)
        replacement = torch.nn.functional.pad(self.replacement, (0, 0, 0, behind))
        ids = self.batch.ids.repeat(len(masks), 1)
        found = []
        for logits in _whole(masked_logits(self.model, ids, wide, replacement, self._columns()), rows):
            found += self._read(logits)
            if tick is not None:
                tick(len(logits) // rows)
        return found

    def _read(self, logits: Float[Tensor, "rows read d_vocab"]) -> list[tuple[float, int, float]]:
        """Metric, first choice and probability of the unmasked first choice; the very first row is unmasked."""
        rows, columns = len(self.batch.ids), self._columns()
        at = self.decision if columns is None else columns.index(self.decision)
        bound = self.bound(len(logits) // rows)
        if columns is None or bound.positions is None:
            values = bound(logits)
        else:
            index = torch.tensor([[columns.index(one) for one in row] for row in bound.positions.tolist()])
            index = index.to(logits.device)[..., None].expand(-1, -1, logits.shape[-1])
            values = bound.read(logits.gather(1, index))
        decision = logits[::rows, at].double()
        choices = decision.argmax(-1)
        if self._first is None:
            self._first = int(choices[0])
        probabilities = decision.softmax(-1)[:, self._first]
        return list(zip(values.tolist(), choices.tolist(), probabilities.tolist(), strict=True))


def _whole(chunks: Iterable[Tensor], rows: int) -> Iterator[Tensor]:
    """The same rows in chunks of whole questions, `rows` each."""
    rest: Tensor | None = None
    for chunk in chunks:
        chunk = chunk if rest is None else torch.cat([rest, chunk])
        stop = len(chunk) - len(chunk) % rows
        rest = chunk[stop:] if stop < len(chunk) else None
        if stop:
            yield chunk[:stop]
