"""The two runs that circuits compare: prompts aligned token by token, a metric bound to them, plain activations."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import require_eval, require_finite
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import PaddingSide, require_different, tokenize, with_answers
from lrp_lens.metrics import BoundMetric, Metric, MetricLike
from lrp_lens.run.plain import plain_activations
from lrp_lens.run.reading import concrete_metric, unembedded
from lrp_lens.run.relevance import ask


@dataclass(frozen=True, eq=False)
class Pair:
    """Clean prompts, the corrupted ones beside them, and the metric of both."""

    clean: TokenBatch
    corrupted: TokenBatch | None
    metric: Metric
    bound: BoundMetric


def read_pair(
    model: Any,
    clean: Any,
    corrupted: Any,
    metric: MetricLike | None,
    padding_side: PaddingSide | None = None,
    prepend_bos: bool | None = None,
) -> Pair:
    """Tokenise both sides, check that they fit, and bind the metric.

    Without a metric: the clean run's top token against its runner-up, for both runs.  A metric's answers are appended
    to both sides.

    Raises:
        InputError: for train mode, clean and corrupted prompts of different number or length, or the same.
        MetricError: for a metric that does not fit model or prompts.
    """
    resolve(model)
    require_eval(model)
    batch, bound = ask(model, clean, metric, padding_side, prepend_bos)
    other = None
    if corrupted is not None:
        other = tokenize(model, corrupted, padding_side, prepend_bos)
        if other.n_examples == batch.n_examples:
            other = with_answers(model, other, bound.metric.branches())
        require_aligned(*([one.prompt_lengths[row] for row in one.first_rows] for one in (batch, other)))
        require_different(batch.ids[batch.first_rows], other.ids[other.first_rows])
    bound = settled(model, batch, bound)
    return Pair(batch, other, bound.metric, bound)


def require_aligned(clean: Sequence[int], corrupted: Sequence[int]) -> None:
    """Raise InputError unless each clean prompt has a corrupted one of the same number of tokens.

    Args:
        clean: number of tokens of each clean prompt.
        corrupted: of each corrupted one.
    """
    if len(clean) != len(corrupted):
        raise InputError(
            f"Each clean prompt has its corrupted prompt; received {len(clean)} clean and {len(corrupted)} corrupted "
            "ones. Repeat or drop prompts."
        )
    for index, (one, other) in enumerate(zip(clean, corrupted, strict=True)):
        if one != other:
            raise InputError(
                f"Runs are compared position by position, so clean and corrupted prompts have the same number of "
                f"tokens; received {one} and {other} (prompt {index}). Replace tokens one for one (symmetric token "
                "replacement)."
            )


def settled(model: Any, batch: TokenBatch, bound: BoundMetric) -> BoundMetric:
    """The metric with the tokens that it chooses by the logits of these prompts; itself if it names its tokens."""
    if not bound.metric.chooses:
        return bound
    return concrete_metric(bound, plain_run(model, batch, (), bound)[0], batch)


def plain_run(
    model: Any, batch: TokenBatch, names: Iterable[str], bound: BoundMetric | None = None
) -> tuple[Float[Tensor, "batch read d_vocab"], dict[str, Tensor]]:
    """One forward pass without rules or gradients: logits, and the activations of these records.

    With a metric only the positions it reads are unembedded.
    """
    read = None if bound is None else unembedded(bound)
    logits, kept = plain_activations(model, batch.ids, names, read, batch.left_mask)
    require_finite(logits)
    return logits, kept
