"""A View in words: the terminal repr and a small escaped HTML table for notebooks."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lrp_lens.characters import shown
from lrp_lens.markup import Cell, Html, render, table

if TYPE_CHECKING:
    from lrp_lens.views.view import View

_ROWS = 10
_WIDE = 60
"""Characters of a sentence in a table of plain text."""
_CAUTIONS = 4
"""Of a batch, so many sentences at most."""


def numbers(values: np.ndarray | float, form: str = ".4g") -> str:
    """One number, or the first few of several, as text."""
    flat = np.ravel(np.asarray(values))
    shown = ", ".join(format(float(one), form) for one in flat[:8])
    return shown + (", …" if flat.size > 8 else "")


def facts(view: "View") -> list[str]:
    """The lines above the table: axes, units, sign, totals, notes."""
    axes = " × ".join(f"{dim} {size}" for dim, size in zip(view.dims, view.shape, strict=True)) or "scalar"
    lines = [f"View {view.name!r}: {axes}; {view.units}"]
    if view.towards is not None:
        lines.append(f"positive: towards {view.towards[0]!r}, negative: towards {view.towards[1]!r}")
    missing = int(np.isnan(view.values).sum())
    total = float(np.nansum(view.values))
    line = f"sum {total:+.4g}, sum of |value| {float(np.nansum(np.abs(view.values))):.4g}"
    share = view.special_share
    if share is not None:
        line += f", special tokens hold {numbers(100 * np.asarray(share), '.1f')} % of it"
    if in_order(view):  # states of one stream, one after the other: their sum means nothing
        line = f"{len(view.values)} stages, in order"
    lines.append(line + (f", {missing} missing" if missing else ""))
    cautions = [
        f"caution{f', example {i}' if 'batch' in view.dims else ''}: {one}"
        for i, one in enumerate(view.cautions)
        if one
    ][:_CAUTIONS]
    return lines + cautions + [f"note: {note}" for note in view.notes]


def in_order(view: "View") -> bool:
    """Whether the view is a line over the layers, to be read from the first to the last."""
    return view.dims == ("layer",)


def describe(view: "View") -> str:
    """The facts and the largest values, as plain text; of a line over the layers all, in order."""
    lines = facts(view)
    if in_order(view):
        lines += [_line(*one) for one in zip(view.axis_labels("layer"), view.values, strict=True)]
        return shown("\n".join(lines))
    top = view.top(_ROWS)
    if len(top):
        table = top.assign(value=[f"{value:+.4g}" for value in top["value"]])
        if "token" in table:
            table["token"] = [repr(token) for token in table["token"]]
        if "text" in table:
            table["text"] = [
                repr(text if len(text) <= _WIDE else text[: _WIDE - 1] + "…") for text in table["text"]
            ]
        lines.append(
            f"largest {len(top)} of {view.values.size} by |value|:" if view.values.size > _ROWS else "values:"
        )
        lines.append(table.to_string(index=False))
    return shown("\n".join(lines))


def describe_html(view: "View") -> Html:
    """The same as an HTML table."""
    top = view.to_dataframe().dropna(subset=["value"]) if in_order(view) else view.top(2 * _ROWS)
    limit = float(top["value"].abs().max()) if len(top) else 0.0
    rows = [
        [_cell(column, value, limit) for column, value in zip(top.columns, row, strict=True)]
        for row in top.itertuples(index=False)
    ]
    title, *lines = facts(view)
    return render(
        "markup/result.html", title=title, lines=lines, parts=[table([str(one) for one in top.columns], rows)]
    )


def _line(label: str, value: float | np.floating) -> str:
    return f"  {label:<12}{value:>+12.4g}"


def _cell(column: str, value: Any, limit: float) -> Cell:
    if column == "value":
        number = float(value)
        strength = 0.0 if limit == 0 else 0.8 * abs(number) / limit
        colour = "67,147,195" if number >= 0 else "214,96,77"
        return Cell(f"{number:+.4g}", style=f"background-color:rgba({colour},{strength:.2f})")
    return Cell(repr(value) if column in ("token", "text") else str(value))
