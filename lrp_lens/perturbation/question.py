"""A question: one prompt, one metric, and the model's answers to it with any tokens masked.

1. Tokenise every case; special tokens (BOS, EOS, padding, unknown) are never masked.
2. Fix the metric: given, or the case's target against its contrast, or the first choice against the runner-up.
3. `masked(masks)` runs all masks that were not seen before as batches, and remembers them: curves of different
   methods share most of their first and last steps, and leave-one-out is a curve's first step.
"""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.hosts.text import TokenBatch, tokenize
from lrp_lens.metrics import LogitDiff, Metric, MetricLike, RunnerUp, SequenceLogitDiff, as_metric
from lrp_lens.perturbation.replacement import Replacement, make_replacement, masked_logits


@runtime_checkable
class CaseLike(Protocol):
    """What is read of a case, e.g. of `lrp_lens.Case`."""

    @property
    def prompt(self) -> str:
        """The text."""
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
    """Token ids."""
    strings: tuple[str, ...]
    """Text of each token."""
    maskable: Int[np.ndarray, " n"]
    """Positions that may be masked: all but the special tokens."""
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
    evidence: Bool[np.ndarray, " pos"] | None = None
    """True at the tokens that the right answer has to be read from; None if not known."""
    _seen: dict[bytes, tuple[float, int, float]] = field(default_factory=dict, repr=False)
    _first: int | None = field(default=None, repr=False)

    @property
    def contrastive(self) -> bool:
        """Whether the sign of the metric says which of two answers the model prefers."""
        return isinstance(self.metric, LogitDiff | SequenceLogitDiff)

    @property
    def full(self) -> float:
        """The metric of the unmasked prompt."""
        return float(self.masked(np.zeros((1, len(self.tokens)), dtype=bool)).values[0])

    @property
    def decision(self) -> int:
        """Position at which the first choice is read: the metric's own, the last if it reads several or all."""
        read = self._positions()
        return read[0] if read is not None and len(read) == 1 else len(self.tokens) - 1

    def rng(self, purpose: str) -> np.random.Generator:
        """Random numbers for one purpose: the same in every run, independent of other purposes."""
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode())])

    def masked(self, masks: Bool[np.ndarray, "rows pos"]) -> MaskedRuns:
        """Run the model with these tokens masked, all unseen masks as batches.

        Args:
            masks: True where the embedding is replaced; special tokens may not be masked.

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
                fresh = {empty.tobytes(): empty} | fresh
            self._seen.update(zip(fresh, self._run(np.stack(list(fresh.values()))), strict=True))
        found = [self._seen[key] for key in keys]
        return MaskedRuns(
            np.array([one[0] for one in found], dtype=np.float64),
            np.array([one[1] for one in found], dtype=np.int64),
            np.array([one[2] for one in found], dtype=np.float64),
        )

    def leave_one_out(self) -> Float[np.ndarray, " n"]:
        """Metric lost by masking each maskable token alone."""
        masks = np.zeros((len(self.maskable), len(self.tokens)), dtype=bool)
        masks[np.arange(len(self.maskable)), self.maskable] = True
        return self.full - self.masked(masks).values

    def _positions(self) -> list[int] | None:
        """The columns that the metric reads; None for all."""
        bound = self.metric.bind([0], [len(self.tokens)], self._d_vocab())
        return None if bound.positions is None else list(dict.fromkeys(bound.positions[0].tolist()))

    def _d_vocab(self) -> int:
        return int(getattr(self.model.cfg, "d_vocab_out", None) or self.model.cfg.d_vocab)

    def _run(self, masks: Bool[np.ndarray, "rows pos"]) -> list[tuple[float, int, float]]:
        """Metric, first choice and probability of the unmasked first choice, for each mask."""
        read = self._positions()
        columns = None if read is None else [*read, *({self.decision} - set(read))]
        at = self.decision if columns is None else columns.index(self.decision)
        rows = self.tokens.expand(len(masks), -1)
        chunks = masked_logits(self.model, rows, torch.as_tensor(masks), self.replacement, columns)
        found = []
        for logits in chunks:
            n = len(logits)
            bound = self.metric.bind([0] * n, [len(self.tokens)] * n, logits.shape[-1])
            values = bound(logits) if read is None else bound.read(logits[:, : len(read)])
            decision = logits[:, at].double()
            choices = decision.argmax(-1)
            if self._first is None:
                self._first = int(choices[0])
            probabilities = decision.softmax(-1)[:, self._first]
            found += list(zip(values.tolist(), choices.tolist(), probabilities.tolist(), strict=True))
        return found


def require_seed(seed: Any) -> None:
    """Raise InputError unless the seed is a whole number, 0 or more."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise InputError(f"A seed is a whole number, 0 or more; received {seed!r}.")


def questions(
    model: Any, cases: Any, metric: MetricLike | Sequence[MetricLike] | None, replacement: str, seed: int
) -> tuple[list[Question], Replacement]:
    """The cases as questions, and the replacement that they share.

    Raises:
        InputError: a bad seed, no cases, a prompt with nothing to mask, as many metrics as cases are needed, or a bad
            replacement.
    """
    require_seed(seed)
    listed: list[Any] = [cases] if isinstance(cases, str | CaseLike) or _is_ids(cases) else list(cases)
    if not listed:
        raise InputError("Faithfulness is measured on at least one case or prompt; received none.")
    several = isinstance(metric, Sequence)
    metrics: list[Any] = list(metric) if isinstance(metric, Sequence) else [metric] * len(listed)
    if several and len(metrics) != len(listed):
        raise InputError(
            f"There is one metric for all cases, or one for each; received {len(metrics)} metrics for "
            f"{len(listed)} cases."
        )
    batches = [tokenize(model, one.prompt if isinstance(one, CaseLike) else one, None) for one in listed]
    for index, batch in enumerate(batches):
        if len(batch.ids) != 1:
            raise InputError(f"A case is one prompt; case {index} is a batch of {len(batch.ids)}.")
        if bool(batch.special.all()):
            raise InputError(
                f"A prompt needs a token that may be masked; case {index} is {batch.strings[0]}."
            )
    pool = torch.cat([batch.ids[0, ~batch.special[0]] for batch in batches])
    shared = make_replacement(model, replacement, pool)
    rows = zip(listed, batches, metrics, strict=True)
    return [_question(model, *row, shared, [seed, index]) for index, row in enumerate(rows)], shared


def _question(
    model: Any, case: Any, batch: TokenBatch, metric: Any, replacement: Replacement, seeds: list[int]
) -> Question:
    tokens, known = batch.ids[0], isinstance(case, CaseLike)
    if metric is None and known:
        metric = LogitDiff(case.target, case.contrast)
    seed = int(np.random.default_rng(seeds).integers(2**62))
    question = Question(
        model=model,
        tokens=tokens,
        strings=batch.strings[0],
        maskable=np.flatnonzero(~batch.special[0].cpu().numpy()),
        metric=as_metric(metric).resolve(model),
        replacement=replacement.rows(model, len(tokens), np.random.default_rng([seed, 1])),
        seed=seed,
        suite=case.suite if known else "",
        correct=bool(case.correct) if known else None,
        evidence=_evidence(case.segments, len(tokens)) if known else None,
    )
    if isinstance(question.metric, RunnerUp):
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
