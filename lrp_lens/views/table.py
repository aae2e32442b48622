"""A View as a tidy table: one row per cell, index and label columns, value, special."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lrp_lens.views.axes import is_ragged, spread, text_dim

if TYPE_CHECKING:
    from lrp_lens.views.view import View

_LABEL_COLUMN = {"position": "token", "word": "text", "sentence": "text", "layer": "layer_label"}
_LABEL_ONLY = ("component", "segment", "message", "role")


def to_dataframe(view: "View") -> pd.DataFrame:
    """See View.to_dataframe."""
    cells = np.indices(view.shape).reshape(view.values.ndim, view.values.size)
    index = dict(zip(view.dims, cells, strict=True))
    columns: dict[str, object] = {}
    for dim in view.dims:
        labels = _cell_labels(view, dim, index)
        if dim in _LABEL_ONLY:
            columns[dim] = labels
            continue
        columns[dim] = index[dim]
        if dim in _LABEL_COLUMN:
            columns[_LABEL_COLUMN[dim]] = labels
        elif view.labels[dim] != tuple(
            f"H{i}" if dim == "head" else str(i) for i in range(len(view.labels[dim]))
        ):
            columns[f"{dim}_label"] = labels
    if "layer" in view.dims and "head" in view.dims:
        pairs = zip(_cell_labels(view, "layer", index), _cell_labels(view, "head", index), strict=True)
        columns["label"] = [layer + head for layer, head in pairs]
    columns["value"] = view.values.reshape(-1)
    if text_dim(view.dims):
        columns["special"] = view.special_cells().reshape(-1)
        if view.answer is not None:
            columns["answer"] = spread(view.answer, view.dims, view.shape).reshape(-1)
    frame = table_of(columns)
    return frame[~_padding(view, frame)].reset_index(drop=True)


def table_of(columns: Mapping[str, Any], index: Any = None) -> pd.DataFrame:
    """A table of these columns, whatever text they hold.

    pandas keeps text as UTF-8, which has no lone surrogates; columns with one stay columns of Python's strings.

    Example:
        >>> table_of({"token": ["a", chr(0xD800)]})["token"].tolist() == ["a", chr(0xD800)]
        True
    """
    try:
        return pd.DataFrame(columns, index=index)
    except UnicodeEncodeError:
        kept = {
            name: pd.Series(list(values), index, dtype=object)
            if any(isinstance(one, str) for one in values)
            else values
            for name, values in columns.items()
        }
        return pd.DataFrame(kept, index=index)


def _cell_labels(view: "View", dim: str, index: dict[str, np.ndarray]) -> list[str]:
    """The label along one dim of every cell, in the order of the rows."""
    if is_ragged(view.labels, dim):
        pairs = zip(index["batch"], index[dim], strict=True)
        return [view.labels[dim][example][position] for example, position in pairs]
    labels = view.axis_labels(dim)
    return [labels[i] for i in index[dim]]


def _padding(view: "View", frame: pd.DataFrame) -> pd.Series:
    """True for rows at padding positions: an empty label with value 0, in a batch or marked special."""
    text = text_dim(view.dims)
    if text is None:
        return pd.Series(False, index=frame.index)
    return (
        (frame[_LABEL_COLUMN[text]] == "")
        & (frame["value"] == 0)
        & (frame["special"] | ("batch" in view.dims))
    )
