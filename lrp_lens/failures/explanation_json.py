"""An explanation as JSON, and back: what `to_json_dict` says is all that an explanation holds.

1. A view is its values (None where missing) with their type, its labels, and the text that words are made of.
2. The ledger is its rows; numbers that are whole and may be missing come back as they were.
3. What follows from the rest (the claim, verdicts, shares) is written for readers and not read.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lrp_lens.errors import InputError
from lrp_lens.files.headers import as_tuples
from lrp_lens.views import View
from lrp_lens.views.storage import fields_of

SCHEMA = "lrp_lens.explanation/4"
"""What the JSON form is called, its first entry."""
VIEWS = ("tokens", "layers", "heads", "components", "segments")


def view_to_json(view: View) -> dict[str, Any]:
    """A view as lists; missing values are None."""
    flat = [None if np.isnan(value) else float(value) for value in view.values.reshape(-1)]
    plain: dict[str, Any] = {
        "name": view.name,
        "units": view.units,
        "dims": list(view.dims),
        "shape": list(view.shape),
        "labels": {dim: list(view.labels[dim]) for dim in view.dims},
        "values": flat,
        "type": str(view.values.dtype),
        "towards": view.towards and list(view.towards),
        "pieces": view.pieces and list(view.pieces),
        "spans": view.spans,
        "answer": None if view.answer is None else view.answer.tolist(),
        "notes": list(view.notes),
        "cautions": list(view.cautions),
    }
    if view.special is not None:
        plain["special"] = view.special.tolist()
        plain["special_share"] = view.special_share
    return plain


def view_from_json(plain: Mapping[str, Any]) -> View:
    """The view that `view_to_json` wrote."""
    values = [np.nan if value is None else value for value in plain["values"]]
    arrays = {"values": np.array(values, dtype=plain["type"]).reshape(plain["shape"])}
    if "special" in plain:
        arrays["special"] = np.array(plain["special"], dtype=bool)
    return View(**fields_of(arrays, as_tuples(dict(plain))))


def ledger_to_json(ledger: pd.DataFrame) -> dict[str, Any]:
    """Its rows, and the type of each column."""
    return {
        "ledger": [_record(row) for row in ledger.to_dict("records")],
        "ledger_types": {str(name): str(kind) for name, kind in ledger.dtypes.items()},
    }


def ledger_from_json(plain: Mapping[str, Any]) -> pd.DataFrame:
    """The ledger that `ledger_to_json` wrote."""
    types = plain["ledger_types"]
    columns = {name: [row[name] for row in plain["ledger"]] for name in types}
    return pd.DataFrame({name: pd.Series(column, dtype=types[name]) for name, column in columns.items()})


def require_schema(plain: Any) -> Mapping[str, Any]:
    """The JSON form, if it is that of an explanation.

    Raises:
        InputError: something else, or another version of it.
    """
    found = plain.get("schema") if isinstance(plain, Mapping) else type(plain).__name__
    if found != SCHEMA:
        raise InputError(
            f"An explanation's JSON form has the schema {SCHEMA!r}; received {found!r}. Pass what to_json_dict "
            "returned, or use the version of lrp_lens that wrote it."
        )
    return dict(plain)


def _record(row: dict[Any, Any]) -> dict[str, Any]:
    """One ledger row with NaN as None and numpy scalars as Python ones."""
    plain: dict[str, Any] = {}
    for key, value in row.items():
        if value is None or (not isinstance(value, str) and pd.isna(value)):
            plain[str(key)] = None
        else:
            plain[str(key)] = value.item() if hasattr(value, "item") else value
    return plain
