"""Metrics: logits → one number per example, the quantity that relevance explains.

A metric is data; it becomes a function of logits in two steps:

1. `resolve(model)` turns token strings into ids of the vocabulary, refusing strings that are not one token;
2. `bind(...)` fixes absolute positions for a batch of (padded) examples.

Called directly on logits of shape [batch, pos, d_vocab], a metric binds itself to unpadded examples, so the same
object serves `run_with_relevance`, patching and evaluation.  Each metric says which positions it reads, so that
only those need unembedding.  Positions count from 0, or back from the last token of the prompt with -1.

Metrics of answers of several tokens (`sequences`) say what they append to each prompt (`branches`): one row of logits
for each branch, and a prompt's number is the sum over its rows.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.errors import MetricError
from lrp_lens.hosts.token_batch import Branch
from lrp_lens.hosts.vocabulary import token_id
from lrp_lens.ops.gates import accumulation_dtype

Token = int | str
Tokens = Token | Sequence[Token] | Tensor
TextOf = Callable[[Sequence[int]], Sequence[str]]
"""Token ids → the text of each."""
_NO_ANSWER = ((Branch("", ()),),)


class Term(NamedTuple):
    """One logit that a metric reads."""

    position: int
    """In the prompt: from 0, or back from -1, its last token."""
    token: Token
    coefficient: float
    branch: int = 0
    """Which of the example's rows."""
    forced: int = 0
    """How many positions further, among the answer's tokens behind the prompt."""


@dataclass(frozen=True)
class Metric(ABC):
    """Logits → scalar per example; subclasses are frozen data."""

    token_fields: ClassVar[tuple[str, ...]] = ("target", "contrast", "token")
    """The fields that hold tokens, one entry for each example or one for all."""

    @property
    def linear(self) -> bool:
        """Whether the metric equals Σ logits ⊙ ∂metric/∂logits, so that relevance can sum to it."""
        return True

    @property
    def contrastive(self) -> bool:
        """Whether its sign says which of two answers the model prefers."""
        return False

    @property
    def chooses(self) -> bool:
        """Whether `concrete` chooses tokens that only the logits say."""
        return False

    @property
    def log_probabilities(self) -> bool:
        """Whether the terms read log-probabilities, not logits."""
        return False

    @abstractmethod
    def terms(self) -> tuple[tuple[Term, ...], ...]:
        """The logits read by each example; one entry serves every example of a batch."""

    def branches(self) -> tuple[tuple[Branch, ...], ...]:
        """What is appended to each example's prompt, one row each; one entry serves every example.

        Raises:
            MetricError: if an answer is still a string.
        """
        return _NO_ANSWER

    def concrete(self, rows: Float[Tensor, "batch read d_vocab"]) -> "Metric":
        """The metric with every token that it reads off the logits chosen; most have none to choose."""
        return self

    def example(self, index: int) -> "Metric":
        """The metric of one example of a batch."""
        if len(self.terms()) == 1:
            return self
        held = [name for name in self.token_fields if hasattr(self, name)]
        return replace(self, **{name: (getattr(self, name)[index],) for name in held})

    def _tokens_of_examples(self) -> dict[str, tuple[Any, ...]]:
        """The fields that have an entry for each example, once resolved."""
        held = {name: getattr(self, name, None) for name in self.token_fields}
        return {name: value for name, value in held.items() if isinstance(value, tuple)}

    def alike(self, other: "Metric") -> bool:
        """Whether two metrics, resolved, differ in nothing but the tokens of their examples."""
        own = self._tokens_of_examples()
        if type(self) is not type(other) or own.keys() != other._tokens_of_examples().keys():
            return False
        rest = [one.name for one in fields(self) if one.name not in own]
        return all(bool(getattr(self, name) == getattr(other, name)) for name in rest)

    def together(self, others: Sequence["Metric"]) -> "Metric":
        """The metric of a batch, from those of its examples, which are alike and resolved; `example` undoes it."""
        held = self._tokens_of_examples()
        if not held:
            return self
        return replace(
            self, **{name: sum((getattr(one, name) for one in others), held[name]) for name in held}
        )

    def words(self, text_of: TextOf) -> tuple[str, tuple[str, str] | None]:
        """The metric in words, and the two ends of its sign (None where it has none)."""
        return str(self), None

    def remainder(self, rows: Float[Tensor, "batch read d_vocab"]) -> Float[Tensor, " batch"] | None:
        """What is subtracted besides the terms (a mean, a log-sum-exp), from the rows of logits that are read."""
        return None

    def evaluate(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        """The metric from all logits at once; only metrics without terms define it."""
        raise MetricError(f"{self} is read at its terms; call it on logits [batch, pos, d_vocab].")

    def __call__(self, logits: Float[Tensor, "row pos d_vocab"]) -> Float[Tensor, " batch"]:
        """The metric of each example of an unpadded batch; an answer's tokens stand behind the prompt already.

        Raises:
            MetricError: if a token is still a string, or a token or position is out of range.
        """
        if logits.ndim != 3:
            raise MetricError(
                f"A metric reads logits [batch, pos, d_vocab]; received shape {tuple(logits.shape)}."
            )
        batch, length, d_vocab = logits.shape
        prompt = length - max((len(branch.ids) for row in self.branches() for branch in row), default=0)
        return self.bind([0] * batch, [prompt] * batch, d_vocab)(logits)

    def resolve(self, model: Any) -> "Metric":
        """The same metric with token ids of the model's vocabulary instead of strings.

        Raises:
            MetricError: if a string is not exactly one token, or the model has no tokenizer.
        """
        changes = {}
        for name in self.token_fields:
            value = getattr(self, name, None)
            if value is not None:
                changes[name] = _resolved(value, model)
        return replace(self, **changes) if changes else self

    def bind(self, starts: Sequence[int], lengths: Sequence[int], d_vocab: int) -> "BoundMetric":
        """Fix positions for a batch.

        Args:
            starts: column of the first real token of each row.
            lengths: number of real tokens of each row's prompt, without the answer that `branches` appends.
            d_vocab: size of the vocabulary.

        Raises:
            MetricError: if a token is still a string, or a token, position or batch size does not fit.
        """
        rows, examples = self._rows(len(lengths))
        read: list[dict[int, int]] = []
        for terms, start, length in zip(rows, starts, lengths, strict=True):
            columns: dict[int, int] = {}
            for term in terms:
                _require_token(term.token, d_vocab, self)
                columns.setdefault(start + _absolute(term, length, self), len(columns))
            read.append(columns)
        width = max(map(len, read))
        positions = torch.tensor(
            [list(columns) + [next(iter(columns))] * (width - len(columns)) for columns in read]
        )
        n_terms = max(map(len, rows))
        places = torch.zeros(len(rows), n_terms, dtype=torch.long)
        ids, coefficients = places.clone(), torch.zeros(len(rows), n_terms, dtype=torch.float64)
        for row, (terms, columns) in enumerate(zip(rows, read, strict=True)):
            for index, term in enumerate(terms):
                absolute = starts[row] + _absolute(term, lengths[row], self)
                places[row, index], ids[row, index] = columns[absolute], int(term.token)
                coefficients[row, index] = term.coefficient
        return BoundMetric(self, positions, places, ids, coefficients, examples)

    def _rows(self, n_rows: int) -> tuple[list[tuple[Term, ...]], Int[Tensor, " row"] | None]:
        """The terms of each row, and the example of each (None where each row is one)."""
        examples = self.terms()
        counts = [1 + max(term.branch for term in terms) for terms in examples]
        if len(examples) == 1 and n_rows % counts[0] == 0:
            examples, counts = examples * (n_rows // counts[0]), counts * (n_rows // counts[0])
        if sum(counts) != n_rows:
            raise MetricError(
                f"A metric has tokens for one example or for each; {self} has {len(examples)} and reads "
                f"{sum(counts)} rows of logits, for a batch of {n_rows}. Pass one token per prompt."
            )
        rows = [
            tuple(term for term in terms if term.branch == branch)
            for terms, count in zip(examples, counts, strict=True)
            for branch in range(count)
        ]
        if len(rows) == len(examples):
            return rows, None
        return rows, torch.repeat_interleave(torch.arange(len(examples)), torch.tensor(counts))


@dataclass(frozen=True, eq=False)
class BoundMetric:
    """A metric with absolute positions for one batch of rows."""

    metric: Metric
    positions: Int[Tensor, "row read"] | None
    """Columns of the logits that are read, or None for all."""
    rows: Int[Tensor, "row term"] | None = None
    ids: Int[Tensor, "row term"] | None = None
    coefficients: Float[Tensor, "row term"] | None = None
    examples: Int[Tensor, " row"] | None = None
    """Example of each row; None where each row is one."""

    def __call__(self, logits: Float[Tensor, "row pos d_vocab"]) -> Float[Tensor, " batch"]:
        """The metric of each example, from all logits."""
        return self.read(self.select(logits))

    def select(
        self, logits: Float[Tensor, "row pos width"], copies: int = 1
    ) -> Float[Tensor, "row read width"]:
        """The rows at `positions`, or all of them if the metric reads all logits; of so many copies of the batch."""
        if self.positions is None:
            return logits
        index = self.positions.to(logits.device).repeat(copies, 1)[..., None]
        return logits.gather(1, index.expand(-1, -1, logits.shape[-1]))

    def read(self, rows: Float[Tensor, "row read d_vocab"]) -> Float[Tensor, " batch"]:
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

    def _read(self, rows: Float[Tensor, "row read d_vocab"]) -> Float[Tensor, " batch"]:
        if self.rows is None or self.ids is None or self.coefficients is None:
            return self.metric.evaluate(rows)
        if self.metric.log_probabilities:
            rows = rows.log_softmax(-1)
        example = torch.arange(rows.shape[0], device=rows.device)[:, None]
        chosen = rows[example, self.rows.to(rows.device), self.ids.to(rows.device)]
        value = (chosen * self.coefficients.to(rows)).sum(-1)
        remainder = self.metric.remainder(rows)
        value = value if remainder is None else value - remainder
        if self.examples is None:
            return value
        examples = self.examples.to(value.device)
        return value.new_zeros(int(examples[-1]) + 1).index_add(0, examples, value)


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


def _absolute(term: Term, length: int, metric: Metric) -> int:
    position = term.position
    if not isinstance(position, int) or isinstance(position, bool):
        raise MetricError(
            f"A metric reads one position, an integer; {metric} has {position!r}. Use -1 for the last."
        )
    if not -length <= position < length:
        raise MetricError(
            f"A position lies in [-{length}, {length}), the tokens of the prompt; {metric} reads {position}."
        )
    return position % length + term.forced
