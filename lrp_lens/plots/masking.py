"""The check of the claim as a line chart: logit gap after masking the top-k words, and random ones.

1. The claim's curve, and one pale dot for every random draw at every k, with their mean.
2. The verdict compares means over k: the claim's mean is a dashed line, the interval of random draws a band.
"""

from collections.abc import Sequence
from math import isfinite

import pandas as pd
import plotly.graph_objects as go

from lrp_lens.characters import signed
from lrp_lens.errors import InputError
from lrp_lens.plots.figure import Figure
from lrp_lens.plots.palette import plotly_text

_CLAIM, _GREY = "#c77f1a", "#7a838f"
_COLUMNS = ("masked", "gap", "control", "control_spread")


def plot_masking(
    table: pd.DataFrame,
    *,
    target: str = "target",
    contrast: str = "contrast",
    random: Sequence[Sequence[float]] = (),
    unit: str = "token",
    interval: tuple[float, float] | None = None,
) -> go.Figure:
    """Gap against the number of masked words; below the dashed line at 0 the contrast is ahead.

    Args:
        table: columns masked (0, 1, …), gap, control (mean), control_spread (deviation), in logits.
        target: the token that the gap counts as positive.
        contrast: the token that it counts as negative.
        random: for each row of the table, the gaps of the random draws; NaN are left out.  Without them, the band
            is mean ± deviation.
        unit: what is masked, one after another: "token" or "word".
        interval: lowest and highest mean gap of nine in ten random draws, drawn as a band.

    Raises:
        InputError: a column is missing.
    """
    missing = set(_COLUMNS) - set(table.columns)
    if missing:
        raise InputError(f"A masking table has the columns {_COLUMNS}; {sorted(missing)} are missing.")
    steps = table["masked"].tolist()
    figure = Figure()
    if interval is None or not all(map(isfinite, interval)):
        low = (table["control"] - table["control_spread"]).tolist()
        high = (table["control"] + table["control_spread"]).tolist()
        _band(figure, steps, low, high)
    elif len(steps) > 1:
        ends = [steps[1] - 0.3, steps[-1] + 0.3]
        _band(figure, ends, [interval[0]] * 2, [interval[1]] * 2)
    hover = "%{x} masked: %{signed(y, '+.3g')} logits<extra></extra>"
    dots = [(k, gap) for k, row in zip(steps, random, strict=False) if k for gap in row if isfinite(gap)]
    if dots:
        figure.add_trace(
            go.Scatter(
                x=[k for k, _ in dots],
                y=[gap for _, gap in dots],
                mode="markers",
                marker={"size": 5, "color": _GREY, "opacity": 0.45},
                name="random draws",
                hovertemplate=hover,
                showlegend=False,
            )
        )
    figure.add_trace(
        go.Scatter(
            x=steps,
            y=table["control"].tolist(),
            mode="lines+markers",
            name=f"random {unit}s, mean",
            line={"color": _GREY, "dash": "dot"},
            hovertemplate=hover,
        )
    )
    if interval is not None and len(steps) > 1:
        mean = float(table["gap"][1:].mean())
        figure.add_trace(
            go.Scatter(
                x=[steps[1] - 0.3, steps[-1] + 0.3],
                y=[mean, mean],
                mode="lines",
                line={"color": _CLAIM, "dash": "dash", "width": 1.5},
                hovertemplate=f"mean over k: {signed(mean, '+.3g')} logits<extra></extra>",
                showlegend=False,
            )
        )
    figure.add_trace(
        go.Scatter(
            x=steps,
            y=table["gap"].tolist(),
            mode="lines+markers+text",
            text=[signed(gap, "+.1f") for gap in table["gap"]],
            textposition="top center",
            cliponaxis=False,
            name=f"blamed {unit}s",
            line={"color": _CLAIM, "width": 3},
            marker={"size": 8},
            hovertemplate=hover,
        )
    )
    figure.add_hline(y=0, line={"dash": "dash", "width": 1, "color": _GREY})
    figure.update_layout(
        template="plotly_white",
        height=300,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
    )
    gap = f"logit of {target!r} − {contrast!r}"
    figure.update_xaxes(title={"text": f"masked {unit}s", "font": {"size": 12}}, dtick=1, zeroline=False)
    figure.update_xaxes(range=[-0.4, max(steps, default=0) + 0.4])  # room for the numbers at both ends
    figure.update_yaxes(
        title={"text": plotly_text(gap), "font": {"size": 12}}, zeroline=False, automargin=True
    )
    return figure


def _band(figure: Figure, steps: Sequence[float | int], low: Sequence[float], high: Sequence[float]) -> None:
    """A pale area between two lines."""
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
