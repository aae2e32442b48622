"""Neuronpedia's graph JSON (draft-07 schema "Anthropic Attribution Graph"), for its viewer and uploads.

1. `metadata` says slug, scan (the model's id there), tokens and prompt; `qParams` the viewer's state; nodes; links.
2. A state becomes a node in the row of its layer, "E" for the embedding; a state after attention (`L3 mid`) lies in the
   row of its layer too and says so in its label.  States are no features: `feature` is null.
3. One more node, a "logit", stands for the metric.  The viewer reads a probability out of its label, "(p=0.123)".
4. Neuronpedia refuses files above 100 MB; so does this module, before building them where that is certain.
"""

import json
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np

from lrp_lens.attribution_graphs.arrays.text import short_rules
from lrp_lens.errors import InputError
from lrp_lens.files import replacing

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays.attribution_graph import AttributionGraph

MAX_BYTES = 100_000_000
_LEAST_BYTES_PER_LINK = 50
_TOO_LARGE = "Prune first, e.g. graph.prune(mass=0.85).subgraph()."


def to_neuronpedia(
    graph: "AttributionGraph",
    *,
    slug: str,
    scan: str,
    probability: float,
    path: str | PathLike[str] | None = None,
) -> dict[str, Any]:
    """The graph as a dict that follows the schema, also written to a file if a path is given.

    Args:
        graph: any graph with target positions; prune it first.
        slug: the graph's name on Neuronpedia.
        scan: the model's id there, e.g. "gpt2-small".
        probability: of the target token, for the label of the metric's node.
        path: where to write the JSON.

    Raises:
        InputError: no target positions, a probability outside 0 to 1, an empty slug or scan, or more than 100 MB.
    """
    if not slug or not scan:
        raise InputError(
            f"Neuronpedia needs a slug and a scan (its model id); received {slug!r} and {scan!r}."
        )
    if not 0 <= probability <= 1:
        raise InputError(f"A probability lies in 0 to 1; received {probability!r}.")
    if not graph.target_positions:
        raise InputError(
            "The metric's node needs a position; the graph has no target_positions. Make it with attribution_graph."
        )
    if len(graph.relevance) * _LEAST_BYTES_PER_LINK > MAX_BYTES:
        raise InputError(
            f"Neuronpedia takes {MAX_BYTES // 10**6} MB; {len(graph.relevance)} edges are more. {_TOO_LARGE}"
        )
    logit = _logit(graph, probability)
    content = {
        "metadata": {
            "slug": slug,
            "scan": scan,
            "prompt_tokens": list(graph.token_strings),
            "prompt": "".join(graph.token_strings),
            "info": {
                "description": "; ".join((f"{graph.metric_text}, {short_rules(graph)}", *graph.notes)),
                "generator": {"name": "lrp_lens"},
            },
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": logit["node_id"]},
        "nodes": [_node(graph, b, p) for b, p in np.argwhere(graph.in_graph).tolist()] + [logit],
        "links": _links(graph, logit["node_id"]),
    }
    data = json.dumps(content).encode()
    if len(data) > MAX_BYTES:
        raise InputError(
            f"Neuronpedia takes {MAX_BYTES // 10**6} MB; this graph needs {len(data) / 1e6:.0f} MB. {_TOO_LARGE}"
        )
    if path is not None:
        with replacing(path) as part:
            part.write_bytes(data)
    return content


def _row(graph: "AttributionGraph", boundary: int) -> str:
    layer = graph.boundaries[boundary].layer
    return "E" if layer is None else str(layer)


def _node_id(graph: "AttributionGraph", boundary: int, position: int) -> str:
    """layer_boundary_position, unique in the graph."""
    return f"{_row(graph, boundary)}_{boundary}_{position}"


def _node(graph: "AttributionGraph", boundary: int, position: int) -> dict[str, Any]:
    one, token = graph.boundaries[boundary], graph.token_strings[position]
    relevance = float(graph.node_relevance[boundary, position])
    return {
        "node_id": _node_id(graph, boundary, position),
        "feature": None,
        "layer": _row(graph, boundary),
        "ctx_idx": position,
        "feature_type": "embedding" if one.layer is None else "residual stream",
        "jsNodeId": f"{_row(graph, boundary)}_{boundary}-{position}",
        "clerp": f'{one.label} "{token}" R={relevance:+.4g}',
        "activation": relevance,
    }


def _logit(graph: "AttributionGraph", probability: float) -> dict[str, Any]:
    layers = [one.layer for one in graph.boundaries if one.layer is not None]
    row, position = str(max(layers, default=-1) + 1), graph.target_positions[-1]
    return {
        "node_id": f"{row}_{len(graph.boundaries)}_{position}",
        "feature": None,
        "layer": row,
        "ctx_idx": position,
        "feature_type": "logit",
        "jsNodeId": f"{row}_{len(graph.boundaries)}-{position}",
        "clerp": f"{graph.metric_text} = {graph.metric_value:+.4g} (p={probability:.3f})",
        "activation": graph.metric_value,
        "is_target_logit": True,
        "token_prob": probability,
    }


def _links(graph: "AttributionGraph", logit: str) -> list[dict[str, Any]]:
    columns = (
        graph.transition.tolist(),
        graph.source.tolist(),
        graph.target.tolist(),
        graph.relevance.tolist(),
    )
    links = [
        {"source": _node_id(graph, t, source), "target": _node_id(graph, t + 1, target), "weight": weight}
        for t, source, target, weight in zip(*columns, strict=True)
    ]
    for boundary, position in graph.targets:
        weight = float(graph.node_relevance[boundary, position])
        links.append({"source": _node_id(graph, boundary, position), "target": logit, "weight": weight})
    return links
