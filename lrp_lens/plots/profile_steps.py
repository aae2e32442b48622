"""Where profiles move most: |step| of each profile at each transition as a heat map, the peak of each row boxed."""

import numpy as np
import plotly.graph_objects as go

from lrp_lens.attribution_graphs.arrays import transition_steps
from lrp_lens.plots.figure import Figure
from lrp_lens.plots.palette import plotly_text
from lrp_lens.views import View


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
