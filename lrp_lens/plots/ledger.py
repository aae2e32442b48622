"""The ledger as a waterfall: from the metric's parts to the metric itself.

Rows of one kind are added up (a model of 12 layers has a hundred biases); the hover text lists the largest of
them. The last bar is the total, the metric. A remainder is always shown, other kinds only
where they hold anything.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from lrp_lens.characters import signed
from lrp_lens.errors import InputError
from lrp_lens.plots.figure import Figure
from lrp_lens.plots.palette import LIGHT, Palette, negative_hue, plotly_text, positive_hue, require_table

_LISTED = 6


@runtime_checkable
class LedgerLike(Protocol):
    """What the waterfall reads of a Ledger."""

    towards: tuple[str, str] | None

    def to_dataframe(self) -> pd.DataFrame:
        """One row per entry: layer, name, kind, amount; and example for a batch."""
        ...


def plot_ledger(
    table: pd.DataFrame | LedgerLike,
    *,
    towards: tuple[str, str] | None = None,
    units: str = "logits",
    palette: Palette = "default",
) -> go.Figure:
    """Waterfall of a ledger.

    Args:
        table: a ledger, or its table `ledger.to_dataframe()`, with the columns layer, name, kind, amount.
        towards: the two ends of the metric in words; None takes the ledger's.
        units: units of the amounts.
        palette: "default" (blue positive) or "lrp" (red positive).

    Raises:
        InputError: not a table, a missing column, or several examples.
    """
    if isinstance(table, LedgerLike):
        towards, table = towards or table.towards, table.to_dataframe()
    remedy = "Pass `cache.ledger()` or its `.to_dataframe()`."
    require_table(table, ("name", "kind", "amount"), "plot_ledger", remedy)
    if "example" in table and table["example"].nunique() > 1:
        raise InputError(
            f"A waterfall shows one example; received {table['example'].nunique()}. "
            'Pick one with ledger.plot(example=0), or table[table["example"] == 0].'
        )
    groups = [
        (str(kind), rows, float(rows["amount"].sum())) for kind, rows in table.groupby("kind", sort=False)
    ]
    groups = [one for one in groups if one[2] or one[0] == "remainder"]
    kinds = [kind for kind, _, _ in groups]
    amounts = [amount for _, _, amount in groups]
    hover = [_hover(kind, rows, units) for kind, rows, _ in groups]
    total = sum(amounts, 0.0)
    hues = {True: LIGHT[positive_hue(palette)], False: LIGHT[negative_hue(palette)]}
    names = [*kinds, "total"]
    figure = Figure(
        go.Waterfall(
            orientation="h",
            measure=[*["relative"] * len(kinds), "total"],
            x=[*amounts, total],
            y=list(range(len(names))),
            text=[_number(amount) for amount in (*amounts, total)],
            textposition="outside",
            cliponaxis=False,
            increasing={"marker": {"color": f"rgb{hues[True]}"}},
            decreasing={"marker": {"color": f"rgb{hues[False]}"}},
            totals={"marker": {"color": "#7a838f"}},
            connector={"line": {"width": 1, "color": GREY_LINE, "dash": "dot"}},
            customdata=[
                [text] for text in (*hover, f"total: {signed(float(total), '+.4g')} {plotly_text(units)}")
            ],
            hovertemplate="%{customdata[0]}<extra></extra>",
        )
    )
    levels = [0.0]
    for amount in amounts:
        levels.append(levels[-1] + amount)
    room = 0.35 * ((max(levels) - min(levels)) or 1.0)
    figure.update_layout(
        template="plotly_white",
        height=34 * len(names) + 90,
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
        title={"text": plotly_text(_legend(towards, palette)), "font": {"size": 13}, "x": 0, "xref": "paper"},
        showlegend=False,
    )
    figure.update_xaxes(
        range=[min(levels) - room, max(levels) + room],
        title={"text": plotly_text(units), "font": {"size": 11}},
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(names))),
        ticktext=[plotly_text(name) for name in names],
        autorange="reversed",
        automargin=True,
        showgrid=False,
        zeroline=False,
    )
    return figure


GREY_LINE = "#9aa3ad"


def _number(amount: float) -> str:
    """Two decimals, as the bars of other figures have, unless there is nothing left of the number."""
    return signed(float(amount), "+.2f" if abs(amount) >= 0.005 or not amount else "+.0e")


def _legend(towards: tuple[str, str] | None, palette: Palette) -> str:
    ends = ("adds", "takes away") if towards is None else [f"towards {end!r}" for end in towards]
    return f"{positive_hue(palette)}: {ends[0]}, {negative_hue(palette)}: {ends[1]}"


def _name(row: pd.Series) -> str:
    """An entry's name with its layer, if it lies in one: L3 b_O."""
    return f"{layer_name(row.get('layer'))} {row['name']}".strip()


def layer_name(layer: Any) -> str:
    """The layer of a ledger's row: L3, or nothing outside the blocks.

    Example:
        >>> layer_name(3), layer_name("L3"), layer_name(float("nan"))
        ('L3', 'L3', '')
    """
    if isinstance(layer, str):
        return layer
    return "" if layer is None or pd.isna(layer) else f"L{int(layer)}"


def _hover(kind: str, rows: pd.DataFrame, units: str) -> str:
    """The kind's sum and its largest entries."""
    order = np.argsort(-rows["amount"].abs().to_numpy(), kind="stable")
    lines = [
        f"<b>{plotly_text(kind)}</b>: {signed(float(rows['amount'].sum()), '+.4g')} {plotly_text(units)}"
    ]
    for _, row in rows.iloc[order[:_LISTED]].iterrows():
        lines.append(f"{plotly_text(_name(row))}: {signed(float(row['amount']), '+.4g')}")
    if len(order) > _LISTED:
        lines.append(f"… and {len(order) - _LISTED} more")
    return "<br>".join(lines)
