"""Cases as points: the same ones in two runs, and their profiles along two principal components."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrp_lens.errors import InputError
from lrp_lens.plots.figure import Figure
from lrp_lens.plots.palette import CATEGORIES, plotly_text, require_table
from lrp_lens.plots.runs import laid_out

_LINE = {"color": "#8a8f98", "width": 1, "dash": "dash"}


def plot_gap_pairs(table: pd.DataFrame) -> go.Figure:
    """Each case as a point: its logit gap in the first run, and in each other one; below the line it is smaller.

    Args:
        table: case × run → logit gap; the first column is the run that the others are compared with.

    Raises:
        InputError: fewer than two columns, or no case whose gap two runs know.
    """
    require_table(table, (), "plot_gap_pairs", "Pass one column of logit gaps for each run.")
    first, *others = table.columns
    figure, seen = Figure(), list[float]()
    for index, run in enumerate(others):
        own = table[[first, run]].dropna()
        seen += own.to_numpy(dtype=np.float64).ravel().tolist()
        figure.add_scatter(
            x=own[first],
            y=own[run],
            mode="markers",
            name=plotly_text(str(run)),
            marker={"color": CATEGORIES[index % len(CATEGORIES)], "size": 7, "opacity": 0.75},
            text=[plotly_text(str(one)) for one in own.index],
            hovertemplate=f"%{{text}}: %{{x:.3g}} → %{{y:.3g}} in {plotly_text(str(run))}<extra></extra>",
        )
    if not seen:
        raise InputError(
            "plot_gap_pairs draws one case or more whose gap two runs know; received none. Compare runs that have "
            "logit gaps."
        )
    ends = [min(*seen, 0.0), max(*seen, 0.0)]
    figure.add_scatter(
        x=ends, y=ends, mode="lines", name="equal", line=_LINE, hoverinfo="skip", showlegend=False
    )
    up = f"logit gap in {' and '.join(map(str, others))}"
    return laid_out(figure, up, across=f"logit gap in {first}", height=400)


def plot_scores(scores: pd.DataFrame, groups: Sequence[str], shares: Sequence[float]) -> go.Figure:
    """Profiles along their first two principal components.

    Args:
        scores: columns example, PC1, PC2.
        groups: of each profile, its colour.
        shares: of the variance that each component explains.

    Raises:
        InputError: another table, or not one group for each profile.
    """
    require_table(
        scores, ("example", "PC1", "PC2"), "plot_scores", "Pass principal_components(...).scores of two."
    )
    if len(groups) != len(scores):
        raise InputError(
            f"plot_scores takes a group for each profile; received {len(groups)} for {len(scores)} profiles."
        )
    figure = Figure()
    for index, group in enumerate(dict.fromkeys(groups)):
        own = scores[[one == group for one in groups]]
        figure.add_scatter(
            x=own["PC1"],
            y=own["PC2"],
            mode="markers",
            name=plotly_text(str(group)),
            marker={"color": CATEGORIES[index % len(CATEGORIES)], "size": 7, "opacity": 0.75},
            text=[plotly_text(str(one)) for one in own["example"]],
            hovertemplate="%{text}: %{x:.3g}, %{y:.3g}<extra></extra>",
        )
    across, up = (f"PC{at + 1}, {share:.0%} of the variance" for at, share in enumerate(shares[:2]))
    return laid_out(figure, up, across=across, height=400)
