"""Metrics of answers of several tokens.

1. The prompt is the prompt: a metric appends its answer itself, all tokens but the last, and reads the positions that
   predict each token, from the prompt's last one on (teacher forcing).
2. Two answers are read from two rows that share the prompt, each forced along its own tokens; where one answer is the
   other's beginning, one row serves both.
3. The number is the sum (or mean) over an answer's tokens; for a contrast, target minus contrast, so that what the two
   answers share in the beginning cancels.

Raw logits of different positions have different offsets (the mean over the vocabulary may be -10 at one position and -4
at the next), which a difference between positions does not remove.  Log-probabilities have no offset, and their sum is
the log-probability of the answer; so a contrast reads these by default.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from lrp_lens.errors import MetricError
from lrp_lens.hosts.token_batch import Branch
from lrp_lens.hosts.vocabulary import span_ids
from lrp_lens.metrics.metric import Metric, Term, TextOf, Token
from lrp_lens.metrics.tokens import nested, plain, token_tuple

Quantity = Literal["log_prob", "logit"]


def _spans(answer: Any, owner: str) -> tuple[Any, ...]:
    """One span (a text, or a sequence of tokens), or one per example, as a tuple of spans.

    A list of texts, or of lists, is one answer for each example; a list with token ids is one answer.
    """
    value = plain(answer)
    if isinstance(value, str):
        return (value,)
    value = tuple(map(plain, value)) if isinstance(value, Sequence) else ()
    several = value and all(isinstance(item, str) or nested(item) for item in value)
    spans = value if several else (value,)
    if not all(isinstance(span, str | Sequence) and len(span) for span in spans):
        raise MetricError(
            f"{owner} needs an answer of at least one token (text, or a list of token ids), or a list of these, one "
            f"for each prompt; received {answer!r}."
        )
    return tuple(span if isinstance(span, str) else token_tuple(span, owner) for span in spans)


def _terms(span: tuple[Token, ...], branch: int, sign: float, average: bool) -> tuple[Term, ...]:
    coefficient = sign / len(span) if average else sign
    return tuple(Term(-1, token, coefficient, branch, forced) for forced, token in enumerate(span))


def _tokenised(spans: tuple[Any, ...], metric: Metric) -> tuple[tuple[Any, ...], ...]:
    for span in spans:
        if isinstance(span, str) or any(isinstance(token, str) for token in span):
            raise MetricError(
                f"A metric on logits needs token ids; {metric} has {span!r}. Call metric.resolve(model)."
            )
    return spans


def _text(span: Any, text_of: TextOf) -> str:
    """The answer as text; words with spaces between them where tokens are words that bring none."""
    if isinstance(span, str):
        return span
    pieces = list(text_of(span))
    bare = len(pieces) > 1 and all(piece == piece.strip() and piece.isalpha() for piece in pieces)
    return (" " if bare else "").join(pieces)


@dataclass(frozen=True)
class _Answer(Metric):
    """One answer, all of whose tokens count."""

    answer: Any
    average: bool = False

    token_fields = ("answer",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "answer", _spans(self.answer, type(self).__name__))

    def resolve(self, model: Any) -> Metric:
        return replace(self, answer=tuple(span_ids(model, span) for span in self.answer))

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return tuple(_terms(span, 0, 1.0, self.average) for span in _tokenised(self.answer, self))

    def branches(self) -> tuple[tuple[Branch, ...], ...]:
        return tuple((Branch("answer", span[:-1]),) for span in _tokenised(self.answer, self))

    def words(self, text_of: TextOf) -> tuple[str, tuple[str, str] | None]:
        texts = {_text(span, text_of) for span in self.answer}
        shown = repr(texts.pop()) if len(texts) == 1 else "one answer per prompt"
        return f"{type(self).__name__}({shown}), {'mean' if self.average else 'sum'} over its tokens", None


@dataclass(frozen=True)
class SequenceLogit(_Answer):
    """Sum (or mean) of the logits of an answer's tokens, the answer forced behind the prompt.

    Linear in the logits, so that relevance can sum to it; but logits of different positions have different offsets.

    Args:
        answer: a text of any number of tokens, or a list of token ids; or a list of these, one per example.
        average: mean over the tokens in place of their sum.

    Example:
        >>> import torch
        >>> SequenceLogit([1, 2])(torch.tensor([[[0.0, 1.0, 5.0], [0.0, 0.0, 3.0]]])).tolist()
        [4.0]
    """


@dataclass(frozen=True)
class SequenceLogProb(_Answer):
    """Log-probability of an answer after the prompt: the sum (or mean) over its tokens.

    Not linear in the logits: the ledger shows what the log-softmax absorbs, an answer's sum of entropies.

    Args:
        answer: a text of any number of tokens, or a list of token ids; or a list of these, one per example.
        average: mean over the tokens in place of their sum.

    Example:
        >>> import torch
        >>> round(SequenceLogProb([1, 2])(torch.zeros(1, 2, 4)).exp().item(), 6)
        0.0625
    """

    @property
    def linear(self) -> bool:
        return False

    @property
    def log_probabilities(self) -> bool:
        return True


@dataclass(frozen=True)
class SequenceLogitDiff(Metric):
    """How much more the model prefers one answer to another: log P(target | prompt) - log P(contrast | prompt).

    Each answer is forced behind the prompt in a row of its own, and the prompt's relevance is the sum over the two
    rows.  For answers of one token each it is the `LogitDiff` of these tokens.

    Args:
        target: answer, a text of any number of tokens, or a list of token ids; or a list of these, one per example.
        contrast: answer, as `target`.
        of: "log_prob" (default): log-probabilities, whose sum is the answer's; "logit": raw logits, linear, but
            logits of different positions have different offsets, which their difference keeps.
        average: mean over each answer's tokens in place of their sum, so that a longer answer is not at a disadvantage.

    Raises:
        MetricError: the same answer twice, or another number of targets than of contrasts.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[[4.0, 1.0, 5.0], [0.0, 0.0, 3.0]]])    # one row: [0] is no longer than [1, 2]
        >>> SequenceLogitDiff([1, 2], [0], of="logit")(logits).tolist()
        [0.0]
    """

    target: Any
    contrast: Any
    of: Quantity = "log_prob"
    average: bool = False

    def __post_init__(self) -> None:
        target = _spans(self.target, "SequenceLogitDiff")
        contrast = _spans(self.contrast, "SequenceLogitDiff")
        if len(target) != len(contrast):
            raise MetricError(
                f"Each example has a target and a contrast answer; received {len(target)} and {len(contrast)}."
            )
        for right, wrong in zip(target, contrast, strict=True):
            if right == wrong:
                raise MetricError(
                    f"Target and contrast are different answers; both are {right!r}. Choose another contrast, or use "
                    "SequenceLogProb."
                )
        if self.of not in get_args(Quantity):
            raise MetricError(f"of is 'log_prob' or 'logit'; received {self.of!r}.")
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "contrast", contrast)

    @property
    def linear(self) -> bool:
        return self.of == "logit"

    @property
    def log_probabilities(self) -> bool:
        return self.of == "log_prob"

    @property
    def contrastive(self) -> bool:
        return True

    def resolve(self, model: Any) -> Metric:
        target = tuple(span_ids(model, span) for span in self.target)
        return replace(self, target=target, contrast=tuple(span_ids(model, span) for span in self.contrast))

    def _pairs(self) -> list[tuple[tuple[Any, ...], tuple[Any, ...], int]]:
        """Target, contrast, and the branch of the contrast, of each example."""
        target, contrast = _tokenised(self.target, self), _tokenised(self.contrast, self)
        return [
            (right, wrong, 0 if _begins(right[:-1], wrong[:-1]) or _begins(wrong[:-1], right[:-1]) else 1)
            for right, wrong in zip(target, contrast, strict=True)
        ]

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return tuple(
            _terms(right, 0, 1.0, self.average) + _terms(wrong, branch, -1.0, self.average)
            for right, wrong, branch in self._pairs()
        )

    def branches(self) -> tuple[tuple[Branch, ...], ...]:
        return tuple(
            (Branch("target", right[:-1]), Branch("contrast", wrong[:-1]))
            if branch
            else (_shared(right, wrong),)
            for right, wrong, branch in self._pairs()
        )

    def words(self, text_of: TextOf) -> tuple[str, tuple[str, str] | None]:
        target = {_text(span, text_of) for span in self.target}
        contrast = {_text(span, text_of) for span in self.contrast}
        over = "mean" if self.average else "sum"
        kind = "log-probabilities" if self.log_probabilities else "logits"
        if len(target) > 1 or len(contrast) > 1:
            shown, ends = "one target and contrast per prompt", ("the target", "the contrast")
        else:
            ends = (target.pop(), contrast.pop())
            shown = f"{ends[0]!r} - {ends[1]!r}"
        return f"SequenceLogitDiff({shown}), {over} of {kind}", ends


def _begins(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    """Whether the second tuple begins with the first."""
    return second[: len(first)] == first


def _shared(right: tuple[Any, ...], wrong: tuple[Any, ...]) -> Branch:
    """The one row of two answers, the forced tokens of one of which begin those of the other."""
    if len(right) == len(wrong):
        return Branch("answer", right[:-1])
    return Branch("target", right[:-1]) if len(right) > len(wrong) else Branch("contrast", wrong[:-1])
