"""Several runs of the same cases side by side: gaps, segment shares, profiles through the layers, verdicts."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrp_lens.errors import InputError
from lrp_lens.plots.figure import Figure
from lrp_lens.plots.palette import CATEGORIES, plotly_text, require_table

if TYPE_CHECKING:
    from lrp_lens.views import View

_REMEDY = "Pass the table that compare_runs makes."


def plot_run_means(table: pd.DataFrame, *, units: str) -> go.Figure:
    """Bars of means with their intervals, one for each run; grouped where there are segments.

    Args:
        table: columns run, mean, low, high, and segment or none.
        units: of the means.

    Raises:
        InputError: another table, or an empty one.
    """
    require_table(table, ("run", "mean", "low", "high"), "plot_run_means", _REMEDY)
    if not len(table):
        raise InputError(
            "plot_run_means draws one mean or more; received an empty table. These runs name no segments."
        )
    grouped = "segment" in table.columns
    names = [*dict.fromkeys(table["segment" if grouped else "run"])]
    figure = Figure()
    for index, run in enumerate(dict.fromkeys(table["run"])):
        own = table[table["run"] == run]
        mean, low, high = (own[name].to_numpy(dtype=np.float64) for name in ("mean", "low", "high"))
        figure.add_bar(
            x=[names.index(one) for one in own["segment" if grouped else "run"]],
            y=mean,
            name=plotly_text(str(run)),
            marker={"color": CATEGORIES[index % len(CATEGORIES)]},
            error_y={
                "type": "data",
                "array": np.nan_to_num(high - mean),
                "arrayminus": np.nan_to_num(mean - low),
                "thickness": 1.2,
            },
            text=[plotly_text(str(one)) for one in own["segment" if grouped else "run"]],
            textposition="none",
            hovertemplate=f"{plotly_text(str(run))}, %{{text}}: %{{y:.3g}}<extra></extra>",
        )
    figure.update_xaxes(**_named(names))
    return laid_out(figure, units, legend=grouped)


def plot_run_profiles(profiles: "dict[str, View]") -> go.Figure:
    """The mean profile of each run, through the layers.

    Args:
        profiles: run → dims (batch, layer).

    Raises:
        InputError: no profile.
    """
    if not profiles:
        raise InputError(
            "plot_run_profiles draws one profile or more; received none. These runs explained no case."
        )
    figure = Figure()
    for index, (run, view) in enumerate(profiles.items()):
        depth = np.linspace(0, 1, view.shape[1])
        figure.add_scatter(
            x=depth,
            y=view.values.mean(axis=0),
            mode="lines+markers",
            name=plotly_text(run),
            line={"color": CATEGORIES[index % len(CATEGORIES)]},
            text=[plotly_text(one) for one in view.axis_labels("layer")],
            hovertemplate=f"{plotly_text(run)}, %{{text}}: %{{y:.3g}}<extra></extra>",
        )
    figure.update_xaxes(
        title={"text": "depth, from the embedding (0) to the last layer (1)", "font": {"size": 11}}
    )
    return laid_out(figure, "fraction of max |R|")


def plot_transitions(table: pd.DataFrame) -> go.Figure:
    """How outcomes change from one run (rows) to another (columns), as a heat map with its counts.

    Args:
        table: outcome × outcome → number of cases; the axes carry the runs' names.

    Raises:
        InputError: no table.
    """
    require_table(table, (), "plot_transitions", _REMEDY)
    counts = table.to_numpy()
    rows, columns = ([plotly_text(str(one)) for one in names] for names in (table.index, table.columns))
    figure = Figure(
        go.Heatmap(
            z=counts,
            text=counts,
            texttemplate="%{text}",
            customdata=[[[row, column] for column in columns] for row in rows],
            zmin=0,
            colorscale=[[0, "#f7f7f7"], [1, CATEGORIES[0]]],
            showscale=False,
            hovertemplate="%{customdata[0]} → %{customdata[1]}: %{z}<extra></extra>",
        )
    )
    figure.update_xaxes(**_named(table.columns))
    figure.update_yaxes(autorange="reversed", **_named(table.index))
    across = str(table.columns.name).strip()
    return laid_out(figure, str(table.index.name), across=across, legend=False)


def _named(names: Iterable[Any]) -> dict[str, Any]:
    """An axis whose whole numbers have names."""
    texts = [plotly_text(str(one)) for one in names]
    return {"tickvals": list(range(len(texts))), "ticktext": texts}


def laid_out(
    figure: go.Figure, up: str, *, across: str | None = None, height: int = 360, legend: bool = True
) -> go.Figure:
    """A figure of runs with the margins, legend and titles of its axes that all of them have."""
    figure.update_layout(
        template="plotly_white",
        height=height,
        margin={"l": 10, "r": 10, "t": 30, "b": 10},
        showlegend=legend,
        legend={"orientation": "h", "y": 1.12},
    )
    for axis, title in ((figure.update_xaxes, across), (figure.update_yaxes, up)):
        axis(automargin=True)
        if title is not None:
            axis(title={"text": plotly_text(title), "font": {"size": 11}})
    return figure
