"""Saving a View: arrays as safetensors, words as JSON in the file's header. Never pickle."""

import json
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lrp_lens.errors import InputError

if TYPE_CHECKING:
    from lrp_lens.views.view import View

_KEY = "lrp_lens.view"
_WORDS = ("dims", "labels", "name", "units", "towards", "notes")


def save(view: "View", path: str | PathLike[str]) -> None:
    """See View.save."""
    arrays = {"values": np.ascontiguousarray(view.values)}
    if view.special is not None:
        arrays["special"] = np.ascontiguousarray(view.special)
    words = {"version": 1} | {key: getattr(view, key) for key in _WORDS}
    words["answer"] = None if view.answer is None else view.answer.tolist()
    save_file(arrays, fspath(path), metadata={_KEY: json.dumps(words)})


def load(path: str | PathLike[str]) -> dict[str, Any]:
    """The constructor arguments of a saved view.

    Raises:
        InputError: the file is missing, is not safetensors, or holds no view.
    """
    if not Path(path).is_file():
        raise InputError(f"A saved view is a file; nothing is at {fspath(path)!r}.")
    try:
        with safe_open(fspath(path), framework="numpy") as file:
            words = json.loads((file.metadata() or {}).get(_KEY, "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(f"A saved view is a safetensors file; {fspath(path)!r} is not ({error}).") from error
    if words is None or "values" not in arrays:
        raise InputError(f"{fspath(path)!r} holds no view; pass a file written by View.save.")
    labels = {dim: tuple(_tuples(own)) for dim, own in words["labels"].items()}
    towards = words["towards"]
    return {
        "values": arrays["values"],
        "dims": tuple(words["dims"]),
        "labels": labels,
        "name": words["name"],
        "units": words["units"],
        "special": arrays.get("special"),
        "answer": None if words.get("answer") is None else np.array(words["answer"]),
        "towards": None if towards is None else (towards[0], towards[1]),
        "notes": tuple(words["notes"]),
    }


def _tuples(labels: list[Any]) -> list[Any]:
    return [tuple(one) if isinstance(one, list) else one for one in labels]
