"""A Decomposition in words: the terminal repr and a shaded table for notebooks."""

from typing import TYPE_CHECKING

from lrp_lens.characters import shown
from lrp_lens.markup import Html, captioned

if TYPE_CHECKING:
    from lrp_lens.decomposition.result import Decomposition

_ROWS = 12


def facts(parts: "Decomposition") -> list[str]:
    """The lines above the table: metric, sign, rules, remainder; of a batch, the first example."""
    count = len(parts.metric)
    lines = [f"Decomposition of {parts.metric_text} = {parts.metric[0]:.5g}; totals by {parts.rules_text}"]
    if parts.towards is not None:
        lines.append(f"positive: towards {parts.towards[0]!r}, negative: towards {parts.towards[1]!r}")
    if count > 1:
        lines.append(f"example 0 of {count}")
    lines.append(f"direct sums to the metric, remainder {parts.remainder[0]:.1g}; totals overlap")
    return lines


def describe(parts: "Decomposition") -> str:
    """The facts and the components with the largest direct contribution, as plain text."""
    table = parts.table()
    table = table if parts.single else table[table["example"] == 0]
    order = table["direct"].abs().sort_values(ascending=False, kind="stable").index
    largest, rest = table.loc[order[:_ROWS]], table.loc[order[_ROWS:]]
    lines = [*facts(parts), f"  {'':<22}{'direct':>11}{'indirect':>11}{'total':>11}"]
    for row in largest.itertuples():
        lines.append(f"  {row.component:<22}{row.direct:>+11.4f}{row.indirect:>+11.4f}{row.total:>+11.4f}")
    if len(rest):
        lines.append(f"  {f'({len(rest)} more)':<22}{rest['direct'].sum():>+11.4f}")
    lines.append(f"  {'sum = metric':<22}{table['direct'].sum():>+11.4f}")
    return shown("\n".join(lines))


def describe_html(parts: "Decomposition") -> Html:
    """The facts and the whole table, its numbers shaded: blue positive, red negative, each column on its own scale."""
    from lrp_lens.characters import signed
    from lrp_lens.plots.cells import html_table, shaded_cell, word_cell

    table = parts.table()
    names = [name for name in ("example", "component", "kind") if name in table]
    numbers = ["direct", "indirect", "total"]
    scale = {name: float(table[name].abs().max()) or 1.0 for name in numbers}
    rows = [
        [word_cell(str(row[name])) for name in names]
        + [shaded_cell(signed(row[name], "+.4f"), row[name] / scale[name]) for name in numbers]
        for row in table.to_dict("records")
    ]
    return captioned(html_table(names, numbers, rows), *facts(parts))
