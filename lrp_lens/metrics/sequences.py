"""Metrics of answers of several tokens, teacher-forced over several positions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lrp_lens.errors import MetricError
from lrp_lens.hosts.text import span_ids
from lrp_lens.metrics.metric import Metric, Term, Token
from lrp_lens.metrics.tokens import nested, plain, token_tuple


def _spans(answer: Any, owner: str) -> tuple[Any, ...]:
    """One span (a string, or a sequence of tokens), or one per example, as a tuple of spans."""
    value = plain(answer)
    if isinstance(value, str):
        return (value,)
    value = tuple(map(plain, value)) if isinstance(value, Sequence) else ()
    spans = value if value and nested(value[0]) else (value,)
    if not all(isinstance(span, str | Sequence) and len(span) for span in spans):
        raise MetricError(
            f"{owner} needs an answer of at least one token (text, or a list of tokens), or a list of such lists; "
            f"received {answer!r}."
        )
    return tuple(span if isinstance(span, str) else token_tuple(span, owner) for span in spans)


def _span_terms(span: Any, start: int | None, length: int, sign: float, average: bool) -> tuple[Term, ...]:
    first = -length if start is None else start
    if isinstance(first, int) and first < 0 <= first + len(span) - 1:
        raise MetricError(
            f"An answer ends within the prompt; {len(span)} tokens from start={start} reach beyond its last position. "
            f"Use start={-len(span)} or less, and put all answer tokens but the last into the prompt."
        )
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
        >>> import torch
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
            _span_terms(span, self.start, len(span), 1.0, self.average)
            for span in _tokenised(self.answer, self)
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
        >>> import torch
        >>> SequenceLogitDiff([1, 2], [0], start=0)(torch.tensor([[[4.0, 1.0, 5.0], [0.0, 0.0, 3.0]]])).tolist()
        [-2.0]
    """

    target: Any
    contrast: Any
    start: int | None = None
    average: bool = True

    def __post_init__(self) -> None:
        target, contrast = (
            _spans(self.target, "SequenceLogitDiff"),
            _spans(self.contrast, "SequenceLogitDiff"),
        )
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
            raise MetricError(
                f"A metric on logits needs token ids; {metric} has {span!r}. Call metric.resolve(model)."
            )
    return spans
