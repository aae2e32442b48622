"""Time and peak memory against tokens, both logarithmic: a column each, a row for each host, a line for each work."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from benchmarks.scaling.tables import NAMES, medians
from lrp_lens.plots.still import still_svg

COLOURS = ("#767676", "#1f77b4", "#d62728", "#ff9896", "#2ca02c")
MEASURED = {"cpu": "processor seconds", "peak": "peak memory, GB"}


def marks(values: pd.Series) -> list[float]:
    """Round numbers (1, 2, 5, 10, ...) from below the smallest value to above the largest."""
    low, high = int(np.floor(np.log10(values.min()))), int(np.ceil(np.log10(values.max())))
    every = [step * 10.0**power for power in range(low, high + 1) for step in (1, 2, 5)]
    first = max((one for one in every if one <= values.min()), default=every[0])
    return [one for one in every if first <= one <= 2 * values.max()]


def growth(rows: pd.DataFrame) -> go.Figure:
    """The figure of the model that was measured at most lengths."""
    found = medians(rows[rows["layers"] == 0])
    lengths = found.groupby("model")["tokens"].nunique()
    model = max(lengths.index, key=lambda name: (lengths[name], name == "smollm2"))
    found = found[found["model"] == model]
    hosts = list(found["host"].unique())
    titles = [f"{host}: {words}" for host in hosts for words in MEASURED.values()]
    figure = make_subplots(rows=len(hosts), cols=2, subplot_titles=titles, horizontal_spacing=0.12)
    for row, host in enumerate(hosts, 1):
        for (work, name), colour in zip(NAMES.items(), COLOURS, strict=True):
            part = found[(found["host"] == host) & (found["work"] == work)].sort_values("tokens")
            for column, measured in enumerate(MEASURED, 1):
                line = go.Scatter(
                    x=part["tokens"], y=part[measured], name=name, mode="lines+markers", line_color=colour,
                    legendgroup=work, showlegend=row == column == 1,
                )  # fmt: skip
                figure.add_trace(line, row=row, col=column)
    figure.update_xaxes(type="log", tickvals=sorted(found["tokens"].unique()), title_text="tokens")
    for row in range(1, len(hosts) + 1):
        for column, measured in enumerate(MEASURED, 1):
            figure.update_yaxes(type="log", tickvals=marks(found[measured]), row=row, col=column)
    figure.update_layout(
        width=900, height=130 + 330 * len(hosts), margin_t=100, title_text=f"{model}: growth with the prompt"
    )
    return figure


def picture(rows: pd.DataFrame) -> str:
    """The figure as SVG."""
    drawn = still_svg(growth(rows))
    assert drawn is not None
    return drawn
