"""Measures of a graph per boundary: size, shape, and where in the prompt its relevance lies.

They describe what pruning kept, so prune and take the connected subgraph first (arXiv 2604.17761 uses mass 0.85).
At a boundary b, V is the set of its nodes in the graph, E_in the edges that end there, E_out those that start there; R
is node relevance, A edge relevance, n the number of tokens.  An edge leads from source position i to target position j.
Every measure looks at one boundary and the transitions beside it, so states after attention (`L3 mid`) are rows of
their own: the edges into `L3 mid` are the attention's, those into `L3` the MLP's, all of them vertical.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lrp_lens.attribution_graphs.arrays.pruning import drop
from lrp_lens.attribution_graphs.arrays.tables import degrees
from lrp_lens.errors import InputError
from lrp_lens.views.statistics.concentration import entropy, gini, needed, ratio, top_share

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays.attribution_graph import AttributionGraph


def graph_measures(
    graph: "AttributionGraph",
    *,
    exclude_special: bool = False,
    hub_mass: float = 0.9,
    top_fraction: float = 0.1,
    local_window: int = 1,
) -> pd.DataFrame:
    """One row per boundary, the embedding first.  A measure without any edge or node to speak of is NaN.

    Columns:
        boundary, layer, mid: which boundary.
        nodes: |V|.
        edges: |E_in|.
        edges_per_node: |E_in| / |V|.
        fan_in, fan_out: |E_in| / number of nodes with an in-edge; |E_out| / number of nodes with an out-edge.
        max_fan_in, max_fan_out: the most in-edges and out-edges of one node.
        sparsity: 1 − |V| / n.
        connectivity: |E_in| / number of pairs i ≤ j with i in V of the boundary before and j in V.
        relevance: Σ R over V.
        mean_relevance: mean |R| over V.
        gini_relevance: Gini coefficient of |R| over V.
        mean_edge_relevance: mean |A| over E_out.
        gini_edge_relevance: Gini coefficient of |A| over E_out.
        gini_edges_of_node: mean, over nodes with an in-edge, of the Gini coefficient of |A| over the node's in-edges.
        verticality: Σ|A| over in-edges with i = j / Σ|A| over E_in.
        hubs_by_mass: the fewest nodes of V that together hold `hub_mass` of Σ|R| over V.
        hubs_by_degree: nodes of V with more edges (in and out) than mean + standard deviation over V.
        centre_of_mass: Σ j·|R_j| / Σ|R_j| over V, a position.
        look_back: Σ (j − i)·|A| / Σ|A| over E_in, in tokens.
        local_ratio: Σ|A| over in-edges with |j − i| ≤ `local_window` / Σ|A| over E_in.
        entropy: −Σ p log₂ p with p = |R| / Σ|R| over V, in bits.
        top_mass: share of Σ|R| over V that the ⌈`top_fraction`·|V|⌉ strongest nodes hold.
        early_late: Σ|R| over positions below n/2 / Σ|R| over the others.

    Args:
        graph: any graph, pruned as you like.
        exclude_special: leave special tokens (BOS) and the edges that touch them out of everything.
        hub_mass: share of Σ|R| for hubs_by_mass.
        top_fraction: share of the nodes for top_mass.
        local_window: longest distance, in tokens, that counts as local.

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model
        >>> from lrp_lens.attribution_graphs.closed_form import attribution_graph
        >>> prompt = "then mary and john went to the park . john gave the key to"
        >>> graph = attribution_graph(load_demo_model(), prompt, LogitDiff("mary", "john"), rules="ATTN_LRP")
        >>> graph_measures(graph.subgraph()).set_index("boundary")["nodes"].tail(3).to_dict()
        {'L2': 3, 'L3 mid': 1, 'L3': 1}

    Raises:
        InputError: a share outside 0 to 1, or a negative window.
    """
    for name, share in (("hub_mass", hub_mass), ("top_fraction", top_fraction)):
        if not 0 < share <= 1:
            raise InputError(f"{name} is a share above 0, at most 1; received {share!r}.")
    if local_window < 0:
        raise InputError(f"local_window is a distance in tokens, 0 or more; received {local_window!r}.")
    graph = without_special(graph) if exclude_special else graph
    inside = graph.in_graph & ~(graph.special & exclude_special)
    relevance = np.where(inside, np.abs(graph.node_relevance), 0.0)
    columns: dict[str, Any] = {
        "boundary": [one.label for one in graph.boundaries],
        "layer": pd.array([one.layer for one in graph.boundaries], dtype="Int64"),
        "mid": [one.mid for one in graph.boundaries],
    }
    columns |= _sizes(graph, inside)
    columns |= _relevances(graph, inside, relevance, hub_mass, top_fraction)
    columns |= _edge_relevances(graph, local_window)
    return pd.DataFrame(columns)[_ORDER]


_ORDER = (
    "boundary layer mid nodes edges edges_per_node fan_in fan_out max_fan_in max_fan_out sparsity connectivity "
    "relevance mean_relevance gini_relevance mean_edge_relevance gini_edge_relevance gini_edges_of_node verticality "
    "hubs_by_mass hubs_by_degree centre_of_mass look_back local_ratio entropy top_mass early_late"
).split()


def without_special(graph: "AttributionGraph") -> "AttributionGraph":
    """The graph without the edges that touch a special token; they go to `pruned`."""
    return drop(
        graph, ~(graph.special[graph.source] | graph.special[graph.target]), "kept: no special tokens"
    )


def _sizes(graph: "AttributionGraph", inside: np.ndarray) -> dict[str, Any]:
    """Counts of nodes and edges."""
    into, out = degrees(graph)
    nodes, positions = inside.sum(axis=1), inside.shape[1]
    sources_so_far = np.cumsum(inside[:-1], axis=1)
    pairs = np.concatenate([[0], (inside[1:] * sources_so_far).sum(axis=1)])
    degree = np.where(inside, into + out, np.nan)
    mean = ratio(np.nansum(degree, axis=1), nodes)
    spread = np.sqrt(ratio(np.nansum((degree - mean[:, None]) ** 2, axis=1), nodes))
    return {
        "nodes": nodes,
        "edges": into.sum(axis=1),
        "edges_per_node": ratio(into.sum(axis=1), nodes),
        "fan_in": ratio(into.sum(axis=1), (into > 0).sum(axis=1)),
        "fan_out": ratio(out.sum(axis=1), (out > 0).sum(axis=1)),
        "max_fan_in": into.max(axis=1),
        "max_fan_out": out.max(axis=1),
        "sparsity": 1 - nodes / positions,
        "connectivity": ratio(into.sum(axis=1), pairs),
        "hubs_by_degree": (degree > (mean + spread)[:, None]).sum(axis=1),
    }


def _relevances(
    graph: "AttributionGraph", inside: np.ndarray, relevance: np.ndarray, hub_mass: float, top_fraction: float
) -> dict[str, Any]:
    """Measures of node relevance; `relevance` is |R|, 0 outside the graph."""
    nodes, (boundaries, positions) = inside.sum(axis=1), inside.shape
    place = np.arange(positions)
    total = relevance.sum(axis=1)
    early = relevance[:, place < positions / 2].sum(axis=1)
    largest = np.ceil(top_fraction * nodes).astype(int)
    return {
        "relevance": np.where(inside, graph.node_relevance, 0.0).sum(axis=1),
        "mean_relevance": ratio(total, nodes),
        "gini_relevance": gini(relevance[inside], np.nonzero(inside)[0], boundaries),
        "hubs_by_mass": needed(relevance, hub_mass),
        "centre_of_mass": ratio((relevance * place).sum(axis=1), total),
        "entropy": entropy(relevance),
        "top_mass": top_share(relevance, largest),
        "early_late": ratio(early, total - early),
    }


def _edge_relevances(graph: "AttributionGraph", local_window: int) -> dict[str, Any]:
    """Measures of edge relevance."""
    boundaries, positions = graph.node_relevance.shape
    size, into = np.abs(graph.relevance), graph.transition + 1
    distance = graph.target.astype(np.int64) - graph.source

    def summed(weights: np.ndarray, at: np.ndarray = into) -> np.ndarray:
        return np.bincount(at, weights=weights, minlength=boundaries)

    mass = summed(size)
    starts = np.bincount(graph.transition, minlength=boundaries)
    of_node = gini(size, into.astype(np.int64) * positions + graph.target, boundaries * positions)
    of_node = of_node.reshape(boundaries, positions)
    known = np.isfinite(of_node)
    return {
        "mean_edge_relevance": ratio(summed(size, graph.transition), starts),
        "gini_edge_relevance": gini(size, graph.transition, boundaries),
        "gini_edges_of_node": ratio(np.where(known, of_node, 0.0).sum(axis=1), known.sum(axis=1)),
        "verticality": ratio(summed(size * (distance == 0)), mass),
        "look_back": ratio(summed(size * distance), mass),
        "local_ratio": ratio(summed(size * (np.abs(distance) <= local_window)), mass),
    }
