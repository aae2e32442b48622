"""Metrics: logits → one number per example, the quantity that relevance explains.

A metric is data; it becomes a function of logits in two steps:

1. `resolve(model)` turns token strings into ids of the vocabulary, refusing strings that are not one token;
2. `bind(...)` fixes absolute positions for a batch of (padded) examples.

Called directly on logits of shape [batch, pos, d_vocab], a metric binds itself to unpadded examples, so the same
object serves `run_with_relevance`, patching and evaluation.  Each metric says which positions it reads, so that
only those need unembedding.  Positions count from 0, or back from the last real token with -1.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.errors import MetricError
from lrp_lens.gates import accumulation_dtype
from lrp_lens.hosts.text import span_ids, token_id

Token = int | str
Tokens = Token | Sequence[Token] | Tensor
Term = tuple[int, Token, float]
"""(position, token, coefficient): one logit that a metric reads."""


def _token_tuple(tokens: Any, owner: str) -> tuple[Token, ...]:
    """One token, or one per example, as a tuple of ids and strings."""
    if isinstance(tokens, Tensor):
        tokens = tokens.tolist()
    items = (tokens,) if isinstance(tokens, int | str) else tuple(tokens)
    items = tuple(int(item) if hasattr(item, "item") else item for item in items)
    if not items or not all(isinstance(item, int | str) for item in items):
        raise MetricError(
            f"{owner} needs a token (string or id), or one per example; received {tokens!r}. "
            "For several tokens at several positions use SequenceLogit."
        )
    return items


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

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        """The metric of each example of an unpadded batch.

        Raises:
            MetricError: if a token is still a string, or a token or position is out of range.
        """
        if logits.ndim != 3:
            raise MetricError(f"A metric reads logits [batch, pos, d_vocab]; received shape {tuple(logits.shape)}.")
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
        positions = torch.tensor([list(columns) + [next(iter(columns))] * (width - len(columns)) for columns in read])
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
        if self.positions is None:
            return self.read(logits)
        index = self.positions.to(logits.device)[..., None].expand(-1, -1, logits.shape[-1])
        return self.read(logits.gather(1, index))

    def read(self, rows: Float[Tensor, "batch read d_vocab"]) -> Float[Tensor, " batch"]:
        """The metric of each example, from the logits at `positions` only."""
        rows = rows.to(accumulation_dtype(rows.dtype))
        if isinstance(self.metric, CallableMetric):
            return self.metric.evaluate(rows)
        assert self.rows is not None and self.ids is not None and self.coefficients is not None
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
        raise MetricError(f"A metric on logits needs token ids; {metric} has {token!r}. Call metric.resolve(model).")
    if not 0 <= token < d_vocab:
        raise MetricError(f"A token id lies in [0, {d_vocab}), the vocabulary; {metric} has {token}.")


def _absolute(position: int, length: int, metric: Metric) -> int:
    if not -length <= position < length:
        raise MetricError(
            f"A position lies in [-{length}, {length}), the tokens of the prompt; {metric} reads {position}."
        )
    return position % length


@dataclass(frozen=True)
class Logit(Metric):
    """The logit of a token.

    Args:
        token: string or id; or one per example.
        pos: position whose logits are read.

    Example:
        >>> Logit(2)(torch.tensor([[[0.0, 1.0, 5.0]]])).tolist()
        [5.0]
    """

    token: Any
    pos: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "token", _token_tuple(self.token, "Logit"))

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return tuple(((self.pos, token, 1.0),) for token in self.token)


@dataclass(frozen=True)
class LogitDiff(Metric):
    """Logit of the target minus logit of the contrast; of several contrasts, their mean.

    Positive relevance pushes towards the target, negative towards the contrast.

    Args:
        target: string or id; or one per example (list or 1-D tensor).
        contrast: string or id; several in a list are averaged. With a target per example: one contrast per
            example, or a list of several for each.
        pos: position whose logits are read.

    Raises:
        MetricError: if target and contrast are the same token, or their numbers do not match.

    Example:
        >>> LogitDiff(2, [0, 1])(torch.tensor([[[0.0, 1.0, 5.0]]])).tolist()
        [4.5]
    """

    target: Any
    contrast: Any
    pos: int = -1

    def __post_init__(self) -> None:
        single = isinstance(self.target, int | str)
        target = _token_tuple(self.target, "LogitDiff.target")
        contrast = self.contrast.tolist() if isinstance(self.contrast, Tensor) else self.contrast
        if single and not (isinstance(contrast, Sequence) and len(contrast) and _nested(contrast[0])):
            groups: tuple[tuple[Token, ...], ...] = (_token_tuple(contrast, "LogitDiff.contrast"),)
        else:
            items = (contrast,) if isinstance(contrast, int | str) else contrast
            groups = tuple(_token_tuple(item, "LogitDiff.contrast") for item in items)
            if len(groups) != len(target):
                raise MetricError(
                    f"With a target per example there is a contrast per example; received {len(target)} targets and "
                    f"{len(groups)} contrasts. For several contrasts of one example pass a list of lists."
                )
        for chosen, others in zip(target, groups, strict=True):
            if chosen in others:
                raise MetricError(
                    f"Target and contrast are different tokens; both are {chosen!r}. Choose another contrast, or use Logit."
                )
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "contrast", groups)

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return tuple(
            ((self.pos, target, 1.0), *((self.pos, token, -1.0 / len(others)) for token in others))
            for target, others in zip(self.target, self.contrast, strict=True)
        )


def _nested(item: object) -> bool:
    return isinstance(item, Sequence) and not isinstance(item, str)


@dataclass(frozen=True)
class MeanContrast(Metric):
    """Logit of the target minus the mean logit of the whole vocabulary (removes an offset shared by all logits).

    Example:
        >>> MeanContrast(2)(torch.tensor([[[0.0, 1.0, 5.0]]])).tolist()
        [3.0]
    """

    target: Any
    pos: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", _token_tuple(self.target, "MeanContrast"))

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return tuple(((self.pos, token, 1.0),) for token in self.target)

    def remainder(self, rows: Float[Tensor, "batch read d_vocab"]) -> Float[Tensor, " batch"]:
        return rows[:, 0].mean(-1)


@dataclass(frozen=True)
class TopKContrast(Metric):
    """Logit of the target minus the mean of the k highest logits among the other tokens.

    The target itself is excluded from the k unless `include_target=True` (as in 2604.17761, whose top-k average
    contains it).  Which tokens are the top k is read from the logits and held constant.

    Example:
        >>> TopKContrast(2, k=2)(torch.tensor([[[0.0, 1.0, 5.0, 4.0]]])).tolist()
        [2.5]
    """

    target: Any
    k: int = 10
    pos: int = -1
    include_target: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", _token_tuple(self.target, "TopKContrast"))
        if self.k < 1:
            raise MetricError(f"TopKContrast averages at least one logit; received k={self.k}. Use k=10.")

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return tuple(((self.pos, token, 1.0),) for token in self.target)

    def remainder(self, rows: Float[Tensor, "batch read d_vocab"]) -> Float[Tensor, " batch"]:
        row = rows[:, 0]
        if self.k > row.shape[-1] - (not self.include_target):
            raise MetricError(f"TopKContrast averages k={self.k} tokens of a vocabulary of {row.shape[-1]}. Lower k.")
        ranked = row.detach().clone()
        if not self.include_target:
            ids = torch.tensor(self.target, device=row.device).expand(row.shape[0])[:, None]
            ranked.scatter_(1, ids, -torch.inf)
        return row.gather(1, ranked.topk(self.k, dim=-1).indices).mean(-1)


@dataclass(frozen=True)
class LogProb(Metric):
    """Log-probability of a token.  Not linear in the logits: the ledger shows what the log-softmax absorbs.

    Example:
        >>> LogProb(1)(torch.zeros(1, 1, 4)).exp().tolist()
        [0.25]
    """

    linear: ClassVar[bool] = False
    token: Any
    pos: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "token", _token_tuple(self.token, "LogProb"))

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return tuple(((self.pos, token, 1.0),) for token in self.token)

    def remainder(self, rows: Float[Tensor, "batch read d_vocab"]) -> Float[Tensor, " batch"]:
        return rows[:, 0].logsumexp(-1)


def _spans(answer: Any, owner: str) -> tuple[Any, ...]:
    """One span (a string, or a sequence of tokens), or one per example, as a tuple of spans."""
    if isinstance(answer, Tensor):
        answer = answer.tolist()
    if isinstance(answer, str):
        return (answer,)
    spans = tuple(answer) if answer and _nested(answer[0]) else (tuple(answer),)
    if not all(len(span) for span in spans):
        raise MetricError(f"{owner} needs at least one token per answer; received {answer!r}.")
    return tuple(span if isinstance(span, str) else tuple(span) for span in spans)


def _span_terms(span: Any, start: int | None, length: int, sign: float, average: bool) -> tuple[Term, ...]:
    first = -length if start is None else start
    coefficient = sign / len(span) if average else sign
    return tuple((first + offset, token, coefficient) for offset, token in enumerate(span))


@dataclass(frozen=True)
class SequenceLogit(Metric):
    """Mean (or sum) of the logits of an answer's tokens, teacher-forced over several positions.

    The prompt holds the question and all answer tokens but the last, so that the last `len(answer)` positions
    predict the answer; `start` names another position for its first token.

    Args:
        answer: a string of any number of tokens, or a sequence of tokens; or a list of sequences, one per example.
        start: position whose logits predict the first token of the answer; default -len(answer).
        average: mean over tokens (default), or their sum.

    Example:
        >>> SequenceLogit([1, 2])(torch.tensor([[[0.0, 1.0, 5.0], [0.0, 0.0, 3.0]]])).tolist()
        [2.0]
    """

    answer: Any
    start: int | None = None
    average: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "answer", _spans(self.answer, "SequenceLogit"))

    def resolve(self, model: Any) -> Metric:
        return replace(self, answer=tuple(span_ids(model, span) for span in self.answer))

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return tuple(
            _span_terms(span, self.start, len(span), 1.0, self.average) for span in _tokenised(self.answer, self)
        )


@dataclass(frozen=True)
class SequenceLogitDiff(Metric):
    """SequenceLogit of the target answer minus that of the contrast answer, read at the same first position.

    Both are read from one pass, forced along the tokens in the prompt; the answers may have different lengths (with
    `average`, each is the mean over its own tokens).

    Args:
        target: answer, as in `SequenceLogit`.
        contrast: answer, as in `SequenceLogit`.
        start: position whose logits predict the first token of both; default -len(longer answer).
        average: mean over tokens (default), or their sum.

    Example:
        >>> SequenceLogitDiff([1, 2], [0], start=0)(torch.tensor([[[4.0, 1.0, 5.0], [0.0, 0.0, 3.0]]])).tolist()
        [-2.0]
    """

    target: Any
    contrast: Any
    start: int | None = None
    average: bool = True

    def __post_init__(self) -> None:
        target, contrast = _spans(self.target, "SequenceLogitDiff"), _spans(self.contrast, "SequenceLogitDiff")
        if len(target) != len(contrast):
            raise MetricError(
                f"Each example has a target and a contrast answer; received {len(target)} and {len(contrast)}."
            )
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "contrast", contrast)

    def resolve(self, model: Any) -> Metric:
        target = tuple(span_ids(model, span) for span in self.target)
        return replace(self, target=target, contrast=tuple(span_ids(model, span) for span in self.contrast))

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        target, contrast = _tokenised(self.target, self), _tokenised(self.contrast, self)
        examples = []
        for right, wrong in zip(target, contrast, strict=True):
            longest = max(len(right), len(wrong))
            examples.append(
                _span_terms(right, self.start, longest, 1.0, self.average)
                + _span_terms(wrong, self.start, longest, -1.0, self.average)
            )
        return tuple(examples)


def _tokenised(spans: tuple[Any, ...], metric: Metric) -> tuple[tuple[Token, ...], ...]:
    for span in spans:
        if isinstance(span, str):
            raise MetricError(f"A metric on logits needs token ids; {metric} has {span!r}. Call metric.resolve(model).")
    return spans


@dataclass(frozen=True)
class RunnerUp(Metric):
    """Logit of the top token minus that of the runner-up: the default metric.

    The two tokens are read from the logits and held constant, so its gradient is that of a LogitDiff.

    Example:
        >>> RunnerUp()(torch.tensor([[[0.0, 1.0, 5.0]]])).tolist()
        [4.0]
    """

    pos: int = -1

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return (((self.pos, 0, 0.0),),)

    def remainder(self, rows: Float[Tensor, "batch read d_vocab"]) -> Float[Tensor, " batch"]:
        ids = rows[:, 0].detach().topk(2, dim=-1).indices
        top, second = rows[:, 0].gather(1, ids).unbind(-1)
        return second - top

    def concrete(self, rows: Float[Tensor, "batch read d_vocab"]) -> LogitDiff:
        """The LogitDiff, with a target and a contrast per example, that these logits select."""
        target, contrast = rows[:, 0].topk(2, dim=-1).indices.unbind(-1)
        return LogitDiff(target.tolist(), contrast.tolist(), self.pos)


@dataclass(frozen=True)
class CallableMetric(Metric):
    """Any function of all logits: [batch, pos, d_vocab] → [batch] (or a scalar for a batch of one)."""

    linear: ClassVar[bool] = False
    function: Callable[[Tensor], Tensor]

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return ()

    def bind(self, starts: Sequence[int], lengths: Sequence[int], d_vocab: int) -> BoundMetric:
        return BoundMetric(self, None)

    def evaluate(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        """Call the function and check what it returns."""
        value = self.function(logits)
        if not isinstance(value, Tensor):
            raise MetricError(f"A metric returns a tensor of shape [batch]; the callable returned {type(value).__name__}.")
        value = value[None] if value.ndim == 0 and logits.shape[0] == 1 else value
        if value.shape != (logits.shape[0],):
            raise MetricError(
                f"A metric returns one number per example, shape [{logits.shape[0]}]; the callable returned "
                f"{tuple(value.shape)}. Reduce over positions and vocabulary, not over the batch."
            )
        return value


def as_metric(metric: Metric | Callable[[Tensor], Tensor] | None) -> Metric:
    """A metric from what a user gives: a Metric, a callable, or None for `RunnerUp()`.

    Raises:
        MetricError: for anything else.
    """
    if metric is None:
        return RunnerUp()
    if isinstance(metric, Metric):
        return metric
    if callable(metric):
        return CallableMetric(metric)
    raise MetricError(
        f"A metric is a Metric (Logit, LogitDiff, ...), or a callable on logits; received {metric!r}. "
        'For a token contrast pass LogitDiff(" Mary", " John").'
    )
