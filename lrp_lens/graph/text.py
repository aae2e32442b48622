"""A graph in words: the terminal repr and a small escaped HTML summary for notebooks."""

from typing import TYPE_CHECKING

import numpy as np

from lrp_lens.characters import escape, isolated, shown
from lrp_lens.graph.tables import edge_table, remainders

if TYPE_CHECKING:
    from lrp_lens.graph.attribution_graph import AttributionGraph

_EDGES = 8


def facts(graph: "AttributionGraph") -> list[str]:
    """The lines above the tables: size, metric, sign, pruned mass, closure, notes."""
    count, positions = graph.node_relevance.shape
    total, gone = float(graph.total_mass.sum()), float(graph.pruned_mass.sum())
    share = 100 * gone / total if total else 0.0
    remainder = float(np.abs(remainders(graph)).max())
    lines = [
        f"AttributionGraph: {count} boundaries × {positions} tokens; {len(graph.relevance)} edges, "
        f"{int(graph.in_graph.sum())} nodes",
        f"metric: {graph.metric_text} = {graph.metric_value:+.4g}; rules: {short_rules(graph)}",
    ]
    if graph.towards is not None:
        lines.append(f"positive: towards {graph.towards[0]!r}, negative: towards {graph.towards[1]!r}")
    lines.append(
        f"pruned: {share:.1f} % of the edges' mass (sum of |A| {total:.4g}); largest remainder {remainder:.2g}"
    )
    return lines + [f"note: {note}" for note in graph.notes]


def short_rules(graph: "AttributionGraph") -> str:
    """The first line of the rules, their name."""
    return graph.rules_text.split("\n")[0]


def describe(graph: "AttributionGraph") -> str:
    """The facts and the strongest edges, as plain text."""
    lines = facts(graph)
    table = edge_table(graph, _EDGES)
    if len(table):
        listed = table[
            ["transition", "source_position", "source_token", "target_position", "target_token"]
        ].copy()
        listed["source_token"] = [repr(one) for one in listed["source_token"]]
        listed["target_token"] = [repr(one) for one in listed["target_token"]]
        listed["relevance"] = [f"{one:+.4g}" for one in table["relevance"]]
        listed["part"] = table["part"]
        lines += [f"strongest {len(table)} edges:", listed.to_string(index=False)]
    return shown("\n".join(lines))


def describe_html(graph: "AttributionGraph") -> str:
    """The facts, the mass dropped per transition and the strongest edges; everything from the prompt is escaped."""
    title, *rest = (isolated(line) for line in facts(graph))
    lines = "".join(f"<div><small>{line}</small></div>" for line in rest)
    strongest: list[list[object]] = [
        [
            str(row.transition),
            f"{row.source_token!r}@{row.source_position}",
            f"{row.target_token!r}@{row.target_position}",
            f"{row.relevance:+.4g}",
            str(row.part),
        ]
        for row in edge_table(graph, _EDGES).itertuples()
    ]
    dropped: list[list[object]] = [
        [
            row["transition"],
            row["edges_kept"],
            f"{row['total_mass']:.4g}",
            f"{100 * row['dropped_share']:.1f} %",
        ]
        for row in graph.dropped().to_dict("records")
    ]
    edges = _table(["transition", "source", "target", "relevance", "strongest part"], strongest)
    pruned = _table(["transition", "edges kept", "Σ|A|", "dropped"], dropped)
    return (
        f"<div><strong>{title}</strong>{lines}{edges}<details><summary>mass dropped per transition</summary>"
        f"{pruned}</details></div>"
    )


def _table(head: list[str], rows: list[list[object]]) -> str:
    top = "".join(f"<th>{escape(one)}</th>" for one in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
