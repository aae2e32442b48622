"""The prediction token through the layers: what its relevance consists of, and where profiles move most.

1. `plot_composition`: stacked bars, one per boundary; positive parts above 0, negative ones below, the node's relevance
   as a line.  Parts that are nowhere worth a hundredth of the largest bar are one grey remainder.
2. `plot_profile_steps`: |step| of each profile at each transition as a heat map, the peak of each row boxed.
"""

import numpy as np
import plotly.graph_objects as go

from lrp_lens.attribution_graphs.arrays import transition_steps
from lrp_lens.plots.figure import Figure
from lrp_lens.plots.palette import CATEGORIES, plotly_text, require_dims
from lrp_lens.views import View

_OTHER, _LINE = "#d9dce1", "#16191d"
_WORTH = 0.01


def plot_composition(view: View) -> go.Figure:
    """Stacked bars of `composition(graph)`.

    Args:
        view: dims ("layer", "component").

    Raises:
        InputError: other dims.
    """
    require_dims(view, (("layer", "component"),), "plot_composition")
    names, layers = view.axis_labels("component"), [plotly_text(one) for one in view.axis_labels("layer")]
    size = np.abs(view.values)
    worth = size.max(axis=0, initial=0.0) > _WORTH * size.max(initial=0.0)
    place = list(range(len(layers)))
    bars = [
        _bar(place, view.values[:, i], name, CATEGORIES[i % len(CATEGORIES)], view.units)
        for i, name in enumerate(names)
        if worth[i]
    ]
    if not worth.all():
        small = [name for name, kept in zip(names, worth, strict=True) if not kept]
        bars.append(_bar(place, view.values[:, ~worth].sum(axis=1), ", ".join(small), _OTHER, view.units))
    total = go.Scatter(
        x=place,
        y=view.values.sum(axis=1),
        mode="lines+markers",
        name="relevance",
        line={"color": _LINE, "width": 1.5},
        marker={"size": 5},
        hovertemplate=f"relevance %{{y:+.4g}} {plotly_text(view.units)}<extra></extra>",
    )
    figure = Figure([*bars, total])
    figure.update_layout(
        template="plotly_white",
        barmode="relative",
        bargap=0.25,
        height=420,
        title={"text": plotly_text(view.name), "font": {"size": 14}},
        margin={"l": 10, "r": 10, "t": 50, "b": 10},
        hovermode="x unified",
    )
    figure.update_xaxes(tickmode="array", tickvals=place, ticktext=layers, automargin=True)
    figure.update_yaxes(title={"text": plotly_text(view.units), "font": {"size": 11}}, automargin=True)
    return figure


def _bar(place: list[int], values: np.ndarray, name: str, colour: str, units: str) -> go.Bar:
    label = plotly_text(name)
    return go.Bar(
        x=place,
        y=values,
        name=label if len(label) <= 40 else f"{name.count(',') + 1} small parts",
        marker={"color": colour},
        hovertemplate=f"{label} %{{y:+.4g}} {plotly_text(units)}<extra></extra>",
    )


def plot_profile_steps(profiles: View) -> go.Figure:
    """Heat map of |step| at each transition, one row per profile; the largest of each row is boxed.

    Args:
        profiles: dims ("layer",) or ("batch", "layer"), from `relevance_profile` or `profiles`.

    Raises:
        InputError: other dims.
    """
    steps = transition_steps(profiles)
    values = np.atleast_2d(steps.values)
    rows = steps.axis_labels("batch") if "batch" in steps.dims else (profiles.name,)
    columns = [plotly_text(one) for one in steps.axis_labels("layer")]
    places = list(range(values.shape[1]))
    figure = Figure(
        go.Heatmap(
            z=np.abs(values),
            x=places,
            y=list(range(len(rows))),
            customdata=values,
            zmin=0,
            colorscale=[[0, "#f7f7f7"], [0.5, "#92c5de"], [1, "#2166ac"]],
            colorbar={"title": {"text": "|step|", "font": {"size": 11}}, "thickness": 10},
            hovertemplate="step %{customdata:+.4g}<extra></extra>",
        )
    )
    for row, column in enumerate(np.abs(values).argmax(axis=1).tolist()):
        figure.add_shape(
            type="rect", x0=column - 0.5, x1=column + 0.5, y0=row - 0.5, y1=row + 0.5,
            line={"color": "#b2182b", "width": 2},
        )  # fmt: skip
    figure.update_layout(
        template="plotly_white",
        height=max(220, 24 * len(rows) + 150),
        title={"text": "where profiles move most (boxed: the peak transition)", "font": {"size": 14}},
        margin={"l": 80, "r": 10, "t": 50, "b": 10},
    )
    figure.update_xaxes(tickmode="array", tickvals=places, ticktext=columns, tickangle=-45, automargin=True)
    figure.update_yaxes(
        tickmode="array", tickvals=list(range(len(rows))), ticktext=[plotly_text(one) for one in rows],
        autorange="reversed", automargin=True,
    )  # fmt: skip
    return figure
