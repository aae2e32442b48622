"""The figure that suits a view, by its axes: what `View.plot` draws."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from lrp_lens.errors import InputError
from lrp_lens.markup import Html
from lrp_lens.plots.bars import plot_components, plot_segments
from lrp_lens.plots.circuits import plot_component_edges
from lrp_lens.plots.cumulative import plot_cumulative
from lrp_lens.plots.graph_profiles import plot_composition
from lrp_lens.plots.maps import plot_heads, plot_layers, plot_sources
from lrp_lens.plots.tokens_html import token_heatmap_html
from lrp_lens.plots.wording import text_dims

if TYPE_CHECKING:
    from lrp_lens.views import View

FIGURES: dict[tuple[str, ...], Callable[..., go.Figure | Html]] = {
    **dict.fromkeys([*text_dims(), *text_dims("batch")], token_heatmap_html),
    **dict.fromkeys(text_dims("layer"), plot_layers),
    **dict.fromkeys(text_dims("layer", "head"), plot_sources),
    ("layer", "head"): plot_heads,
    ("component",): plot_components,
    ("neuron",): plot_components,
    ("segment",): plot_segments,
    ("message",): plot_segments,
    ("role",): plot_segments,
    ("layer",): plot_cumulative,
    ("layer", "component"): plot_composition,
    ("writer", "reader"): plot_component_edges,
}
"""Dims → the plot function for views of these dims."""


def plot_view(view: "View", **options: Any) -> go.Figure | Html:
    """Draw a view by the plot function for its dims; `FIGURES` lists them.

    Args:
        view: any view.
        options: those of the plot function, e.g. `palette="lrp"`.

    Raises:
        InputError: no figure shows these dims, or what the plot function refuses.

    Example:
        >>> import numpy as np
        >>> from lrp_lens.views import View
        >>> plot_view(View(np.eye(2), ("layer", "head"))).data[0].type
        'heatmap'
    """
    draw = FIGURES.get(view.dims)
    if draw is None:
        shown = ", ".join(" × ".join(dims) for dims in FIGURES)
        within = view.dims[1:] in FIGURES and view.dims[0] == "batch"
        remedy = "Pick one example with .select(batch=0)." if within else "Use .select or .sum first."
        raise InputError(
            f"There are figures of {shown}; received {' × '.join(view.dims) or 'a scalar'} ({view.name!r}). {remedy}"
        )
    return draw(view, **options)
