"""The whole still picture: margins, panels, traces, shapes, notes, legend, title.

1. Ranges from the traces; margins from the labels, which need the ticks, which need the pixels: two rounds.
2. Grids below, then heat maps, bars and lines, then labels and words.
"""

from dataclasses import dataclass
from typing import Any

from lrp_lens.plots.still.axes import Axis, axes_of, grid, labels
from lrp_lens.plots.still.colour_bars import bar_width, lies, lying_bar, standing_bar
from lrp_lens.plots.still.heat import Shades, heat_map, paint
from lrp_lens.plots.still.marks import COLOURS, KNOWN, covers, draw_bars, draw_scatter, stack
from lrp_lens.plots.still.words import INK, at, lines_of, number_text, put, width_of

WIDTH, HEIGHT = 820, 450
_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Area:
    """The plotting area, in pixels."""

    left: float
    top: float
    right: float
    bottom: float


def still_svg(figure: Any) -> str | None:
    """A figure as SVG text, None for one that these files cannot draw.

    Args:
        figure: a plotly figure of heat maps, bars, waterfalls, lines and markers on ordinary or logarithmic axes.

    Example:
        >>> import plotly.graph_objects as go
        >>> still_svg(go.Figure(go.Bar(x=[1, 2], y=[3, 4])))[:4], still_svg(go.Figure(go.Pie(values=[1])))
        ('<svg', None)
    """
    layout = figure.layout
    traces = [one for one in figure.data if one.visible is not False]
    if not traces or any(one.type not in KNOWN for one in traces):
        return None
    stacks = stack([one for one in traces if one.type == "bar"]) if layout.barmode == "relative" else {}
    extents: dict[str, list[Any]] = {}
    for trace in traces:
        x, y = trace.xaxis or "x", trace.yaxis or "y"
        x_span, y_span = covers(trace, layout[f"xaxis{x[1:]}"], layout[f"yaxis{y[1:]}"], stacks)
        extents.setdefault(x, []).append(x_span)
        extents.setdefault(y, []).append(y_span)
    axes = axes_of(figure, extents)
    width, height = float(layout.width or WIDTH), float(layout.height or HEIGHT)
    scales = _scales(figure, traces)
    area = Area(80.0, 40.0, width - 60, height - 60)
    for _ in range(2):
        _give_pixels(axes, area)
        area = _area(figure, axes, scales, width, height)
    _give_pixels(axes, area)
    parts = [_panel(figure, trace, axes, number, stacks) for number, trace in enumerate(traces)]
    pairs = dict.fromkeys((trace.xaxis or "x", trace.yaxis or "y") for trace in traces)
    lines = [grid(axes[x], axes[y]) + grid(axes[y], axes[x]) for x, y in pairs]
    texts = [labels(axes[x], axes[y].start if axes[y].start > axes[y].end else axes[y].end) for x, y in pairs]
    texts += [labels(axes[y], min(axes[x].start, axes[x].end)) for x, y in pairs]
    bars = [_colour_bar(scale, number, area) for number, scale in enumerate(scales)]
    body = "".join([*lines, *parts, *_shapes(figure, axes, area), *texts, *bars])
    words = "".join([*_notes(figure, axes, area), _legend(figure, traces, area), _title(figure, area, width)])
    size = f'width="{number_text(width)}" height="{number_text(height)}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {at(width, height)}" '
        f'font-family="{_FONT}" role="img"><rect width="100%" height="100%" fill="#fff"/>{body}{words}</svg>'
    )


def _give_pixels(axes: dict[str, Axis], area: Area) -> None:
    for axis in axes.values():
        low, high = axis.given.domain or (0.0, 1.0)
        if axis.across:
            wide = area.right - area.left
            axis.span(area.left + low * wide, area.left + high * wide)
        else:
            tall = area.bottom - area.top
            axis.span(area.bottom - low * tall, area.bottom - high * tall)


def _area(figure: Any, axes: dict[str, Axis], scales: list[Shades], width: float, height: float) -> Area:
    margin = figure.layout.margin
    edges = {"left": [float(margin.l or 10)], "bottom": [float(margin.b or 10)]}
    for axis in axes.values():
        low = (axis.given.domain or (0.0, 1.0))[0]
        if low < 0.02:
            edges["bottom" if axis.across else "left"].append(axis.depth() + 8)
    right = max([12.0, *[bar_width(one.bar) + 70 * i for i, one in enumerate(scales) if not lies(one.bar)]])
    right = max(right, _legend_width(figure) + 24)
    top = float(margin.t if margin.t is not None else 40)
    return Area(max(edges["left"]), top, width - right, height - max(edges["bottom"]))


def _colour_bar(scale: Shades, number: int, area: Area) -> str:
    """One of the colour bars, where the figure wants it."""
    bar, wide, tall = scale.bar, area.right - area.left, area.bottom - area.top
    share = 1.0 if bar.len is None else float(bar.len)
    if lies(bar):
        length = min(wide, share if bar.lenmode == "pixels" else share * wide)
        left = area.left + float(bar.x or 0) * wide * (bar.xanchor != "right")
        return lying_bar(scale, left, area.top, length)
    length = min(tall, share if bar.lenmode == "pixels" else max(150.0, share * tall))
    return standing_bar(scale, area.right + 14 + 70 * number, area.top, length)


def _scales(figure: Any, traces: list[Any]) -> list[Shades]:
    """The heat maps' scales that have a bar, a shared one once."""
    found: dict[Any, Shades] = {}
    for number, trace in enumerate(traces):
        if trace.type == "heatmap":
            shades = Shades(trace, figure.layout)
            if shades.bar is not None:
                found.setdefault(trace.coloraxis or number, shades)
    return list(found.values())


def _panel(figure: Any, trace: Any, axes: dict[str, Axis], number: int, stacks: Any) -> str:
    x, y = axes[trace.xaxis or "x"], axes[trace.yaxis or "y"]
    if trace.type == "heatmap":
        return heat_map(trace, x, y, figure.layout)
    if trace.type == "scatter":
        return draw_scatter(trace, x, y, COLOURS[number % len(COLOURS)])
    gap = figure.layout.bargap
    return draw_bars(trace, x, y, 0.2 if gap is None else float(gap), stacks)


def _place(
    reference: str | None, value: Any, axes: dict[str, Axis], area: Area, across: bool
) -> float | None:
    """The pixel of a coordinate on the paper, in a panel's domain, or on an axis."""
    name, _, domain = (reference or ("x" if across else "y")).partition(" ")
    if name == "paper" or domain:
        axis = axes.get(name)
        ends = (
            (axis.start, axis.end) if axis else (area.left, area.right) if across else (area.bottom, area.top)
        )
        return ends[0] + float(value) * (ends[1] - ends[0])
    return axes[name].at(float(value)) if name in axes else None


def _shapes(figure: Any, axes: dict[str, Axis], area: Area) -> list[str]:
    parts = []
    for shape in figure.layout.shapes:
        xs = [_place(shape.xref, one, axes, area, True) for one in (shape.x0, shape.x1)]
        ys = [_place(shape.yref, one, axes, area, False) for one in (shape.y0, shape.y1)]
        if None in xs or None in ys or shape.type not in ("line", "rect"):
            continue
        dash = {"dot": "2 4", "dash": "6 4"}.get(shape.line.dash or "")
        ink = paint(shape.line.color or INK, 1.0, "stroke")
        ink += f' stroke-width="{number_text(shape.line.width or 2)}"'
        ink += f' stroke-dasharray="{dash}"' if dash else ""
        path = f"M{at(xs[0], ys[0])}L{at(xs[1], ys[1])}"  # type: ignore[arg-type]
        if shape.type == "rect":
            across, down = (number_text(one) for one in (xs[1], ys[1]))  # type: ignore[arg-type]
            path = f"M{at(xs[0], ys[0])}H{across}V{down}H{number_text(xs[0])}z"  # type: ignore[arg-type]
        parts.append(f'<path d="{path}" fill="none" {ink}/>')
    return parts


def _notes(figure: Any, axes: dict[str, Axis], area: Area) -> list[str]:
    anchors = {"left": "start", "right": "end"}
    parts = []
    for note in figure.layout.annotations:
        x = _place(note.xref, note.x, axes, area, True)
        y = _place(note.yref, note.y, axes, area, False)
        if x is None or y is None:
            continue
        size = float(note.font.size or 12)
        down = {"top": size + 2, "middle": 0.35 * size}.get(note.yanchor or "middle", -4.0)
        anchor = anchors.get(note.xanchor or "", "middle")
        parts.append(put(x, y + down, note.text, size, anchor=anchor, colour=note.font.color or INK))
    return parts


def _entries(figure: Any, traces: Any) -> list[Any]:
    named = [one for one in traces if one.type != "heatmap" and one.name and one.showlegend is not False]
    wanted = figure.layout.showlegend
    return named if wanted or (wanted is None and len(figure.data) > 1) else []


def _legend_width(figure: Any) -> float:
    if figure.layout.legend.orientation == "h":
        return 0.0
    return max((width_of(one.name, 12) + 34 for one in _entries(figure, figure.data)), default=0.0)


def _legend(figure: Any, traces: list[Any], area: Area) -> str:
    level = figure.layout.legend.orientation == "h"
    x, y = (area.left, area.top - 10.0) if level else (area.right + 16, area.top + 8)
    parts = []
    for trace in _entries(figure, traces):
        number = traces.index(trace)
        if trace.type == "scatter":
            colour = trace.line.color or trace.marker.color or COLOURS[number % len(COLOURS)]
            dash = {"dot": "2 3", "dash": "6 4"}.get(trace.line.dash or "")
            dashes = f' stroke-dasharray="{dash}"' if dash else ""
            ink = paint(colour if isinstance(colour, str) else INK, 1.0, "stroke")
            parts.append(f'<path d="M{at(x, y - 4)}h22" {ink} stroke-width="2"{dashes}/>')
        else:
            colour = trace.marker.color if isinstance(trace.marker.color, str) else COLOURS[0]
            parts.append(f'<path d="M{at(x + 5, y - 10)}h12v12h-12z" {paint(colour)}/>')
        parts.append(put(x + 28, y, trace.name, 12))
        if level:
            x += width_of(trace.name, 12) + 50
        else:
            y += 19
    return "".join(parts)


def _title(figure: Any, area: Area, width: float) -> str:
    title = figure.layout.title
    if not lines_of(title.text):
        return ""
    size = float(title.font.size or 17)
    left = area.left if title.xref == "paper" else 0.05 * width
    longest = width_of(title.text, size)
    if left + longest > width - 6:  # keep its end inside the picture
        left = max(8.0, width - 6 - longest)
    return put(left, size + 8, title.text, size)
