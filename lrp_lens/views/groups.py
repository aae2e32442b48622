"""Tokens in groups: words, sentences, messages, roles, and parts of the prompt that a user names.

1. A group is some tokens of one example, with a label.  Its value is the sum of theirs, in float64, so that sums are
   kept to rounding; every token belongs to one group.
2. Words and sentences come from the tokens' text (`segmentation`); a special token is a group of its own, and a group
   ends where an answer that a metric appended begins.
3. Messages and roles are the spans that a chat gave its tokens, what its template writes, special tokens included,
   among them; named parts are the user's.  What they leave is `(rest)`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from lrp_lens.errors import InputError
from lrp_lens.views.segmentation import begins

if TYPE_CHECKING:
    from lrp_lens.views.view import View

REST = "(rest)"
SPANS = ("message", "role")
"""Levels that come with a chat."""
LEVELS = ("word", "sentence", *SPANS)


@dataclass(frozen=True)
class Group:
    """Some tokens of one example."""

    label: str
    """Their text, or the name that was given."""
    positions: tuple[int, ...]
    special: bool = False
    """Whether it is one special token."""
    answer: str = ""
    """Word for the answer that it belongs to."""


def places(positions: Sequence[int]) -> str:
    """Where a group stands: "3", or "3–4" for its first and last token; "" for no token.

    Example:
        >>> places((3,)), places((3, 4, 5))
        ('3', '3–5')
    """
    return "–".join(map(str, sorted({positions[0], positions[-1]}))) if positions else ""


def words_of(view: "View") -> tuple[str, ...]:
    """Of each token the word that it is a piece of; "" where it is a whole word, or its text is not known.

    Args:
        view: with a position dim and no batch dim.

    Example:
        >>> from lrp_lens.views import View
        >>> words_of(View(np.zeros(3), ("position",), {"position": (" un", "happy", " cat")},
        ...               pieces=(" un", "happy", " cat")))
        (' unhappy', ' unhappy', '')
    """
    found = [""] * view.shape[view.dims.index("position")]
    for group in [] if view.pieces is None else groups_of(view, "word"):
        for position in group.positions if len(group.positions) > 1 else ():
            found[position] = group.label
    return tuple(found)


def by(view: "View", parts: Any) -> "View":
    """See View.by."""
    groups = [groups_of(one, parts) for one in _examples(view)]
    dim = parts if isinstance(parts, str) else "segment"
    axis = view.dims.index("position")
    width = max(map(len, groups))
    shape = (*view.shape[:axis], width, *view.shape[axis + 1 :])
    values = np.zeros(shape)
    texts = [tuple(one.label for one in own) + ("",) * (width - len(own)) for own in groups]
    special = np.ones((len(groups), width), dtype=bool)
    answer = np.full((len(groups), width), "", dtype=object)
    batched = "batch" in view.dims
    for example, own in enumerate(groups):
        before = view.values[example] if batched else view.values
        after = values[example] if batched else values
        here = axis - batched
        for number, group in enumerate(own):
            part = np.take(before, group.positions, axis=here)
            after[(slice(None),) * here + (number,)] = part.sum(axis=here, dtype=np.float64)
            special[example, number], answer[example, number] = group.special, group.answer
    named = dim in ("segment", *SPANS)
    if named and len(set(texts)) > 1:
        raise InputError("The examples of a batch have parts of their own; use .select(batch=0) first.")
    same = named or not batched
    labels: dict[str, Any] = {name: own for name, own in view.labels.items() if name != "position"}
    return replace(
        view,
        values=values,
        dims=tuple(dim if name == "position" else name for name in view.dims),
        labels=labels | {dim: texts[0] if same else tuple(texts)},
        special=None if named or view.special is None else special if batched else special[0],
        answer=None if named or view.answer is None else (answer if batched else answer[0]).astype(str),
        pieces=None,
        spans=None,
    )


def groups_of(view: "View", parts: Any) -> list[Group]:
    """The groups of a view of one example, in their order.

    Args:
        view: with a position dim and no batch dim.
        parts: "word", "sentence", "message", "role", name → span or spans; or "position" for every token alone.

    Raises:
        InputError: the view has no tokens, or what is asked for is not known of them.
    """
    if "position" not in view.dims:
        raise InputError(
            f"Tokens are put into groups; View {view.name!r} has the dims {view.dims}. Take the view with its tokens "
            "(dim 'position')."
        )
    if isinstance(parts, Mapping):
        return list(_named(view, parts))
    if parts in SPANS:
        spans = (view.spans or {}).get(parts)
        if not spans:
            raise InputError(
                f"{parts.capitalize()}s are spans that a chat gives its tokens; View {view.name!r} has none: its "
                "prompt was no chat, or tokens were selected. Name the parts yourself: "
                ".by({'question': (start, stop)})."
            )
        return list(_named(view, spans, whole=True))
    if parts not in (*LEVELS, "position"):
        raise InputError(
            f"Tokens are put into {', '.join(map(repr, LEVELS))} or named parts {{'question': (start, stop)}}; "
            f"received {parts!r}."
        )
    if parts == "position":
        return list(_text_groups(view, None))
    if view.pieces is None:
        raise InputError(
            f"Words and sentences come from the text of neighbouring tokens; View {view.name!r} does not know it (made "
            "by hand, from an older file, or without some of its tokens). Group before .select, or pass pieces=."
        )
    return list(_text_groups(view, parts))


def _examples(view: "View") -> list["View"]:
    """The view of each example; its values do not matter."""
    if "batch" not in view.dims or "position" not in view.dims:
        return [view]
    return [view.select(batch=example) for example in range(view.shape[0])]


def _text_groups(view: "View", level: Any) -> Iterator[Group]:
    labels, pieces = view.axis_labels("position"), view.pieces or ()
    size = len(labels)
    special = np.zeros(size, dtype=bool) if view.special is None else view.special
    answer = np.full(size, "") if view.answer is None else view.answer
    padding = _padding(view)
    start = np.ones(size, dtype=bool) if level is None else begins([str(one) for one in pieces], level)
    alone = special | np.roll(special, 1)
    start |= alone | (answer != np.roll(answer, 1))
    start[:1] = True
    edges = [*np.flatnonzero(start).tolist(), size]
    for low, high in pairwise(edges):
        positions = tuple(i for i in range(low, high) if not padding[i])
        if positions:
            yield Group(_text(labels, pieces, positions), positions, bool(special[low]), str(answer[low]))


def _padding(view: "View") -> np.ndarray:
    """True at positions of no token: without text, special, and without a value."""
    axis = view.dims.index("position")
    mass = np.abs(view.values).sum(axis=tuple(i for i in range(view.values.ndim) if i != axis))
    special = np.zeros(mass.shape, dtype=bool) if view.special is None else view.special
    return (np.array(view.axis_labels("position"), dtype=object) == "") & special & (mass == 0)


def _text(labels: Sequence[str], pieces: Sequence[Any], positions: Sequence[int]) -> str:
    """A group's text: the token's own, or what the tokens spell together."""
    if len(positions) == 1:
        return labels[positions[0]]
    spelled = "".join(str(pieces[i]) for i in positions) or "".join(labels[i] for i in positions)
    return spelled if labels[positions[0]][:1] == " " else spelled.removeprefix(" ")


def _named(view: "View", parts: Mapping[str, Any], whole: bool = False) -> Iterator[Group]:
    """Named parts, then what they leave; of parts that are meant to be the whole only if there is something."""
    size = view.shape[view.dims.index("position")]
    taken = np.zeros(size, dtype=bool)
    for name, spans in parts.items():
        inside = np.zeros(size, dtype=bool)
        for start, stop in _spans(name, spans, size):
            inside[start:stop] = True
        if (inside & taken).any():
            raise InputError(f"Segments do not overlap; {name!r} shares tokens with another. Split it.")
        taken |= inside
        yield Group(str(name), tuple(np.flatnonzero(inside).tolist()))
    rest = np.flatnonzero(~taken & ~_padding(view)) if whole else np.flatnonzero(~taken)
    if len(rest) or not whole:
        yield Group(REST, tuple(rest.tolist()))


def _spans(name: str, spans: Any, length: int) -> Iterator[tuple[int, int]]:
    single = isinstance(spans, Sequence) and len(spans) == 2 and all(isinstance(edge, int) for edge in spans)
    for span in [spans] if single or not isinstance(spans, Sequence) or isinstance(spans, str) else spans:
        edges = tuple(span) if isinstance(span, Sequence) and not isinstance(span, str) else ()
        integers = len(edges) == 2 and all(isinstance(edge, int) for edge in edges)
        if not integers or not 0 <= edges[0] < edges[1] <= length:
            raise InputError(
                f"A segment is a span (start, stop) with 0 <= start < stop <= {length} tokens, or a list of spans; "
                f"{name!r} has {span!r}."
            )
        yield edges[0], edges[1]
