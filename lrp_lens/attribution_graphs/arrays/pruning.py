"""Pruning: which edges of a graph are kept, and an exact account of those that are not.

1. By node: an edge whose source or target has |R| ≤ τ_node · |metric| goes.
2. By edge: an edge with |A| ≤ τ_edge · |metric| goes.
3. By mass, in each transition: the strongest edges that together hold the share p of Σ|A| stay (arXiv 2604.17761
   uses p = 0.85).  Σ|A| is the mass before any pruning, so pruning twice with one p is pruning once.
4. By connection: an edge that leads to no target of the metric through kept edges goes.
5. Whatever goes is added to `pruned` of its target and to `pruned_mass` of its transition, so that for every target
   Σ in-edges + pruned + sinks = its relevance stays true.

Equal magnitudes are ranked by their place in the array, so a result never depends on the sorting algorithm.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lrp_lens.errors import InputError

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays.attribution_graph import AttributionGraph


def mass_before(magnitudes: np.ndarray) -> np.ndarray:
    """Σ of all magnitudes that rank before each one (larger, or equal and earlier in the array).

    Args:
        magnitudes: |A| in any shape, none negative.

    Returns:
        An array of the same shape; 0 at the strongest.

    Example:
        >>> mass_before(np.array([1.0, 4.0, 2.0])).tolist()
        [6.0, 0.0, 4.0]
    """
    flat = np.asarray(magnitudes, dtype=np.float64).ravel()
    order = np.argsort(-flat, kind="stable")
    before = np.empty_like(flat)
    before[order] = np.concatenate([[0.0], np.cumsum(flat[order])[:-1]]) if flat.size else flat
    return before.reshape(np.shape(magnitudes))


def keep_mass(magnitudes: np.ndarray, mass: float, total: float | None = None) -> np.ndarray:
    """True for the smallest set of the strongest entries that together hold the share `mass` of the total.

    Args:
        magnitudes: |A| in any shape, none negative.
        mass: the share p to hold, 0 to 1; 1 keeps every entry that is not 0.
        total: the mass that p refers to, if it is more than what is left here; None takes Σ magnitudes.

    Returns:
        A boolean array of the same shape.

    Raises:
        InputError: a share outside 0 to 1.

    Example:
        >>> keep_mass(np.array([1.0, 4.0, 2.0, 1.0]), 0.8).tolist()  # 4 + 2 hold 6/8; the first 1 makes it 7/8
        [True, True, True, False]
    """
    check_share(mass)
    magnitudes = np.asarray(magnitudes, dtype=np.float64)
    before = mass_before(magnitudes)
    if total is None:
        total = float((before + magnitudes).max(initial=0.0))  # the sum, rounded as the running sums are
    return (magnitudes > 0) & ((before < mass * total) if mass < 1 else True)


def mass_threshold(magnitudes: np.ndarray, mass: float, total: float | None = None) -> float:
    """The smallest magnitude that `keep_mass` keeps; infinite if it keeps none.

    Raises:
        InputError: a share outside 0 to 1.

    Example:
        >>> mass_threshold(np.array([1.0, 4.0, 2.0, 1.0]), 0.7)
        2.0
    """
    magnitudes = np.asarray(magnitudes, dtype=np.float64)
    return float(magnitudes[keep_mass(magnitudes, mass, total)].min(initial=np.inf))


def check_share(mass: Any) -> None:
    """Raise InputError unless 0 ≤ mass ≤ 1."""
    if not isinstance(mass, float | int) or not 0 <= mass <= 1:
        raise InputError(f"A mass is a share from 0 to 1 of the sum of |edge|; received {mass!r}. Try 0.85.")


def check_threshold(name: str, threshold: Any) -> None:
    """Raise InputError unless the threshold is a number ≥ 0."""
    if not isinstance(threshold, float | int) or not 0 <= threshold < np.inf:
        raise InputError(
            f"{name} is a share of |metric|, a finite number from 0 upwards; received {threshold!r}. Try 0.01."
        )


def slices(graph: "AttributionGraph") -> list[slice]:
    """Where each transition's edges lie in the edge arrays, one slice per transition."""
    ends = np.searchsorted(graph.transition, np.arange(len(graph.boundaries)))
    return [slice(int(start), int(stop)) for start, stop in pairwise(ends)]


def prune(
    graph: "AttributionGraph",
    *,
    node_threshold: float | int | None = None,
    edge_threshold: float | int | None = None,
    mass: float | int | None = None,
) -> "AttributionGraph":
    """See AttributionGraph.prune."""
    if node_threshold is None and edge_threshold is None and mass is None:
        raise InputError(
            "Pruning needs node_threshold, edge_threshold or mass; received none. Try prune(mass=0.85)."
        )
    magnitude = np.abs(graph.relevance)
    keep = np.ones(magnitude.shape, dtype=bool)
    words = []
    if node_threshold is not None:
        check_threshold("node_threshold", node_threshold)
        strong = np.abs(graph.node_relevance) > node_threshold * abs(graph.metric_value)
        keep &= strong[graph.transition, graph.source] & strong[graph.transition + 1, graph.target]
        words.append(f"nodes with |R| > {node_threshold:g}·|metric|")
    if edge_threshold is not None:
        check_threshold("edge_threshold", edge_threshold)
        keep &= magnitude > edge_threshold * abs(graph.metric_value)
        words.append(f"edges with |A| > {edge_threshold:g}·|metric|")
    if mass is not None:
        check_share(mass)
        for one, total in zip(slices(graph), graph.total_mass, strict=True):
            keep[one] &= keep_mass(np.where(keep[one], magnitude[one], 0.0), mass, float(total))
        words.append(f"the strongest edges that hold {100 * mass:g} % of each transition's mass")
    return drop(graph, keep, "kept: " + ", ".join(words))


def drop(graph: "AttributionGraph", keep: np.ndarray, note: str) -> "AttributionGraph":
    """The graph with the kept edges only; what went is moved into `pruned` and `pruned_mass`.

    Args:
        graph: any graph.
        keep: [E], True for the edges to keep.
        note: words for `notes`.
    """
    gone = ~keep
    where, lost = graph.transition[gone], graph.relevance[gone]
    transitions, positions = graph.pruned.shape
    cells = where.astype(np.int64) * positions + graph.target[gone]
    moved = np.bincount(cells, weights=lost, minlength=graph.pruned.size).reshape(graph.pruned.shape)
    mass = np.bincount(where, weights=np.abs(lost), minlength=transitions)
    return replace(
        graph,
        transition=graph.transition[keep],
        target=graph.target[keep],
        source=graph.source[keep],
        relevance=graph.relevance[keep],
        part_values=graph.part_values[keep],
        pruned=graph.pruned + moved,
        pruned_mass=graph.pruned_mass + mass,
        notes=(*graph.notes, note),
    )


def ancestors(graph: "AttributionGraph", nodes: Sequence[tuple[int, int]]) -> np.ndarray:
    """[B, n], True for these nodes and all that lead to one of them through kept edges.

    Args:
        graph: any graph.
        nodes: (boundary, position) each.
    """
    reached = np.zeros(graph.node_relevance.shape, dtype=bool)
    for boundary, position in nodes:
        reached[boundary, position] = True
    for transition, one in reversed(list(enumerate(slices(graph)))):
        leads = reached[transition + 1, graph.target[one]]
        reached[transition, graph.source[one][leads]] = True
    return reached


def subgraph(graph: "AttributionGraph", nodes: Sequence[tuple[int, int]]) -> "AttributionGraph":
    """See AttributionGraph.subgraph."""
    reached = ancestors(graph, nodes)
    keep = reached[graph.transition + 1, graph.target]
    names = ", ".join(f"{graph.boundaries[one].label}@{position}" for one, position in nodes)
    return drop(graph, keep, f"kept: edges that lead to {names}")


def dropped(graph: "AttributionGraph") -> pd.DataFrame:
    """See AttributionGraph.dropped."""
    labels = [one.label for one in graph.boundaries]
    counts = np.bincount(graph.transition, minlength=len(labels) - 1)
    total = np.where(graph.total_mass > 0, graph.total_mass, 1.0)
    return pd.DataFrame(
        {
            "transition": [f"{a} → {b}" for a, b in pairwise(labels)],
            "edges_kept": counts,
            "total_mass": graph.total_mass,
            "dropped_mass": graph.pruned_mass,
            "dropped_share": graph.pruned_mass / total,
            "dropped_relevance": graph.pruned.sum(axis=1),
        }
    )
