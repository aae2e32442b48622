"""Which tokens are run in which forward pass, when many rows begin alike: each beginning is run once.

1. Rows in lexicographic order form a tree: a row shares with the row before it what both begin with.  In a causal
   model nothing of what is shared can differ, so each node of the tree is run once, from the keys and values of the
   nodes above it.
2. A pass runs positions [start, stop) of every beginning of `stop` tokens that is not the same as another.  Its
   tokens are their number times stop − start; each copies the keys and values before it.
3. Where to cut is a shortest path: fewer tokens are run if there is a cut before each position at which rows part,
   and a pass costs something in itself.
4. Rows are taken a chunk at a time, as many as memory holds keys and values of; a chunk goes on from what all its
   rows share with the last row before it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

_COPY_COSTS = 0.01


class Pass(NamedTuple):
    """One forward pass."""

    rows: Int[np.ndarray, " beginning"]
    """A row of each beginning; the first that has it."""
    parents: Int[np.ndarray, " beginning"]
    """For each, which beginning of the pass before it goes on from; all 0 where start is 0."""
    start: int
    """The first position that is run."""
    stop: int
    """The first that is not."""
    wanted: Int[np.ndarray, " row"]
    """In a chunk's last pass, which of the beginnings is each row of the chunk; else empty."""


def passes(
    shared: Sequence[int], length: int, latest: int, rows: int, tokens: int, pass_costs: int
) -> Iterator[Pass]:
    """The passes that run every row, in order.

    Args:
        shared: for each row, how many tokens it shares with the row before; 0 for the first.
        length: tokens of a row.
        latest: the last pass of a chunk begins here or before, so that it holds all positions that are read.
        rows: rows of a chunk at most.
        tokens: tokens of a pass at most (one position of every row, and all those from `latest` on, are always
            possible).
        pass_costs: how many tokens could be run in the time that one pass more takes.

    Example:
        >>> for one in passes([0, 90, 90, 2], 100, 99, rows=10, tokens=1000, pass_costs=30):
        ...     print(one.rows.tolist(), one.parents.tolist(), (one.start, one.stop), one.wanted.tolist())
        [0, 3] [0, 0] (0, 90) []
        [0, 1, 2, 3] [0, 0, 0, 1] (90, 100) [0, 1, 2, 3]
    """
    starts, before = np.asarray(shared), 0
    for first in range(0, len(starts), rows):
        own = starts[first : first + rows]
        base = min(int(own.min()), latest)
        own = np.concatenate([[-1], own[1:]])
        start = base
        heads = np.array([0])
        for stop in _cuts(own, base, length, latest, tokens, pass_costs):
            found = np.flatnonzero(own < stop)
            parents = np.searchsorted(heads, found, side="right") - 1
            if start == base:
                parents = np.full(len(found), before if base else 0)
            last = stop == length
            wanted = np.searchsorted(found, np.arange(len(own)), side="right") - 1 if last else found[:0]
            yield Pass(first + found, parents, start, stop, wanted)
            heads, start = found, stop
        before = len(heads) - 1


def _cuts(
    own: Int[np.ndarray, " row"], base: int, length: int, latest: int, tokens: int, pass_costs: int
) -> list[int]:
    """Where each pass of a chunk stops; it runs from `base`, and `own` is `shared`, with −1 for its first row."""
    inner = np.unique(own[(own > base) & (own <= latest)])
    points = [base, *inner.tolist(), length]
    beginnings = [int((own < point).sum()) for point in points]
    best, previous = [0.0] + [float("inf")] * (len(points) - 1), [0] * len(points)
    for end in range(1, len(points)):
        for begin in range(end):
            run, copied = points[end] - points[begin], _COPY_COSTS * points[begin]
            number = -(-run // max(1, tokens // beginnings[end]))
            cost = best[begin] + beginnings[end] * (run + copied) + number * pass_costs
            if cost < best[end]:
                best[end], previous[end] = cost, begin
    stops: list[int] = []
    end = len(points) - 1
    while end:
        begin, step = previous[end], max(1, tokens // beginnings[end])
        stops += range(points[end], points[begin], -step)
        end = begin
    return stops[::-1]
