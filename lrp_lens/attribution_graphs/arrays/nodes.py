"""Names of boundaries, nodes and edges: what users may write, and the numbers that the arrays use.

1. A boundary is an int (0 embedding, l + 1 after block l, -1 the last), a label, ("resid_mid", l), or a hook name.
2. A node is (boundary, position), an edge a pair of nodes or its number in the arrays.
3. As text: `L3@7` for a node, `L2@4 → L3@7` for an edge; `' to'@14` for a token where only the position matters, of a
   piece of a word with the word, `'happy'@4 of ' unhappy'`; and `L1H3 OV` for what carried most of an edge.
"""

from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np

from lrp_lens.errors import InputError

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays.attribution_graph import AttributionGraph

Index = int | np.integer
BoundaryKey = Index | str | tuple[str, Index]
"""0, 4, -1, "L3 mid", ("resid_mid", 3), a hook name."""
Node = tuple[BoundaryKey, Index]
"""A boundary and a position."""
Edge = Index | tuple[Node, Node]
"""The number of an edge, or its source and its target."""

_SITES = ("resid_pre", "resid_mid", "resid_post")


def is_int(key: object) -> TypeGuard[int]:
    """True for Python's and numpy's integers, not for booleans."""
    return isinstance(key, int | np.integer) and not isinstance(key, bool)


def boundary_index(graph: "AttributionGraph", key: Any) -> int:
    """See AttributionGraph.boundary."""
    found = [number for number, one in enumerate(graph.boundaries) if key in (one.name, one.label)]
    if not found and is_int(key):
        if key == -1:
            return len(graph.boundaries) - 1
        found = _after_block(graph, int(key) - 1)
    elif not found and isinstance(key, tuple) and len(key) == 2 and key[0] in _SITES:
        site, layer = key
        if site == "resid_mid":
            found = [n for n, one in enumerate(graph.boundaries) if one.layer == layer and one.mid]
        else:
            found = _after_block(graph, layer - (site == "resid_pre"))
    if len(found) != 1:
        labels = ", ".join(one.label for one in graph.boundaries)
        raise InputError(
            f"A boundary is 0 (embedding), l + 1 (after block l), -1, a label, or a site and a layer such as "
            f"('resid_mid', 3); received {key!r}. This graph has {labels}."
        )
    return found[0]


def _after_block(graph: "AttributionGraph", layer: int) -> list[int]:
    """The boundary after a block; the embedding for -1."""
    wanted = None if layer == -1 else layer
    return [n for n, one in enumerate(graph.boundaries) if one.layer == wanted and not one.mid]


def node_index(graph: "AttributionGraph", node: Any) -> tuple[int, int]:
    """(boundary number, position) of a node.

    Raises:
        InputError: no such boundary or position.
    """
    if not isinstance(node, tuple) or len(node) != 2 or not is_int(node[1]):
        raise InputError(f"A node is (boundary, position), e.g. ('L3', 7); received {node!r}.")
    positions = len(graph.token_strings)
    position = int(node[1])
    if not -positions <= position < positions:
        raise InputError(
            f"A node's position lies in the {positions} tokens of the graph; received {position}."
        )
    return boundary_index(graph, node[0]), position % positions


def edge_index(graph: "AttributionGraph", edge: Any) -> int:
    """The number of an edge in the arrays.

    Raises:
        InputError: the graph has no such edge (it may have been pruned).
    """
    if is_int(edge):
        if not 0 <= edge < len(graph.relevance):
            raise InputError(
                f"An edge's number lies below {len(graph.relevance)}, the number of edges; received {edge}."
            )
        return int(edge)
    source, target = edge_ends(graph, edge)
    found = np.flatnonzero(
        (graph.transition == source[0]) & (graph.target == target[1]) & (graph.source == source[1])
    )
    if target[0] != source[0] + 1 or not len(found):
        raise InputError(
            f"The graph has no edge {edge_name(graph, source, target)}; it was pruned, or the boundaries are not "
            "adjacent. `edges` lists what was kept."
        )
    return int(found[0])


def edge_ends(graph: "AttributionGraph", edge: Any) -> tuple[tuple[int, int], tuple[int, int]]:
    """The source and the target of an edge as (boundary number, position), whether or not the edge was kept."""
    if is_int(edge):
        number = edge_index(graph, int(edge))
        transition = int(graph.transition[number])
        return (transition, int(graph.source[number])), (transition + 1, int(graph.target[number]))
    if not is_pair_of_nodes(edge):
        raise InputError(
            f"An edge is its number in `edges`, or (source node, target node), e.g. (('L2', 4), ('L3', 7)); "
            f"received {edge!r}."
        )
    source, target = edge
    return node_index(graph, source), node_index(graph, target)


def is_pair_of_nodes(key: object) -> bool:
    """True for a pair of pairs that end in a position."""
    return (
        isinstance(key, tuple)
        and len(key) == 2
        and all(isinstance(one, tuple) and len(one) == 2 and is_int(one[1]) for one in key)
    )


def resolve(
    graph: "AttributionGraph", node_or_edge: Any
) -> tuple[tuple[int, int] | None, tuple[int, int], str]:
    """Source (None for a node), target and name of a node or an edge."""
    if isinstance(node_or_edge, tuple) and not is_pair_of_nodes(node_or_edge):
        node = node_index(graph, node_or_edge)
        return None, node, node_name(graph, node)
    source, target = edge_ends(graph, node_or_edge)
    return source, target, edge_name(graph, source, target)


def node_name(graph: "AttributionGraph", node: tuple[int, int]) -> str:
    """`L3@7`."""
    return f"{graph.boundaries[node[0]].label}@{node[1]}"


def edge_name(graph: "AttributionGraph", source: tuple[int, int], target: tuple[int, int]) -> str:
    """`L2@4 → L3@7`."""
    return f"{node_name(graph, source)} → {node_name(graph, target)}"


def place_name(graph: "AttributionGraph", position: int) -> str:
    """`' to'@14`; of a piece of a word `'happy'@4 of ' unhappy'`, of an answer's token `' An'@15 (target)`."""
    word = f" of {graph.words[position]!r}" if graph.words[position] else ""
    return f"{graph.token_strings[position]!r}@{position}{word}{answer_mark(graph, position)}"


def answer_mark(graph: "AttributionGraph", position: int) -> str:
    """` (target)` behind a token of an answer that a metric appended, "" in the prompt."""
    role = graph.answers[position] if graph.answers else ""
    return f" ({role})" if role else ""


def head_of(part: str) -> int | None:
    """The head in a part's label: 5 for "H5 OV", None for "MLP"."""
    first = part.split(" ")[0]
    return int(first[1:]) if first[:1] == "H" and first[1:].isdigit() else None


def carrier_name(graph: "AttributionGraph", edge: int) -> str:
    """Where an edge happened and what carried most of it: `L1H3 OV`, `L2 MLP`, `L0–3 all paths`."""
    part = graph.parts[int(np.abs(graph.part_values[edge]).argmax())]
    start, end = (graph.boundaries[int(graph.transition[edge]) + step] for step in (0, 1))
    if end.layer is None:
        return f"{end.label} {part}"
    first = 0 if start.layer is None else start.layer + (not start.mid)
    layers = f"L{end.layer}" if first >= end.layer else f"L{first}–{end.layer}"
    return layers + (part if head_of(part) is not None else f" {part}")
