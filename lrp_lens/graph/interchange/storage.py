"""Saving a graph: arrays as safetensors or npz, words as JSON beside them.  Never pickle.

Both formats hold the same arrays under the same names, refinements included; the JSON lies in the header of the
safetensors file, and in the array `header` of the npz.
"""

import json
import zipfile
from dataclasses import asdict
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lrp_lens.errors import InputError
from lrp_lens.views import View

if TYPE_CHECKING:
    from lrp_lens.graph.attribution_graph import AttributionGraph

VERSION = 2
_KEY = "lrp_lens.graph"
_ARRAYS = (
    "special", "node_relevance", "transition", "target", "source", "relevance", "part_values", "sinks", "pruned",
    "pruned_mass", "total_mass",
)  # fmt: skip
_WORDS = (
    "token_strings", "parts", "sink_kinds", "metric_value", "metric_text", "rules_text", "towards", "answers",
    "target_positions", "notes",
)  # fmt: skip
_VIEW_WORDS = ("dims", "labels", "name", "units", "towards", "notes")


def save(graph: "AttributionGraph", path: str | PathLike[str]) -> None:
    """See AttributionGraph.save."""
    arrays = {name: np.ascontiguousarray(getattr(graph, name)) for name in _ARRAYS}
    words: dict[str, Any] = {"version": VERSION} | {name: getattr(graph, name) for name in _WORDS}
    words["boundaries"] = [asdict(one) for one in graph.boundaries]
    words["refinements"] = []
    for number, (key, view) in enumerate(graph.refinements.items()):
        words["refinements"].append({"key": key} | {name: getattr(view, name) for name in _VIEW_WORDS})
        arrays[f"refinement.{number}.values"] = np.ascontiguousarray(view.values)
        if view.special is not None:
            arrays[f"refinement.{number}.special"] = np.ascontiguousarray(view.special)
    header = json.dumps(words)
    if Path(path).suffix == ".npz":
        everything: dict[str, Any] = {"header": np.array(header)} | arrays
        np.savez_compressed(path, **everything)
    else:
        save_file(arrays, fspath(path), metadata={_KEY: header})


def load(path: str | PathLike[str]) -> dict[str, Any]:
    """The constructor arguments of a saved graph; boundaries as dicts.

    Raises:
        InputError: the file is missing, is of neither format, holds no graph, or was written by a newer version.
    """
    if not Path(path).is_file():
        raise InputError(f"A saved graph is a file; nothing is at {fspath(path)!r}.")
    try:
        header, arrays = _read_npz(path) if Path(path).suffix == ".npz" else _read_safetensors(path)
    except (SafetensorError, zipfile.BadZipFile, ValueError, EOFError) as error:
        raise InputError(
            f"A saved graph is a safetensors or an npz file; {fspath(path)!r} is not ({error})."
        ) from error
    words: Any = json.loads(header)
    if not isinstance(words, dict) or not set(_ARRAYS) <= set(arrays):
        raise InputError(f"{fspath(path)!r} holds no graph; pass a file written by AttributionGraph.save.")
    if words["version"] > VERSION:
        raise InputError(
            f"{fspath(path)!r} was written in version {words['version']} of the format; this lrp_lens reads up to "
            f"{VERSION}. Update lrp_lens."
        )
    words = {"answers": []} | words  # not in version 1
    fields: dict[str, Any] = {name: arrays[name] for name in _ARRAYS} | {name: words[name] for name in _WORDS}
    fields |= {
        name: tuple(value) for name, value in words.items() if name in _WORDS and isinstance(value, list)
    }
    fields["boundaries"] = words["boundaries"]
    fields["refinements"] = {
        one.pop("key"): _view(one, arrays, f"refinement.{number}.")
        for number, one in enumerate(words["refinements"])
    }
    return fields


def _read_safetensors(path: str | PathLike[str]) -> tuple[str, dict[str, np.ndarray]]:
    with safe_open(fspath(path), framework="numpy") as file:
        header = (file.metadata() or {}).get(_KEY, "null")
        return header, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)


def _read_npz(path: str | PathLike[str]) -> tuple[str, dict[str, np.ndarray]]:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return str(arrays.pop("header", "null")), arrays


def _view(words: dict[str, Any], arrays: dict[str, np.ndarray], prefix: str) -> View:
    labels = {
        dim: tuple(tuple(one) if isinstance(one, list) else one for one in own)
        for dim, own in words.pop("labels").items()
    }
    rest: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in words.items()}
    return View(arrays[prefix + "values"], labels=labels, special=arrays.get(prefix + "special"), **rest)
