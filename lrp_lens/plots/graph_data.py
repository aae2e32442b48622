"""What the interactive view of a graph embeds: the strongest edges with their parts, every node's account, refinements.

1. Each edge carries the mass that ranks before it in its transition, as a share of the mass before any pruning: the
   slider at p shows the edges whose share lies below p, the rule of `AttributionGraph.prune(mass=p)`.
2. At most `max_edges` edges are embedded, those with the smallest share: what pruning with the largest p that fits
   would keep, so that weak layers stay as complete as strong ones.
3. Each token is a column.  In a long prompt only the tokens that a drawn edge touches are, with their positions.
4. Numbers are rounded to five digits.
"""

from typing import Any

import numpy as np

from lrp_lens.graph import AttributionGraph
from lrp_lens.graph.pruning import mass_before, slices
from lrp_lens.plots.palette import visible_token
from lrp_lens.views import View

_PARTS = 5
_REFINED = 14
_ALL_COLUMNS = 128
"""Up to so many tokens, all of them are columns."""


def graph_data(graph: AttributionGraph, max_edges: int) -> dict[str, Any]:
    """The graph as JSON-ready lists."""
    shown = drawn(graph, max_edges)
    places = columns(graph, shown)
    special_edge = graph.special[graph.source] | graph.special[graph.target]
    return {
        "boundaries": [one.label for one in graph.boundaries],
        "tokens": [visible_token(graph.token_strings[one]) for one in places],
        "positions": places.tolist(),
        "allTokens": len(graph.token_strings),
        "special": graph.special[places].astype(int).tolist(),
        "targets": [[b, int(np.searchsorted(places, p))] for b, p in graph.targets if p in places],
        "nodes": _rounded(graph.node_relevance[:, places]),
        "nodeMax": float(largest(graph.node_relevance[:, ~graph.special])),
        "edges": [
            graph.transition[shown].tolist(),
            np.searchsorted(places, graph.source[shown]).tolist(),
            np.searchsorted(places, graph.target[shown]).tolist(),
            _rounded(graph.relevance[shown]),
            _rounded(shares_before(graph)[shown]),
            [_parts(graph, edge) for edge in shown.tolist()],
        ],
        "edgeMax": float(largest(graph.relevance[~special_edge])),
        "kept": len(graph.relevance),
        "totalMass": _rounded(graph.total_mass),
        "sinkKinds": list(graph.sink_kinds),
        "sinks": _rounded(graph.sinks[:, :, places]),
        "metric": graph.metric_value,
        "refinements": {key: _refinement(view) for key, view in graph.refinements.items()},
    }


def drawn(graph: AttributionGraph, most: int) -> np.ndarray:
    """Numbers of the edges to draw, weakest first: what is drawn last lies on top."""
    chosen = np.argsort(shares_before(graph), kind="stable")[:most]
    return chosen[np.argsort(np.abs(graph.relevance[chosen]), kind="stable")]


def columns(graph: AttributionGraph, shown: np.ndarray, touched_only: bool = False) -> np.ndarray:
    """The positions that are columns, ascending: all of a short prompt, else those that matter to the drawing."""
    if len(graph.token_strings) <= _ALL_COLUMNS and not touched_only:
        return np.arange(len(graph.token_strings))
    targets = graph.target_positions if len(graph.target_positions) <= _ALL_COLUMNS else ()
    touched = np.union1d(graph.source[shown], graph.target[shown])
    return np.union1d(touched, np.array(targets, dtype=touched.dtype))


def left_out(graph: AttributionGraph, most: int, touched_only: bool = False) -> str:
    """Which edges and tokens are not drawn, in words; empty if all are."""
    kept, chosen = len(graph.relevance), drawn(graph, most)
    shown, tokens = len(columns(graph, chosen, touched_only)), len(graph.token_strings)
    words = f"{shown:,} of {tokens:,} tokens, those that a drawn edge touches" if shown < tokens else ""
    if kept <= most:
        return words
    shares, magnitude = shares_before(graph), np.abs(graph.relevance)
    share = magnitude[chosen].sum() / (magnitude.sum() or 1.0)
    exact = np.sort(shares)[most]
    return (
        f"{most:,} of {kept:,} edges, {100 * share:.1f} % of their mass: the strongest of each transition, up to "
        f"{100 * exact:.1f} % of it" + (f"; {words}" if words else "")
    )


def shares_before(graph: AttributionGraph) -> np.ndarray:
    """[E] Σ|A| of the stronger edges of the same transition, as a share of the transition's mass before pruning."""
    shares = np.zeros(len(graph.relevance))
    for one, total in zip(slices(graph), graph.total_mass, strict=True):
        shares[one] = mass_before(np.abs(graph.relevance[one])) / (total or 1.0)
    return shares


def largest(values: np.ndarray) -> float:
    """The largest magnitude; 1 if there is none."""
    return float(np.abs(values).max(initial=0.0)) or 1.0


def _rounded(values: np.ndarray) -> Any:
    """Five digits; nested lists."""
    scale = np.abs(values)
    digits = np.where(scale > 0, 4 - np.floor(np.log10(np.where(scale > 0, scale, 1.0))), 0)
    factor = 10.0 ** np.clip(digits, -300, 300)
    return (np.round(values * factor) / factor).tolist()


def _parts(graph: AttributionGraph, edge: int) -> list[list[Any]]:
    """The strongest parts of an edge, then the sum of the rest."""
    values = graph.part_values[edge].astype(np.float64)
    order = [int(i) for i in np.argsort(-np.abs(values), kind="stable") if values[i]]
    rows = [[graph.parts[i], float(f"{values[i]:.4g}")] for i in order[:_PARTS]]
    rest = order[_PARTS:]
    return [*rows, [f"{len(rest)} more", float(f"{values[rest].sum():.4g}")]] if rest else rows


def _worded(dim: str, label: str) -> str:
    """A label that says what it is: "dimension 25", not "25"."""
    return f"{dim} {label}" if label.isdigit() else label


def _refinement(view: View) -> list[list[Any]]:
    """The largest entries of a view, then the sum of the rest."""
    names = [dim for dim in view.dims if dim != "batch"]
    cells = np.argsort(-np.abs(view.values), axis=None, kind="stable")
    rows = []
    for cell in cells[:_REFINED]:
        index = np.unravel_index(cell, view.shape)
        words = [_worded(dim, view.axis_labels(dim)[i]) for dim, i in zip(names, index, strict=True)]
        rows.append([" ".join(words), float(f"{view.values.flat[cell]:.4g}")])
    rest = cells[_REFINED:]
    return (
        [*rows, [f"{len(rest)} more", float(f"{view.values.ravel()[rest].sum():.4g}")]] if len(rest) else rows
    )
