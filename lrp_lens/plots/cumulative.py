"""The metric read off after each layer, as lines: how the answer builds up, the way a logit lens shows it.

One line per way of reading.  With the last stage's norm scale (frozen), the step between two stages is what the
components between them contribute directly; with each stage's own scale (recomputed) a point is what the model would
say if it stopped there.  Both end at the metric.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from lrp_lens.errors import InputError
from lrp_lens.plots.figure import Figure
from lrp_lens.plots.palette import legend_words, plotly_text, require_dims

if TYPE_CHECKING:
    from lrp_lens.views import View

_STYLES = (("0,114,178", "solid"), ("213,94,0", "dash"), ("0,158,115", "dot"))
_MOST_TICKS = 40


def plot_cumulative(views: "View | Sequence[View]") -> go.Figure:
    """Lines of the metric over the stages of the residual stream.

    Args:
        views: one view or several of the same stages, dims ("layer",), as `decompose(...).cumulative("frozen")` and
            `.cumulative("recomputed")` give them.

    Raises:
        InputError: no view, more than three, other dims, or different stages.

    Example:
        >>> import numpy as np
        >>> from lrp_lens.views import View
        >>> stages = {"layer": ("embed", "L0 mid", "L0")}
        >>> plot_cumulative(View(np.array([0.5, 1.0, 3.0]), ("layer",), stages, "norm frozen")).data[0].y
        (0.5, 1.0, 3.0)
    """
    listed = list(views) if isinstance(views, Iterable) else [views]
    if not 1 <= len(listed) <= len(_STYLES):
        raise InputError(f"plot_cumulative draws 1 to {len(_STYLES)} views; received {len(listed)}.")
    for view in listed:
        require_dims(view, (("layer",),), "plot_cumulative")
    stages = listed[0].axis_labels("layer")
    if any(view.axis_labels("layer") != stages for view in listed):
        raise InputError("Lines of one figure have the same stages; received views with different ones.")
    figure = Figure()
    x = list(range(len(stages)))
    for view, (colour, dash) in zip(listed, _STYLES, strict=False):
        figure.add_trace(
            go.Scatter(
                x=x,
                y=view.values.tolist(),
                mode="lines+markers",
                name=plotly_text(view.name),
                line={"color": f"rgb({colour})", "dash": dash},
                marker={"size": 6},
                customdata=[[plotly_text(stage)] for stage in stages],
                hovertemplate=f"after %{{customdata[0]}}: %{{y:+.4g}} {plotly_text(view.units)}"
                f"<extra>{plotly_text(view.name)}</extra>",
            )
        )
    figure.add_hline(y=0, line={"dash": "dash", "width": 1, "color": "#7a838f"})
    every = max(1, -(-len(stages) // _MOST_TICKS))
    figure.update_layout(
        template="plotly_white",
        height=380,
        margin={"l": 10, "r": 10, "t": 76, "b": 10},
        title={"text": plotly_text(_ends(listed[0])), "font": {"size": 13}, "x": 0, "xref": "paper"},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        showlegend=True,
    )
    figure.update_xaxes(
        title={"text": "residual stream after", "font": {"size": 12}},
        tickmode="array",
        tickvals=x[::every],
        ticktext=[plotly_text(stage) for stage in stages[::every]],
        tickangle=-90 if len(stages) > 12 else 0,
        zeroline=False,
        automargin=True,
    )
    figure.update_yaxes(
        title={"text": f"metric ({plotly_text(listed[0].units)})", "font": {"size": 12}},
        zeroline=False,
        automargin=True,
    )
    return figure


def _ends(view: "View") -> str:
    """What up and down mean."""
    positive, negative = (words.partition(": ")[2] for words in legend_words(view))
    return f"up: {positive}, down: {negative}"
