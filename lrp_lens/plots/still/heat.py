"""Heat maps. Cells of one colour are one path: a map of thousands of cells stays small."""

import re
from typing import Any

import numpy as np

from lrp_lens.plots.still.axes import Axis
from lrp_lens.plots.still.values import numbers
from lrp_lens.plots.still.words import INK, number_text, put, width_of

RGB = tuple[float, float, float]
SHADES = 65  # odd: white is exactly in the middle
_NAMED = {"white": "#ffffff", "black": "#000000"}


def rgb(colour: str) -> tuple[RGB, float]:
    """A colour's parts and its opacity; #rrggbb, rgb(…), rgba(…), white and black are known."""
    colour = _NAMED.get(colour, colour)
    if colour.startswith("#"):
        parts = tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
        return (float(parts[0]), float(parts[1]), float(parts[2])), 1.0
    given = [float(one) for one in re.findall(r"[\d.]+", colour)]
    return (given[0], given[1], given[2]), given[3] if len(given) > 3 else 1.0


def paint(colour: str, opacity: float = 1.0, what: str = "fill") -> str:
    """Attributes that fill or stroke with a colour, e.g. `fill="#4393c3" fill-opacity="0.50"`."""
    parts, own = rgb(colour)
    code = "#" + "".join(f"{round(one):02x}" for one in parts)
    through = own * opacity
    return f'{what}="{code}"' + (f' {what}-opacity="{through:.2f}"' if through < 1 else "")


class Shades:
    """The scale of one heat map: numbers to one of 65 colours."""

    def __init__(self, trace: Any, layout: Any) -> None:
        axis = layout[trace.coloraxis] if trace.coloraxis else None
        source = trace if axis is None else axis
        low, high = (trace.zmin, trace.zmax) if axis is None else (axis.cmin, axis.cmax)
        values = numbers(trace.z)
        known = values[np.isfinite(values)]
        self.low = float(low if low is not None else known.min(initial=np.inf) if known.size else 0.0)
        self.high = float(high if high is not None else known.max(initial=-np.inf) if known.size else 1.0)
        self.stops = [(float(at), rgb(colour)[0]) for at, colour in source.colorscale]
        self.bar: Any = source.colorbar if source.showscale is not False else None

    def number(self, values: np.ndarray) -> np.ndarray:
        """The colour's number, -1 where there is no value."""
        share = (values - self.low) / ((self.high - self.low) or 1.0)
        known = np.isfinite(values)
        return np.where(known, np.rint(np.clip(np.where(known, share, 0), 0, 1) * (SHADES - 1)), -1).astype(
            int
        )

    def colour(self, number: int) -> str:
        """As #rrggbb."""
        place = number / (SHADES - 1)
        at = [stop for stop, _ in self.stops]
        parts = [np.interp(place, at, [colour[i] for _, colour in self.stops]) for i in range(3)]
        return "#" + "".join(f"{round(float(one)):02x}" for one in parts)


def places(given: Any, count: int) -> np.ndarray:
    """Where the cells' middles are."""
    return np.arange(count, dtype=float) if given is None else numbers(given)


def heat_map(trace: Any, x: Axis, y: Axis, layout: Any) -> str:
    """The cells of a heat map, and the numbers in them."""
    values = np.atleast_2d(numbers(trace.z))
    shades = Shades(trace, layout)
    codes = shades.number(values)
    columns, rows = places(trace.x, values.shape[1]), places(trace.y, values.shape[0])
    gap_x, gap_y = (trace.xgap or 0) / 2, (trace.ygap or 0) / 2
    lefts, rights = zip(*[sorted((x.at(one - 0.5), x.at(one + 0.5))) for one in columns], strict=True)
    tops, bottoms = zip(*[sorted((y.at(one - 0.5), y.at(one + 0.5))) for one in rows], strict=True)
    parts = []
    for number in sorted(set(codes[codes >= 0].tolist())):
        path = []
        for row, column in np.argwhere(codes == number).tolist():
            across = number_text(rights[column] - lefts[column] - 2 * gap_x)
            down = number_text(bottoms[row] - tops[row] - 2 * gap_y)
            corner = f"{number_text(lefts[column] + gap_x)} {number_text(tops[row] + gap_y)}"
            path.append(f"M{corner}h{across}v{down}h-{across}z")
        parts.append(f'<path d="{"".join(path)}" {paint(shades.colour(number), trace.opacity or 1.0)}/>')
    if trace.texttemplate and trace.text is not None and len(columns):
        parts.append(_numbers(trace.text, codes, columns, rows, x, y))
    return "".join(parts)


def _numbers(texts: Any, shades: np.ndarray, columns: np.ndarray, rows: np.ndarray, x: Axis, y: Axis) -> str:
    """Text in the cells, as large as the narrowest cell allows, light on dark."""
    widest = max((width_of(str(text), 1.0) for line in texts for text in line), default=0.0)
    cell = abs(x.at(columns[0] + 1) - x.at(columns[0]))
    size = min(12.0, 0.92 * cell / widest if widest else 12.0)
    parts = []
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            dark = abs(shades[i, j] - (SHADES - 1) / 2) > 0.42 * SHADES
            colour = "#ffffff" if dark else INK
            parts.append(
                put(
                    x.at(column),
                    y.at(row) + 0.35 * size,
                    str(texts[i][j]),
                    size,
                    anchor="middle",
                    colour=colour,
                )
            )
    return "".join(parts)
