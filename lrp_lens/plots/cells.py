"""Table cells with a shade of their own, for what notebooks show of a result: HTML without any script.

1. A cell's strength is |number| / scale, in [0, 1]; 0 is white.
2. Blue is positive, red negative, as in every figure.
"""

from lrp_lens.characters import escape
from lrp_lens.plots.palette import LIGHT

_FULL = 0.75


def shaded_cell(text: str, strength: float) -> str:
    """One `<td>`; the strength is in [-1, 1], NaN gives a plain cell.

    Example:
        >>> shaded_cell("−1.0", -1.0)
        '<td style="text-align:right;background-color:rgba(214,96,77,0.75)">−1.0</td>'
    """
    if not abs(strength) <= 1:
        return f'<td style="text-align:right">{escape(text)}</td>'
    colour = ",".join(str(one) for one in LIGHT["blue" if strength >= 0 else "red"])
    shade = f"rgba({colour},{_FULL * abs(strength):.2f})"
    return f'<td style="text-align:right;background-color:{shade}">{escape(text)}</td>'


def word_cell(text: str) -> str:
    """One `<td>` of words."""
    return f'<td style="text-align:left">{escape(text)}</td>'


def html_table(words: list[str], numbers: list[str], rows: list[list[str]]) -> str:
    """A table of finished cells under headings, those of words on the left."""
    head = "".join(f'<th style="text-align:left">{escape(column)}</th>' for column in words)
    head += "".join(f'<th style="text-align:right">{escape(column)}</th>' for column in numbers)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
