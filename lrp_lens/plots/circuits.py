"""Circuits: what they recover of the metric against size; component graphs as heat maps of writers and readers.

The axis of sizes is logarithmic: a circuit is interesting where it is small.  A share of 1 is the whole model, 0 the
model with every edge replaced.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrp_lens.errors import InputError
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
)

if TYPE_CHECKING:
    from lrp_lens.views import View

# Okabe & Ito's colours, safe for colour-blind readers; the control is grey.
_COLOURS = ("0,114,178", "213,94,0", "0,158,115", "204,121,167", "230,159,0", "86,180,233")
_CONTROL = ("random", "122,131,143")
_DASHES = ("solid", "dot", "dash")
_BANDS = 4
_CELLS_WITH_WORDS = 20_000
_COLUMNS = ("method", "ranking", "fraction", "edges", "recovered", "low", "high")


def plot_circuit_curve(
    table: pd.DataFrame,
    ranking: str = "absolute",
    *,
    methods: Sequence[str] | None = None,
    level: str = "edge",
) -> go.Figure:
    """Share of the metric that the best k % of edges recover, a line per method, with bands for up to four of them.

    Args:
        table: columns method, ranking, fraction, edges, recovered, low, high, as `CircuitCurve.to_dataframe()`.
        ranking: "absolute" (CMD's) or "signed" (CPR's); the random control is shown with either.
        methods: the methods to show, in this order; None shows all.
        level: "edge" or "node", for the axis.

    Raises:
        InputError: a column is missing, or no such method or ranking.
    """
    missing = set(_COLUMNS) - set(table.columns)
    if missing:
        raise InputError(f"A circuit curve has the columns {_COLUMNS}; {sorted(missing)} are missing.")
    rows = table[table["ranking"].isin([ranking, "random"])]
    known = list(dict.fromkeys(rows["method"]))
    shown = known if methods is None else list(methods)
    if ranking not in set(table["ranking"]) or not shown or set(shown) - set(known):
        raise InputError(
            f"This curve has the rankings {sorted(set(table['ranking']))} of {known}; received {ranking!r} of {shown}."
        )
    figure = Figure()
    ordinary = [method for method in shown if method != _CONTROL[0]]
    for method in shown:
        index = ordinary.index(method) if method in ordinary else 0
        colour = _COLOURS[index % len(_COLOURS)] if method in ordinary else _CONTROL[1]
        dash = _DASHES[index // len(_COLOURS) % len(_DASHES)] if method in ordinary else "dash"
        line = rows[rows["method"] == method].sort_values("fraction")
        _line(figure, line, method, colour, dash, banded=len(ordinary) <= _BANDS)
    for height, words in ((1, "whole model"), (0, "no edge")):
        figure.add_hline(
            y=height,
            line={"dash": "dot", "width": 1, "color": "#7a838f"},
            annotation={"text": words, "font": {"size": 11, "color": "#7a838f"}},
            annotation_position="top left",
        )
    figure.update_layout(
        template="plotly_white",
        height=400,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        legend={"orientation": "v", "x": 1.02, "y": 1, "tracegroupgap": 2},
    )
    ticks = sorted(set(rows["fraction"]))
    figure.update_xaxes(
        type="log",
        tickvals=ticks,
        ticktext=[f"{100 * tick:g}" for tick in ticks],
        title={"text": f"{level}s in the circuit (%), {ranking} ranking", "font": {"size": 12}},
        zeroline=False,
    )
    figure.update_yaxes(
        title={"text": "metric recovered", "font": {"size": 12}}, zeroline=False, automargin=True
    )
    return figure


def _line(figure: go.Figure, line: pd.DataFrame, method: str, colour: str, dash: str, banded: bool) -> None:
    x, name = line["fraction"].tolist(), plotly_text(method)
    if banded and line["low"].notna().all():
        figure.add_trace(
            go.Scatter(
                x=[*x, *reversed(x)],
                y=[*line["high"], *line["low"].iloc[::-1]],
                fill="toself",
                fillcolor=f"rgba({colour},0.15)",
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=name,
            )
        )
    figure.add_trace(
        go.Scatter(
            x=x,
            y=line["recovered"].tolist(),
            mode="lines+markers",
            name=name,
            legendgroup=name,
            customdata=line["edges"].tolist(),
            line={"color": f"rgb({colour})", "dash": dash},
            marker={"size": 5},
            hovertemplate=f"{name}, %{{x:.1%}} (%{{customdata}} edges): %{{y:.3f}}<extra></extra>",
        )
    )


def plot_component_edges(
    view: "View", *, show: int | None = 60, palette: Palette = "default", floor: float | None = None
) -> go.Figure:
    """Scores of edges: readers to the right, writers upwards; grey where a writer does not feed a reader.

    Args:
        view: dims ("writer", "reader"), as `ComponentEdges.view()` gives it.
        show: how many writers and how many readers to show at most, those with the strongest edges, in the order of
            the forward pass; None shows all of them.
        palette: "default" (blue positive) or "lrp" (red positive).
        floor: least value that may get full colour; None takes 0.1 for logits.

    Raises:
        InputError: other dims, fewer than one writer to show, or an unknown palette.

    Example:
        >>> from lrp_lens.views import View
        >>> view = View(np.array([[0.1, 2.0], [np.nan, 0.0]]), ("writer", "reader"))
        >>> plot_component_edges(view, show=1).data[1].customdata
        (['0 → 1'],)
    """
    require_dims(view, (("writer", "reader"),), "plot_component_edges")
    if show is not None and show < 1:
        raise InputError(f"A figure shows one writer and one reader or more; received show={show!r}.")
    top, (first, second) = limit(view, floor), legend_words(view, palette)
    part, note = _strongest(view, show)
    writers, readers = part.axis_labels("writer"), part.axis_labels("reader")
    missing = np.isnan(part.values)
    rows, columns = list(range(len(writers))), list(range(len(readers)))
    figure = Figure()
    figure.add_trace(
        go.Heatmap(
            z=np.where(missing, 1.0, np.nan),
            x=columns,
            y=rows,
            colorscale=[[0, GREY], [1, GREY]],
            showscale=False,
            hoverinfo="skip",
            opacity=0.45,
        )
    )
    figure.add_trace(
        go.Heatmap(
            z=part.values,
            x=columns,
            y=rows,
            colorscale=colorscale(palette),
            zmin=-top,
            zmax=top,
            zmid=0,
            hoverongaps=False,
            colorbar={
                "thickness": 12,
                "title": {"text": plotly_text(view.units), "font": {"size": 11}},
                **scale_ticks(top),
            },
            **_edge_words(writers, readers),
        )
    )
    figure.update_layout(
        template="plotly_white",
        height=max(300, min(13 * len(writers) + 140, 1400)),
        margin={"l": 10, "r": 10, "t": 64 if note else 50, "b": 10},
        title={
            "text": plotly_text(f"{first}, {second}")
            + (f"<br><sup>{plotly_text(note)}</sup>" if note else ""),
            "font": {"size": 13},
        },
    )
    for update, labels, title in (
        (figure.update_xaxes, readers, "reader"),
        (figure.update_yaxes, writers, "writer"),
    ):
        step = max(1, -(-len(labels) // 100))
        update(
            tickmode="array",
            tickvals=list(range(0, len(labels), step)),
            ticktext=[plotly_text(label) for label in labels[::step]],
            tickfont={"size": 9},
            title={"text": title, "font": {"size": 12}},
            showgrid=False,
            zeroline=False,
            automargin=True,
        )
    figure.update_xaxes(tickangle=-90)
    return figure


def _strongest(view: "View", show: int | None) -> "tuple[View, str]":
    """The writers and readers with the strongest edges, in their order; and how many of how many, in words."""
    size = np.nan_to_num(np.abs(view.values))
    kept = [np.sort(np.argsort(-size.max(axis=axis, initial=0.0), kind="stable")[:show]) for axis in (1, 0)]
    if tuple(map(len, kept)) == view.shape:
        return view, ""
    part = view.select(writer=kept[0].tolist(), reader=kept[1].tolist())
    share = 100 * np.nan_to_num(np.abs(part.values)).sum() / (size.sum() or 1.0)
    words = [
        f"{len(one)} of {count} {dim}s" for one, count, dim in zip(kept, view.shape, view.dims, strict=True)
    ]
    return part, f"those with the strongest edges: {' and '.join(words)}, {share:.0f} % of Σ|score|"


def _edge_words(writers: Sequence[str], readers: Sequence[str]) -> dict[str, Any]:
    """Hover text of each edge; only the score and the numbers of row and column where there are too many."""
    score = "%{z:+.3g}<extra></extra>"
    if len(writers) * len(readers) > _CELLS_WITH_WORDS:
        return {"hovertemplate": f"writer %{{y:d}} → reader %{{x:d}}: {score}"}
    names = [[f"{plotly_text(w)} → {plotly_text(r)}" for r in readers] for w in writers]
    return {"customdata": names, "hovertemplate": f"%{{customdata}}: {score}"}
