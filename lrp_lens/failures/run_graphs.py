"""The graphs of the same cases in two runs: which node changed most, and everything about one case.

1. A row keeps the pruned graph of its case; nodes are there for every boundary and position, edges as far as they were
   kept.
2. Graphs of the same boundaries and number of tokens are subtracted (`graph_difference`); others are named with the
   reason.
3. What the prediction token's relevance consists of (`composition`) is averaged over the graphs of a run.
"""

from collections.abc import Iterator, Set
from itertools import islice
from os import fspath
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lrp_lens.attribution_graphs.arrays import (
    AttributionGraph,
    GraphDifference,
    composition,
    graph_difference,
)
from lrp_lens.errors import InputError
from lrp_lens.failures.triage.load import load_triage
from lrp_lens.views import View
from lrp_lens.views.table import table_of

_TOGETHER = 256
"""Graphs of the first run that stand in memory at once."""
_COLUMNS = ("case", "gap", "boundary", "token", "change", "edges", "reason")


def graph_changes(first: Path, second: Path, cases: Set[str]) -> pd.DataFrame:
    """See RunComparison.graph_changes.

    Args:
        first: folder of a run.
        second: of another.
        cases: ids of those that are compared.
    """
    rows, graphs = [], _graphs(first, cases)
    while some := dict(islice(graphs, _TOGETHER)):
        rows += [_changed(case, some[case], graph) for case, graph in _graphs(second, some.keys())]
    rows.sort(key=lambda row: -abs(row["change"]) if row["reason"] == "" else 1.0)
    return table_of({name: [row[name] for row in rows] for name in _COLUMNS})


def difference_of(case: str, first: Path, second: Path) -> GraphDifference:
    """See RunComparison.graph_difference."""
    found = [dict(_graphs(folder, {case})) for folder in (first, second)]
    for folder, graphs in zip((first, second), found, strict=True):
        if case not in graphs:
            raise InputError(
                f"Graphs are compared where both runs keep one; {fspath(folder)!r} has none of {case!r}. Triage with "
                "graph=True, and see the row's reason."
            )
    return graph_difference(found[0][case], found[1][case])


def mean_composition(folder: Path, cases: Set[str]) -> View:
    """See RunComparison.composition.

    Args:
        folder: of the run.
        cases: ids of those that are compared.
    """
    first: View | None = None
    total, count, others = np.zeros(()), 0, 0
    for _, graph in _graphs(folder, cases):
        one = composition(graph)
        first = first or one
        same = one.labels == first.labels
        total, count, others = (total + one.values, count + 1, others) if same else (total, count, others + 1)
    if first is None:
        raise InputError(
            f"A composition is that of the graphs that a run keeps; {fspath(folder)!r} has none of the compared cases. "
            "Triage with graph=True."
        )
    left_out = f"{others} of other layers or parts are left out"
    notes = (f"mean of {count} case{'s' * (count > 1)}", *[left_out] * bool(others))
    name = "composition of the prediction token"
    return View(total / count, first.dims, first.labels, name, first.units, notes=notes)


def _graphs(folder: Path, cases: Set[str]) -> Iterator[tuple[str, AttributionGraph]]:
    """The graphs of these cases, one at a time."""
    for row in load_triage(folder).rows(("graph",)):
        graph = row.attribution_graph() if row.id in cases else None
        if graph is not None:
            yield row.id, graph


def _changed(case: str, first: AttributionGraph, second: AttributionGraph) -> dict[str, Any]:
    """The row of one case."""
    try:
        found = graph_difference(first, second)
    except InputError as error:
        nothing = {"gap": float("nan"), "boundary": "", "token": "", "change": float("nan"), "edges": 0}
        return {"case": case, **nothing, "reason": str(error)}
    place = np.unravel_index(np.abs(found.nodes.values).argmax(), found.nodes.shape)
    boundary, token = (
        found.nodes.axis_labels(name)[at] for name, at in zip(("layer", "position"), place, strict=True)
    )
    return {
        "case": case,
        "gap": float(found.metric),
        "boundary": boundary,
        "token": token,
        "change": float(found.nodes.values[place]),
        "edges": len(found.edges),
        "reason": "",
    }
