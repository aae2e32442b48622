"""From scores to circuits: the strongest edges, all above a threshold, grown from the logits, or the strongest nodes.

1. `top_edges`: the n edges with the largest |score| (or, signed, the largest score).
2. `edges_above`: all edges whose |score| reaches a threshold.
3. `greedy_edges` (Hanna et al. 2403.17806): start at the logits; again and again add the strongest edge whose reader
   already belongs to the circuit.
4. `top_nodes`: the n writers with the largest summed score, and every edge between them.

Edges that are on no path from the embedding to the logits do nothing for the metric and are pruned.
"""

import heapq
from typing import TYPE_CHECKING

import numpy as np

from lrp_lens.checks import is_whole
from lrp_lens.circuits.circuit import Circuit, edges_of_nodes
from lrp_lens.circuits.components import FIXED, ComponentGraph
from lrp_lens.errors import InputError

if TYPE_CHECKING:
    from lrp_lens.circuits.result import ComponentEdges


def top_edges(edges: "ComponentEdges", n: int, *, absolute: bool = True, prune: bool = True) -> Circuit:
    """The circuit of the n strongest edges (by position where the scores are).

    Args:
        edges: scores.
        n: number of edges before pruning.
        absolute: rank by |score|; False by score, so that only edges that raise the metric come first.
        prune: drop edges that are on no path from the embedding to the logits.

    Raises:
        InputError: for n out of range, or scores that are NaN.
    """
    ranked = ranking(edges, absolute)
    order, free = np.argsort(-ranked, axis=None, kind="stable"), int(np.isfinite(ranked).sum())
    _require_count(n, free, "edges")
    mask = np.zeros(ranked.size, dtype=bool)
    mask[order[:n]] = True
    kind = "strongest" if absolute else "highest"
    return _circuit(edges, mask.reshape(ranked.shape), f"{n} {kind} edges of {edges.method}", prune)


def edges_above(
    edges: "ComponentEdges", threshold: float, *, absolute: bool = True, prune: bool = True
) -> Circuit:
    """The circuit of all edges whose |score| (signed: score) is at least the threshold.

    Raises:
        InputError: for a threshold or scores that are NaN.
    """
    if not np.isfinite(threshold):
        raise InputError(f"A threshold is a number; received {threshold!r}.")
    mask = ranking(edges, absolute) >= threshold
    return _circuit(edges, mask, f"edges of {edges.method} from {threshold:g}", prune)


def greedy_edges(edges: "ComponentEdges", n: int, *, absolute: bool = True, prune: bool = True) -> Circuit:
    """The circuit grown from the logits: n times the strongest edge into what is already there.

    Fewer than n edges where nothing more leads to the logits.

    Raises:
        InputError: for n out of range, scores that are NaN, or scores by position.
    """
    if edges.by_position:
        raise InputError(
            "The greedy search goes over edges; received scores by position. Use positions=False."
        )
    graph, ranked = edges.graph, ranking(edges, absolute)
    _require_count(n, graph.n_edges, "edges")
    mask = np.zeros_like(graph.free)
    heap: list[tuple[float, int, int]] = []

    def offer(reader: int) -> None:
        for writer in np.flatnonzero(graph.free[:, reader]):
            heapq.heappush(heap, (-float(ranked[writer, reader]), int(writer), reader))

    inside = np.zeros(len(graph.readers), dtype=bool)
    inside[-1] = True
    offer(len(graph.readers) - 1)
    for _ in range(n):
        if not heap:
            break
        _, writer, reader = heapq.heappop(heap)
        mask[writer, reader] = True
        for new in np.flatnonzero(graph.feeds[:, writer] & ~inside):
            inside[new] = True
            offer(int(new))
    return _circuit(edges, mask, f"{n} edges of {edges.method} grown from the logits", prune)


def top_nodes(edges: "ComponentEdges", n: int, *, absolute: bool = True) -> Circuit:
    """The circuit of the n writers whose outgoing edges have the largest |sum|, with every edge between them.

    The embedding is one of the writers that are ranked; without it no circuit is connected, so it is always kept.

    Raises:
        InputError: for n out of range, or scores that are NaN.
    """
    scores = node_ranking(edges, absolute)
    _require_count(n, int(np.isfinite(scores).sum()), "nodes")
    kept = np.zeros(len(scores), dtype=bool)
    kept[np.argsort(-scores, kind="stable")[:n]] = True
    kind = "strongest" if absolute else "highest"
    return Circuit(edges.graph, edges_of_nodes(edges.graph, kept), f"{n} {kind} nodes of {edges.method}")


def ranking(edges: "ComponentEdges", absolute: bool) -> np.ndarray:
    """Scores by which edges are ranked; -inf where no circuit has an edge.

    Raises:
        InputError: for scores that are NaN or infinite.
    """
    free = edges.graph.free[..., None] if edges.by_position else edges.graph.free
    free = np.broadcast_to(free, edges.scores.shape)
    if not np.isfinite(edges.scores[free]).all():
        raise InputError(
            "Edges are ranked by numbers; some scores are NaN or infinite. Compute them in float32, and check that the "
            "metric is finite."
        )
    return np.where(free, np.abs(edges.scores) if absolute else edges.scores, -np.inf)


def node_ranking(edges: "ComponentEdges", absolute: bool) -> np.ndarray:
    """Scores by which writers are ranked; -inf for fixed writers."""
    ranking(edges, absolute)
    free = np.array([writer.kind not in FIXED for writer in edges.graph.writers])
    scores = edges.node_scores
    return np.where(free, np.abs(scores) if absolute else scores, -np.inf)


def _require_count(n: int, most: int, what: str) -> None:
    if not is_whole(n) or not 0 <= n <= most:
        raise InputError(f"A circuit has 0 to {most} {what} here; received n = {n!r}.")


def _circuit(edges: "ComponentEdges", mask: np.ndarray, name: str, prune: bool) -> Circuit:
    graph: ComponentGraph = edges.graph
    circuit = Circuit(graph, mask, name)
    return circuit.pruned() if prune else circuit
