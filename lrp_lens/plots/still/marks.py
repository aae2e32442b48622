"""Bars, waterfalls, lines and markers of a still picture; and what each trace covers on its axes."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from lrp_lens.plots.still.axes import Axis, extent
from lrp_lens.plots.still.heat import paint, places
from lrp_lens.plots.still.values import numbers
from lrp_lens.plots.still.words import at, number_text, put

COLOURS = ("#636efa", "#EF553B", "#00cc96", "#ab63fa", "#FFA15A", "#19d3f3", "#FF6692", "#B6E880")
_DASHES = {"dot": "2 4", "dash": "8 5", "dashdot": "8 4 2 4"}
KNOWN = ("heatmap", "bar", "waterfall", "scatter")

Stacks = dict[tuple[int, float], float]
"""(id of a trace, place) → where its bar begins."""


def pick(values: Any, index: int) -> Any:
    """One of several settings, or the only one."""
    if isinstance(values, dict):
        values = numbers(values)
    return values if values is None or isinstance(values, str | int | float) else values[index]


def covers(trace: Any, x: Any, y: Any, stacks: Stacks) -> tuple[Any, Any]:
    """What a trace covers on its two axes (plotly's axis objects); bars from 0, heat maps by whole cells."""
    if trace.type == "heatmap":
        rows, columns = np.atleast_2d(numbers(trace.z)).shape
        return (
            extent(x, places(trace.x, columns), room=0.0, half=0.5),
            extent(y, places(trace.y, rows), room=0.0, half=0.5),
        )
    if trace.type in ("bar", "waterfall"):
        along, place = (x, y) if trace.orientation == "h" else (y, x)
        ends = [end for bar in bars(trace, stacks) for end in bar[1:3]]
        low, high = extent(along, [0.0, *ends])
        span = (0.0 if min(ends, default=0) >= 0 else low, 0.0 if max(ends, default=0) <= 0 else high)
        cells = extent(place, [bar[0] for bar in bars(trace, stacks)], room=0.0, half=0.5)
        return (span, cells) if trace.orientation == "h" else (cells, span)
    along = numbers(trace.x)
    if trace.error_x.array is not None:
        above, below = numbers(trace.error_x.array), numbers(trace.error_x.arrayminus)
        along = np.concatenate([along + above, along - (below if below.size else above)])
    room = 0.0 if _mode(trace) == "lines" else 0.06
    return extent(x, along, room=room), extent(y, numbers(trace.y))


def bars(trace: Any, stacks: Stacks) -> Iterator[tuple[float, float, float, str]]:
    """(place, from, to, colour) of every bar; `stacks` holds where stacked bars begin."""
    across = trace.orientation == "h"
    amounts, where = (trace.x, trace.y) if across else (trace.y, trace.x)
    level = 0.0
    for index, (amount, place) in enumerate(zip(numbers(amounts), numbers(where), strict=True)):
        amount = float(np.nan_to_num(amount))
        if trace.type == "waterfall":
            whole = pick(trace.measure, index) == "total"
            start, stop = (0.0, amount) if whole else (level, level + amount)
            level = stop
            kind = trace.totals if whole else trace.increasing if amount >= 0 else trace.decreasing
            yield float(place), start, stop, kind.marker.color
        else:
            start = stacks.get((id(trace), float(place)), 0.0)
            yield float(place), start, start + amount, pick(trace.marker.color, index) or COLOURS[0]


def stack(traces: list[Any]) -> Stacks:
    """Where each bar of stacked traces begins: positive ones upwards from 0, negative ones downwards."""
    tops: dict[tuple[float, bool], float] = {}
    begins: Stacks = {}
    for trace in traces:
        for place, start, stop, _ in bars(trace, {}):
            side = (place, stop - start >= 0)
            begins[id(trace), place] = tops.get(side, 0.0)
            tops[side] = tops.get(side, 0.0) + stop - start
    return begins


def draw_bars(trace: Any, x: Axis, y: Axis, gap: float, stacks: Stacks) -> str:
    """Bars, the dotted lines between the steps of a waterfall, and the numbers at their ends."""
    across, half, parts = trace.orientation == "h", (1 - gap) / 2, []
    along, beside = (x, y) if across else (y, x)
    made = list(bars(trace, stacks))
    for index, (place, start, stop, colour) in enumerate(made):
        a, b = sorted((along.at(start), along.at(stop)))
        c, d = sorted((beside.at(place - half), beside.at(place + half)))
        left, top, right, bottom = (a, c, b, d) if across else (c, a, d, b)
        path = f"M{at(left, top)}H{number_text(right)}V{number_text(bottom)}H{number_text(left)}z"
        parts.append(f'<path d="{path}" {paint(colour)}/>')
        if trace.type == "waterfall" and index + 1 < len(made):
            edge, near, far = along.at(stop), beside.at(place), beside.at(made[index + 1][0])
            parts.append(
                f'<path d="M{at(edge, near)}V{number_text(far)}" stroke="#9aa3ad" stroke-dasharray="2 3"/>'
            )
        text = pick(trace.text, index)
        if text and across:
            forward = stop >= start
            x_text = (b if forward else a) + (4 if forward else -4)
            parts.append(put(x_text, (c + d) / 2 + 4, str(text), 11, anchor="start" if forward else "end"))
    return "".join(parts)


def draw_scatter(trace: Any, x: Axis, y: Axis, colour: str) -> str:
    """Lines, areas, error bars, markers and words of one trace."""
    points = [
        (x.at(a), y.at(b)) if np.isfinite(a) and np.isfinite(b) else None
        for a, b in zip(numbers(trace.x), numbers(trace.y), strict=True)
    ]
    mode, opacity = _mode(trace), 1.0 if trace.opacity is None else float(trace.opacity)
    parts, known = [], [one for one in points if one is not None]
    if trace.fill == "toself" and known:
        path = "M" + "L".join(at(*one) for one in known) + "z"
        parts.append(f'<path d="{path}" {paint(trace.fillcolor or colour, opacity)}/>')
    width = 2.0 if trace.line.width is None else float(trace.line.width)
    if "lines" in mode and width and known:
        dash = _DASHES.get(trace.line.dash or "")
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        ink = paint(trace.line.color or colour, opacity, "stroke")
        parts.append(
            f'<path d="{_line(points)}" fill="none" {ink} stroke-width="{number_text(width)}"{dashes}/>'
        )
    for index, point in enumerate(points):
        if point is None:
            continue
        if trace.error_x.array is not None:
            parts.append(_error(trace, index, x, point[1], colour))
        if "markers" in mode and trace.marker.opacity != 0:
            parts.append(_marker(trace, index, point, colour, opacity))
        if "text" in mode and trace.text is not None:
            parts.append(put(point[0] + 5, point[1] - 7, str(pick(trace.text, index)), 11))
    return "".join(parts)


def _mode(trace: Any) -> str:
    """Of what a scatter consists: an area has no markers."""
    return str(trace.mode or ("lines" if trace.fill else "lines+markers"))


def _line(points: list[tuple[float, float] | None]) -> str:
    """A path that a missing point interrupts."""
    path, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
        else:
            path.append(pen + at(*point))
            pen = "L"
    return "".join(path)


def _marker(trace: Any, index: int, point: tuple[float, float], colour: str, opacity: float) -> str:
    marker = trace.marker
    radius = float(pick(marker.size, index) or 6) / 2
    fill = pick(marker.color, index) or trace.line.color or colour
    own = pick(marker.opacity, index)
    edge = pick(marker.line.width, index) or 0
    ring = (
        f' {paint(pick(marker.line.color, index) or "white", 1.0, "stroke")} stroke-width="{number_text(edge)}"'
        if edge
        else ""
    )
    painted = paint(fill if isinstance(fill, str) else colour, opacity * (1.0 if own is None else float(own)))
    x, y = map(number_text, point)
    return f'<circle cx="{x}" cy="{y}" r="{number_text(radius)}" {painted}{ring}/>'


def _error(trace: Any, index: int, x: Axis, y: float, colour: str) -> str:
    middle, error = float(numbers(trace.x)[index]), trace.error_x
    below = error.array if error.arrayminus is None else error.arrayminus
    low, high = x.at(middle - float(below[index])), x.at(middle + float(error.array[index]))
    ends = "".join(f"M{at(end, y - 4)}v8" for end in (low, high))
    ink = paint(error.color or colour, 1.0, "stroke")
    return f'<path d="M{at(low, y)}H{number_text(high)}{ends}" {ink} stroke-width="1.5"/>'
