"""Heat maps: layer × position, layer × head and head × source token, as plotly figures.

All share one look: diverging and symmetric about 0, special positions grey and out of the scale, axes
keyed by position or index (repeated tokens stay apart), hover text with every coordinate.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lrp_lens.plots.palette import (
    GREY,
    Palette,
    colorscale,
    legend_words,
    limit,
    plotly_text,
    require_dims,
    scale_ticks,
    signed,
    visible_token,
)
from lrp_lens.views import View

_CELLS_WITH_NUMBERS = 120
_CELLS_WITH_WORDS = 20_000
_TICK_LENGTH = 16


def plot_layers(view: View, *, palette: Palette = "default", floor: float | None = None) -> go.Figure:
    """Relevance of the residual stream: layers upwards, positions to the right.

    Args:
        view: dims ("layer", "position").
        palette: "default" (blue positive) or "lrp" (red positive).
        floor: least value that may get full colour; None takes 0.1 for logits.

    Raises:
        InputError: other dims, or an unknown palette.
    """
    require_dims(view, (("layer", "position"),), "plot_layers")
    tokens = view.axis_labels("position")
    return _heat_map(view, [visible_token(one) for one in tokens], "position", palette, floor)


def plot_heads(view: View, *, palette: Palette = "default", floor: float | None = None) -> go.Figure:
    """Relevance of each attention head: layers upwards, heads to the right; small maps show the numbers.

    Args:
        view: dims ("layer", "head").
        palette: "default" (blue positive) or "lrp" (red positive).
        floor: least value that may get full colour; None takes 0.1 for logits.

    Raises:
        InputError: other dims, or an unknown palette.
    """
    require_dims(view, (("layer", "head"),), "plot_heads")
    figure = _heat_map(view, list(view.axis_labels("head")), "head", palette, floor)
    if view.values.size <= _CELLS_WITH_NUMBERS:
        numbers = [["" if np.isnan(one) else signed(float(one)) for one in row] for row in view.values]
        figure.update_traces(text=numbers, texttemplate="%{text}", selector={"name": plotly_text(view.name)})
    return figure


def plot_sources(
    view: View, *, show: int = 24, palette: Palette = "default", floor: float | None = None
) -> go.Figure:
    """Which source tokens each head moved, and what that adds: heads upwards, source tokens to the right.

    Args:
        view: dims ("layer", "head", "position"), as `decompose(...).by_source()` gives it.
        show: how many heads to show at most, those with the largest Σ |value|, in the order of the layers.
        palette: "default" (blue positive) or "lrp" (red positive).
        floor: least value that may get full colour; None takes 0.1 for logits.

    Raises:
        InputError: other dims, or an unknown palette.

    Example:
        >>> view = View(np.array([[[0.1, 0.0], [3.0, -1.0]]]), ("layer", "head", "position"))
        >>> plot_sources(view, show=1).layout.yaxis.ticktext
        ('L0H1',)
    """
    require_dims(view, (("layer", "head", "position"),), "plot_sources")
    names = [one + other for one in view.axis_labels("layer") for other in view.axis_labels("head")]
    values = view.values.reshape(len(names), -1)
    size = np.nansum(np.abs(values), axis=1)
    kept = np.sort(np.argsort(-size, kind="stable")[:show])
    labels = {"layer": tuple(names[i] for i in kept), "position": view.axis_labels("position")}
    heads = replace(view, values=values[kept], dims=("layer", "position"), labels=labels)
    figure = _heat_map(heads, [visible_token(one) for one in labels["position"]], "position", palette, floor)
    if len(kept) < len(names):
        words = f"{figure.layout.title.text}; the largest {len(kept)} of {len(names)} heads"
        figure.update_layout(title={"text": words})
    return figure


def _heat_map(view: View, ticks: list[str], across: str, palette: Palette, floor: float | None) -> go.Figure:
    """One trace for the ordinary columns, one grey trace for the special ones."""
    top = limit(view, floor)
    special = view.special_cells()
    columns = np.arange(view.shape[1])
    shared = {"y": list(range(view.shape[0])), "xgap": 1, "ygap": 1, "hoverongaps": False}
    figure = go.Figure()
    figure.add_trace(
        go.Heatmap(
            z=np.where(special, np.nan, view.values),
            name=plotly_text(view.name),
            colorscale=colorscale(palette),
            zmin=-top,
            zmax=top,
            zmid=0,
            colorbar=_colour_bar(view, min(_height(view.shape[0]), 240), top),
            meta={"diverging": palette},
            x=columns.tolist(),
            **_hover(view, ticks, across, columns),
            **shared,
        )
    )
    if special.any():
        columns = np.flatnonzero(special.any(axis=0))
        figure.add_trace(
            go.Heatmap(
                z=np.zeros((view.shape[0], len(columns))),
                name="special tokens",
                colorscale=[[0, GREY], [1, GREY]],
                showscale=False,
                x=columns.tolist(),
                **_hover(view, ticks, across, columns),
                **shared,
            )
        )
    positive, negative = legend_words(view, palette)
    figure.update_layout(
        template="plotly_white",
        height=_height(view.shape[0]) + 140,
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
        title={"text": plotly_text(f"{positive}, {negative}"), "font": {"size": 13}, "x": 0, "xref": "paper"},
        plot_bgcolor="rgba(0,0,0,0)",
    )
    crowded = any(len(tick) > 2 for tick in ticks) if across == "position" else len(ticks) > 12
    _axis(figure.update_xaxes, ticks, tickangle=-90 if crowded else 0, every=max(1, len(ticks) // 120))
    _axis(
        figure.update_yaxes,
        list(view.axis_labels("layer")),
        every=max(1, view.shape[0] // 48),
    )
    return figure


def _axis(update: Any, ticks: list[str], *, every: int, tickangle: int = 0) -> None:
    """Numbers underneath, labels on top: two equal labels stay two columns."""
    shown = list(range(0, len(ticks), every))
    update(
        tickmode="array",
        tickvals=shown,
        ticktext=[plotly_text(_short(ticks[i])) for i in shown],
        tickangle=tickangle,
        tickfont={"size": 11 if len(shown) <= 60 else 9},
        showgrid=False,
        zeroline=False,
        automargin=True,
        range=[-0.5, max(len(ticks), 1) - 0.5],
    )


def _height(rows: int) -> int:
    """Pixels of the cells: few rows are high, many are low."""
    return max(46 * min(rows, 5), 26 * min(rows, 24), 17 * rows)


def _colour_bar(view: View, length: int, top: float) -> dict[str, Any]:
    return {
        **scale_ticks(top),
        "lenmode": "pixels",
        "len": length,
        "y": 1,
        "yanchor": "top",
        "title": {"text": plotly_text(view.units), "side": "top", "font": {"size": 11}},
        "thickness": 10,
        "tickfont": {"size": 10},
    }


def _short(label: str) -> str:
    return label if len(label) <= _TICK_LENGTH else label[: _TICK_LENGTH - 1] + "…"


def _hover(view: View, ticks: list[str], across: str, columns: np.ndarray) -> dict[str, Any]:
    """Hover text of these columns, with every coordinate; in words up to 20,000 cells, then in numbers."""
    if view.values.size > _CELLS_WITH_WORDS:
        numbers = f"row %{{y}}, {across} %{{x}}<br>%{{z:+.4g}} {plotly_text(view.units)}"
        return {"hovertemplate": numbers + "<extra></extra>"}
    special = view.special_cells()
    rows = []
    for i, layer in enumerate(view.axis_labels("layer")):
        row = []
        for j in columns:
            value = view.values[i, j]
            tick = plotly_text(ticks[j])
            where = (
                f"{plotly_text(layer)}{tick}"
                if across == "head"
                else f"{plotly_text(layer)}, position {j}: <b>{tick}</b>"
            )
            told = (
                "missing" if np.isnan(value) else f"{signed(float(value), '+.4g')} {plotly_text(view.units)}"
            )
            row.append(
                f"{where}<br>{told}" + ("<br>special token, out of the scale" if special[i, j] else "")
            )
        rows.append(row)
    return {"customdata": rows, "hovertemplate": "%{customdata}<extra></extra>"}
