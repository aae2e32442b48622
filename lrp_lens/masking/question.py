"""A question: one prompt, one metric, and the model's answers to it with any tokens masked.

1. Tokenise every case; special tokens (BOS, EOS, padding, unknown) are never masked, nor are the tokens of an answer
   that the metric appends.
2. Fix the metric: given, or the case's target against its contrast, or the first choice against the runner-up.
3. `masked(masks)` runs all masks that were not seen before as batches, and remembers them: curves of different
   methods share most of their first and last steps, and leave-one-out is a curve's first step.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lrp_lens.cases import Case
from lrp_lens.errors import InputError
from lrp_lens.hosts.chat import is_messages
from lrp_lens.hosts.completions import decide
from lrp_lens.hosts.forward import vocabulary_size
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import tokenize, with_answers
from lrp_lens.masking.replacement import Replacement, make_replacement, masked_logits
from lrp_lens.metrics import BoundMetric, LogitDiff, Metric, MetricLike, RunnerUp, as_metric


@runtime_checkable
class CaseLike(Protocol):
    """What is read of a case, e.g. of `lrp_lens.Case`."""

    @property
    def prompt(self) -> Any:
        """Text, or messages."""
        ...

    @property
    def target(self) -> str:
        """The token that the metric counts as positive."""
        ...

    @property
    def contrast(self) -> str:
        """The token that it counts as negative."""
        ...

    @property
    def suite(self) -> str:
        """The kind of task."""
        ...

    @property
    def correct(self) -> bool:
        """Whether the target is the right answer."""
        ...

    @property
    def segments(self) -> Mapping[str, Sequence[tuple[int, int]]]:
        """Token spans by name; `evidence` is what the right answer has to be read from."""
        ...


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
    """One prompt with its metric; a token method is a function of it."""

    model: Any
    """The HookedTransformer or TransformerBridge."""
    tokens: Int[Tensor, " pos"]
    """Token ids of the prompt."""
    strings: tuple[str, ...]
    """Text of each token."""
    maskable: Int[np.ndarray, " n"]
    """Positions that may be masked: no special tokens."""
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
            masks: True where the embedding is replaced; special tokens may not be masked.
            tick: called with the number of masks that were run, after each batch.

        Raises:
            InputError: a mask of another length, or one that covers a special token.
        """
        special = np.setdiff1d(np.arange(len(self.tokens)), self.maskable)
        if masks.shape[1] != len(self.tokens) or masks[:, special].any():
            raise InputError(
                f"A mask covers the {len(self.tokens)} tokens of the prompt, special ones excepted; received "
                f"shape {masks.shape}, special positions are {special.tolist()}."
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
        masks = np.zeros((len(self.maskable), len(self.tokens)), dtype=bool)
        masks[np.arange(len(self.maskable)), self.maskable] = True
        return self.full - self.masked(masks).values

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


def require_seed(seed: Any) -> None:
    """Raise InputError unless the seed is a whole number, 0 or more."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"A seed is a whole number, 0 or more; received {seed!r}.")


def questions(
    model: Any,
    cases: Any,
    metric: MetricLike | Sequence[MetricLike] | None,
    replacement: str,
    seed: int,
    prepend_bos: bool | None = None,
) -> tuple[list[Question], Replacement]:
    """The cases as questions, and the replacement that they share.

    Raises:
        InputError: a bad seed, no cases, a prompt with nothing to mask, as many metrics as cases are needed, or a bad
            replacement.
    """
    require_seed(seed)
    alone = isinstance(cases, str | CaseLike | TokenBatch) or is_messages(cases) or _is_ids(cases)
    listed: list[Any] = [cases] if alone else list(cases)
    if not listed:
        raise InputError("Faithfulness is measured on at least one case or prompt; received none.")
    several = isinstance(metric, Sequence)
    metrics: list[Any] = list(metric) if isinstance(metric, Sequence) else [metric] * len(listed)
    if several and len(metrics) != len(listed):
        raise InputError(
            f"There is one metric for all cases, or one for each; received {len(metrics)} metrics for "
            f"{len(listed)} cases."
        )
    asked = [
        _asked(model, one, own, prepend_bos)
        if isinstance(one, CaseLike)
        else (tokenize(model, one, None, prepend_bos), own)
        for one, own in zip(listed, metrics, strict=True)
    ]
    batches, metrics = [batch for batch, _ in asked], [own for _, own in asked]
    for index, batch in enumerate(batches):
        if len(batch.ids) != 1:
            raise InputError(
                f"A case is one prompt; case {index} is a batch of {len(batch.ids)}. Pass a list of cases."
            )
        if bool(batch.special.all()):
            raise InputError(
                f"A prompt needs a token that may be masked; case {index} is {batch.strings[0]}. Leave it out."
            )
    pool = torch.cat([batch.ids[0, ~batch.special[0]] for batch in batches])
    shared = make_replacement(model, replacement, pool)
    rows = zip(listed, batches, metrics, strict=True)
    return [_question(model, *row, shared, [seed, index]) for index, row in enumerate(rows)], shared


def _asked(
    model: Any, case: CaseLike, metric: MetricLike | None, prepend_bos: bool | None
) -> tuple[TokenBatch, MetricLike]:
    """The prompt of a case, what its completion has said so far included, and the metric."""
    said = (
        {"completion": case.completion or None, "position": case.position} if isinstance(case, Case) else {}
    )
    if metric is not None:
        return decide(model, case.prompt, **said, prepend_bos=prepend_bos).batch, metric
    decision = decide(
        model, case.prompt, case.target or None, case.contrast or None, **said, prepend_bos=prepend_bos
    )
    if decision.target is None or decision.contrast is None:
        return decision.batch, RunnerUp(target=decision.target)
    return decision.batch, LogitDiff(decision.target, decision.contrast)


def _question(
    model: Any, case: Any, batch: TokenBatch, metric: Any, replacement: Replacement, seeds: list[int]
) -> Question:
    tokens, known = batch.ids[0], isinstance(case, CaseLike)
    seed = int(np.random.default_rng(seeds).integers(2**62))
    asked = as_metric(metric).resolve(model)
    question = Question(
        model=model,
        tokens=tokens,
        answered=with_answers(model, batch, asked.branches()),
        strings=batch.strings[0],
        maskable=np.flatnonzero(~batch.special[0].cpu().numpy()),
        metric=asked,
        replacement=replacement.rows(model, len(tokens), np.random.default_rng([seed, 1])),
        seed=seed,
        suite=case.suite if known else "",
        correct=bool(case.correct) if known else None,
        evidence=_evidence(case.segments, len(tokens)) if known else None,
    )
    if question.metric.chooses:
        empty = torch.zeros(1, len(tokens), dtype=torch.bool)
        chunks = masked_logits(model, tokens[None], empty, question.replacement, question._positions())
        question.metric = question.metric.concrete(next(iter(chunks)))
    return question


def _evidence(
    segments: Mapping[str, Sequence[tuple[int, int]]], length: int
) -> Bool[np.ndarray, " pos"] | None:
    if "evidence" not in segments:
        return None
    inside = np.zeros(length, dtype=bool)
    for start, stop in segments["evidence"]:
        if not 0 <= start < stop <= length:
            raise InputError(
                f"A span (start, stop) has 0 <= start < stop <= {length} tokens; evidence has {(start, stop)}."
            )
        inside[start:stop] = True
    return inside


def _is_ids(cases: Any) -> bool:
    """Whether this is one prompt of token ids."""
    if isinstance(cases, Tensor):
        return cases.ndim == 1
    return isinstance(cases, Sequence) and len(cases) > 0 and all(isinstance(one, int) for one in cases)
