"""Metrics of one token, or of one token against others, at one position."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.errors import MetricError
from lrp_lens.metrics.metric import Metric, Term, TextOf, Token


def plain(value: Any) -> Any:
    """Numbers and lists from numpy and torch, as Python's own.

    Raises:
        MetricError: bytes, which would pass for a list of ids.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        raise MetricError(f"A token is text or an id; received bytes, {value!r}. Decode them to text first.")
    return value.tolist() if hasattr(value, "tolist") else value


def token_tuple(tokens: Any, owner: str) -> tuple[Token, ...]:
    """One token, or one per example, as a tuple of ids and strings."""
    value = plain(tokens)
    if isinstance(value, int | str):
        value = (value,)
    items = tuple(map(plain, value)) if isinstance(value, Sequence) else ()
    if not items or not all(isinstance(item, int | str) and not isinstance(item, bool) for item in items):
        raise MetricError(
            f"{owner} needs a token (string or id), or one per example; received {tokens!r}. "
            "For an answer of several tokens use SequenceLogProb or SequenceLogitDiff."
        )
    return items


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
        object.__setattr__(self, "token", token_tuple(self.token, "Logit"))

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return tuple((Term(self.pos, token, 1.0),) for token in self.token)


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
        single = isinstance(plain(self.target), int | str)
        target = token_tuple(self.target, "LogitDiff.target")
        contrast = plain(self.contrast)
        if single and not (isinstance(contrast, Sequence) and len(contrast) and nested(contrast[0])):
            groups: tuple[tuple[Token, ...], ...] = (token_tuple(contrast, "LogitDiff.contrast"),)
        else:
            items = (
                contrast if isinstance(contrast, Sequence) and not isinstance(contrast, str) else (contrast,)
            )
            groups = tuple(token_tuple(item, "LogitDiff.contrast") for item in items)
            if len(groups) != len(target):
                raise MetricError(
                    f"With a target per example there is a contrast per example; received {len(target)} targets and "
                    f"{len(groups)} contrasts. For several contrasts of one example pass a list of lists."
                )
        for chosen, others in zip(target, groups, strict=True):
            if chosen in others:
                raise MetricError(
                    f"Target and contrast are different tokens; both are {chosen!r}. "
                    "Choose another contrast, or use Logit."
                )
        object.__setattr__(self, "target", target)
        object.__setattr__(self, "contrast", groups)

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return tuple(
            (Term(self.pos, target, 1.0), *(Term(self.pos, token, -1.0 / len(others)) for token in others))
            for target, others in zip(self.target, self.contrast, strict=True)
        )

    @property
    def contrastive(self) -> bool:
        return True

    def words(self, text_of: TextOf) -> tuple[str, tuple[str, str] | None]:
        target = text_of(self.target)
        contrast = tuple(", ".join(repr(text) for text in text_of(others)) for others in self.contrast)
        if len(set(target)) > 1 or len(set(contrast)) > 1:
            return "LogitDiff(one target and contrast per prompt)", ("the target", "the contrast")
        mean = "mean of " if len(self.contrast[0]) > 1 else ""
        ends = (target[0], text_of(self.contrast[0])[0] if not mean else f"{mean}{contrast[0]}")
        return f"LogitDiff({target[0]!r} - {mean}{contrast[0]}) at position {self.pos}", ends


def nested(item: object) -> bool:
    """Whether an item is itself a list of tokens."""
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
        object.__setattr__(self, "target", token_tuple(self.target, "MeanContrast"))

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return tuple((Term(self.pos, token, 1.0),) for token in self.target)

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
        object.__setattr__(self, "target", token_tuple(self.target, "TopKContrast"))
        if self.k < 1:
            raise MetricError(f"TopKContrast averages at least one logit; received k={self.k}. Use k=10.")

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return tuple((Term(self.pos, token, 1.0),) for token in self.target)

    def remainder(self, rows: Float[Tensor, "batch read d_vocab"]) -> Float[Tensor, " batch"]:
        row = rows[:, 0]
        if self.k > row.shape[-1] - (not self.include_target):
            raise MetricError(
                f"TopKContrast averages k={self.k} tokens of a vocabulary of {row.shape[-1]}. Lower k."
            )
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

    token: Any
    pos: int = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "token", token_tuple(self.token, "LogProb"))

    @property
    def linear(self) -> bool:
        return False

    @property
    def log_probabilities(self) -> bool:
        return True

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return tuple((Term(self.pos, token, 1.0),) for token in self.token)


@dataclass(frozen=True)
class RunnerUp(Metric):
    """Logit of the top token minus that of the runner-up: the default metric.

    The two tokens are read from the logits and held constant, so its gradient is that of a LogitDiff.  With a target,
    that token's logit minus the largest other one.

    Example:
        >>> RunnerUp()(torch.tensor([[[0.0, 1.0, 5.0]]])).tolist()
        [4.0]
    """

    pos: int = -1
    target: int | None = None
    """Token id; None is the top token."""

    @property
    def chooses(self) -> bool:
        return True

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return ((Term(self.pos, 0, 0.0),),)

    def remainder(self, rows: Float[Tensor, "batch read d_vocab"]) -> Float[Tensor, " batch"]:
        target, contrast = rows[:, 0].gather(1, self._ids(rows)).unbind(-1)
        return contrast - target

    def concrete(self, rows: Float[Tensor, "batch read d_vocab"]) -> LogitDiff:
        """The LogitDiff, with a target and a contrast per example, that these logits select."""
        target, contrast = self._ids(rows).unbind(-1)
        return LogitDiff(target.tolist(), contrast.tolist(), self.pos)

    def _ids(self, rows: Float[Tensor, "batch read d_vocab"]) -> Int[Tensor, "batch 2"]:
        """Target and contrast of each example."""
        best = rows[:, 0].detach().topk(2, dim=-1).indices
        if self.target is None:
            return best
        target = torch.full_like(best[:, :1], self.target)
        return torch.cat([target, torch.where(best[:, :1] == target, best[:, 1:], best[:, :1])], dim=1)
