"""Metrics: logits → one number per example, the quantity that relevance explains.

A metric is data; it becomes a function of logits in two steps:

1. `resolve(model)` turns token strings into ids of the vocabulary, refusing strings that are not one token;
2. `bind(...)` fixes absolute positions for a batch of (padded) examples.

Called directly on logits of shape [batch, pos, d_vocab], a metric binds itself to unpadded examples, so the same
object serves `run_with_relevance`, patching and evaluation.  Each metric says which positions it reads, so that
only those need unembedding.  Positions count from 0, or back from the last real token with -1.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.errors import MetricError
from lrp_lens.gates import accumulation_dtype
from lrp_lens.hosts.text import token_id

Token = int | str
Tokens = Token | Sequence[Token] | Tensor
Term = tuple[int, Token, float]
"""(position, token, coefficient): one logit that a metric reads."""


@dataclass(frozen=True)
class Metric(ABC):
    """Logits → scalar per example; subclasses are frozen data."""

    linear: ClassVar[bool] = True
    """Whether the metric equals Σ logits ⊙ ∂metric/∂logits, so that relevance can sum to it."""

    @abstractmethod
    def terms(self) -> tuple[tuple[Term, ...], ...]:
        """The logits read by each example; one entry serves every example of a batch."""

    def remainder(self, rows: Float[Tensor, "batch read d_vocab"]) -> Float[Tensor, " batch"] | None:
        """What is subtracted besides the terms (a mean, a log-sum-exp), from the rows of logits that are read."""
        return None

    def evaluate(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        """The metric from all logits at once; only metrics without terms define it."""
        raise MetricError(f"{self} is read at its terms; call it on logits [batch, pos, d_vocab].")

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        """The metric of each example of an unpadded batch.

        Raises:
            MetricError: if a token is still a string, or a token or position is out of range.
        """
        if logits.ndim != 3:
            raise MetricError(
                f"A metric reads logits [batch, pos, d_vocab]; received shape {tuple(logits.shape)}."
            )
        batch, length, d_vocab = logits.shape
        return self.bind([0] * batch, [length] * batch, d_vocab)(logits)

    def resolve(self, model: Any) -> "Metric":
        """The same metric with token ids of the model's vocabulary instead of strings.

        Raises:
            MetricError: if a string is not exactly one token, or the model has no tokenizer.
        """
        changes = {}
        for name in ("target", "contrast", "token"):
            value = getattr(self, name, None)
            if value is not None:
                changes[name] = _resolved(value, model)
        return replace(self, **changes) if changes else self

    def bind(self, starts: Sequence[int], lengths: Sequence[int], d_vocab: int) -> "BoundMetric":
        """Fix positions for a batch.

        Args:
            starts: column of the first real token of each example.
            lengths: number of real tokens of each example.
            d_vocab: size of the vocabulary.

        Raises:
            MetricError: if a token is still a string, or a token, position or batch size does not fit.
        """
        examples = self.terms()
        if len(examples) not in (1, len(lengths)):
            raise MetricError(
                f"A metric has tokens for one example or for each; {self} has {len(examples)} for a batch of "
                f"{len(lengths)}. Pass one token per prompt."
            )
        examples = examples * (len(lengths) if len(examples) == 1 else 1)
        read: list[dict[int, int]] = []
        for terms, start, length in zip(examples, starts, lengths, strict=True):
            columns: dict[int, int] = {}
            for position, token, _ in terms:
                _require_token(token, d_vocab, self)
                columns.setdefault(start + _absolute(position, length, self), len(columns))
            read.append(columns)
        width = max(map(len, read))
        positions = torch.tensor(
            [list(columns) + [next(iter(columns))] * (width - len(columns)) for columns in read]
        )
        n_terms = max(map(len, examples))
        rows = torch.zeros(len(examples), n_terms, dtype=torch.long)
        ids, coefficients = rows.clone(), torch.zeros(len(examples), n_terms, dtype=torch.float64)
        for example, (terms, columns) in enumerate(zip(examples, read, strict=True)):
            for index, (position, token, coefficient) in enumerate(terms):
                absolute = starts[example] + _absolute(position, lengths[example], self)
                rows[example, index], ids[example, index] = columns[absolute], int(token)
                coefficients[example, index] = coefficient
        return BoundMetric(self, positions, rows, ids, coefficients)


@dataclass(frozen=True, eq=False)
class BoundMetric:
    """A metric with absolute positions for one batch."""

    metric: Metric
    positions: Int[Tensor, "batch read"] | None
    """Columns of the logits that are read, or None for all."""
    rows: Int[Tensor, "batch term"] | None = None
    ids: Int[Tensor, "batch term"] | None = None
    coefficients: Float[Tensor, "batch term"] | None = None

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        """The metric of each example, from all logits."""
        return self.read(self.select(logits))

    def select(self, logits: Float[Tensor, "batch pos width"]) -> Float[Tensor, "batch read width"]:
        """The rows at `positions`, or all of them if the metric reads all logits."""
        if self.positions is None:
            return logits
        index = self.positions.to(logits.device)[..., None].expand(-1, -1, logits.shape[-1])
        return logits.gather(1, index)

    def read(self, rows: Float[Tensor, "batch read d_vocab"]) -> Float[Tensor, " batch"]:
        """The metric of each example, from the logits at `positions` only.

        Raises:
            MetricError: a value that is no finite number.
        """
        value = self._read(rows.to(accumulation_dtype(rows.dtype)))
        if not bool(value.isfinite().all()):
            raise MetricError(
                f"A metric is a finite number for each prompt; {self.metric} is {value.detach().tolist()[:8]}. Look "
                "for a division by 0, a logarithm of 0 or an overflow in it."
            )
        return value

    def _read(self, rows: Float[Tensor, "batch read d_vocab"]) -> Float[Tensor, " batch"]:
        if self.rows is None or self.ids is None or self.coefficients is None:
            return self.metric.evaluate(rows)
        example = torch.arange(rows.shape[0], device=rows.device)[:, None]
        chosen = rows[example, self.rows.to(rows.device), self.ids.to(rows.device)]
        value = (chosen * self.coefficients.to(rows)).sum(-1)
        remainder = self.metric.remainder(rows)
        return value if remainder is None else value - remainder


def _resolved(value: Any, model: Any) -> Any:
    if isinstance(value, str):
        return token_id(model, value)
    return tuple(_resolved(item, model) for item in value) if isinstance(value, tuple) else value


def _require_token(token: Token, d_vocab: int, metric: Metric) -> None:
    if isinstance(token, str):
        raise MetricError(
            f"A metric on logits needs token ids; {metric} has {token!r}. Call metric.resolve(model)."
        )
    if not 0 <= token < d_vocab:
        raise MetricError(f"A token id lies in [0, {d_vocab}), the vocabulary; {metric} has {token}.")


def _absolute(position: int, length: int, metric: Metric) -> int:
    if not isinstance(position, int) or isinstance(position, bool):
        raise MetricError(
            f"A metric reads one position, an integer; {metric} has {position!r}. Use -1 for the last."
        )
    if not -length <= position < length:
        raise MetricError(
            f"A position lies in [-{length}, {length}), the tokens of the prompt; {metric} reads {position}."
        )
    return position % length
