"""A logit-difference decomposition: direct contributions as a waterfall, indirect ones beside it.

Left: what each component adds directly, one step after the other, from 0 to the metric.  Right: what it adds
through other components; those overlap, so they are bars from 0 and are not added up.
"""

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from lrp_lens.characters import signed
from lrp_lens.errors import InputError
from lrp_lens.plots.figure import Figure, headed
from lrp_lens.plots.palette import (
    LIGHT,
    Palette,
    negative_hue,
    plotly_text,
    positive_hue,
    require_table,
)

_COLUMNS = ("component", "direct", "indirect", "total")
_CONNECTOR, _TOTAL = "#9aa3ad", "#7a838f"


def plot_decomposition(
    table: pd.DataFrame,
    *,
    show: int = 16,
    towards: tuple[str, str] | None = None,
    units: str = "logits",
    palette: Palette = "default",
) -> go.Figure:
    """Waterfall of direct contributions and bars of indirect ones.

    The components with the largest |direct| or |indirect| are shown in the order of the forward pass; the others'
    direct contributions are one step, so that the waterfall ends at the metric.

    Args:
        table: `decompose(...).table()` of one example.
        show: how many components to show at most.
        towards: `decompose(...).towards`, the two ends of the metric in words.
        units: units of the contributions.
        palette: "default" (blue positive) or "lrp" (red positive).

    Raises:
        InputError: not a table, a missing column, or several examples.
    """
    remedy = "Pass `decomposition.table()`, or call `decomposition.plot()`."
    require_table(table, _COLUMNS, "plot_decomposition", remedy)
    if "example" in table and table["example"].nunique() > 1:
        raise InputError(
            f"A waterfall shows one example; received {table['example'].nunique()}. "
            'Pick one with table[table["example"] == 0].'
        )
    shown, rest = _largest(table.reset_index(drop=True), show)
    names = [str(name) for name in shown["component"]]
    direct = [float(value) for value in shown["direct"]]
    hover = [_hover(row, units) for _, row in shown.iterrows()]
    if len(rest):
        names.append(f"({len(rest)} others)")
        direct.append(float(rest["direct"].sum()))
        hover.append(
            f"<b>{len(rest)} others</b><br>direct {signed(float(direct[-1]), '+.4g')} {plotly_text(units)}"
        )
    metric = float(table["direct"].sum())
    rows = list(range(len(names) + 1))
    hues = {True: f"rgb{LIGHT[positive_hue(palette)]}", False: f"rgb{LIGHT[negative_hue(palette)]}"}
    figure = make_subplots(
        figure=Figure(),
        rows=1,
        cols=2,
        shared_yaxes=True,
        column_widths=[0.6, 0.4],
        horizontal_spacing=0.04,
        subplot_titles=("direct: adds up to the metric", "indirect: through other components"),
    )
    figure.add_trace(
        go.Waterfall(
            orientation="h",
            measure=[*["relative"] * len(names), "total"],
            x=[*direct, metric],
            y=rows,
            text=[_number(value) for value in (*direct, metric)],
            textposition="outside",
            cliponaxis=False,
            increasing={"marker": {"color": hues[True]}},
            decreasing={"marker": {"color": hues[False]}},
            totals={"marker": {"color": _TOTAL}},
            connector={"line": {"width": 1, "color": _CONNECTOR, "dash": "dot"}},
            customdata=[
                [text] for text in (*hover, f"metric {signed(float(metric), '+.4g')} {plotly_text(units)}")
            ],
            hovertemplate="%{customdata[0]}<extra></extra>",
        ),
        row=1,
        col=1,
    )
    indirect = [float(value) for value in shown["indirect"]]
    figure.add_trace(
        go.Bar(
            orientation="h",
            x=indirect,
            y=rows[: len(indirect)],
            text=[_number(value) for value in indirect],
            textposition="outside",
            cliponaxis=False,
            marker={"color": [hues[value >= 0] for value in indirect]},
            customdata=[[text] for text in hover],
            hovertemplate="%{customdata[0]}<extra></extra>",
        ),
        row=1,
        col=2,
    )
    levels = [0.0]
    for value in direct:
        levels.append(levels[-1] + value)
    for column, (low, high) in enumerate((_span(levels), _span([0.0, *indirect])), start=1):
        words = plotly_text(units) + (", running total" if column == 1 else ", a scale of its own")
        figure.update_xaxes(range=[low, high], title={"text": words, "font": {"size": 11}}, row=1, col=column)
    figure.update_yaxes(
        tickmode="array",
        tickvals=rows,
        ticktext=[plotly_text(name) for name in (*names, "metric")],
        range=[len(names) + 0.6, -0.6],
        automargin=True,
        showgrid=False,
        zeroline=False,
        tickfont={"size": 11},
    )
    figure.update_annotations(font={"size": 12})
    figure.update_layout(
        template="plotly_white",
        height=22 * len(rows) + 136,
        margin={"l": 10, "r": 10, "t": 66, "b": 10},
        title=headed(plotly_text(_legend(towards, palette))),
        bargap=0.25,
        showlegend=False,
    )
    return figure


def _legend(towards: tuple[str, str] | None, palette: Palette) -> str:
    ends = ("positive", "negative") if towards is None else tuple(f"towards {end!r}" for end in towards)
    return f"{positive_hue(palette)}: {ends[0]}, {negative_hue(palette)}: {ends[1]}"


def _largest(table: pd.DataFrame, show: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows with the largest |direct| or |indirect|, in the table's order; and the others."""
    size = table[["direct", "indirect"]].abs().max(axis=1)
    kept = size.sort_values(ascending=False, kind="stable").index[:show]
    chosen = table.index.isin(kept)
    return table[chosen], table[~chosen]


def _span(values: list[float]) -> tuple[float, float]:
    """The range of an axis, with room for the numbers beside the bars."""
    low, high = min(values), max(values)
    room = 0.35 * ((high - low) or 1.0)
    return low - room, high + room


def _number(value: float) -> str:
    return signed(float(value), "+.2f" if abs(value) >= 0.005 or value == 0 else "+.1g")


def _hover(row: pd.Series, units: str) -> str:
    lines = [f"<b>{plotly_text(str(row['component']))}</b>"]
    lines += [
        f"{part} {signed(float(row[part]), '+.4g')} {plotly_text(units)}"
        for part in ("direct", "indirect", "total")
    ]
    return "<br>".join(lines)
