"""Component edges and circuits in safetensors files: arrays, and all else as JSON in the header; nothing is pickled."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lrp_lens.circuits.components import ComponentGraph
from lrp_lens.files import AnyPath
from lrp_lens.files.arrays import read, write
from lrp_lens.files.headers import understood

if TYPE_CHECKING:
    from lrp_lens.circuits.circuit import Circuit
    from lrp_lens.circuits.result import ComponentEdges

EDGES, CIRCUIT = "ComponentEdges/1", "Circuit/1"
_TEXTS = ("method", "metric_text", "rules_text", "token_strings", "towards")
_ARRAYS = ("values", "arriving", "metric", "corrupted_metric")


def save_edges(edges: "ComponentEdges", path: AnyPath) -> None:
    """Write component edges."""
    arrays = {name: getattr(edges, name) for name in _ARRAYS if getattr(edges, name) is not None}
    words = {name: getattr(edges, name) for name in _TEXTS}
    write(path, EDGES, arrays, words | {"graph": _plain(edges.graph)})


def load_edges(path: AnyPath) -> dict[str, Any]:
    """The fields of component edges."""
    arrays, words = read(path, EDGES)
    with understood(path, EDGES):
        texts = {name: words[name] for name in _TEXTS}
        texts["token_strings"] = tuple(map(tuple, texts["token_strings"]))
        texts["towards"] = tuple(texts["towards"]) if texts["towards"] else None
        return {"graph": _graph(words["graph"])} | {name: arrays.get(name) for name in _ARRAYS} | texts


def save_circuit(circuit: "Circuit", path: AnyPath) -> None:
    """Write a circuit."""
    write(path, CIRCUIT, {"mask": circuit.mask}, {"name": circuit.name, "graph": _plain(circuit.graph)})


def load_circuit(path: AnyPath) -> dict[str, Any]:
    """The fields of a circuit."""
    arrays, words = read(path, CIRCUIT)
    with understood(path, CIRCUIT):
        return {"graph": _graph(words["graph"]), "mask": arrays["mask"], "name": words["name"]}


def _plain(graph: ComponentGraph) -> dict[str, Any]:
    return asdict(graph) | {"biases": sorted(graph.biases)}


def _graph(words: dict[str, Any]) -> ComponentGraph:
    biases = frozenset((int(layer), name) for layer, name in words["biases"])
    return ComponentGraph(**words | {"biases": biases})
