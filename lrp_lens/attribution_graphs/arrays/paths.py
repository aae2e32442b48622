"""The strongest chains of edges that lead to a node.

1. A path takes one edge per transition.  Its relevance is R_target · Π A_e / R_t(e): the target's relevance, handed
   down at every node in the proportions in which that node hands down all of its relevance.
2. What this is: edges say how much of R_j goes to i, not how much of what j received from one particular place.  The
   product assumes that a node keeps no memory of the place.  Two statements hold exactly.  In a graph without pruning
   whose relevance all comes from the target, the relevances of all paths from the target down to an edge sum to that
   edge (so no relevance is invented or lost).  And where states are one number, or a node has one out-edge, the product
   is the relevance that travels along this path under the frozen coefficients.  For wider states it is an estimate.
3. Shares A_e / R_t(e) blow up where R_t(e) is almost 0 although large edges cancel in it.  Paths through nodes with
   |R| ≤ node_floor · |metric| are therefore left out.  `mass` needs no such care: Π |A_e| / Σ|what reaches t(e)|, the
   chance that a walk from the target against the edges, each step in proportion to |A|, takes this path.  Kept
   edges, the pruned sum and the sinks all count in Σ.
4. Nearly every state is handed on at its own token, too, so a path is told by its moves between tokens; the stays in
   between are folded into it.  Of the paths that end at one token, one never moves.  Folded tables list such paths
   after the ones that move.  Folding changes words and order alone: all paths listed, both tables have one sum.
5. The search is exact: strengths are products of factors that depend on one edge each, so the k best chains from a node
   to the target extend the k best of its successors (k + 1 where one may be the path that never moves).  Transition by
   transition, O(k · edges · log) in all.
"""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from lrp_lens.attribution_graphs.arrays.nodes import (
    BoundaryKey,
    Node,
    boundary_index,
    carrier_name,
    node_index,
    place_name,
)
from lrp_lens.attribution_graphs.arrays.pruning import check_threshold, slices
from lrp_lens.errors import InputError

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays.attribution_graph import AttributionGraph


def top_paths(
    graph: "AttributionGraph",
    k: int = 10,
    *,
    source: BoundaryKey | Node | None = None,
    target: Node | None = None,
    by: Literal["relevance", "mass"] = "relevance",
    node_floor: float = 0.001,
    fold: bool = True,
) -> pd.DataFrame:
    """The k strongest paths through kept edges, told by their moves between tokens.

    Args:
        graph: any graph.
        k: how many paths at most.
        source: a boundary (paths from any of its positions) or one node, (boundary key, position); None takes the first
            boundary of the graph.
        target: the node the paths lead to; None takes the targets of the metric.
        by: rank by |relevance| or by mass.
        node_floor: with by="relevance", nodes with |R| ≤ this share of |metric| are not passed through.
        fold: True lists the k strongest paths that move between tokens, and after them the paths that stay at one
            token from source to target (k at most; one for each target).  False lists the k strongest paths of any
            kind, and `text` names every edge.

    Returns:
        One row per path, strongest first.  Columns: relevance, share (of |R_target|), mass, weakest (the smallest |A|
        on it), moves (how many of its edges lead to another token), text (`' Mary'@3 → L2H5 OV → '?'@14`: what
        carried most of each move, and the block it happened in), positions (one per boundary, source first), edges
        (their numbers, source first).

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model
        >>> from lrp_lens.attribution_graphs.closed_form import attribution_graph
        >>> prompt = "then mary and john went to the park . john gave the key to"
        >>> graph = attribution_graph(load_demo_model(), prompt, LogitDiff("mary", "john"), rules="ATTN_LRP")
        >>> graph.paths(1)["text"][0]
        "'mary'@2 → L3H3 K → 'to'@14"

    Raises:
        InputError: k below 1, an unknown ranking, a source that does not precede the target, or no target.
    """
    if k < 1:
        raise InputError(f"Paths need k of 1 or more; received {k}.")
    if by not in ("relevance", "mass"):
        raise InputError(f"Paths are ranked by 'relevance' or 'mass'; received {by!r}.")
    check_threshold("node_floor", node_floor)
    ends = list(graph.targets) if target is None else [node_index(graph, target)]
    if not ends:
        raise InputError(
            'Paths need a target; the graph has no target_positions. Pass one, e.g. target=("L3", 7).'
        )
    first, only = _source(graph, source)
    last = ends[0][0]
    if first >= last:
        raise InputError(
            f"A path leads forward; received the source {graph.boundaries[first].label} and the target "
            f"{graph.boundaries[last].label}."
        )
    shares, chances = _factors(graph)
    strength = chances if by == "mass" else np.abs(shares)
    if by == "relevance":
        weak = np.abs(graph.node_relevance) <= node_floor * abs(graph.metric_value)
        weak[last] = False
        strength = np.where(weak[graph.transition + 1, graph.target], 0.0, strength)
    positions = [position for _, position in ends]
    width = k + 1 if fold else k  # one of a node's best may be the path that never moves
    found = _search(graph, strength, positions, first, last, width, by, only)
    chosen = (chain for chain in found if _moves(graph, chain)) if fold else found
    rows = [_row(graph, chain, shares, chances, last, fold) for chain in islice(chosen, k)]
    if fold:
        stay = _staying(graph, strength, positions, first, last, only)
        still = [_row(graph, chain, shares, chances, last, fold) for chain in stay]
        rows += sorted(still, key=lambda row: -abs(row[by]))[:k]
    columns = ["relevance", "share", "mass", "weakest", "moves", "text", "positions", "edges"]
    return pd.DataFrame(rows, columns=columns)


def _source(graph: "AttributionGraph", source: BoundaryKey | Node | None) -> tuple[int, int | None]:
    """Boundary of the source, and its position if it is one node."""
    if source is None:
        return 0, None
    if isinstance(source, tuple) and not (isinstance(source[0], str) and source[0].startswith("resid_")):
        return node_index(graph, source)
    return boundary_index(graph, source), None


def _factors(graph: "AttributionGraph") -> tuple[np.ndarray, np.ndarray]:
    """[E] share of the target's relevance, signed, and share of the magnitude that reaches the target."""
    below, target = graph.transition, graph.target
    cells = below.astype(np.int64) * graph.pruned.shape[1] + target
    edges = np.bincount(cells, weights=np.abs(graph.relevance), minlength=graph.pruned.size)
    reaching = edges.reshape(graph.pruned.shape) + np.abs(graph.pruned) + np.abs(graph.sinks).sum(axis=1)
    relevance = graph.node_relevance[below + 1, target]
    shares = np.divide(graph.relevance, relevance, out=np.zeros_like(relevance), where=relevance != 0)
    mass = reaching[below, target]
    chances = np.divide(np.abs(graph.relevance), mass, out=np.zeros_like(mass), where=mass > 0)
    return shares, chances


def _search(
    graph: "AttributionGraph",
    strength: np.ndarray,
    ends: list[int],
    first: int,
    last: int,
    k: int,
    by: str,
    only: int | None,
) -> Iterator[list[int]]:
    """The edges of the k strongest chains from each source, the strongest of all first; source first in each.

    beam[position, rank] holds the best so far.
    """
    positions = len(graph.token_strings)
    beam = np.zeros((positions, k))
    beam[ends, 0] = 1.0 if by == "mass" else np.abs(graph.node_relevance[last, ends])
    steps: list[tuple[np.ndarray, np.ndarray]] = []
    where = slices(graph)
    for transition in range(last - 1, first - 1, -1):
        one = where[transition]
        reached = (strength[one, None] * beam[graph.target[one]]).ravel()
        edge = np.repeat(np.arange(one.start, one.stop), k)
        rank = np.tile(np.arange(k), one.stop - one.start)
        found = np.flatnonzero(reached > 0)
        source = graph.source[edge[found]]
        order = found[np.lexsort((-reached[found], source))]
        source = graph.source[edge[order]]
        place = np.arange(len(order)) - np.searchsorted(source, source)
        order, source, place = (array[place < k] for array in (order, source, place))
        beam = np.zeros((positions, k))
        via, came = np.full((positions, k), -1), np.zeros((positions, k), dtype=int)
        beam[source, place], via[source, place], came[source, place] = (
            reached[order],
            edge[order],
            rank[order],
        )
        steps.append((via, came))
    if only is not None:
        beam[np.arange(positions) != only] = 0.0
    for one in np.argsort(-beam, axis=None, kind="stable"):
        if not beam.flat[one] > 0:
            return
        yield _trace(graph, steps, int(one) // k, int(one) % k)


def _trace(
    graph: "AttributionGraph", steps: list[tuple[np.ndarray, np.ndarray]], position: int, rank: int
) -> list[int]:
    """The edges of one chain, followed from its source to its target."""
    chain = []
    for via, came in reversed(steps):
        edge = int(via[position, rank])
        position, rank = int(graph.target[edge]), int(came[position, rank])
        chain.append(edge)
    return chain


def _moves(graph: "AttributionGraph", chain: list[int]) -> int:
    """How many edges of a path lead to another token."""
    return int(np.count_nonzero(graph.source[chain] != graph.target[chain]))


def _staying(
    graph: "AttributionGraph", strength: np.ndarray, ends: list[int], first: int, last: int, only: int | None
) -> list[list[int]]:
    """The paths that never move, one at most for each end."""
    kept = (graph.source == graph.target) & (strength > 0)
    edges = np.flatnonzero(kept & (graph.transition >= first) & (graph.transition < last))
    chains = [edges[graph.source[edges] == one] for one in ends if only in (None, one)]
    return [one.tolist() for one in chains if len(one) == last - first]


def _row(
    graph: "AttributionGraph",
    chain: list[int],
    shares: np.ndarray,
    chances: np.ndarray,
    last: int,
    fold: bool,
) -> dict[str, Any]:
    end = int(graph.target[chain[-1]])
    share = float(np.prod(shares[chain]))
    relevance = share * float(graph.node_relevance[last, end])
    return {
        "relevance": relevance,
        "share": float(np.sign(graph.node_relevance[last, end])) * share,
        "mass": float(np.prod(chances[chain])),
        "weakest": float(np.abs(graph.relevance[chain]).min()),
        "moves": _moves(graph, chain),
        "text": path_text(graph, chain, fold),
        "positions": (*(int(one) for one in graph.source[chain]), end),
        "edges": tuple(chain),
    }


def path_text(graph: "AttributionGraph", chain: list[int], fold: bool) -> str:
    """The places of a path with what led from one to the next; only its moves, if folded."""
    shown = [edge for edge in chain if not fold or graph.source[edge] != graph.target[edge]]
    start = place_name(graph, int(graph.source[chain[0]]))
    if not shown:
        return f"stays at {start}"
    hops = [f"{carrier_name(graph, edge)} → {place_name(graph, int(graph.target[edge]))}" for edge in shown]
    return " → ".join([start, *hops])
