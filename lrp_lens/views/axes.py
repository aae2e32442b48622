"""Axes of a View: what they are called, which one the text runs along, and whether everything about them fits."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lrp_lens.errors import InputError

_PREFIX = {"layer": "L", "head": "H", "position": "tok_"}
TEXT_DIMS = ("position", "word", "sentence")
"""Dims of a text in its order: at most one in a view; special tokens and answers are marked along it."""


def complete_labels(
    shape: tuple[int, ...], dims: tuple[str, ...], labels: Mapping[str, Any]
) -> dict[str, tuple[Any, ...]]:
    """Labels as tuples in the order of the dims; dims without labels get L0, H0, tok_0 or 0, 1, …"""
    unknown = set(labels) - set(dims)
    if unknown:
        raise InputError(
            f"Labels name axes of the view; received labels for {sorted(unknown)}, dims are {dims}."
        )
    complete = {}
    for dim, size in zip(dims, shape, strict=False):
        given = labels.get(dim)
        if given is None:
            given = [f"{_PREFIX.get(dim, '')}{i}" for i in range(size)]
        complete[dim] = tuple(tuple(one) if isinstance(one, (tuple, list)) else one for one in given)
    return complete


def is_ragged(labels: Mapping[str, tuple[Any, ...]], dim: str) -> bool:
    """True where labels[dim] holds one tuple per example instead of one string per index."""
    return dim in TEXT_DIMS and any(isinstance(one, tuple) for one in labels.get(dim, ()))


def check(
    name: str,
    values: np.ndarray,
    dims: tuple[str, ...],
    labels: Mapping[str, tuple[Any, ...]],
    mark: np.ndarray | None,
    what: str,
) -> None:
    """Raise InputError unless values, dims, labels and a mark of positions (`what`) describe one array."""
    where = f"View {name!r}"
    if len(dims) != values.ndim or len(set(dims)) != len(dims):
        raise InputError(
            f"{where}: needs one distinct dim per axis; received dims {dims} for shape {values.shape}. "
            "Pass as many dims as values has axes."
        )
    if "batch" in dims and dims[0] != "batch":
        raise InputError(f"{where}: the batch dim comes first; received dims {dims}. Transpose the values.")
    if np.isinf(values).any():
        raise InputError(f"{where}: values must be finite (NaN marks a missing one); received an infinity.")
    for dim, size in zip(dims, values.shape, strict=True):
        per_example = labels[dim] if is_ragged(labels, dim) else (labels[dim],)
        if is_ragged(labels, dim) and ("batch" not in dims or len(per_example) != values.shape[0]):
            raise InputError(
                f"{where}: one tuple of labels per example needs a batch dim of that length; received "
                f"{len(per_example)} tuples for dims {dims} and shape {values.shape}."
            )
        for one in per_example:
            if isinstance(one, str) or len(one) != size or not all(isinstance(label, str) for label in one):
                raise InputError(
                    f"{where}: axis {dim!r} needs {size} string labels; received {one!r}. "
                    "Pad unequal prompts with ''."
                )
    if mark is not None:
        expected = tuple(values.shape[dims.index(dim)] for dim in special_dims(dims))
        if text_dim(dims) is None or mark.shape != expected:
            raise InputError(
                f"{where}: {what} marks positions, shape {expected} here; received {mark.shape}. "
                "Leave it out for a view without positions."
            )


def check_pieces(
    name: str, pieces: Any, labels: Mapping[str, tuple[Any, ...]], dims: tuple[str, ...]
) -> None:
    """Raise InputError unless there is a piece of text for every token."""
    if pieces is None:
        return
    own = labels.get("position", ())
    batched = "batch" in dims
    rows, texts = (pieces if batched else (pieces,)), (own if is_ragged(labels, "position") else (own,))
    if "position" not in dims or any(len(row) != len(texts[0]) for row in rows):
        raise InputError(
            f"View {name!r}: pieces are the texts of the tokens along 'position', one each (per example of a batch); "
            f"received {pieces!r} for dims {dims}. Leave them out where they are not known."
        )


def special_dims(dims: tuple[str, ...]) -> tuple[str, ...]:
    """The dims that a special mask has, in order."""
    return tuple(dim for dim in dims if dim == "batch" or dim in TEXT_DIMS)


def text_dim(dims: tuple[str, ...]) -> str | None:
    """The dim along which the text runs, None without one."""
    return next((dim for dim in dims if dim in TEXT_DIMS), None)


def special_cells(values: np.ndarray, dims: tuple[str, ...], special: np.ndarray | None) -> np.ndarray:
    """The special mask, broadcast to the shape of the values."""
    if special is None:
        return np.zeros(values.shape, dtype=bool)
    return spread(special, dims, values.shape)


def spread(mark: np.ndarray, dims: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    """A mark of positions, broadcast to all cells."""
    own = tuple(n if dim in special_dims(dims) else 1 for dim, n in zip(dims, shape, strict=True))
    return np.broadcast_to(mark.reshape(own), shape)


def axes_within_example(dims: tuple[str, ...]) -> tuple[int, ...]:
    """All axes but the batch."""
    return tuple(i for i, dim in enumerate(dims) if dim != "batch")
