"""One heat map of rows and columns: its cells, colour bar, axes and hover text, whatever they stand for."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from lrp_lens.characters import signed
from lrp_lens.plots.figure import Figure, headed
from lrp_lens.plots.palette import GREY, Palette, colorscale, legend_words, plotly_text, scale_ticks
from lrp_lens.plots.positions import cut_label

if TYPE_CHECKING:
    from lrp_lens.views import View

_CELLS_WITH_WORDS = 20_000
_TICK_LENGTH = 22


def draw_heat_map(
    view: "View",
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
        title=headed(
            words + (f"<br><sup>{plotly_text(notes)}</sup>" if notes else ""), padding=18 if notes else 10
        ),
        plot_bgcolor="rgba(0,0,0,0)",
    )
    label_axis(figure.update_yaxes, list(view.axis_labels("layer")), every=max(1, view.shape[0] // 48))
    return figure


def label_axis(update: Any, ticks: list[str], *, every: int, tickangle: int = 0) -> None:
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


def _colour_bar(view: "View", top: float) -> dict[str, Any]:
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
    view: "View", where: list[str], cells: np.ndarray, pieces: Callable[[int, int], str]
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
