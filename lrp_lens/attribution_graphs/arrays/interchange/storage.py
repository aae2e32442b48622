"""Saving a graph: arrays as safetensors or npz, words as JSON beside them.  Never pickle.

Both formats hold the same arrays under the same names, refinements included; the JSON lies in the header of the
safetensors file, and in the array `header` of the npz.
"""

from dataclasses import asdict
from os import fspath
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from lrp_lens.attribution_graphs.arrays.contents import Boundary
from lrp_lens.files import AnyPath, replacing, require_writable
from lrp_lens.files.arrays import described, read, write
from lrp_lens.files.headers import opened, sealed, understood
from lrp_lens.views import View
from lrp_lens.views.storage import fields_of, parts_of

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays.attribution_graph import AttributionGraph

KIND = "AttributionGraph/2"
_FORMATS = "a safetensors or an npz file"
_ARRAYS = (
    "special", "node_relevance", "transition", "target", "source", "relevance", "part_values", "sinks", "pruned",
    "pruned_mass", "total_mass",
)  # fmt: skip
_WORDS = (
    "token_strings", "parts", "sink_kinds", "metric_value", "metric_text", "rules_text", "towards", "answers",
    "target_positions", "notes", "pieces",
)  # fmt: skip
_LATER: dict[str, Any] = {"pieces": ()}
"""What files written before do not have."""


def save(graph: "AttributionGraph", path: AnyPath) -> None:
    """See AttributionGraph.save."""
    arrays = {name: getattr(graph, name) for name in _ARRAYS}
    words: dict[str, Any] = {name: getattr(graph, name) for name in _WORDS}
    words["boundaries"] = [asdict(one) for one in graph.boundaries]
    words["refinements"] = []
    for number, (key, view) in enumerate(graph.refinements.items()):
        own, said = parts_of(view, f"refinement.{number}.")
        words["refinements"].append(said | {"key": key})
        arrays |= own
    if require_writable(path).suffix != ".npz":
        return write(path, KIND, arrays, words)
    header = sealed(KIND, words, described(arrays))
    everything: dict[str, Any] = {"header": np.array(header)} | arrays
    with replacing(path) as part:
        np.savez_compressed(part, **everything)


def load(path: AnyPath) -> dict[str, Any]:
    """The constructor arguments of a saved graph.

    Raises:
        InputError: the file is missing, is of neither format, holds no graph, was changed, or was written by another
            version.
    """
    with understood(path, KIND, _FORMATS):
        arrays, words = _read_npz(path) if Path(path).suffix == ".npz" else read(path, KIND, _FORMATS)
        fields: dict[str, Any] = {name: arrays[name] for name in _ARRAYS} | {
            name: (_LATER | words)[name] for name in _WORDS
        }
        fields["boundaries"] = tuple(Boundary(**one) for one in words["boundaries"])
        fields["refinements"] = {
            one["key"]: View(**fields_of(arrays, one, f"refinement.{number}."))
            for number, one in enumerate(words["refinements"])
        }
        return fields


def to_bytes(graph: "AttributionGraph") -> bytes:
    """The bytes of the safetensors file that `save` writes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.safetensors"
        save(graph, path)
        return path.read_bytes()


def from_bytes(data: bytes) -> dict[str, Any]:
    """The constructor arguments of the graph that `to_bytes` was called on, as `load` gives them."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.safetensors"
        path.write_bytes(data)
        return load(path)


def _read_npz(path: AnyPath) -> tuple[dict[str, np.ndarray], Any]:
    with np.load(fspath(path), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    header = str(arrays.pop("header", "null"))
    return arrays, opened(path, KIND, header, described(arrays))
