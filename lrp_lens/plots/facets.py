"""Facets of a patching sweep side by side: heat maps of several sites, all on one scale.

Equal colours are equal effects in every panel, so the panels can be compared.  What a rule cuts off, or a method does
not define, is missing (NaN) and grey, never white: white is an effect of 0.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lrp_lens.errors import InputError
from lrp_lens.plots.comparison import add_heat_map
from lrp_lens.plots.figure import Figure
from lrp_lens.plots.palette import Palette, colour_axis, plotly_text

if TYPE_CHECKING:
    from lrp_lens.views import View

_ACROSS = 3
_GAP = 120


def plot_facets(
    views: "Mapping[str, View] | Sequence[View]", *, title: str = "", palette: Palette = "default"
) -> go.Figure:
    """One heat map per facet, three in a row, with one colour scale.

    Args:
        views: facet → view, e.g. `{site: comparison.view(site, "RELP") for site in sites}`, or views with names of
            their own; dims (layer, head), (layer, position) or three of them (further axes are laid side by side).
        title: words above the figure, e.g. the method.
        palette: "default" (blue positive) or "lrp" (red positive).

    Raises:
        InputError: no view, one of fewer than two dims, or views of several units.

    Example:
        >>> from lrp_lens.views import View
        >>> q, k = (View(np.eye(2), ("layer", "head"), name=name) for name in ("q", "k"))
        >>> [note.text for note in plot_facets([q, k]).layout.annotations]
        ['q', 'k']
    """
    named = dict(views) if isinstance(views, Mapping) else {view.name: view for view in views}
    if not named or len(named) < len(views):
        raise InputError(
            f"Facets are one or more views with names of their own; received {[*named]} for {len(views)} views. "
            "Pass name → view."
        )
    for name, view in named.items():
        if len(view.dims) < 2:
            raise InputError(f"A facet has two dims or more; received {view.dims} ({name!r}).")
    units = {view.units for view in named.values()}
    if len(units) > 1:
        raise InputError(f"Facets on one scale have the same units; received {sorted(units)}.")
    (unit,) = units
    top = max(float(np.nanmax(np.abs(view.values), initial=0)) for view in named.values()) or 1.0
    across = min(_ACROSS, len(named))
    rows = -(-len(named) // across)
    height = rows * 240 + (rows - 1) * _GAP + 130
    figure = make_subplots(
        figure=Figure(),
        rows=rows,
        cols=across,
        subplot_titles=[_title(name, view) for name, view in named.items()],
        horizontal_spacing=0.08,
        vertical_spacing=_GAP / (height - 130) if rows > 1 else 0,
    )
    for index, view in enumerate(named.values()):
        row, column = index // across + 1, index % across + 1
        add_heat_map(figure, view, row, column)
    for index in range(len(named), rows * across):
        figure.update_xaxes(visible=False, row=index // across + 1, col=index % across + 1)
        figure.update_yaxes(visible=False, row=index // across + 1, col=index % across + 1)
    figure.update_layout(
        template="plotly_white",
        height=height,
        width=340 * across + 60 if across < _ACROSS else 960,
        title={"text": plotly_text(f"{title} ({unit})" if title else unit), "font": {"size": 14}},
        margin={"l": 60, "r": 90, "t": 80, "b": 50},
        coloraxis=colour_axis(top, height, palette),
    )
    figure.update_annotations(font={"size": 12})
    return figure


def _title(name: str, view: "View") -> str:
    """The facet's name, and what share of its cells is missing."""
    missing = float(np.isnan(view.values).mean()) if view.values.size else 0.0
    if not missing:
        return plotly_text(name)
    return plotly_text(f"{name} ({'all' if missing == 1 else f'{100 * missing:.0f} %'} missing)")
