"""What the interactive view of a graph embeds: strongest edges and paths, the accounts of their nodes, refinements.

1. Each edge carries the mass that ranks before it in its transition, as a share of the mass before any pruning: the
   slider at p shows the edges whose share lies below p, the rule of `AttributionGraph.prune(mass=p)`.
2. At most `max_edges` edges are embedded, those with the smallest share: what pruning with the largest p that fits
   would keep, so that weak layers stay as complete as strong ones.
3. The strongest paths travel on their own, position by position: an edge of theirs need not be among the embedded.
4. Every token travels, since the view can show all of them; node accounts only for nodes that something touches.
5. Numbers are rounded to five digits.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from lrp_lens.attribution_graphs.arrays.folding import is_move
from lrp_lens.attribution_graphs.arrays.nodes import answer_mark, carrier_name
from lrp_lens.attribution_graphs.arrays.pruning import mass_before, slices
from lrp_lens.plots.palette import visible_token

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays import AttributionGraph
    from lrp_lens.views import View

_PARTS = 5
_REFINED = 14
_PATHS = 8
"""Up to so many tokens, all of them are columns."""


def graph_data(graph: "AttributionGraph", max_edges: int) -> dict[str, Any]:
    """The graph as JSON-ready lists; edges and paths name tokens by position, nodes also by boundary."""
    shown = drawn(graph, max_edges)
    special_edge = graph.special[graph.source] | graph.special[graph.target]
    paths = _paths(graph)
    boundary, position = np.nonzero(_touched(graph, shown, paths))
    scale = is_move(graph) & ~special_edge
    return {
        "boundaries": [one.label for one in graph.boundaries],
        "tokens": [visible_token(one) + answer_mark(graph, at) for at, one in enumerate(graph.token_strings)],
        "words": [visible_token(one) if one else "" for one in graph.words],
        "special": np.flatnonzero(graph.special).tolist(),
        "targets": [list(one) for one in graph.targets],
        "nodes": [
            boundary.tolist(),
            position.tolist(),
            _rounded(graph.node_relevance[boundary, position]),
            [_sinks(graph, b, p) for b, p in zip(boundary.tolist(), position.tolist(), strict=True)],
        ],
        "nodeMax": largest(graph.node_relevance[:, ~graph.special]),
        "edges": [
            graph.transition[shown].tolist(),
            graph.source[shown].tolist(),
            graph.target[shown].tolist(),
            _rounded(graph.relevance[shown]),
            _rounded(shares_before(graph)[shown]),
            [_parts(graph, edge) for edge in shown.tolist()],
        ],
        "edgeMax": largest(graph.relevance[scale if scale.any() else ~special_edge]),
        "mass": [float(graph.total_mass.sum()), float(graph.pruned_mass.sum())],
        "sinkKinds": list(graph.sink_kinds),
        "metric": graph.metric_value,
        "paths": paths,
        "refinements": {key: _refinement(view) for key, view in graph.refinements.items()},
    }


def _paths(graph: "AttributionGraph") -> list[dict[str, Any]]:
    """The strongest paths, as `graph.paths` folds them; a move is its transition, its carrier, its edge's relevance."""
    if not graph.target_positions:
        return []
    return [
        {
            "relevance": float(f"{row['relevance']:.5g}"),
            "positions": list(row["positions"]),
            "moves": [
                [
                    int(graph.transition[edge]),
                    carrier_name(graph, edge),
                    float(f"{graph.relevance[edge]:.5g}"),
                ]
                for edge in row["edges"]
                if graph.source[edge] != graph.target[edge]
            ],
        }
        for row in graph.paths(_PATHS).to_dict("records")
    ]


def _touched(graph: "AttributionGraph", shown: np.ndarray, paths: list[dict[str, Any]]) -> np.ndarray:
    """[B, n] True for the nodes of these edges and paths, and for the targets."""
    touched = np.zeros(graph.node_relevance.shape, dtype=bool)
    touched[graph.transition[shown], graph.source[shown]] = True
    touched[graph.transition[shown] + 1, graph.target[shown]] = True
    for path in paths:
        touched[np.arange(len(touched)), path["positions"]] = True
    for node in graph.targets:
        touched[node] = True
    return touched


def _sinks(graph: "AttributionGraph", boundary: int, position: int) -> list[list[Any]]:
    """[kind, relevance] of the sinks of a node that hold anything."""
    if boundary == 0:
        return []
    held = graph.sinks[boundary - 1, :, position]
    return [[int(kind), float(f"{held[kind]:.5g}")] for kind in np.flatnonzero(held)]


def drawn(graph: "AttributionGraph", most: int) -> np.ndarray:
    """Numbers of the edges to draw, weakest first: what is drawn last lies on top."""
    chosen = np.argsort(shares_before(graph), kind="stable")[:most]
    return chosen[np.argsort(np.abs(graph.relevance[chosen]), kind="stable")]


def shares_before(graph: "AttributionGraph") -> np.ndarray:
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


def _parts(graph: "AttributionGraph", edge: int) -> list[list[Any]]:
    """The strongest parts of an edge, then the sum of the rest."""
    values = graph.part_values[edge].astype(np.float64)
    order = [int(i) for i in np.argsort(-np.abs(values), kind="stable") if values[i]]
    rows = [[graph.parts[i], float(f"{values[i]:.4g}")] for i in order[:_PARTS]]
    rest = order[_PARTS:]
    return [*rows, [f"{len(rest)} more", float(f"{values[rest].sum():.4g}")]] if rest else rows


def _worded(dim: str, label: str) -> str:
    """A label that says what it is: "dimension 25", not "25"."""
    return f"{dim} {label}" if label.isdigit() else label


def _refinement(view: "View") -> list[list[Any]]:
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
