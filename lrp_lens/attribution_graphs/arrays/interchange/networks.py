"""A graph as networkx.DiGraph: one node per state in the graph, one edge per kept edge."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lrp_lens.attribution_graphs.arrays.tables import labels, share_of_target

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays.attribution_graph import AttributionGraph


def to_networkx(graph: "AttributionGraph") -> Any:
    """networkx.DiGraph whose nodes are keyed by (boundary label, position): `network.nodes["L3", 7]`.

    Node attributes: token, special, layer, mid, relevance, target (True where the metric reads).  Edge attributes:
    relevance, magnitude (|relevance|, for algorithms that need weights ≥ 0), share (of the target's |relevance|), part
    (the strongest), parts (a dict of those that are not 0).  Graph attributes: metric, metric_value, rules, towards.
    """
    import networkx

    network = networkx.DiGraph(
        metric=graph.metric_text,
        metric_value=graph.metric_value,
        rules=graph.rules_text,
        towards=graph.towards,
    )
    targets = set(graph.targets)
    for number, position in np.argwhere(graph.in_graph).tolist():
        boundary = graph.boundaries[number]
        network.add_node(
            (boundary.label, position),
            token=graph.token_strings[position],
            special=bool(graph.special[position]),
            layer=boundary.layer,
            mid=boundary.mid,
            relevance=float(graph.node_relevance[number, position]),
            target=(number, position) in targets,
        )
    names, shares = labels(graph), share_of_target(graph)
    ends = zip(graph.transition.tolist(), graph.source.tolist(), graph.target.tolist(), strict=True)
    for edge, (transition, source, target) in enumerate(ends):
        values = graph.part_values[edge]
        network.add_edge(
            (names[transition], source),
            (names[transition + 1], target),
            relevance=float(graph.relevance[edge]),
            magnitude=float(abs(graph.relevance[edge])),
            share=float(shares[edge]),
            part=graph.parts[int(np.abs(values).argmax())],
            parts={graph.parts[one]: float(values[one]) for one in np.flatnonzero(values)},
        )
    return network
