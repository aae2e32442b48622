"""Two methods side by side: heat maps of both on one scale, and a scatter of one against the other.

Each row of the figure is one method: activation patching, the method, and the method against activation patching with
the identity line.  All heat maps share one symmetric scale, so equal colours are equal effects.
"""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lrp_lens.errors import InputError
from lrp_lens.plots.palette import GREY, Palette, colorscale, plotly_text, scale_ticks
from lrp_lens.views import View

_ROW_HEIGHT = 260
_GAP = 70


def plot_comparison(
    exact: View, methods: Sequence[View], *, title: str = "", palette: Palette = "default"
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
        coloraxis={
            "colorscale": colorscale(palette),
            "cmin": -top,
            "cmax": top,
            "cmid": 0,
            "colorbar": {"thickness": 10, "x": 1.01, "len": min(1.0, 400 / height), **scale_ticks(top)},
        },
    )
    figure.update_annotations(font={"size": 12})
    return figure


def _flat(view: View) -> tuple[np.ndarray, list[str], list[str]]:
    """The view as rows × columns: layers by the second dim; a third dim, the heads, joins the layers."""
    layers = [str(one) for one in view.labels[view.dims[0]]]
    if len(view.dims) == 2:
        return view.values, layers, [str(one) for one in view.labels[view.dims[1]]]
    values, dims = view.values, view.dims
    if "head" in dims[1:]:
        values = np.moveaxis(values, dims.index("head"), 1)
        heads = [str(one) for one in view.labels["head"]]
        rest = [dim for dim in dims[1:] if dim != "head"]
    else:
        heads, rest = [str(one) for one in view.labels[dims[1]]], list(dims[2:])
    rows = [layer + head for layer in layers for head in heads]
    labels = [str(one) for one in view.labels[rest[0]]]
    for dim in rest[1:]:
        labels = [f"{one}, {other}" for one in labels for other in view.labels[dim]]
    return values.reshape(len(rows), -1), rows, labels


def add_heat_map(figure: go.Figure, view: View, row: int, column: int) -> None:
    """Cells of a view on the figure's shared scale; missing ones are grey: white is an effect of 0."""
    values, rows, columns = _flat(view)
    shared = {"x": list(range(len(columns))), "y": list(range(len(rows))), "xgap": 1, "ygap": 1}
    words = [[f"{plotly_text(one)}, {plotly_text(other)}" for other in columns] for one in rows]
    shared |= {"customdata": words, "hoverongaps": False}
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
    _label_axes(figure, view, row, column)


def _label_axes(figure: go.Figure, view: View, row: int, column: int) -> None:
    """Layers (and heads) up, positions or heads across; every label where there is room."""
    _, rows, columns = _flat(view)
    for update, labels, most in ((figure.update_yaxes, rows, 16), (figure.update_xaxes, columns, 16)):
        every = max(1, -(-len(labels) // most))
        ticks = list(range(0, len(labels), every))
        update(
            tickmode="array",
            tickvals=ticks,
            ticktext=[plotly_text(labels[tick].removeprefix("tok_")) for tick in ticks],
            showgrid=False,
            zeroline=False,
            tickfont={"size": 10},
            row=row,
            col=column,
        )
    across = "head" if view.dims[-1] == "head" and len(view.dims) == 2 else "position"
    figure.update_xaxes(title={"text": across, "font": {"size": 11}, "standoff": 4}, row=row, col=column)


def _scatter(figure: go.Figure, exact: View, view: View, row: int) -> None:
    x, rows, columns = _flat(exact)
    y, _, _ = _flat(view)
    known = ~(np.isnan(x) | np.isnan(y))
    names = np.array([[f"{one}, {other}" for other in columns] for one in rows], dtype=object)[known]
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
            customdata=[plotly_text(one) for one in names],
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


def _correlation(view: View, exact: View) -> str:
    known = ~(np.isnan(view.values) | np.isnan(exact.values))
    x, y = exact.values[known], view.values[known]
    if len(x) < 2 or not x.std() or not y.std():
        return "–"
    return f"{np.corrcoef(x, y)[0, 1]:.3f}"
