"""Metrics given as functions, and the default."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeAliasType

from lrp_lens.errors import MetricError
from lrp_lens.metrics.metric import BoundMetric, Metric, Term, TextOf
from lrp_lens.metrics.tokens import RunnerUp

MetricLike = TypeAliasType("MetricLike", Metric | Callable[[Tensor], Tensor])
"""A metric, or any function of logits [batch, pos, d_vocab] → [batch]."""


@dataclass(frozen=True)
class CallableMetric(Metric):
    """Any function of all logits: [batch, pos, d_vocab] → [batch] (or a scalar for a batch of one)."""

    function: Callable[[Tensor], Tensor]

    @property
    def linear(self) -> bool:
        return False

    def __str__(self) -> str:
        return _name(self.function)

    def terms(self) -> tuple[tuple[Term, ...], ...]:
        return ()

    def example(self, index: int) -> Metric:
        return self

    def words(self, text_of: TextOf) -> tuple[str, tuple[str, str] | None]:
        return getattr(self.function, "__name__", "callable"), None

    def bind(self, starts: Sequence[int], lengths: Sequence[int], d_vocab: int) -> BoundMetric:
        return BoundMetric(self, None)

    def evaluate(self, logits: Float[Tensor, "batch pos d_vocab"]) -> Float[Tensor, " batch"]:
        """Call the function on a copy of the logits, and check what it returns and that it left them alone."""
        given = logits.clone()
        value = self.function(given)
        if any(not _equal(one, other) for one, other in zip(given, logits, strict=True)):
            raise MetricError(
                f"A metric reads the logits and leaves them as they are; {_name(self.function)} changed them in place. "
                "Use logits * 2 in the place of logits *= 2, or begin with logits = logits.clone()."
            )
        if not isinstance(value, Tensor):
            raise MetricError(
                f"A metric returns a tensor of shape [batch]; the callable returned {type(value).__name__}."
            )
        if value.is_complex() or not value.is_floating_point():
            raise MetricError(
                f"A metric returns real numbers of a float type; the callable returned {value.dtype}. Take .real, "
                ".abs() or .double()."
            )
        value = value[None] if value.ndim == 0 and logits.shape[0] == 1 else value
        if value.shape != (logits.shape[0],):
            raise MetricError(
                f"A metric returns one number per example, shape [{logits.shape[0]}]; the callable returned "
                f"{tuple(value.shape)}. Reduce over positions and vocabulary, not over the batch."
            )
        return value


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same numbers; a NaN is equal to a NaN."""
    one, other = one.detach(), other.detach()
    return torch.equal(one, other) or torch.equal(one.nan_to_num(), other.nan_to_num())


def _name(function: Callable[..., Any]) -> str:
    return getattr(function, "__name__", "the callable")


def as_metric(metric: MetricLike | None) -> Metric:
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
