"""Reading a metric off the logits of a pass: which positions are unembedded, which tokens it chooses, its words."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from lrp_lens.errors import MetricError
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import token_strings
from lrp_lens.metrics import BoundMetric, Metric


def describe_metric(model: Any, metric: Metric) -> tuple[str, tuple[str, str] | None]:
    """The metric in words, and the two ends of its sign."""
    return metric.words(lambda ids: token_strings(model, ids))


def unembedded(bound: BoundMetric, copies: int = 1) -> Callable[..., Tensor]:
    """A hook before the unembedding that keeps only the positions the metric reads, for several copies of the batch."""

    def hook(tensor: Tensor, hook: Any) -> Tensor:
        return bound.select(tensor, copies)

    return hook


def concrete_metric(bound: BoundMetric, rows: Tensor, batch: TokenBatch) -> BoundMetric:
    """The metric with the tokens chosen that it reads off these logits, e.g. RunnerUp's LogitDiff."""
    chosen = bound.metric.concrete(rows.detach())
    return (
        bound if chosen is bound.metric else chosen.bind(batch.starts, batch.prompt_lengths, rows.shape[-1])
    )


def differentiable_value(bound: BoundMetric, rows: Tensor) -> Tensor:
    """The metric of each example, [batch], in the graph.

    Raises:
        MetricError: if it does not depend on the logits differentiably, or is no finite number.
    """
    value = bound.read(rows)
    if not value.requires_grad:
        raise cut_off(bound.metric)
    return value


def cut_off(metric: Metric) -> MetricError:
    """What to say of a metric that no gradient leads from to the embedding."""
    return MetricError(
        f"A metric depends on the logits differentiably; {metric} does not. Avoid .item() and argmax; "
        "or a hook on the model cuts the logits off (model.reset_hooks() removes them all)."
    )
