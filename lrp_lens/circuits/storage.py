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

_ARRAYS = {"ComponentEdges": ("values", "arriving", "metric", "corrupted_metric"), "Circuit": ("mask",)}
_WORDS = {
    "ComponentEdges": ("method", "metric_text", "rules_text", "token_strings", "towards"),
    "Circuit": ("name",),
}


def save(result: "ComponentEdges | Circuit", path: AnyPath) -> None:
    """Write component edges or a circuit."""
    name, graph = type(result).__name__, result.graph
    arrays = {field: getattr(result, field) for field in _ARRAYS[name]}
    words = {field: getattr(result, field) for field in _WORDS[name]}
    words["graph"] = asdict(graph) | {"biases": sorted(graph.biases)}
    write(path, f"{name}/1", {field: array for field, array in arrays.items() if array is not None}, words)


def load(name: str, path: AnyPath) -> dict[str, Any]:
    """The fields of what `save` wrote, a class by its name.

    Raises:
        InputError: if there is no file, or it is not such a file.
    """
    arrays, words = read(path, f"{name}/1")
    with understood(path, f"{name}/1"):
        graph = words["graph"] | {"biases": frozenset(words["graph"]["biases"])}
        fields = {field: words[field] for field in _WORDS[name]}
        fields |= {field: arrays.get(field) for field in _ARRAYS[name]}
        return fields | {"graph": ComponentGraph(**graph)}
