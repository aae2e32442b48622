"""Saving a View: its arrays, and its words as JSON.  Results that hold views store them by the same two functions."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lrp_lens.files import AnyPath
from lrp_lens.files.arrays import read, write
from lrp_lens.files.headers import understood

if TYPE_CHECKING:
    from lrp_lens.views.view import View

KIND = "View/1"
_WORDS = ("dims", "labels", "name", "units", "towards", "notes")
_TEXT = ("pieces", "spans", "cautions")
"""Written since there are words; files without them have none."""


def save(view: "View", path: AnyPath) -> None:
    """See View.save."""
    arrays, words = parts_of(view)
    write(path, KIND, arrays, words)


def load(path: AnyPath) -> dict[str, Any]:
    """The constructor arguments of a saved view.

    Raises:
        InputError: the file is missing, holds no view, or was changed.
    """
    arrays, words = read(path, KIND)
    with understood(path, KIND):
        return fields_of(arrays, words)


def parts_of(view: "View", prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of a view, under names that begin with a prefix, and its words."""
    arrays = {f"{prefix}values": view.values}
    if view.special is not None:
        arrays[f"{prefix}special"] = view.special
    words = {name: getattr(view, name) for name in _WORDS}
    own = {"answer": None if view.answer is None else view.answer.tolist()}
    return arrays, words | own | {name: getattr(view, name) for name in _TEXT}


def fields_of(arrays: dict[str, np.ndarray], words: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The constructor arguments of a view, from what `parts_of` gave."""
    return {name: words[name] for name in _WORDS} | {
        "values": arrays[f"{prefix}values"],
        "special": arrays.get(f"{prefix}special"),
        "answer": None if words["answer"] is None else np.array(words["answer"]),
        "pieces": words.get("pieces"),
        "spans": words.get("spans"),
        "cautions": words.get("cautions") or (),
    }
