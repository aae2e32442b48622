"""Selection and sums along the axes of a View, by number or label."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from lrp_lens.errors import InputError
from lrp_lens.views.axes import TEXT_DIMS, is_ragged, special_dims, text_dim

if TYPE_CHECKING:
    from lrp_lens.views.view import View


def _axis(view: "View", dim: str) -> int:
    if dim not in view.dims:
        raise InputError(f"View {view.name!r} has the dims {view.dims}; received {dim!r}.")
    return view.dims.index(dim)


def axis_labels(view: "View", dim: str) -> tuple[str, ...]:
    """See View.axis_labels."""
    _axis(view, dim)
    if is_ragged(view.labels, dim):
        raise InputError(f"The examples of {view.name!r} have their own labels; use .select(batch=0) first.")
    return tuple(str(label) for label in view.labels[dim])


def sum_over(view: "View", dim: str) -> "View":
    """See View.sum."""
    axis = _axis(view, dim)
    labels: dict[str, Any] = {name: own for name, own in view.labels.items() if name != dim}
    text, gone = text_dim(view.dims), dim in TEXT_DIMS
    special: Any = None if gone else view.special
    answer: Any = None if gone else view.answer
    pieces: Any = None if gone else view.pieces
    if dim == "batch" and text is not None:
        if is_ragged(view.labels, text):
            if len(set(labels[text])) > 1:
                raise InputError(
                    "A sum over examples needs equal tokens at equal positions; received unequal prompts. "
                    "Sum over 'position' first, or select one example."
                )
            labels[text] = labels[text][0]
        special = None if special is None else special.any(axis=0)
        answer = None if answer is None else answer[0]
        pieces = None if pieces is None else pieces[0]
    dims = tuple(name for name in view.dims if name != dim)
    return replace(
        view,
        values=np.asarray(view.values.sum(axis=axis)),
        dims=dims,
        labels=labels,
        special=special,
        answer=answer,
        pieces=pieces,
        spans=None if gone or dim == "batch" else view.spans,
        cautions=() if gone or dim == "batch" else view.cautions,
    )


def select(view: "View", index: Mapping[str, Any]) -> "View":
    """See View.select."""
    for dim, key in index.items():
        view = _select_one(view, dim, key)
    return view


def _select_one(view: "View", dim: str, key: Any) -> "View":
    axis = _axis(view, dim)
    key = _resolve(view, dim, key)
    drop = isinstance(key, int)
    labels: dict[str, Any] = dict(view.labels)
    marks: dict[str, Any] = {"special": view.special, "answer": view.answer}
    notes = view.notes
    if is_ragged(labels, dim):
        labels[dim] = tuple(_take(one, key) for one in labels[dim])
    elif dim == "batch" and (text := text_dim(view.dims)) and is_ragged(labels, text):
        labels[text] = _take(labels[text], key)
    if not is_ragged(view.labels, dim):
        labels[dim] = _take(labels[dim], key)
    if drop:
        shown = "its position" if is_ragged(view.labels, dim) else repr(view.labels[dim][key])
        notes = (*notes, f"{dim} {key % view.shape[axis]}: {shown}")
        del labels[dim]
    else:
        kept = list(range(view.shape[axis]))[key] if isinstance(key, slice) else key
        notes = (*notes, f"{dim}: {len(kept)} of {view.shape[axis]}, renumbered from 0")
    for name, mark in marks.items():
        if mark is not None and dim in special_dims(view.dims):
            gone = drop and dim in TEXT_DIMS
            marks[name] = None if gone else mark[(slice(None),) * special_dims(view.dims).index(dim) + (key,)]
    dims = tuple(name for name in view.dims if not (drop and name == dim))
    values = np.asarray(view.values[(slice(None),) * axis + (key,)])
    known = _text_after(view, dim, key)
    return replace(view, values=values, dims=dims, labels=labels, notes=notes, **marks, **known)


def _text_after(view: "View", dim: str, key: int | slice | list[int]) -> dict[str, Any]:
    """What a view knows of its text, after a selection: neighbours stay neighbours in a run of tokens only."""
    pieces: Any = view.pieces
    spans, cautions = view.spans, view.cautions
    if dim == "batch":
        pieces = None if pieces is None else _take(pieces, key)
        spans = None if spans is None else _take(spans, key)
        if cautions:
            cautions = (cautions[key],) if isinstance(key, int) else _take(cautions, key)
    elif dim in TEXT_DIMS:
        kept = range(view.shape[view.dims.index(dim)])[key] if isinstance(key, slice) else []
        run = isinstance(kept, range) and kept.step == 1
        spans, cautions = None, () if isinstance(key, int) else cautions
        if pieces is not None:
            each = [tuple(one[i] for i in kept) for one in (pieces if "batch" in view.dims else (pieces,))]
            pieces = (tuple(each) if "batch" in view.dims else each[0]) if run else None
    return {"pieces": pieces, "spans": spans, "cautions": cautions}


def _take(labels: tuple[Any, ...], key: int | slice | list[int]) -> Any:
    return tuple(labels[i] for i in key) if isinstance(key, list) else labels[key]


def _resolve(view: "View", dim: str, key: Any) -> int | slice | list[int]:
    """A key as an int, a slice or a list of ints."""
    if isinstance(key, slice):
        return key
    if isinstance(key, str):
        return _place(view, dim, key)
    keys = [int(one) for one in np.atleast_1d(np.asarray(key))]
    size = view.shape[view.dims.index(dim)]
    if any(not -size <= one < size for one in keys):
        raise InputError(f"{dim} has {size} entries; received index {key}.")
    return keys[0] if np.ndim(key) == 0 else keys


def at_labels(view: "View", labels: Any) -> "View | float":
    """See View.__getitem__."""
    for label in labels if isinstance(labels, tuple) else (labels,):
        if not isinstance(label, str):
            raise InputError(
                f"A view is indexed by labels such as {_example(view)}; received {label!r}. "
                "Numbers pick by .select(position=3), or in the array .values."
            )
        view = select(view, _where(view, label))
    return view if view.dims else float(view.values)


def _where(view: "View", label: str) -> dict[str, int]:
    """The axis that has this label, and its index; "L3H5" is a label of two axes."""
    found = {dim: _place(view, dim, label) for dim in view.dims if label in _known(view, dim)}
    if not found and {"layer", "head"} <= set(view.dims):
        for layer, head in product(_known(view, "layer"), _known(view, "head")):
            if layer + head == label:
                return {dim: _place(view, dim, one) for dim, one in (("layer", layer), ("head", head))}
    if len(found) > 1:
        raise InputError(
            f"{label!r} is a label of {' and '.join(found)}. Use .select({next(iter(found))}=...)."
        )
    if not found:
        raise InputError(_no_label(view, " or ".join(view.dims), label, [*_every_label(view)]))
    return found


def _place(view: "View", dim: str, label: str) -> int:
    """The index of a label along one axis, where it is unique."""
    labels = axis_labels(view, dim)
    places = [index for index, one in enumerate(labels) if one == label]
    if len(places) > 1:
        raise InputError(
            f"A label selects where it is unique; {label!r} stands at {dim} {', '.join(map(str, places))}. "
            f"Use .select({dim}={places[0]})."
        )
    if not places:
        raise InputError(_no_label(view, dim, label, [*labels]))
    return places[0]


def _known(view: "View", dim: str) -> tuple[str, ...]:
    """The labels of one axis; none where the examples have their own."""
    return () if is_ragged(view.labels, dim) else axis_labels(view, dim)


def _every_label(view: "View") -> Iterator[str]:
    for dim in view.dims:
        yield from _known(view, dim)
    if {"layer", "head"} <= set(view.dims):
        yield from (a + b for a, b in product(_known(view, "layer"), _known(view, "head")))


def _no_label(view: "View", axes: str, label: str, known: list[str]) -> str:
    """What was asked for, and the labels that come nearest, white space and case aside."""
    plain: dict[str, str] = {one.strip().casefold(): one for one in reversed(known)}
    near = [plain[one] for one in get_close_matches(label.strip().casefold(), plain, n=3, cutoff=0.5)]
    said = f"Did you mean {' or '.join(repr(one) for one in near)}?" if near else f"It has {_example(view)}."
    if any(is_ragged(view.labels, dim) for dim in view.dims):
        said = "The examples have their own tokens; use .select(batch=0) first."
    return f"View {view.name!r} has no label {label!r} along {axes or 'any axis'}. {said}"


def _example(view: "View") -> str:
    labels = [*dict.fromkeys(label for label in _every_label(view) if label)]
    return ", ".join(repr(one) for one in labels[:3]) + (", …" if len(labels) > 3 else "") or "no labels"
