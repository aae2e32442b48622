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
4. The search is exact: strengths are products of factors that depend on one edge each, so the k best chains from a node
   to the target extend the k best of its successors.  Transition by transition, O(k · edges · log) in all.
"""

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from lrp_lens.errors import InputError
from lrp_lens.graph.nodes import BoundaryKey, Node, boundary_index, node_index
from lrp_lens.graph.pruning import check_threshold, slices

if TYPE_CHECKING:
    from lrp_lens.graph.attribution_graph import AttributionGraph


def top_paths(
    graph: "AttributionGraph",
    k: int = 10,
    *,
    source: BoundaryKey | Node = 0,
    target: Node | None = None,
    by: Literal["relevance", "mass"] = "relevance",
    node_floor: float = 0.001,
) -> pd.DataFrame:
    """The k strongest paths through kept edges.

    Args:
        graph: any graph.
        k: how many paths at most.
        source: a boundary (paths from any of its positions) or one node, (boundary key, position).
        target: the node the paths lead to; None takes the targets of the metric.
        by: rank by |relevance| or by mass.
        node_floor: with by="relevance", nodes with |R| ≤ this share of |metric| are not passed through.

    Returns:
        One row per path, strongest first.  Columns: relevance, share (of |R_target|), mass, weakest (the smallest |A|
        on it), text (`" Mary"@3 → [L2 mid, H5 OV] → "?"@14`), positions (one per boundary, source first), edges (their
        numbers, source first).

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model
        >>> from lrp_lens.edges import attribution_graph
        >>> prompt = "then mary and john went to the park . john gave the key to"
        >>> graph = attribution_graph(load_demo_model(), prompt, LogitDiff("mary", "john"))
        >>> graph.paths(1)["text"][0]
        "'mary'@2 → [L3 mid, H3 K] → 'to'@14"

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
    chains = _search(graph, strength, [position for _, position in ends], first, last, k, by, only)
    rows = [_row(graph, chain, shares, chances, last) for chain in chains]
    columns = ["relevance", "share", "mass", "weakest", "text", "positions", "edges"]
    return pd.DataFrame(rows, columns=columns)


def _source(graph: "AttributionGraph", source: BoundaryKey | Node) -> tuple[int, int | None]:
    """Boundary of the source, and its position if it is one node."""
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
) -> list[list[int]]:
    """The edges of the k strongest chains, source first each; beam[position, rank] holds the best so far."""
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
    best = [one for one in np.argsort(-beam, axis=None, kind="stable")[:k] if beam.flat[one] > 0]
    return [_trace(graph, steps, int(one) // k, int(one) % k) for one in best]


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


def _row(
    graph: "AttributionGraph", chain: list[int], shares: np.ndarray, chances: np.ndarray, last: int
) -> dict[str, object]:
    end = int(graph.target[chain[-1]])
    share = float(np.prod(shares[chain]))
    relevance = share * float(graph.node_relevance[last, end])
    return {
        "relevance": relevance,
        "share": float(np.sign(graph.node_relevance[last, end])) * share,
        "mass": float(np.prod(chances[chain])),
        "weakest": float(np.abs(graph.relevance[chain]).min()),
        "text": path_text(graph, chain),
        "positions": (*(int(one) for one in graph.source[chain]), end),
        "edges": tuple(chain),
    }


def path_text(graph: "AttributionGraph", chain: list[int]) -> str:
    """The path's moves between positions, each with the boundary it arrives at and its strongest part."""
    position = int(graph.source[chain[0]])
    words = [f"{graph.token_strings[position]!r}@{position}"]
    for edge in chain:
        if graph.source[edge] != graph.target[edge]:
            position = int(graph.target[edge])
            part = graph.parts[int(np.abs(graph.part_values[edge]).argmax())]
            label = graph.boundaries[int(graph.transition[edge]) + 1].label
            words.append(f"[{label}, {part}] → {graph.token_strings[position]!r}@{position}")
    return " → ".join(words)
