"""Bar chart of components: embeddings, heads, MLPs, biases.

Components lie one behind the other (what a head passes on has come from the embeddings), so the bars are not
parts of a whole and are not added up; the ledger is the account that sums to the metric.
"""

import numpy as np
import plotly.graph_objects as go

from lrp_lens.plots.palette import (
    LIGHT,
    Palette,
    legend_words,
    negative_hue,
    plotly_text,
    positive_hue,
    require_dims,
)
from lrp_lens.views import View


def plot_components(view: View, *, show: int = 16, palette: Palette = "default") -> go.Figure:
    """The components with the largest |value|, largest on top.

    Args:
        view: dims ("component",).
        show: how many components to show at most; the axis says of how many.
        palette: "default" (blue positive) or "lrp" (red positive).

    Raises:
        InputError: other dims, or an unknown palette.
    """
    require_dims(view, (("component",),), "plot_components")
    values = np.nan_to_num(view.values)
    shown = np.argsort(-np.abs(values), kind="stable")[:show]
    components = view.axis_labels("component")
    names = [plotly_text(components[i]) for i in shown]
    amounts = [float(values[i]) for i in shown]
    of = f", the largest {len(shown)} of {len(values)}" if len(shown) < len(values) else ""
    colours = {True: LIGHT[positive_hue(palette)], False: LIGHT[negative_hue(palette)]}
    figure = go.Figure(
        go.Bar(
            x=amounts,
            y=list(range(len(names))),
            orientation="h",
            marker={"color": [f"rgb{colours[amount >= 0]}" for amount in amounts]},
            text=[f"{amount:+.2f}" for amount in amounts],
            textposition="outside",
            cliponaxis=False,
            customdata=[[name] for name in names],
            hovertemplate=f"%{{customdata[0]}}<br>%{{x:+.4g}} {plotly_text(view.units)}<extra></extra>",
            name=view.name,
        )
    )
    positive, negative = legend_words(view, palette)
    low, high = min([0.0, *amounts]), max([0.0, *amounts])
    room = 0.16 * ((high - low) or 1.0)
    figure.update_layout(
        template="plotly_white",
        height=22 * len(names) + 110,
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
        title={"text": plotly_text(f"{positive}, {negative}"), "font": {"size": 13}, "x": 0, "xref": "paper"},
        bargap=0.25,
    )
    figure.update_xaxes(
        range=[low - room, high + room], title={"text": plotly_text(view.units) + of, "font": {"size": 11}}
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=names,
        autorange="reversed",
        automargin=True,
        showgrid=False,
        zeroline=False,
        tickfont={"size": 11},
    )
    return figure
