"""Two methods side by side: heat maps of both on one scale, and a scatter of one against the other.

Each row of the figure is one method: activation patching, the method, and the method against activation patching with
the identity line.  All heat maps share one symmetric scale, so equal colours are equal effects.  Columns of tokens are
labelled by them, and say their positions on hover, and the word where they are a piece of one: effects of patching are
of single tokens, and are not summed to words.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lrp_lens.errors import InputError
from lrp_lens.plots.figure import Figure
from lrp_lens.plots.palette import GREY, Palette, colour_axis, plotly_text, visible_token
from lrp_lens.plots.positions import cut_label
from lrp_lens.views.groups import words_of

if TYPE_CHECKING:
    from lrp_lens.views import View

_ROW_HEIGHT = 260
_GAP = 120
_MOST_TICKS = 24
_LONGEST = 10
_DEFAULT = {"position": "tok_{}", "source": "{}"}
"""Labels of positions of which no token is known."""


def plot_comparison(
    exact: "View", methods: "Sequence[View]", *, title: str = "", palette: Palette = "default"
) -> go.Figure:
    """Heat maps with a shared scale beside scatter plots with the identity line, one row per method.

    Args:
        exact: what the methods approximate; dims (layer, position), (layer, head) or three of them (further axes are
            laid side by side).
        methods: views of the same shape.
        title: words above the figure, e.g. the site.
        palette: "default" (blue positive) or "lrp" (red positive).

    Raises:
        InputError: no method, a view of another shape, or fewer than two dims.

    Example:
        >>> from lrp_lens.views import View
        >>> exact = View(np.eye(2), ("layer", "head"), name="exact")
        >>> len(plot_comparison(exact, [View(2 * np.eye(2), ("layer", "head"), name="twice")]).data)
        4
    """
    if not methods:
        raise InputError("A comparison shows at least one method; received none.")
    for view in methods:
        if view.shape != exact.shape or len(view.dims) < 2:
            raise InputError(
                f"Compared views have one shape of two dims or more; received {exact.shape} ({exact.name!r}) and "
                f"{view.shape} ({view.name!r})."
            )
    shown = [exact, *methods]
    top = max((float(np.nanmax(np.abs(view.values), initial=0)) for view in shown), default=0) or 1.0
    titles = []
    for view in methods:
        titles += [exact.name, view.name, f"{view.name}: r = {_correlation(view, exact)}"]
    rows = len(methods)
    height = rows * _ROW_HEIGHT + (rows - 1) * _GAP + 130
    figure = make_subplots(
        figure=Figure(),
        rows=rows,
        cols=3,
        subplot_titles=[plotly_text(one) for one in titles],
        horizontal_spacing=0.08,
        vertical_spacing=_GAP / (height - 130) if rows > 1 else 0,
    )
    for row, view in enumerate(methods, start=1):
        for column, one in enumerate((exact, view), start=1):
            add_heat_map(figure, one, row, column)
        _scatter(figure, exact, view, row)
    figure.update_layout(
        template="plotly_white",
        height=height,
        width=960,
        title={
            "text": plotly_text(f"{title} ({exact.units})" if title else exact.units),
            "font": {"size": 14},
        },
        margin={"l": 60, "r": 90, "t": 80, "b": 50},
        showlegend=False,
        coloraxis=colour_axis(top, height, palette),
    )
    figure.update_annotations(font={"size": 12})
    return figure


@dataclass(frozen=True)
class _Flat:
    """A view as rows × columns: layers by the second dim; a third dim, the heads, joins the layers."""

    values: np.ndarray
    rows: list[str]
    columns: list[str]
    """In full, for hover text."""
    ticks: list[str]
    """Of the columns, for the axis."""
    across: str
    """What the columns are."""

    @property
    def cells(self) -> list[list[str]]:
        """Hover text of each cell."""
        return [[plotly_text(f"{one}, {other}") for other in self.columns] for one in self.rows]


def _flat(view: "View") -> _Flat:
    values, dims = view.values, list(view.dims)
    if len(dims) > 2 and "head" in dims[1:]:
        values = np.moveaxis(values, dims.index("head"), 1)
        dims.remove("head")
        dims.insert(1, "head")
    upwards = 1 if len(dims) == 2 else 2
    rows = [str(one) for one in view.labels[dims[0]]]
    if upwards == 2:
        others = (
            view.labels["head"] if dims[1] == "head" else [f", {one}" for one in _named(view, dims[1])[0]]
        )
        rows = [f"{layer}{other}" for layer in rows for other in others]
    columns, ticks = _named(view, dims[upwards])
    for dim in dims[upwards + 1 :]:
        more, short = _named(view, dim)
        columns = [f"{one}, {other}" for one in columns for other in more]
        ticks = [f"{one}, {other}" for one in ticks for other in short]
    return _Flat(values.reshape(len(rows), -1), rows, columns, ticks, ", ".join(dims[upwards:]))


def _named(view: "View", dim: str) -> tuple[list[str], list[str]]:
    """Each index of a dim in full, "position 3: happy of ·unhappy", and in short, "happy"; its number without token."""
    labels = [str(one) for one in view.labels[dim]]
    if dim not in _DEFAULT:
        return labels, labels
    full, short = [], []
    words = words_of(view) if dim == "position" else ("",) * len(labels)
    for index, (label, word) in enumerate(zip(labels, words, strict=True)):
        known = label != _DEFAULT[dim].format(index)
        token = visible_token(label)
        piece = f" of {visible_token(word)}" if word else ""
        full.append(f"{dim} {index}: {token}{piece}" if known else f"{dim} {index}")
        short.append(cut_label(token, _LONGEST) if known else str(index))
    return full, short


def add_heat_map(figure: go.Figure, view: "View", row: int, column: int) -> None:
    """Cells of a view on the figure's shared scale; missing ones are grey: white is an effect of 0."""
    flat = _flat(view)
    values = flat.values
    shared = {"x": list(range(len(flat.columns))), "y": list(range(len(flat.rows))), "xgap": 1, "ygap": 1}
    shared |= {"customdata": flat.cells, "hoverongaps": False}
    hover = "%{customdata}<br>%{z:+.4g}<extra></extra>"
    figure.add_trace(
        go.Heatmap(
            z=values, coloraxis="coloraxis", hovertemplate=hover, name=plotly_text(view.name), **shared
        ),
        row=row,
        col=column,
    )
    if np.isnan(values).any():
        figure.add_trace(
            go.Heatmap(
                z=np.where(np.isnan(values), 0.0, np.nan),
                colorscale=[[0, GREY], [1, GREY]],
                showscale=False,
                hovertemplate="%{customdata}<br>missing<extra></extra>",
                name="missing",
                **shared,
            ),
            row=row,
            col=column,
        )
    _label_axes(figure, flat, row, column)


def _label_axes(figure: go.Figure, flat: _Flat, row: int, column: int) -> None:
    """Layers (and heads) up, tokens or heads across; every label where there is room."""
    for update, labels, most in (
        (figure.update_yaxes, flat.rows, 16),
        (figure.update_xaxes, flat.ticks, _MOST_TICKS),
    ):
        every = max(1, -(-len(labels) // most))
        ticks = list(range(0, len(labels), every))
        update(
            tickmode="array",
            tickvals=ticks,
            ticktext=[plotly_text(labels[tick]) for tick in ticks],
            showgrid=False,
            zeroline=False,
            tickfont={"size": 10},
            row=row,
            col=column,
        )
    crowded = any(len(one) > 2 for one in flat.ticks)
    figure.update_xaxes(
        title={"text": plotly_text(flat.across), "font": {"size": 11}, "standoff": 4},
        tickangle=-90 if crowded else 0,
        automargin=True,
        row=row,
        col=column,
    )


def _scatter(figure: go.Figure, exact: "View", view: "View", row: int) -> None:
    flat = _flat(exact)
    x, y = flat.values, _flat(view).values
    known = ~(np.isnan(x) | np.isnan(y))
    names = np.array(flat.cells, dtype=object).reshape(x.shape)[known]
    both = np.concatenate([x[known], y[known], [0.0]])
    margin = 0.05 * (both.max() - both.min() or 1.0)
    ends = [float(both.min() - margin), float(both.max() + margin)]
    figure.add_trace(
        go.Scatter(
            x=ends, y=ends, mode="lines", line={"color": "#7a838f", "dash": "dash", "width": 1},
            name="identity", hoverinfo="skip",
        ),
        row=row, col=3,
    )  # fmt: skip
    figure.add_trace(
        go.Scatter(
            x=x[known],
            y=y[known],
            mode="markers",
            marker={"size": 6, "color": "#2166ac", "opacity": 0.6},
            customdata=names.tolist(),
            hovertemplate="%{customdata}<br>exact %{x:+.4g}<br>score %{y:+.4g}<extra></extra>",
            name=plotly_text(view.name),
        ),
        row=row,
        col=3,
    )
    figure.update_xaxes(
        title={"text": plotly_text(exact.name), "font": {"size": 11}, "standoff": 4},
        range=ends,
        row=row,
        col=3,
    )
    figure.update_yaxes(
        title={"text": plotly_text(view.name), "font": {"size": 11}, "standoff": 4},
        range=ends,
        row=row,
        col=3,
    )


def _correlation(view: "View", exact: "View") -> str:
    known = ~(np.isnan(view.values) | np.isnan(exact.values))
    x, y = exact.values[known], view.values[known]
    if len(x) < 2 or not x.std() or not y.std():
        return "–"
    return f"{np.corrcoef(x, y)[0, 1]:.3f}"
