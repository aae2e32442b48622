"""Path integration: gradients averaged along the straight path between two embeddings.

1. Points of the path start + α (end - start): the midpoints α_k = (k - ½) / m, k = 1 … m, whose error falls with m².
   (Integrated gradients, Sundararajan et al. 2017, are the integral; the sums of EAP-IG, Hanna et al. 2403.17806, take
   its right end points k / m.)
2. `placed` puts a run at one point of it: any pass inside, under any rules, is of that point.
3. `mean_gradient` goes through the points in batches, without rules.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.scope import attached, parameters_frozen
from lrp_lens.metrics import BoundMetric
from lrp_lens.run.reading import unembedded

TOKENS_AT_ONCE = 512
"""Of a gradient: more are no faster, and their graph's memory costs time."""


def midpoints(steps: Any) -> tuple[float, ...]:
    """α of each point.

    Raises:
        InputError: no whole number of steps, or none.

    Example:
        >>> midpoints(2)
        (0.25, 0.75)
    """
    if not is_whole(steps) or steps < 1:
        raise InputError(f"steps is a whole number of points of the path, at least 1; received {steps!r}.")
    return tuple((step + 0.5) / steps for step in range(steps))


@contextmanager
def placed(model: Any, start: Tensor | None, end: Tensor, share: float) -> Iterator[None]:
    """Run with the token embeddings at start + share · (end - start); without `start`, from the run's own."""

    def place(tensor: Tensor, hook: Any) -> Tensor:
        first = tensor if start is None else start.to(tensor)
        return first + share * (end.to(tensor) - first)

    with attached(model, [(resolve(model).embedding.point, place)]):
        yield


def mean_gradient(
    model: Any,
    ids: Int[Tensor, "row pos"],
    start: Callable[[Tensor], Tensor],
    shares: Sequence[float],
    metric: Callable[[int], BoundMetric],
) -> tuple[Float[Tensor, "row pos d_model"], Float[Tensor, "row pos d_model"]]:
    """The mean of the plain gradient over the path from `start(embedding)` to the embedding, and their difference.

    Args:
        model: the host.
        ids: the prompt's rows.
        start: embeddings [row, pos, d_model] → where the path starts.
        shares: α of each point.
        metric: n → what is differentiated, bound to n copies of the rows; only what it reads is unembedded.
    """
    total: Tensor | None = None
    difference = torch.empty(0)
    for part in torch.tensor(shares, dtype=torch.float64).split(max(1, TOKENS_AT_ONCE // ids.numel())):
        leaves: list[Tensor] = []

        def place(tensor: Tensor, hook: Any, part: Tensor = part, leaves: list[Tensor] = leaves) -> Tensor:
            nonlocal difference
            last = tensor[: len(ids)]
            first = start(last)
            difference = (last - first).detach().double()
            weights = part.to(tensor)[:, None, None, None]
            leaves.append((first + weights * (last - first)).flatten(0, 1).detach().requires_grad_(True))
            return leaves[0]

        bound, sites = metric(len(part)), resolve(model)
        hooks = [(sites.embedding.point, place), (sites.unembed_input.point, unembedded(bound))]
        with torch.enable_grad(), parameters_frozen(model), attached(model, hooks):
            rows = forward(model, ids.repeat(len(part), 1), None)
            (found,) = torch.autograd.grad(bound.read(rows).sum(), leaves[0])
        gradient = found.double().unflatten(0, (len(part), len(ids))).sum(0)
        total = gradient if total is None else total + gradient
    assert total is not None
    return total / len(shares), difference
