"""Two graphs side by side: models, checkpoints, rules, or prompts of equal length.

Nodes are aligned by boundary and position, edges by transition, target and source; tokens may differ and are shown as
`a/b`.  An edge that one graph pruned is not known to be 0 there: its row says so, and counts the missing one as 0.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from lrp_lens.attribution_graphs.arrays.folding import moves_first
from lrp_lens.attribution_graphs.arrays.tables import labels
from lrp_lens.characters import shown
from lrp_lens.errors import InputError
from lrp_lens.markup import Html, frame, told
from lrp_lens.views import View

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays.attribution_graph import AttributionGraph


@dataclass(frozen=True, eq=False, repr=False)
class GraphDifference:
    """Second graph minus first."""

    nodes: View
    """dims ("layer", "position"), labelled by boundary: R_second − R_first of every node, kept or not."""
    edges: pd.DataFrame
    """Edges kept in either: moves between tokens, then edges that stay at one token, each largest |difference| first.

    Columns: transition, source_position, source_token, target_position, target_token, move, first, second (0 where
    pruned), difference, kept ("both", "first", "second")."""
    metric: float
    """metric_second − metric_first."""
    unexplained: pd.DataFrame
    """Per transition, Σ|A| that each graph pruned: how far `edges` may be off."""

    def plot(self, **options: Any) -> Any:
        """How the nodes differ, layers × positions; options are those of `View.plot`."""
        return self.nodes.plot(**options)

    def __repr__(self) -> str:
        kept = len(self.edges)
        return shown(
            f"GraphDifference({' '.join(self.nodes.notes)}: metric {self.metric:+.4g}, {kept} edges)"
        )

    def _repr_html_(self) -> Html:
        return told(repr(self), frame(self.edges.head(20).round(4), border=0))

    def per_layer(self) -> pd.DataFrame:
        """Mean and largest |difference| of the nodes at each boundary, and the position of the largest."""
        size = np.abs(self.nodes.values)
        return pd.DataFrame(
            {
                "boundary": self.nodes.axis_labels("layer"),
                "mean": size.mean(axis=1),
                "largest": size.max(axis=1),
                "position": size.argmax(axis=1),
            }
        )


def graph_difference(first: "AttributionGraph", second: "AttributionGraph") -> GraphDifference:
    """What changed from one graph to another: second − first.

    Args:
        first: e.g. an early checkpoint.
        second: e.g. a later one; the same boundaries, the same number of tokens.

    Example:
        >>> from lrp_lens import CP_LRP, LogitDiff, load_demo_model
        >>> from lrp_lens.attribution_graphs.closed_form import attribution_graph
        >>> model, prompt = load_demo_model(), "then mary and john went to the park . john gave the key to"
        >>> first = attribution_graph(model, prompt, LogitDiff("mary", "john"))
        >>> second = attribution_graph(model, prompt, LogitDiff("mary", "john"), rules=CP_LRP)
        >>> graph_difference(first, second).nodes.shape
        (9, 15)

    Raises:
        InputError: other boundaries or another number of tokens.
    """
    names = labels(first).tolist()
    if names != labels(second).tolist():
        raise InputError(
            f"Compared graphs have the same boundaries; received {', '.join(names)} and "
            f"{', '.join(labels(second).tolist())}. Make them with the same layers and split."
        )
    positions = len(first.token_strings)
    if positions != len(second.token_strings):
        raise InputError(
            f"Compared graphs have the same number of tokens; received {positions} and {len(second.token_strings)}. "
            "Tokens are aligned by position; pad or choose prompts of equal length."
        )
    pairs = zip(first.token_strings, second.token_strings, strict=True)
    words = np.array([a if a == b else f"{a}/{b}" for a, b in pairs], dtype=object)
    node_labels = {"layer": tuple(names), "position": tuple(words)}
    nodes = View(
        second.node_relevance - first.node_relevance,
        ("layer", "position"),
        node_labels,
        "difference of node relevance",
        special=first.special | second.special,
        towards=first.towards if first.towards == second.towards else None,
        notes=(f"second ({second.metric_text}) − first ({first.metric_text})",),
    )
    crossings = np.array([f"{a} → {b}" for a, b in pairwise(names)], dtype=object)
    unexplained = pd.DataFrame(
        {"transition": crossings, "pruned_first": first.pruned_mass, "pruned_second": second.pruned_mass}
    )
    edges = _edges(first, second, words, crossings)
    return GraphDifference(nodes, edges, second.metric_value - first.metric_value, unexplained)


def _edges(
    first: "AttributionGraph", second: "AttributionGraph", words: np.ndarray, crossings: np.ndarray
) -> pd.DataFrame:
    positions = len(words)
    keys = [
        (one.transition.astype(np.int64) * positions + one.target) * positions + one.source
        for one in (first, second)
    ]
    every = np.union1d(*keys)
    values = np.zeros((2, len(every)))
    kept = np.zeros((2, len(every)), dtype=bool)
    for row, (key, graph) in enumerate(zip(keys, (first, second), strict=True)):
        at = np.searchsorted(every, key)
        values[row, at], kept[row, at] = graph.relevance, True
    source, target = every % positions, every // positions % positions
    difference = values[1] - values[0]
    table = pd.DataFrame(
        {
            "transition": crossings[every // positions**2],
            "source_position": source,
            "source_token": words[source],
            "target_position": target,
            "target_token": words[target],
            "move": source != target,
            "first": values[0],
            "second": values[1],
            "difference": difference,
            "kept": np.select([kept.all(axis=0), kept[0]], ["both", "first"], "second"),
        }
    )
    return table.iloc[moves_first(source != target, difference)].reset_index(drop=True)
