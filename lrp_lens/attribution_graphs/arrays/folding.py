"""Moves and stays: which edges lead from one token to another, and what is folded where the others are not listed.

1. A move is an edge between two positions; attention carries it.  A stay is an edge at one position: the residual
   stream, the MLP, and attention of a token to itself.  Stays hold most of the mass, since every state is mostly its
   predecessor, and say little about how an answer came about.
2. Lists therefore put moves first, each kind by |relevance|.  Nothing is left out of a table.
3. A path is told by its moves, each with the layer and the part that carried most of it; the stays between them are
   folded.  What a text leaves out, `Stays` counts: edges, mass, relevance.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays.attribution_graph import AttributionGraph


def is_move(graph: "AttributionGraph") -> np.ndarray:
    """[E] True for the edges between two tokens."""
    moves: np.ndarray = graph.source != graph.target
    return moves


def moves_first(moves: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The order that lists moves before stays, each by magnitude.

    Args:
        moves: [N], True for a move.
        values: [N] signed values.

    Example:
        >>> moves_first(np.array([False, True, True]), np.array([9.0, 1.0, -2.0])).tolist()
        [2, 1, 0]
    """
    return np.lexsort((-np.abs(values), ~moves))


@dataclass(frozen=True)
class Stays:
    """What the edges that stay at their token amount to."""

    edges: int
    share: float
    """Of Σ|A| over the kept edges."""
    relevance: float
    """Signed sum."""

    def __str__(self) -> str:
        noun = "edge that stays" if self.edges == 1 else "edges that stay"
        return (
            f"folded: {self.edges:,} {noun} at one token (residual stream, MLP, attention to itself), "
            f"{100 * self.share:.1f} % of the kept mass, relevance {self.relevance:+.4g} in all; `edges` lists them "
            "after the moves"
        )


def stays(graph: "AttributionGraph") -> Stays:
    """The account of what is folded when only moves are listed."""
    still = graph.relevance[~is_move(graph)]
    total = float(np.abs(graph.relevance).sum())
    return Stays(len(still), float(np.abs(still).sum()) / total if total else 0.0, float(still.sum()))
