"""A graph as tables: edges, nodes, sinks, the account of every target node, and dense matrices."""

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from lrp_lens.attribution_graphs.arrays.folding import is_move, moves_first
from lrp_lens.attribution_graphs.arrays.nodes import Edge, edge_index, head_of
from lrp_lens.errors import InputError
from lrp_lens.views.table import table_of

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays.attribution_graph import AttributionGraph


def labels(graph: "AttributionGraph") -> np.ndarray:
    """[B] boundary labels, as an array of objects."""
    return np.array([one.label for one in graph.boundaries], dtype=object)


def tokens(graph: "AttributionGraph") -> np.ndarray:
    """[n] token strings, as an array of objects."""
    return np.array(graph.token_strings, dtype=object)


def degrees(graph: "AttributionGraph") -> tuple[np.ndarray, np.ndarray]:
    """In-edges and out-edges of every node, each [B, n]."""
    shape, positions = graph.node_relevance.shape, len(graph.token_strings)
    start = graph.transition.astype(np.int64) * positions
    into = np.bincount(start + positions + graph.target, minlength=shape[0] * positions)
    out = np.bincount(start + graph.source, minlength=shape[0] * positions)
    return into.reshape(shape), out.reshape(shape)


def in_graph(graph: "AttributionGraph") -> np.ndarray:
    """See AttributionGraph.in_graph."""
    into, out = degrees(graph)
    touched = (into + out) > 0
    for node in graph.targets:
        touched[node] = True
    return touched


def share_of_target(graph: "AttributionGraph") -> np.ndarray:
    """[E] edge relevance / |relevance of its target|; 0 where the target has none."""
    size = np.abs(graph.node_relevance[graph.transition + 1, graph.target])
    return np.divide(graph.relevance, size, out=np.zeros_like(size), where=size > 0)


def edge_table(graph: "AttributionGraph", most: int | None = None) -> pd.DataFrame:
    """See AttributionGraph.edges; `most` takes that many from the top."""
    names, words = labels(graph), tokens(graph)
    shown = moves_first(is_move(graph), graph.relevance)[:most]
    below, target, source = graph.transition[shown], graph.target[shown], graph.source[shown]
    values = graph.part_values[shown]
    strongest = np.abs(values).argmax(axis=1) if values.size else np.zeros(0, dtype=int)
    heads = np.array([head_of(part) for part in graph.parts], dtype=object)
    crossings = np.array([f"{a} → {b}" for a, b in pairwise(names)], dtype=object)
    return table_of(
        {
            "transition": crossings[below],
            "source": names[below],
            "source_position": source,
            "source_token": words[source],
            "target": names[below + 1],
            "target_position": target,
            "target_token": words[target],
            "move": source != target,
            "relevance": graph.relevance[shown],
            "share": share_of_target(graph)[shown],
            "part": np.array(graph.parts, dtype=object)[strongest],
            "part_relevance": values[np.arange(len(strongest)), strongest],
            "head": pd.array(heads[strongest], dtype="Int64"),
            "layer": pd.array(
                np.array([one.layer for one in graph.boundaries], dtype=object)[below + 1], dtype="Int64"
            ),
        },
        index=pd.Index(shown, name="edge"),
    )


def part_table(graph: "AttributionGraph") -> pd.DataFrame:
    """See AttributionGraph.parts_table."""
    edge, part = graph.part_values.nonzero()
    values = graph.part_values[edge, part]
    order = moves_first(is_move(graph)[edge], values)
    edge, part, values = edge[order], part[order], values[order]
    ends = [
        "transition",
        "source",
        "source_position",
        "source_token",
        "target",
        "target_position",
        "target_token",
        "move",
        "layer",
    ]
    table = edge_table(graph).loc[edge, ends]
    labels = np.array(graph.parts, dtype=object)
    mechanisms = np.array([label.split(" ")[-1] if head_of(label) is not None else label for label in labels])
    table["part"], table["mechanism"] = labels[part], mechanisms[part]
    table["head"] = pd.array(
        np.array([head_of(label) for label in labels], dtype=object)[part], dtype="Int64"
    )
    table["relevance"] = values
    return table


def node_table(graph: "AttributionGraph") -> pd.DataFrame:
    """See AttributionGraph.nodes."""
    count, positions = graph.node_relevance.shape
    into, out = degrees(graph)
    layers = [one.layer for one in graph.boundaries]
    relevance = graph.node_relevance.ravel()
    size = abs(graph.metric_value)
    return table_of(
        {
            "boundary": np.repeat(labels(graph), positions),
            "layer": pd.array(np.repeat(np.array(layers, dtype=object), positions), dtype="Int64"),
            "mid": np.repeat([one.mid for one in graph.boundaries], positions),
            "position": np.tile(np.arange(positions), count),
            "token": np.tile(tokens(graph), count),
            "special": np.tile(graph.special, count),
            "relevance": relevance,
            "share": relevance / size if size else np.full(relevance.shape, np.nan),
            "in_edges": into.ravel(),
            "out_edges": out.ravel(),
            "in_graph": in_graph(graph).ravel(),
        }
    )


def sink_table(graph: "AttributionGraph") -> pd.DataFrame:
    """See AttributionGraph.sinks_table."""
    transition, kind, position = np.nonzero(graph.sinks)
    amounts = graph.sinks[transition, kind, position]
    order = np.argsort(-np.abs(amounts), kind="stable")
    return table_of(
        {
            "boundary": labels(graph)[transition + 1][order],
            "position": position[order],
            "token": tokens(graph)[position][order],
            "kind": np.array(graph.sink_kinds, dtype=object)[kind][order],
            "relevance": amounts[order],
        }
    )


def parts_of(graph: "AttributionGraph", edge: Edge) -> pd.Series:
    """See AttributionGraph.parts_of."""
    values = graph.part_values[edge_index(graph, edge)]
    order = np.argsort(-np.abs(values), kind="stable")
    return pd.Series(values[order], index=[graph.parts[one] for one in order], name="relevance")


def edge_sums(graph: "AttributionGraph") -> np.ndarray:
    """[T, n] sum of the kept in-edges of every target node."""
    cells = graph.transition.astype(np.int64) * graph.pruned.shape[1] + graph.target
    return np.bincount(cells, weights=graph.relevance, minlength=graph.pruned.size).reshape(
        graph.pruned.shape
    )


def remainders(graph: "AttributionGraph") -> np.ndarray:
    """[T, n] relevance of every target node that no edge, sink or pruned edge accounts for."""
    return graph.node_relevance[1:] - edge_sums(graph) - graph.pruned - graph.sinks.sum(axis=1)


def balance(graph: "AttributionGraph") -> pd.DataFrame:
    """See AttributionGraph.balance."""
    transitions, positions = graph.pruned.shape
    relevance, edges, sinks = graph.node_relevance[1:], edge_sums(graph), graph.sinks.sum(axis=1)
    return table_of(
        {
            "boundary": np.repeat(labels(graph)[1:], positions),
            "position": np.tile(np.arange(positions), transitions),
            "token": np.tile(tokens(graph), transitions),
            "relevance": relevance.ravel(),
            "edges": edges.ravel(),
            "pruned": graph.pruned.ravel(),
            "sinks": sinks.ravel(),
            "remainder": remainders(graph).ravel(),
        }
    )


def matrix(graph: "AttributionGraph", source: int, target: int) -> np.ndarray:
    """See AttributionGraph.matrix; boundaries by number."""
    names = labels(graph)
    if source >= target:
        raise InputError(
            f"Edges lead forward, from an earlier boundary to a later one; received {names[source]} → {names[target]}."
        )
    if graph.made_by is not None:
        return np.asarray(graph.made_by.matrix(source, target))
    if target > source + 1:
        raise InputError(
            f"{names[source]} → {names[target]} are not adjacent, and the graph has no pass to ask (it was loaded from "
            "a file). Run attribution_graph again."
        )
    if graph.pruned_mass[source] > 0 or graph.pruned[source].any():
        raise InputError(
            f"{names[source]} → {names[target]} was pruned, and the graph has no pass to ask (it was loaded from a "
            "file). Run attribution_graph again, or read the kept edges in `edges`."
        )
    positions = len(graph.token_strings)
    dense = np.zeros((positions, positions))
    here = graph.transition == source
    dense[graph.target[here], graph.source[here]] = graph.relevance[here]
    return dense
