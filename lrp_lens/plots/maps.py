"""Heat maps: layer × position, layer × head and head × source token, as plotly figures.

All share one look: diverging and symmetric about 0, special positions grey and out of the scale, axes
keyed by position or index (repeated tokens stay apart), hover text with every coordinate.  Of a long prompt the tokens
that carry most of the relevance are shown, unless all are asked for.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go

from lrp_lens.plots.figure import Figure
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
from lrp_lens.plots.positions import (
    LABEL_PIXELS,
    USUAL_WIDTH,
    cut_label,
    position_ticks,
    touched_positions,
    touched_words,
)
from lrp_lens.plots.wording import By, headline, text_dims, worded
from lrp_lens.views import View

_CELLS_WITH_NUMBERS = 120
_CELLS_WITH_WORDS = 20_000
_TICK_LENGTH = 22


def plot_layers(
    view: View,
    *,
    touched_only: bool | None = None,
    width: int | None = None,
    palette: Palette = "default",
    floor: float | None = None,
    by: By = "word",
) -> go.Figure:
    """Relevance of the residual stream: layers upwards, positions to the right.

    Args:
        view: dims ("layer", "position"), or with "word" or "sentence" in its place.
        touched_only: True shows only the tokens that carry most of the relevance (at most 32, each with its position),
            False shows every token; None shows every token of a prompt of up to 32.
        width: pixels; None fits what the figure is shown in. A label takes about 11: fewer pixels, fewer labels.
        palette: "default" (blue positive) or "lrp" (red positive).
        floor: least value that may get full colour; None takes 0.1 for logits.
        by: "word" puts the tokens of a word together, each with its value on hover; "position" shows every token.

    Raises:
        InputError: other dims, or an unknown palette.

    Example:
        >>> view = View(np.eye(2, 3), ("layer", "position"))
        >>> plot_layers(view, touched_only=True).layout.xaxis.ticktext
        ('tok_0 0', 'tok_1 1')
    """
    require_dims(view, text_dims("layer"), "plot_layers")
    return _position_map(view, touched_only, palette, floor, width=width, by=by)


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
    heads = list(view.axis_labels("head"))
    figure = _heat_map(view, [plotly_text(one) for one in heads], palette, limit(view, floor))
    crowded = len(heads) > 12
    _axis(figure.update_xaxes, heads, tickangle=-90 if crowded else 0, every=max(1, len(heads) // 64))
    if view.values.size <= _CELLS_WITH_NUMBERS:
        numbers = [["" if np.isnan(one) else signed(float(one)) for one in row] for row in view.values]
        figure.update_traces(text=numbers, texttemplate="%{text}", selector={"name": plotly_text(view.name)})
    return figure


def plot_sources(
    view: View,
    *,
    show: int = 24,
    touched_only: bool | None = None,
    width: int | None = None,
    palette: Palette = "default",
    floor: float | None = None,
    by: By = "word",
) -> go.Figure:
    """Which source tokens each head moved, and what that adds: heads upwards, source tokens to the right.

    Args:
        view: dims ("layer", "head", "position"), as `decompose(...).by_source()` gives it.
        show: how many heads to show at most, those with the largest Σ |value|, in the order of the layers.
        touched_only: True shows only the tokens that carry most of it (at most 32, each with its position), False
            shows every token; None shows every token of a prompt of up to 32.
        width: pixels; None fits what the figure is shown in. A label takes about 11: fewer pixels, fewer labels.
        palette: "default" (blue positive) or "lrp" (red positive).
        floor: least value that may get full colour; None takes 0.1 for logits.
        by: "word" puts the tokens of a word together, each with its value on hover; "position" shows every token.

    Raises:
        InputError: other dims, or an unknown palette.

    Example:
        >>> view = View(np.array([[[0.1, 0.0], [3.0, -1.0]]]), ("layer", "head", "position"))
        >>> plot_sources(view, show=1).layout.yaxis.ticktext
        ('L0H1',)
    """
    require_dims(view, text_dims("layer", "head"), "plot_sources")
    names = [one + other for one in view.axis_labels("layer") for other in view.axis_labels("head")]
    values = view.values.reshape(len(names), -1)
    size = np.nansum(np.abs(values), axis=1)
    kept = np.sort(np.argsort(-size, kind="stable")[:show])
    text = view.dims[-1]
    labels = {"layer": tuple(names[i] for i in kept), text: view.axis_labels(text)}
    heads = replace(view, values=values[kept], dims=("layer", text), labels=labels)
    note = f"the largest {len(kept)} of {len(names)} heads" if len(kept) < len(names) else ""
    return _position_map(heads, touched_only, palette, floor, note, width, by)


def _position_map(
    view: View,
    touched_only: bool | None,
    palette: Palette,
    floor: float | None,
    note: str = "",
    width: int | None = None,
    by: By = "word",
) -> go.Figure:
    """A map whose columns are words or positions, all of them or the touched ones."""
    columns = worded(view, by)
    view = columns.view
    tokens, shown = view.axis_labels(columns.dim), touched_positions(view, touched_only)
    part = view if len(shown) == len(tokens) else view.select(**{columns.dim: shown.tolist()})
    where = [
        f", {columns.place(one)}: <b>{plotly_text(visible_token(tokens[one]))}</b>" for one in shown.tolist()
    ]
    notes = "; ".join(one for one in (note, touched_words(view, shown), headline(view)) if one)
    every = max(1, -(-len(shown) * LABEL_PIXELS // (width or USUAL_WIDTH)))

    def pieces(row: int, column: int) -> str:
        told = columns.pieces(int(shown[column]), row)
        return f"<br>tokens {plotly_text(', '.join(told))}" if told else ""

    figure = _heat_map(part, where, palette, limit(view, floor), notes, pieces)
    if every > 1:
        figure.update_traces(xgap=0)  # lines between thin columns would outweigh them
    ticks = position_ticks(tokens, shown, positions=[one[0] for one in columns.members])
    _axis(figure.update_xaxes, ticks, tickangle=-90 if any(len(one) > 2 for one in ticks) else 0, every=every)
    return figure.update_layout(width=width)


def _heat_map(
    view: View,
    where: list[str],
    palette: Palette,
    top: float,
    notes: str = "",
    pieces: Callable[[int, int], str] = lambda row, column: "",
) -> go.Figure:
    """One trace for the ordinary columns, one grey trace for the special ones, on one grid.

    Both traces have all columns, and gaps where the other one has its cells: plotly draws cells as wide as the
    distance to the next column, and a trace of few columns would cover those between them.
    """
    special = view.special_cells()
    shared = {
        "x": list(range(view.shape[1])),
        "y": list(range(view.shape[0])),
        "xgap": 1,
        "ygap": 1,
        "hoverongaps": False,
    }
    figure = Figure()
    figure.add_trace(
        go.Heatmap(
            z=np.where(special, np.nan, view.values),
            name=plotly_text(view.name),
            colorscale=colorscale(palette),
            zmin=-top,
            zmax=top,
            zmid=0,
            colorbar=_colour_bar(view, top),
            meta={"diverging": palette},
            **_hover(view, where, ~special, pieces),
            **shared,
        )
    )
    if special.any():
        figure.add_trace(
            go.Heatmap(
                z=np.where(special, 0.0, np.nan),
                name="special tokens",
                colorscale=[[0, GREY], [1, GREY]],
                showscale=False,
                **_hover(view, where, special, pieces),
                **shared,
            )
        )
    words = plotly_text(", ".join(legend_words(view, palette)))
    figure.update_layout(
        template="plotly_white",
        height=_height(view.shape[0]) + 190,
        margin={"l": 10, "r": 10, "t": 88 if notes else 66, "b": 10},
        title={
            "text": words + (f"<br><sup>{plotly_text(notes)}</sup>" if notes else ""),
            "font": {"size": 13},
            "x": 0,
            "xref": "paper",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 18 if notes else 10},
        },
        plot_bgcolor="rgba(0,0,0,0)",
    )
    _axis(figure.update_yaxes, list(view.axis_labels("layer")), every=max(1, view.shape[0] // 48))
    return figure


def _axis(update: Any, ticks: list[str], *, every: int, tickangle: int = 0) -> None:
    """Numbers underneath, labels on top: two equal labels stay two columns."""
    shown = list(range(0, len(ticks), every))
    update(
        tickmode="array",
        tickvals=shown,
        ticktext=[plotly_text(cut_label(ticks[i], _TICK_LENGTH)) for i in shown],
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


def _colour_bar(view: View, top: float) -> dict[str, Any]:
    """Above the map, at its left: seen first on any screen, and no column's width is lost to it.

    The units stand beside the upper end: where the bar has a title, plotly moves the figure's own out of sight.
    """
    ticks = scale_ticks(top)
    low, middle, high = ticks["ticktext"][::2]
    return {
        "tickvals": ticks["tickvals"][::2],
        "ticktext": [low, middle, f"{high} {plotly_text(view.units)}"],
        "orientation": "h",
        "lenmode": "pixels",
        "len": 210,
        "x": 0,
        "xanchor": "left",
        "y": 1,
        "yanchor": "bottom",
        "ypad": 4,
        "title": {"text": ""},
        "thickness": 8,
        "tickfont": {"size": 10},
    }


def _hover(
    view: View, where: list[str], cells: np.ndarray, pieces: Callable[[int, int], str]
) -> dict[str, Any]:
    """Hover text with every coordinate; in words up to 20,000 cells, then in numbers.

    Args:
        view: rows are layers.
        where: what to say of each column after the layer's name, ready for plotly.
        cells: True where the trace has its cells; the others need no words.
        pieces: row and column → what is said of the tokens of a word.
    """
    unit = plotly_text(view.units)
    if view.values.size > _CELLS_WITH_WORDS:
        numbers = f"row %{{y:d}}, {view.dims[1]} %{{x:d}}<br>%{{z:+.4g}} {unit}"
        return {"hovertemplate": numbers + "<extra></extra>"}
    special, missing = view.special_cells(), np.isnan(view.values)
    rows = []
    for i, layer in enumerate(plotly_text(one) for one in view.axis_labels("layer")):
        told = [
            "missing" if missing[i, j] else f"{signed(float(view.values[i, j]), '+.4g')} {unit}"
            for j in range(len(where))
        ]
        aside = ["<br>special token, out of the scale" if one else "" for one in special[i]]
        words = [f"{layer}{where[j]}<br>{told[j]}{pieces(i, j)}{aside[j]}" for j in range(len(where))]
        rows.append([one if here else "" for one, here in zip(words, cells[i], strict=True)])
    return {"customdata": rows, "hovertemplate": "%{customdata}<extra></extra>"}
