"""The prediction token through the layers: what its relevance consists of.

Stacked bars, one per boundary; positive parts above 0, negative ones below, the node's relevance as a line.  Parts that
are nowhere worth a hundredth of the largest bar are one grey remainder.
"""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from lrp_lens.plots.figure import Figure
from lrp_lens.plots.palette import CATEGORIES, plotly_text, require_dims

if TYPE_CHECKING:
    from lrp_lens.views import View

_OTHER, _LINE = "#d9dce1", "#16191d"
_WORTH = 0.01


def plot_composition(view: "View") -> go.Figure:
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
