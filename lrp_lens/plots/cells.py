"""Table cells with a shade of their own, for what notebooks show of a result: HTML without any script.

1. A cell's strength is |number| / scale, in [0, 1]; 0 is white.
2. Blue is positive, red negative, as in every figure.
"""

from collections.abc import Sequence

from lrp_lens.markup import Cell, Html, table
from lrp_lens.plots.palette import LIGHT

_FULL = 0.75
_LEFT, _RIGHT = "text-align:left", "text-align:right"


def shaded_cell(text: str, strength: float) -> Cell:
    """A number; the strength is in [-1, 1], NaN gives a plain cell.

    Example:
        >>> shaded_cell("−1.0", -1.0).style
        'text-align:right;background-color:rgba(214,96,77,0.75)'
    """
    if not abs(strength) <= 1:
        return Cell(text, _RIGHT)
    colour = ",".join(str(one) for one in LIGHT["blue" if strength >= 0 else "red"])
    return Cell(text, f"{_RIGHT};background-color:rgba({colour},{_FULL * abs(strength):.2f})")


def word_cell(text: str) -> Cell:
    """Words."""
    return Cell(text, _LEFT)


def html_table(words: Sequence[str], numbers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Html:
    """A table of finished cells under headings, those of words on the left."""
    head = [*map(word_cell, words), *(Cell(column, _RIGHT) for column in numbers)]
    return table(head, rows)
