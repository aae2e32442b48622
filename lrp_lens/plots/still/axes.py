"""Axes of a still picture: which values they span, where their ticks are, and which pixel a value has.

1. A range that the figure gives is taken; otherwise it is what the traces cover, with plotly's usual room around.
2. Ticks that the figure gives are taken; otherwise about one in 70 pixels, at 1, 2 or 5 times a power of ten.
3. Axes that match share one range.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lrp_lens.plots.still.values import numbers
from lrp_lens.plots.still.words import number_text, put, width_of

GRID, ZERO = "#EBF0F8", "#dbe2ee"
_ROOM = 0.06
_PIXELS_A_TICK = 70


@dataclass
class Axis:
    """One axis: its values, its pixels, and plotly's settings for it."""

    name: str
    """ "x", "y2", …"""
    given: Any
    """The layout's axis object."""
    low: float
    high: float
    """The values at its two ends, in plotly's own coordinates (exponents on a logarithmic axis)."""
    start: float = 0.0
    end: float = 1.0
    """Pixels of the two ends."""
    ticks: list[tuple[float, str]] = field(default_factory=list)

    @property
    def across(self) -> bool:
        """Whether it runs to the right."""
        return self.name.startswith("x")

    @property
    def shown(self) -> bool:
        """Whether it has tick labels."""
        return self.given.visible is not False and self.given.showticklabels is not False

    @property
    def size(self) -> float:
        """Pixels of its tick labels."""
        return float(self.given.tickfont.size or 12)

    @property
    def angle(self) -> float:
        """Of its tick labels: what is given, or upright where they would overlap."""
        if self.given.tickangle is not None or not self.across or len(self.ticks) < 2:
            return float(self.given.tickangle or 0)
        step = abs(self.end - self.start) / len(self.ticks)
        return -90.0 if max(width_of(text, self.size) for _, text in self.ticks) > step else 0.0

    @property
    def title(self) -> tuple[str | None, float]:
        """Its title and the title's size."""
        return self.given.title.text, float(self.given.title.font.size or 14)

    def span(self, start: float, end: float) -> None:
        """Give it pixels, then choose its ticks."""
        self.start, self.end = start, end
        self.ticks = list(_ticks(self))

    def at(self, value: float) -> float:
        """The pixel of a value."""
        place = _coordinate(self.given, value)
        return self.start + (place - self.low) / ((self.high - self.low) or 1.0) * (self.end - self.start)

    def depth(self) -> float:
        """Pixels that labels and title take beside the plotting area."""
        title, size = self.title
        room = 1.7 * size if title else 0.0
        if not self.shown or not self.ticks:
            return room
        widest = max(width_of(text, self.size) for _, text in self.ticks)
        turned = abs(math.sin(math.radians(self.angle)))
        labels = max(1.1 * self.size, turned * widest + 0.7 * self.size) if self.across else widest
        return labels + 8 + room


def axes_of(figure: Any, extents: dict[str, list[tuple[float, float]]]) -> dict[str, Axis]:
    """Every axis that a trace uses, with its range; pixels come later.

    Args:
        figure: the plotly figure.
        extents: axis name → what each of its traces covers.
    """
    shared: dict[str, list[tuple[float, float]]] = {}
    for name, spans in extents.items():
        shared.setdefault(_settings(figure, name).matches or name, []).extend(spans)
    axes = {}
    for name in extents:
        given = _settings(figure, name)
        master = given.matches or name
        limits = given.range or _settings(figure, master).range
        if limits is None:
            low = min((one[0] for one in shared[master]), default=0.0)
            high = max((one[1] for one in shared[master]), default=1.0)
            limits = (low, high) if given.autorange != "reversed" else (high, low)
        axes[name] = Axis(name, given, float(limits[0]), float(limits[1]))
    return axes


def _settings(figure: Any, name: str) -> Any:
    return figure.layout[f"{name[0]}axis{name[1:]}"]


def extent(axis: Any, values: Any, *, room: float = _ROOM, half: float = 0.0) -> tuple[float, float]:
    """What some values cover on an axis: with room for markers, or half a cell, on both sides."""
    known = np.asarray([_coordinate(axis, one) for one in np.ravel(numbers(values))])
    known = known[np.isfinite(known)]
    if not known.size:
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    around = half + room * ((high - low) or 1.0)
    return low - around, high + around


def _coordinate(axis: Any, value: float) -> float:
    if axis.type != "log":
        return float(value)
    return math.log10(value) if value > 0 else math.nan


def _ticks(axis: Axis) -> Iterator[tuple[float, str]]:
    given = axis.given
    if given.tickvals is not None:
        values = [float(one) for one in given.tickvals]
        texts = given.ticktext if given.ticktext is not None else [_told(given, one, 0.0) for one in values]
        yield from _within(axis, zip(values, map(str, texts), strict=False))
        return
    low, high = sorted((axis.low, axis.high))
    step = (
        float(given.dtick) if given.dtick else _step(high - low, abs(axis.end - axis.start) / _PIXELS_A_TICK)
    )
    first = math.ceil(low / step - 1e-9)
    marks = [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]
    yield from ((one, _told(given, one, step)) for one in marks)


def _within(axis: Axis, ticks: Iterable[tuple[float, str]]) -> Iterator[tuple[float, str]]:
    low, high = sorted((axis.low, axis.high))
    for value, text in ticks:
        if low - 1e-9 <= _coordinate(axis.given, value) <= high + 1e-9:
            yield value, text


def _step(width: float, count: float) -> float:
    """1, 2 or 5 times a power of ten, at most `count` of which fit into the width."""
    rough = (width or 1.0) / max(count, 1.0)
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * one for one in (1, 2, 5, 10) if power * one >= rough * 0.999)


def _told(given: Any, value: float, step: float) -> str:
    if given.tickformat and given.tickformat.endswith("%"):
        return format(value, given.tickformat)
    decimals = max(0, -math.floor(math.log10(step))) if step else 3
    text = f"{value:.{decimals}f}"
    if "." in text and not step:
        text = text.rstrip("0").rstrip(".")
    return text.replace("-", "−") if value else "0"


def grid(axis: Axis, other: Axis) -> str:
    """Lines at the ticks, and the line at 0, over the extent of the other axis."""
    if axis.given.visible is False:
        return ""
    ticks = [] if axis.given.showgrid is False else [(value, GRID, 1) for value, _ in axis.ticks]
    low, high = sorted((axis.low, axis.high))
    if axis.given.zeroline is not False and low < 0 < high and axis.given.type != "log":
        ticks.append((0.0, ZERO, 2))
    lines = []
    for value, colour, width in ticks:
        place, ends = number_text(axis.at(value)), (number_text(other.start), number_text(other.end))
        path = f"M{place} {ends[0]}V{ends[1]}" if axis.across else f"M{ends[0]} {place}H{ends[1]}"
        lines.append(f'<path d="{path}" stroke="{colour}" stroke-width="{width}"/>')
    return "".join(lines)


def labels(axis: Axis, edge: float) -> str:
    """Tick labels and title outside the plotting area, whose edge is given."""
    parts = []
    if axis.shown:
        size, angle = axis.size, axis.angle
        for value, text in axis.ticks:
            place = axis.at(value)
            if not axis.across:
                parts.append(put(edge - 6, place + 0.35 * size, text, size, anchor="end"))
            elif angle:
                radians = math.radians(angle)
                x = place + 0.35 * size * abs(math.sin(radians))
                parts.append(put(x, edge + 6 + 0.5 * size, text, size, anchor="end", angle=angle))
            else:
                parts.append(put(place, edge + 5 + size, text, size, anchor="middle"))
    title, size = axis.title
    if title and axis.given.visible is not False:
        middle = (axis.start + axis.end) / 2
        if axis.across:
            parts.append(put(middle, edge + axis.depth() - 0.3 * size, title, size, anchor="middle"))
        else:
            x = edge - axis.depth() + 0.9 * size
            parts.append(put(x, middle, title, size, anchor="middle", angle=-90.0))
    return "".join(parts)
