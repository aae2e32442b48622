"""Bar charts: components (embeddings, heads, MLPs, biases) by size, and segments of the prompt in their order.

Components lie one behind the other (what a head passes on has come from the embeddings), so the bars are not
parts of a whole and are not added up; the ledger is the account that sums to the metric.  Segments are disjoint, and
with the rest they do add up, to the relevance of all tokens; where that is far from the metric, the title says so.
"""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from lrp_lens.characters import signed
from lrp_lens.plots.figure import Figure, headed
from lrp_lens.plots.palette import (
    LIGHT,
    Palette,
    legend_words,
    negative_hue,
    plotly_text,
    positive_hue,
    require_dims,
)
from lrp_lens.plots.wording import headline

if TYPE_CHECKING:
    from lrp_lens.views import View


def plot_components(view: "View", *, show: int = 16, palette: Palette = "default") -> go.Figure:
    """The components with the largest |value|, largest on top.

    Args:
        view: dims ("component",) or ("neuron",).
        show: how many components to show at most; the axis says of how many.
        palette: "default" (blue positive) or "lrp" (red positive).

    Raises:
        InputError: other dims, or an unknown palette.
    """
    require_dims(view, (("component",), ("neuron",)), "plot_components")
    values = np.nan_to_num(view.values)
    shown = np.argsort(-np.abs(values), kind="stable")[:show]
    of = f", the largest {len(shown)} of {len(values)}" if len(shown) < len(values) else ""
    return _bars(view, shown.tolist(), of, palette)


def plot_segments(view: "View", *, palette: Palette = "default") -> go.Figure:
    """Relevance of named parts of the prompt, in the order they were given, what no part holds last.

    Args:
        view: dims ("segment",), ("message",) or ("role",), as `cache.segments({"facts": (1, 20)})` gives it.
        palette: "default" (blue positive) or "lrp" (red positive).

    Raises:
        InputError: other dims, or an unknown palette.

    Example:
        >>> from lrp_lens.views import View
        >>> parts = View(np.array([2.0, -0.5]), ("segment",), {"segment": ("facts", "(rest)")})
        >>> plot_segments(parts).data[0].x
        (2.0, -0.5)
    """
    require_dims(view, (("segment",), ("message",), ("role",)), "plot_segments")
    total = float(np.nan_to_num(view.values).sum())
    return _bars(view, list(range(view.shape[0])), f", {signed(float(total), '+.3g')} together", palette)


def _bars(view: "View", shown: list[int], note: str, palette: Palette) -> go.Figure:
    """Horizontal bars of some entries of a view, first on top."""
    values = np.nan_to_num(view.values)
    labels = view.axis_labels(view.dims[0])
    names = [plotly_text(labels[i]) for i in shown]
    amounts = [float(values[i]) for i in shown]
    colours = {True: LIGHT[positive_hue(palette)], False: LIGHT[negative_hue(palette)]}
    figure = Figure(
        go.Bar(
            x=amounts,
            y=list(range(len(names))),
            orientation="h",
            marker={"color": [f"rgb{colours[amount >= 0]}" for amount in amounts]},
            text=[signed(float(amount)) for amount in amounts],
            textposition="outside",
            cliponaxis=False,
            customdata=[[name] for name in names],
            hovertemplate=f"%{{customdata[0]}}<br>%{{x:+.4g}} {plotly_text(view.units)}<extra></extra>",
            name=plotly_text(view.name),
        )
    )
    words, said = plotly_text(", ".join(legend_words(view, palette))), plotly_text(headline(view))
    low, high = min([0.0, *amounts]), max([0.0, *amounts])
    room = 0.2 * ((high - low) or 1.0)
    figure.update_layout(
        template="plotly_white",
        height=22 * len(names) + (130 if said else 110),
        margin={"l": 10, "r": 10, "t": 60 if said else 40, "b": 10},
        title=headed(words + (f"<br><sup>{said}</sup>" if said else "")),
        bargap=0.25,
    )
    figure.update_xaxes(
        range=[low - room, high + room], title={"text": plotly_text(view.units) + note, "font": {"size": 11}}
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=names,
        title={"text": "neuron" if view.dims == ("neuron",) else None, "font": {"size": 11}},
        autorange="reversed",
        automargin=True,
        showgrid=False,
        zeroline=False,
        tickfont={"size": 11},
    )
    return figure
