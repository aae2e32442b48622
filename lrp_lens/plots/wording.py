"""Views of tokens as figures show them: in words, with the tokens of each and their values on hover.

1. A vocabulary of pieces of words is unreadable token by token, so a figure puts the tokens of each word together,
   unless it is asked for tokens, the view does not know their text, or every word is one token (then nothing changes).
2. What a figure says of a column: where it stands in the prompt, and of a word of several tokens the value of each.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lrp_lens.characters import signed
from lrp_lens.errors import InputError
from lrp_lens.views.axes import TEXT_DIMS, text_dim
from lrp_lens.views.groups import groups_of

if TYPE_CHECKING:
    from lrp_lens.views import View


By = Literal["word", "position"]
_MOST_PIECES = 12


@dataclass(frozen=True)
class Worded:
    """A view as it is shown, and what its columns are made of."""

    view: "View"
    dim: str
    """The dim of the text: "position", or what the tokens were put together to."""
    members: tuple[tuple[int, ...], ...]
    """Positions of the tokens of each column; of a view that came in words, the column's own number."""
    tokens: "View | None" = None
    """The view token by token, where its tokens were put together here."""

    @property
    def unit(self) -> str:
        """What a column is: "token", "word" or "sentence"."""
        return "token" if self.dim == "position" else self.dim

    def place(self, column: int) -> str:
        """Where a column stands: "position 3", "positions 3–5", "word 2"."""
        first, last = self.members[column][0], self.members[column][-1]
        if self.dim != "position" and self.tokens is None:
            return f"{self.dim} {first}"
        return f"position {first}" if first == last else f"positions {first}–{last}"

    def pieces(self, column: int, *index: int) -> list[str]:
        """Each token of a column of several with its value, in words; the index is that of the axes before the text."""
        if self.tokens is None or len(self.members[column]) < 2:
            return []
        labels = self.tokens.axis_labels("position")
        values = [float(self.tokens.values[(*index, one)]) for one in self.members[column]]
        told = [
            f"{labels[one]!r} {signed(value, '+.3g')}"
            for one, value in zip(self.members[column], values, strict=True)
        ]
        more = len(told) - _MOST_PIECES
        return told if more <= 0 else [*told[:_MOST_PIECES], f"{more} more"]


def worded(view: "View", by: By = "word") -> Worded:
    """A view of one example in words where it helps; else as it is.

    Args:
        view: with a dim of text (position, word or sentence) as its last.
        by: "word", or "position" for token by token.

    Raises:
        InputError: another word for `by`.
    """
    if by not in ("word", "position"):
        raise InputError(f"A figure shows words or tokens: by='word' or by='position'; received {by!r}.")
    dim = text_dim(view.dims) or "position"
    alone = tuple((i,) for i in range(view.shape[-1]))
    if dim != "position" or by == "position" or view.pieces is None:
        return Worded(view, dim, alone)
    groups = groups_of(view, "word")
    if all(len(group.positions) == 1 for group in groups):
        return Worded(view, dim, alone)
    return Worded(view.by("word"), "word", tuple(group.positions for group in groups), view)


def text_dims(*before: str) -> tuple[tuple[str, ...], ...]:
    """The dims of the views that a figure shows: these axes, then the text's.

    Example:
        >>> text_dims("layer")[0]
        ('layer', 'position')
    """
    return tuple((*before, dim) for dim in TEXT_DIMS)


def headline(view: "View") -> str:
    """What a reader has to know first, without its details; empty for nothing."""
    found = [one for one in view.cautions if one]
    return f"caution: {found[0].partition(':')[0]}" if found else ""


def magnitude(view: "View") -> np.ndarray:
    """Σ|R| of each column of the text, 0 where special."""
    size = np.where(view.special_cells(), 0.0, np.nan_to_num(np.abs(view.values)))
    return size.sum(axis=tuple(i for i, dim in enumerate(view.dims) if dim not in TEXT_DIMS))
