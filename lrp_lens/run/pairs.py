"""The two runs that circuits compare: prompts aligned token by token, a metric bound to them, plain activations."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import require_eval, require_finite
from lrp_lens.hosts.prefix import KeyValues
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import PaddingSide, tokenize, with_answers
from lrp_lens.metrics import BoundMetric, Metric, MetricLike
from lrp_lens.run.plain import keeping, plain_activations
from lrp_lens.run.reading import concrete_metric, unembedded
from lrp_lens.run.relevance import ask

Direction = Literal["denoising", "noising"]
"""denoising: clean activations into the corrupted run; noising: the reverse.

Patching denoises where nothing is said, as transformer_lens.patching does, whose names and shapes it has: which parts
suffice to bring the answer back?  Circuits noise, as circuits are evaluated in the literature (Wang et al. 2211.00593,
Mueller et al. 2504.13151): do the parts that were kept suffice when all others are another prompt's?
"""


def require_direction(direction: object) -> None:
    """Raise InputError unless this is a direction.

    Example:
        >>> require_direction("noising")
    """
    if direction not in get_args(Direction):
        raise InputError(f"direction is 'denoising' or 'noising'; received {direction!r}.")


@dataclass(frozen=True, eq=False)
class Pair:
    """Clean prompts, the corrupted ones beside them, and the metric of both."""

    clean: TokenBatch
    corrupted: TokenBatch | None
    metric: Metric
    bound: BoundMetric


def require_different(clean: Int[Tensor, "batch pos"], corrupted: Int[Tensor, "batch pos"]) -> None:
    """Raise InputError unless each corrupted prompt differs from its clean prompt.

    Where they are the same, every effect is 0, and every share and correlation of effects 0 / 0.
    """
    same = (clean == corrupted.to(clean.device)).all(1).nonzero()[:, 0].tolist()
    if same:
        of = "all pairs" if len(same) == len(clean) else f"pairs {', '.join(map(str, same[:8]))}"
        raise InputError(
            f"Each corrupted prompt differs from its clean prompt; {of} of {len(clean)} (counted from 0) are the same "
            "tokens. Replace a token that the answer depends on, or leave these pairs out."
        )


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


def continues(pair: Pair, first: int) -> bool:
    """Whether one run can go on from the other's first tokens, and holds what the metric reads."""
    padded = any(batch is None or batch.left_mask is not None for batch in (pair.clean, pair.corrupted))
    read = pair.bound.positions
    return first > 0 and not padded and read is not None and int(read.min()) >= first


def continued_run(
    model: Any,
    batch: TokenBatch,
    names: Iterable[str],
    bound: BoundMetric,
    past: KeyValues,
    first: int,
    before: Mapping[str, Tensor],
) -> tuple[Float[Tensor, "batch read d_vocab"], dict[str, Tensor]]:
    """`plain_run` of rows that begin with the tokens of rows that have run: only what follows these is run.

    Args:
        model: the host.
        batch: the rows, for which `continues` holds.
        names: records to keep.
        bound: what is read, at `first` or behind.
        past: keys and values of the rows that have run; spent afterwards.
        first: how many tokens are shared.
        before: the records of those rows.
    """
    assert bound.positions is not None
    kept: dict[str, Tensor] = {}
    ports, modules = keeping(model, names, kept)
    later = replace(bound, positions=bound.positions - first)
    ports.append((resolve(model).unembed_input.point, unembedded(later)))
    rows = torch.arange(len(batch.ids), device=batch.ids.device)
    with torch.no_grad(), attached(model, ports, modules):
        logits = past.forward(batch.ids[:, first:], first, rows)
    require_finite(logits)
    return logits, {name: _joined(before[name], found, batch.ids, first) for name, found in kept.items()}


def _joined(before: Tensor, found: Tensor, ids: Tensor, first: int) -> Tensor:
    """The first positions of one run and the others of another; some hosts flatten rows and positions."""
    flat = before.shape[:2] != ids.shape
    shared = before.reshape(*ids.shape, *before.shape[1:]) if flat else before
    rest = found.reshape(-1, ids.shape[1] - first, *shared.shape[2:]).expand(
        len(ids), *(-1,) * (shared.ndim - 1)
    )
    return torch.cat([shared[:, :first], rest], dim=1).reshape(before.shape)


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


def first_difference(pair: Pair) -> int:
    """The first position at which any of the prompts differ; 0 without corrupted prompts."""
    return 0 if pair.corrupted is None else int((pair.clean.ids != pair.corrupted.ids).any(0).int().argmax())
