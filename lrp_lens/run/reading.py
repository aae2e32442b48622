"""Reading metrics off the logits of a pass: which positions are unembedded, which tokens they choose, their words."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import MetricError
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.vocabulary import token_strings
from lrp_lens.metrics import BoundMetric, Metric


def describe_metric(model: Any, metric: Metric) -> tuple[str, tuple[str, str] | None]:
    """The metric in words, and the two ends of its sign."""
    return metric.words(lambda ids: token_strings(model, ids))


class JointReading:
    """Several metrics of one batch, read off the same logits; each set of positions is unembedded once.

    Args:
        bounds: the metrics, at least one.
    """

    def __init__(self, bounds: Sequence[BoundMetric]) -> None:
        self.bounds = tuple(bounds)
        places: dict[tuple[int, ...], slice] = {}
        together: list[Tensor] = []
        self._columns: list[slice] = []
        width = 0
        for bound in self.bounds:
            if bound.positions is None:
                continue
            key = tuple(bound.positions.flatten().tolist())
            if key not in places:
                places[key] = slice(width, width + bound.positions.shape[1])
                together.append(bound.positions)
                width = places[key].stop
            self._columns.append(places[key])
        narrow = len(self._columns) == len(self.bounds)
        self._joint = BoundMetric(self.bounds[0].metric, torch.cat(together, dim=1) if narrow else None)

    @property
    def every_position(self) -> bool:
        """Whether one of them reads all logits."""
        return self._joint.positions is None

    def select(
        self, logits: Float[Tensor, "row pos width"], copies: int = 1
    ) -> Float[Tensor, "row read width"]:
        """What all of them read, each position once; of so many copies of the batch."""
        return self._joint.select(logits, copies)

    def rows(self, logits: Tensor, index: int, selected: bool) -> Tensor:
        """What one of them reads of the logits, or of what `select` left of them."""
        if selected and not self.every_position:
            return logits[:, self._columns[index]]
        return self.bounds[index].select(logits)


def unembedded(bound: BoundMetric | JointReading, copies: int = 1) -> Callable[..., Tensor]:
    """A hook before the unembedding that keeps only the positions that are read, for several copies of the batch."""

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
