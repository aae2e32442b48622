"""The importances JSON of the eap library and the MIB benchmark: written and read.

    {"cfg": {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"},
     "nodes": {"a0.h1": {"in_graph": true, "score": 0.2}, ...},
     "edges": {"a0.h1->a1.h0<q>": {"score": 0.1, "in_graph": true}, ...}}

1. Nodes are `input` (token and position embeddings together), `a0.h1`, `m0` and `logits`; into a head an edge names
   what it feeds, `<q>`, `<k>` or `<v>`.
2. Output biases are no nodes there: they are left out, as constants (their score is 0 with a corrupted run).
3. There every query head has a k and a v of its own.  Under grouped queries an edge into a group is written to each of
   its heads with an equal share of the score, and reading adds the shares up again.
4. Where scores are by position, their sum is written.  An edge that a file does not list has score 0, as there.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lrp_lens.circuits.circuit import Circuit
from lrp_lens.circuits.components import ComponentGraph, ComponentNode, component_graph
from lrp_lens.circuits.result import ComponentEdges
from lrp_lens.errors import InputError
from lrp_lens.files import require_writable, write_text


def writer_name(writer: ComponentNode) -> str | None:
    """Name of a writer there; None for biases.

    Example:
        >>> [writer_name(one) for one in (ComponentNode("head", 3, 1), ComponentNode("mlp", 0), ComponentNode("embed"))]
        ['a3.h1', 'm0', 'input']
    """
    if writer.kind == "head":
        return f"a{writer.layer}.h{writer.head}"
    return {"mlp": f"m{writer.layer}", "embed": "input", "pos_embed": "input"}.get(writer.kind)


def reader_names(reader: ComponentNode, graph: ComponentGraph) -> list[str]:
    """Names of a reader there: one, or one per query head of a group."""
    if reader.kind == "logits":
        return ["logits"]
    if reader.kind == "mlp":
        return [f"m{reader.layer}"]
    size = 1 if reader.kind == "q" else graph.n_heads // graph.n_key_value_heads
    first = (reader.head or 0) * size
    return [f"a{reader.layer}.h{head}<{reader.kind}>" for head in range(first, first + size)]


def _pairs(graph: ComponentGraph) -> Iterator[tuple[int, int, list[str]]]:
    """Writer, reader, and the names of their edges there."""
    into = [reader_names(reader, graph) for reader in graph.readers]
    out = [writer_name(writer) for writer in graph.writers]
    for writer, reader in np.argwhere(graph.connected):
        if out[writer] is not None:
            yield int(writer), int(reader), [f"{out[writer]}->{name}" for name in into[reader]]


def importances(edges: ComponentEdges, circuit: Circuit | None = None) -> dict[str, Any]:
    """Scores, and which edges a circuit keeps, as the dictionary of the JSON file.

    Args:
        edges: scores.
        circuit: what is marked `in_graph`; by default every edge.

    Raises:
        InputError: if the circuit is of another graph, or scores are NaN (JSON has none).
    """
    graph = edges.graph
    chosen = Circuit.full(graph) if circuit is None else circuit
    if chosen.graph != graph:
        raise InputError(f"Scores and circuit are of one graph; received {graph} and {chosen.graph}.")
    if not np.isfinite(edges.summed[graph.connected]).all():
        raise InputError("JSON has no NaN and no infinity; some scores are. Compute them in float32.")
    mask = chosen.anywhere
    table: dict[str, dict[str, Any]] = {}
    for writer, reader, names in _pairs(graph):
        for name in names:
            entry = table.setdefault(name, {"score": 0.0, "in_graph": False})
            entry["score"] += float(edges.summed[writer, reader]) / len(names)
            entry["in_graph"] = bool(entry["in_graph"] or mask[writer, reader])
    nodes: dict[str, dict[str, Any]] = {}
    kept = np.asarray(mask.any(1))
    for index, component in enumerate(graph.writers):
        node = writer_name(component)
        if node is not None:
            entry = nodes.setdefault(node, {"in_graph": False, "score": 0.0})
            entry["score"] += float(edges.node_scores[index])
            entry["in_graph"] = bool(entry["in_graph"] or kept[index])
    nodes["logits"] = {"in_graph": True}
    cfg = {
        "n_layers": graph.n_layers,
        "n_heads": graph.n_heads,
        "parallel_attn_mlp": graph.parallel,
        "d_model": graph.d_model,
    }
    return {"cfg": cfg, "nodes": nodes, "edges": table}


def save_importances(
    edges: ComponentEdges, path: str | os.PathLike[str], circuit: Circuit | None = None
) -> None:
    """Write `importances` to a file, `importances.json` of a MIB submission."""
    require_writable(path)
    write_text(path, json.dumps(importances(edges, circuit)))


def load_importances(path: str | os.PathLike[str], model: Any = None) -> tuple[ComponentEdges, Circuit]:
    """Read such a file.

    Args:
        path: the file.
        model: what the scores are of; needed for grouped queries, of which the file says nothing.

    Returns:
        edges: the scores, as of one prompt; metric and what arrives at the readers are NaN: the file has neither.
        circuit: the edges that are `in_graph`.

    Raises:
        InputError: if there is no file, it is not such a file, or it is of another model.
    """
    if not Path(path).is_file():
        raise InputError(f"Importances are a JSON file; there is none at {os.fspath(path)!r}.")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        cfg, table = content["cfg"], content["edges"]
        read = {name: (float(entry["score"]), bool(entry["in_graph"])) for name, entry in table.items()}
        sizes = int(cfg["n_layers"]), int(cfg["n_heads"])
        parallel, d_model = bool(cfg.get("parallel_attn_mlp", False)), int(cfg.get("d_model", 0))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"Importances have 'cfg' (n_layers, n_heads) and 'edges' (score, in_graph); {os.fspath(path)!r} does not: "
            f"{type(error).__name__} {error}."
        ) from error
    mlp = any(name.startswith("m") or "->m" in name for name in read)
    if model is None:
        graph = ComponentGraph(*sizes, sizes[1], parallel, mlp, d_model=d_model)
    else:
        graph = component_graph(model)
        if (graph.n_layers, graph.n_heads, graph.parallel) != (*sizes, parallel):
            raise InputError(
                f"Importances are of the model they are read for; the file has {sizes[0]} layers of {sizes[1]} heads"
                f"{' in parallel' * parallel}, the model is {graph}."
            )
    scores, mask = np.zeros(graph.free.shape), np.zeros_like(graph.free)
    known = set()
    for writer, reader, names in _pairs(graph):
        known.update(names)
        if graph.free[writer, reader]:  # what the file says of `input` goes to the token embedding
            scores[writer, reader] = sum(read.get(name, (0.0, False))[0] for name in names)
            mask[writer, reader] = any(read.get(name, (0.0, False))[1] for name in names)
    unknown = sorted(set(read) - known)
    if unknown:
        raise InputError(
            f"Edges are named like 'a0.h1->a1.h0<q>' or 'm0->logits' and lead forward; {unknown[0]!r} is none of "
            f"{graph}."
        )
    edges = ComponentEdges(
        graph,
        scores[None],
        np.full((1, len(graph.readers)), np.nan),
        np.array([np.nan]),
        None,
        f"read from {Path(path).name}",
        "unknown metric",
        "unknown rules",
        ((),),
    )
    return edges, Circuit(graph, mask, f"in_graph of {Path(path).name}")
