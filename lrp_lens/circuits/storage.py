"""Component edges and circuits in safetensors files: arrays, and all else as JSON in the header; nothing is pickled."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from lrp_lens.circuits.graph import ComponentGraph
from lrp_lens.errors import InputError

if TYPE_CHECKING:
    from lrp_lens.circuits.circuit import Circuit
    from lrp_lens.circuits.scores import ComponentEdges

EDGES, CIRCUIT = "lrp_lens.ComponentEdges/1", "lrp_lens.Circuit/1"
_TEXTS = ("method", "metric_text", "rules_text", "token_strings", "towards")
_ARRAYS = ("values", "arriving", "metric", "corrupted_metric")


def save_edges(edges: "ComponentEdges", path: str | os.PathLike[str]) -> None:
    """Write component edges."""
    arrays = {name: getattr(edges, name) for name in _ARRAYS if getattr(edges, name) is not None}
    _write(path, arrays, EDGES, edges.graph, {name: getattr(edges, name) for name in _TEXTS})


def load_edges(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of component edges."""
    arrays, graph, header = _read(path, EDGES, "ComponentEdges")
    texts = {name: header[name] for name in _TEXTS}
    texts["token_strings"] = tuple(map(tuple, texts["token_strings"]))
    texts["towards"] = tuple(texts["towards"]) if texts["towards"] else None
    return {"graph": graph} | {name: arrays.get(name) for name in _ARRAYS} | texts


def save_circuit(circuit: "Circuit", path: str | os.PathLike[str]) -> None:
    """Write a circuit."""
    _write(path, {"mask": circuit.mask}, CIRCUIT, circuit.graph, {"name": circuit.name})


def load_circuit(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a circuit."""
    arrays, graph, header = _read(path, CIRCUIT, "Circuit")
    return {"graph": graph, "mask": arrays["mask"], "name": header["name"]}


def _write(
    path: str | os.PathLike[str],
    arrays: dict[str, np.ndarray],
    kind: str,
    graph: ComponentGraph,
    texts: dict[str, Any],
) -> None:
    fields = asdict(graph) | {"biases": sorted(graph.biases)}
    header = json.dumps({"format": kind, "graph": fields, **texts})
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, os.fspath(path), metadata={"lrp_lens": header})


def _read(
    path: str | os.PathLike[str], kind: str, what: str
) -> tuple[dict[str, np.ndarray], ComponentGraph, dict[str, Any]]:
    if not Path(path).is_file():
        raise InputError(f"A saved {what} is a file; there is none at {os.fspath(path)!r}.")
    try:
        with safe_open(os.fspath(path), framework="np") as file:
            header = json.loads((file.metadata() or {}).get("lrp_lens", "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:
        raise InputError(f"{os.fspath(path)!r} is not a safetensors file: {error}") from error
    if header.get("format") != kind:
        raise InputError(
            f"{os.fspath(path)!r} is not a {what} ({kind}); its header says {header.get('format')!r}."
        )
    fields = header["graph"] | {
        "biases": frozenset((int(layer), name) for layer, name in header["graph"]["biases"])
    }
    return arrays, ComponentGraph(**fields), header
