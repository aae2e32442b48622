"""The check of the claim as a line chart: logit gap after masking the top-k tokens, and k random tokens."""

import pandas as pd
import plotly.graph_objects as go

from lrp_lens.errors import InputError
from lrp_lens.plots.figure import Figure
from lrp_lens.plots.palette import plotly_text

_COLUMNS = ("masked", "gap", "control", "control_spread")


def plot_masking(table: pd.DataFrame, *, target: str = "target", contrast: str = "contrast") -> go.Figure:
    """Gap against the number of masked tokens; below the dashed line the preference has flipped.

    Args:
        table: columns masked (0, 1, …), gap, control (mean), control_spread (deviation), in logits.
        target: the token that the gap counts as positive.
        contrast: the token that it counts as negative.

    Raises:
        InputError: a column is missing.
    """
    missing = set(_COLUMNS) - set(table.columns)
    if missing:
        raise InputError(f"A masking table has the columns {_COLUMNS}; {sorted(missing)} are missing.")
    steps = table["masked"].tolist()
    low = (table["control"] - table["control_spread"]).tolist()
    high = (table["control"] + table["control_spread"]).tolist()
    figure = Figure()
    figure.add_trace(
        go.Scatter(
            x=[*steps, *reversed(steps)],
            y=[*high, *reversed(low)],
            mode="lines",
            fill="toself",
            fillcolor="rgba(122,131,143,0.18)",
            line={"width": 0},
            hoverinfo="skip",
            showlegend=False,
        )
    )
    hover = "%{x} masked: %{y:+.3g} logits<extra></extra>"
    figure.add_trace(
        go.Scatter(
            x=steps,
            y=table["control"].tolist(),
            mode="lines+markers",
            name="random tokens (mean ± sd)",
            line={"color": "#7a838f", "dash": "dot"},
            hovertemplate=hover,
        )
    )
    figure.add_trace(
        go.Scatter(
            x=steps,
            y=table["gap"].tolist(),
            mode="lines+markers+text",
            text=[f"{gap:+.1f}" for gap in table["gap"]],
            textposition="top right",
            cliponaxis=False,
            name="most relevant tokens",
            line={"color": "#c77f1a", "width": 3},
            marker={"size": 8},
            hovertemplate=hover,
        )
    )
    figure.add_hline(y=0, line={"dash": "dash", "width": 1, "color": "#7a838f"})
    figure.update_layout(
        template="plotly_white",
        height=300,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    gap = f"logit of {target!r} − {contrast!r}"
    figure.update_xaxes(title={"text": "masked tokens", "font": {"size": 12}}, dtick=1, zeroline=False)
    figure.update_yaxes(
        title={"text": plotly_text(gap), "font": {"size": 12}}, zeroline=False, automargin=True
    )
    return figure
