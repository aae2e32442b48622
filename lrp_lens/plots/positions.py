"""Which positions a figure has as columns: all of a short prompt, of a long one those that carry most of the relevance.

1. A position's mass is Σ|R| over its column; special tokens (out of the scale) and missing values count nothing.
2. The touched positions are the heaviest ones that hold 95 % of the mass of all, at most 32: their labels stay legible
   on a phone.
3. They keep their order, and where any is left out each label says its position.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from lrp_lens.plots.palette import visible_token
from lrp_lens.plots.wording import magnitude
from lrp_lens.views.axes import text_dim

if TYPE_CHECKING:
    from lrp_lens.views import View


MOST = 32
"""Prompts of up to so many tokens are shown whole, unless asked otherwise."""
LABEL_PIXELS = 11
"""What an upright label takes of the width."""
USUAL_WIDTH = 900
"""Pixels to count with where a figure has no width of its own; notebooks have 700 to 1100."""
_SHARE = 0.95


def touched_positions(view: "View", touched_only: bool | None = None) -> Int[np.ndarray, " shown"]:
    """The positions to show, ascending.

    Args:
        view: any dims with a text's (position, word, sentence).
        touched_only: True leaves the light ones out, False none; None leaves them out above 32 tokens.

    Example:
        >>> from lrp_lens.views import View
        >>> view = View(np.array([[0.0, 3.0, 0.1, -2.0]]), ("layer", "position"))
        >>> touched_positions(view, True).tolist(), touched_positions(view).tolist()
        ([1, 3], [0, 1, 2, 3])
    """
    mass = magnitude(view)
    if not len(mass) or not (len(mass) > MOST if touched_only is None else touched_only):
        return np.arange(len(mass))
    if not mass.any():
        return np.arange(min(len(mass), MOST))
    order = np.argsort(-mass, kind="stable")
    enough = int(np.searchsorted(np.cumsum(mass[order]), _SHARE * mass.sum())) + 1
    return np.sort(order[: min(enough, MOST)])


def touched_words(view: "View", shown: Int[np.ndarray, " shown"]) -> str:
    """What is left out, in words; empty if nothing is."""
    mass = magnitude(view)
    unit = {"position": "token"}.get(dim := text_dim(view.dims) or "", dim)
    if len(shown) == len(mass):
        return ""
    share = 100 * mass[shown].sum() / (mass.sum() or 1.0)
    return f"{len(shown)} of {len(mass)} {unit}s, {share:.0f} % of Σ|R| outside special tokens"


def position_ticks(
    tokens: Sequence[str],
    shown: Int[np.ndarray, " shown"],
    longest: int = 16,
    positions: Sequence[int] | None = None,
) -> list[str]:
    """Labels of the shown columns: visible tokens, cut, with their positions where some are left out.

    Args:
        tokens: of every column.
        shown: the columns to show.
        longest: characters of a label.
        positions: first position of every column; None numbers them from 0.

    Example:
        >>> position_ticks([" a", " long", " token"], np.array([0, 2]), longest=4)
        ['·a 0', '·to… 2']
    """
    cut = [cut_label(visible_token(tokens[one]), longest) for one in shown]
    if len(shown) == len(tokens):
        return cut
    numbers = shown.tolist() if positions is None else [positions[one] for one in shown]
    return [f"{label} {number}" for label, number in zip(cut, numbers, strict=True)]


def cut_label(label: str, longest: int) -> str:
    """A label of at most so many characters."""
    return label if len(label) <= longest else label[: longest - 1] + "…"
