"""Saving a Faithfulness: both curves and the numbers of the table as arrays, all words as JSON."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from lrp_lens.files import AnyPath
from lrp_lens.files.arrays import read, write
from lrp_lens.files.headers import understood
from lrp_lens.views import View

if TYPE_CHECKING:
    from lrp_lens.masking.result import Faithfulness

KIND = "Faithfulness/1"
_TEXT_COLUMNS = ("suite", "correct", "method")
_WORDS = ("methods", "costs", "replacement", "seed", "limit", "seconds", "notes")
_COLUMN = "cases: "
_CURVES = ("morf", "lerf")
_VIEW_WORDS = ("dims", "labels", "name", "units", "notes")


def save(result: "Faithfulness", path: AnyPath) -> None:
    """See Faithfulness.save."""
    cases = result.cases
    numbers = [name for name in cases.columns if name not in _TEXT_COLUMNS]
    arrays = {_COLUMN + name: cases[name].to_numpy() for name in numbers}
    words: dict[str, Any] = {name: getattr(result, name) for name in _WORDS}
    words["columns"] = list(cases.columns)
    words["texts"] = {name: cases[name].tolist() for name in _TEXT_COLUMNS}
    for side in _CURVES:
        view: View = getattr(result, side)
        arrays[side] = view.values
        words[side] = {name: getattr(view, name) for name in _VIEW_WORDS}
    write(path, KIND, arrays, words)


def load(path: AnyPath) -> dict[str, Any]:
    """The constructor arguments of a saved faithfulness result."""
    arrays, words = read(path, KIND)
    with understood(path, KIND):
        return _fields(arrays, words)


def _fields(arrays: dict[str, Any], words: dict[str, Any]) -> dict[str, Any]:
    columns = {
        name: words["texts"][name] if name in _TEXT_COLUMNS else arrays[_COLUMN + name]
        for name in words["columns"]
    }
    fields = {name: words[name] for name in _WORDS}
    fields |= {"methods": tuple(words["methods"]), "notes": tuple(words["notes"])}
    fields |= {side: _view(arrays[side], words[side]) for side in _CURVES}
    return fields | {"cases": pd.DataFrame(columns)}


def _view(values: Any, words: dict[str, Any]) -> View:
    labels = {dim: tuple(own) for dim, own in words["labels"].items()}
    rest = {name: words[name] for name in ("name", "units")}
    return View(values, tuple(words["dims"]), labels, notes=tuple(words["notes"]), **rest)
