"""A graph in words: the terminal repr and a small escaped HTML summary for notebooks.

1. The facts: size, metric, sign, what was pruned, how well the account closes.
2. The strongest paths and the strongest moves between tokens.
3. What these leave out: the edges that stay at one token, as a count with its mass and its relevance.
"""

from typing import TYPE_CHECKING

import numpy as np

from lrp_lens.attribution_graphs.arrays.folding import is_move, stays
from lrp_lens.attribution_graphs.arrays.nodes import carrier_name, place_name
from lrp_lens.attribution_graphs.arrays.paths import top_paths
from lrp_lens.attribution_graphs.arrays.tables import edge_table, remainders
from lrp_lens.characters import shown
from lrp_lens.markup import Html, render, table

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays.attribution_graph import AttributionGraph

CAUTION = "caution: "
"""What such a note begins with."""
_MOVES = 8
_PATHS = 3
_SEARCHED = 100_000
"""Larger graphs are shown without their paths: a repr does not search for seconds."""


def facts(graph: "AttributionGraph") -> list[str]:
    """The lines above the tables: size, metric, sign, pruned mass, closure, cautions, notes."""
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
    said = cautions(graph)
    return lines + said + [f"note: {note}" for note in graph.notes if note not in said]


def cautions(graph: "AttributionGraph") -> list[str]:
    """The notes that a reader has to know before reading the numbers, shown first wherever the graph is shown."""
    return [note for note in graph.notes if note.startswith(CAUTION)]


def short_rules(graph: "AttributionGraph") -> str:
    """The first line of the rules, their name."""
    return graph.rules_text.split("\n")[0]


def describe(graph: "AttributionGraph") -> str:
    """The facts, the strongest paths and moves, and what is folded, as plain text."""
    lines = facts(graph)
    paths = _paths(graph)
    if paths:
        lines.append("strongest paths (their moves between tokens):")
        width = max(len(value) for value, _ in paths)
        lines += [f"  {value:>{width}}  {words}" for value, words in paths]
    moves = _moves(graph)
    if moves:
        lines.append(_heading(graph, len(moves)) + ":")
        widths = [max(map(len, column)) for column in zip(*moves, strict=True)]
        lines += ["  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in moves]
    return shown("\n".join([*lines, *_folded(graph)]))


def describe_html(graph: "AttributionGraph") -> Html:
    """The same, with the mass dropped per transition."""
    title, *lines = facts(graph)
    dropped = [
        [
            str(row["transition"]),
            str(row["edges_kept"]),
            f"{row['total_mass']:.4g}",
            f"{100 * row['dropped_share']:.1f} %",
        ]
        for row in graph.dropped().to_dict("records")
    ]
    paths, moves = _paths(graph), _moves(graph)
    parts = [table(["relevance", "strongest paths"], paths)] if paths else []
    if moves:
        parts.append(render("markup/small.html", line=_heading(graph, len(moves))))
        parts.append(table(["relevance", "from", "to", "carried by"], moves))
    pruned = table(["transition", "edges kept", "Σ|A|", "dropped"], dropped)
    parts.append(render("attribution_graphs/arrays/dropped.html", folded=_folded(graph), table=pruned))
    return render("markup/result.html", title=title, lines=lines, parts=parts)


def _paths(graph: "AttributionGraph") -> list[tuple[str, str]]:
    """Relevance and text of the strongest paths; none for a graph without a target or one too large to search."""
    if not graph.target_positions or len(graph.relevance) > _SEARCHED:
        return []
    found = top_paths(graph, _PATHS)
    return [(f"{row.relevance:+.4g}", str(row.text)) for row in found.itertuples()]


def _moves(graph: "AttributionGraph") -> list[tuple[str, str, str, str]]:
    """Relevance, source, target and carrier of the strongest moves."""
    table = edge_table(graph, _MOVES)
    return [
        (
            f"{graph.relevance[edge]:+.4g}",
            place_name(graph, int(graph.source[edge])),
            place_name(graph, int(graph.target[edge])),
            carrier_name(graph, edge),
        )
        for edge in table.index[table["move"]]
    ]


def _heading(graph: "AttributionGraph", shown: int) -> str:
    return f"strongest {shown} of {int(is_move(graph).sum()):,} moves between tokens"


def _folded(graph: "AttributionGraph") -> list[str]:
    """A line about the edges that are not listed as moves, if there are any."""
    still = stays(graph)
    return [str(still)] if still.edges else []
