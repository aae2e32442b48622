"""Saving a Faithfulness: both curves and the numbers of the table as arrays, all words as JSON."""

from typing import TYPE_CHECKING, Any

import pandas as pd

from lrp_lens.files import AnyPath
from lrp_lens.files.arrays import read, write
from lrp_lens.files.headers import understood
from lrp_lens.views import View
from lrp_lens.views.storage import fields_of, parts_of

if TYPE_CHECKING:
    from lrp_lens.masking.result import Faithfulness

KIND = "Faithfulness/2"
_TEXT_COLUMNS = ("suite", "correct", "method")
_WORDS = ("methods", "costs", "replacement", "seed", "limit", "seconds", "notes")
_COLUMN = "cases: "
_CURVES = ("morf", "lerf")


def save(result: "Faithfulness", path: AnyPath) -> None:
    """See Faithfulness.save."""
    cases = result.cases
    numbers = [name for name in cases.columns if name not in _TEXT_COLUMNS]
    arrays = {_COLUMN + name: cases[name].to_numpy() for name in numbers}
    words: dict[str, Any] = {name: getattr(result, name) for name in _WORDS}
    words["columns"] = list(cases.columns)
    words["texts"] = {name: cases[name].tolist() for name in _TEXT_COLUMNS}
    for side in _CURVES:
        own, words[side] = parts_of(getattr(result, side), f"{side}: ")
        arrays |= own
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
    fields |= {side: View(**fields_of(arrays, words[side], f"{side}: ")) for side in _CURVES}
    return fields | {"cases": pd.DataFrame(columns)}
