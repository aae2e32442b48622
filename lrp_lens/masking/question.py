"""A question: one prompt, one metric, and the model's answers to it with any tokens masked.

1. The prompt, its maskable tokens, the metric and the replacement are given (`questions` makes them of cases).
2. `masked(masks)` runs all masks that were not seen before as batches, and remembers them: curves of different
   methods share most of their first and last steps, and leave-one-out is a curve's first step.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.hosts.forward import vocabulary_size
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.masking.replacement import masked_logits
from lrp_lens.metrics import BoundMetric, Metric


@dataclass(frozen=True, eq=False)
class MaskedRuns:
    """What the model says under each mask."""

    values: Float[np.ndarray, " rows"]
    """The metric."""
    choices: Int[np.ndarray, " rows"]
    """The token the model ranks first, at the position of the decision."""
    probabilities: Float[np.ndarray, " rows"]
    """Probability there of the token that the unmasked model ranks first."""


@dataclass(eq=False)
class Question:
    """One prompt with its metric; methods score its tokens (`lrp_lens.methods.TokenQuestion`)."""

    model: Any
    """The HookedTransformer or TransformerBridge."""
    tokens: Int[Tensor, " pos"]
    """Token ids of the prompt."""
    strings: tuple[str, ...]
    """Text of each token."""
    maskable: Int[np.ndarray, " n"]
    """Positions that may be masked: no special tokens, and not that of the decision unless it was asked for."""
    metric: Metric
    """The metric, with token ids for this one example."""
    replacement: Float[Tensor, "pos d_model"]
    """What masked embeddings are replaced by, at each position."""
    seed: int
    """Seed of everything random about this question."""
    suite: str = ""
    """Kind of task, as in the case."""
    correct: bool | None = None
    """Whether the metric's target is the right answer; None if not known."""
    answered: TokenBatch | None = None
    """The prompt with the answers that the metric appends, one row each; None where it appends none."""
    evidence: Bool[np.ndarray, " pos"] | None = None
    """True at the tokens that the right answer has to be read from; None if not known."""
    _seen: dict[bytes, tuple[float, int, float]] = field(default_factory=dict, repr=False)
    _first: int | None = field(default=None, repr=False)

    @cached_property
    def batch(self) -> TokenBatch:
        """What is run: the prompt, with the metric's answers."""
        if self.answered is not None:
            return self.answered
        special = torch.ones_like(self.tokens, dtype=torch.bool)
        special[torch.as_tensor(self.maskable)] = False
        return TokenBatch(
            self.tokens[None], (0,), (len(self.tokens),), (self.strings,), special[None], single=True
        )

    @property
    def contrastive(self) -> bool:
        """Whether the sign of the metric says which of two answers the model prefers."""
        return self.metric.contrastive

    @property
    def full(self) -> float:
        """The metric of the unmasked prompt."""
        return float(self.masked(np.zeros((1, len(self.tokens)), dtype=bool)).values[0])

    @property
    def decision(self) -> int:
        """Position at which the first choice is read: the metric's own; the prompt's last if it reads several."""
        read = self._positions()
        return read[0] if read is not None and len(read) == 1 else len(self.tokens) - 1

    def rng(self, purpose: str) -> np.random.Generator:
        """Random numbers for one purpose: the same in every run, independent of other purposes."""
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode())])

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

    def single_masks(self) -> Bool[np.ndarray, "n pos"]:
        """Each maskable token alone."""
        return np.eye(len(self.tokens), dtype=bool)[self.maskable]

    def leave_one_out(self) -> Float[np.ndarray, " n"]:
        """Metric lost by masking each maskable token alone."""
        return self.full - self.masked(self.single_masks()).values

    def _positions(self) -> list[int] | None:
        """The columns that the metric reads in any row; None for all."""
        positions = self.bound(1).positions
        return None if positions is None else list(dict.fromkeys(positions.flatten().tolist()))

    def bound(self, copies: int) -> BoundMetric:
        """The metric bound to so many copies of the prompt's rows."""
        batch = self.batch
        return self.metric.bind(
            batch.starts * copies, batch.prompt_lengths * copies, vocabulary_size(self.model)
        )

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
