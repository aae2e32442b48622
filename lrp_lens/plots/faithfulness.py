"""Faithfulness of token methods: deletion curves side by side, and one measure per method with its interval.

A faithful method makes the metric fall at once on the left (most relevant tokens masked first) and keeps it up for
long on the right (least relevant first); ΔA is the area between a method's two curves.
"""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lrp_lens.errors import InputError
from lrp_lens.plots.figure import Figure
from lrp_lens.plots.palette import plotly_text, require_table

# Okabe & Ito's colours, safe for colour-blind readers; later methods repeat them with another dash.
_COLOURS = ("0,114,178", "213,94,0", "0,158,115", "204,121,167", "230,159,0", "86,180,233", "90,90,90")
_DASHES = ("solid", "dot", "dash")
_BANDS = 4
_PANELS = {"MoRF": "most relevant masked first", "LeRF": "least relevant masked first"}
_CURVES = ("method", "order", "masked", "mean", "low", "high")
_SUMMARY = ("method", "measure", "mean", "low", "high")


def plot_faithfulness(
    curves: pd.DataFrame, *, methods: Sequence[str] | None = None, units: str = "logits"
) -> go.Figure:
    """Mean metric against the share of masked tokens, MoRF on the left, LeRF on the right.

    Args:
        curves: columns method, order ("MoRF" or "LeRF"), masked (fraction), mean, low, high, as
            `Faithfulness.curves()` gives them.
        methods: the methods to show, in this order; None shows all. Up to four come with their intervals; one without
            values is left out.
        units: units of the metric.

    Raises:
        InputError: not a table, a missing column, or no such method.
    """
    shown = _shown(curves, _CURVES, methods, "plot_faithfulness", "result.curves()")
    shown = [one for one in shown if curves.loc[curves["method"] == one, "mean"].notna().any()]
    figure = make_subplots(
        figure=Figure(),
        rows=1,
        cols=2,
        shared_yaxes=True,
        subplot_titles=list(_PANELS.values()),
        horizontal_spacing=0.06,
    )
    for column, order in enumerate(_PANELS, start=1):
        for index, method in enumerate(shown):
            rows = curves[(curves["method"] == method) & (curves["order"] == order)].sort_values("masked")
            colour = _COLOURS[index % len(_COLOURS)]
            x = rows["masked"].tolist()
            if len(shown) <= _BANDS and rows["low"].notna().all():
                figure.add_trace(
                    go.Scatter(
                        x=[*x, *reversed(x)],
                        y=[*rows["high"], *rows["low"].iloc[::-1]],
                        fill="toself",
                        fillcolor=f"rgba({colour},0.15)",
                        line={"width": 0},
                        hoverinfo="skip",
                        showlegend=False,
                        legendgroup=method,
                    ),
                    row=1,
                    col=column,
                )
            figure.add_trace(
                go.Scatter(
                    x=x,
                    y=rows["mean"].tolist(),
                    mode="lines",
                    name=plotly_text(method),
                    legendgroup=method,
                    showlegend=column == 1,
                    line={"color": f"rgb({colour})", "dash": _DASHES[index // len(_COLOURS) % len(_DASHES)]},
                    hovertemplate=f"{plotly_text(method)}, %{{x:.0%}} masked: %{{y:+.3g}} {plotly_text(units)}"
                    "<extra></extra>",
                ),
                row=1,
                col=column,
            )
    figure.add_hline(y=0, line={"dash": "dash", "width": 1, "color": "#7a838f"})
    figure.update_layout(
        template="plotly_white",
        height=400,
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
        legend={"orientation": "v", "x": 1.02, "y": 1, "tracegroupgap": 2},
    )
    figure.update_annotations(font={"size": 13})
    figure.update_xaxes(
        title={"text": "masked tokens", "font": {"size": 12}}, tickformat=".0%", range=[0, 1], zeroline=False
    )
    figure.update_yaxes(zeroline=False, automargin=True)
    figure.update_yaxes(
        title={"text": f"metric, mean over cases ({plotly_text(units)})", "font": {"size": 12}}, col=1
    )
    return figure


def plot_faithfulness_measure(
    summary: pd.DataFrame,
    measure: str = "delta_a",
    *,
    title: str = "",
    higher_is_better: bool = True,
    reference: str = "random",
) -> go.Figure:
    """One measure: a dot with its interval per method, best on top; a dotted line at the reference method.

    Args:
        summary: columns method, measure, mean, low, high, as `Faithfulness.summary()` gives them.
        measure: which measure to show.
        title: what to call it; "" takes its name.
        higher_is_better: whether the best is the largest.
        reference: method whose mean is drawn as a line, if it is among the methods.

    Raises:
        InputError: not a table, or a missing column or measure.
    """
    _shown(summary, _SUMMARY, None, "plot_faithfulness_measure", "result.summary()")
    rows = summary[summary["measure"] == measure]
    if not len(rows):
        measures = ", ".join(dict.fromkeys(summary["measure"]))
        raise InputError(f"This summary has the measures {measures}; received {measure!r}.")
    rows = rows.dropna(subset=["mean"]).sort_values("mean", ascending=higher_is_better, kind="stable")
    names = [plotly_text(one) for one in rows["method"]]
    above, below = (rows["high"] - rows["mean"]).fillna(0), (rows["mean"] - rows["low"]).fillna(0)
    figure = Figure(
        go.Scatter(
            x=rows["mean"].tolist(),
            y=list(range(len(names))),
            mode="markers",
            marker={"size": 9, "color": f"rgb({_COLOURS[0]})"},
            error_x={
                "type": "data",
                "symmetric": False,
                "array": above.tolist(),
                "arrayminus": below.tolist(),
                "thickness": 1.5,
                "width": 4,
                "color": f"rgba({_COLOURS[0]},0.7)",
            },
            customdata=list(zip(names, rows["low"], rows["high"], strict=True)),
            hovertemplate="%{customdata[0]}: %{x:.3g} [%{customdata[1]:.3g}, %{customdata[2]:.3g}]<extra></extra>",
            showlegend=False,
        )
    )
    line = rows[rows["method"] == reference]["mean"]
    if len(line):
        figure.add_vline(
            x=float(line.iloc[0]),
            line={"dash": "dot", "width": 1.5, "color": "#7a838f"},
            annotation={"text": plotly_text(reference), "font": {"size": 11, "color": "#7a838f"}},
            annotation_position="top",
        )
    better = "more is better" if higher_is_better else "less is better"
    figure.update_layout(
        template="plotly_white", height=26 * len(names) + 90, margin={"l": 10, "r": 10, "t": 30, "b": 10}
    )
    figure.update_xaxes(
        title={"text": f"{plotly_text(title or measure)}, {better}", "font": {"size": 12}}, zeroline=False
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=names,
        automargin=True,
        zeroline=False,
        range=[-0.6, len(names) - 0.4],
    )
    return figure


def _shown(
    frame: pd.DataFrame, columns: tuple[str, ...], methods: Sequence[str] | None, what: str, call: str
) -> list[str]:
    """The methods to show; InputError for missing columns or methods."""
    require_table(frame, columns, what, f"Pass `{call}`, or call `result.plot()`.")
    known = list(dict.fromkeys(frame["method"]))
    wanted = known if methods is None else list(methods)
    if not wanted or set(wanted) - set(known):
        raise InputError(f"The methods of this table are {known}; received {wanted}.")
    return wanted
