"""What an attribution graph consists of: its arrays, checked to describe one graph, and the words beside them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np

from lrp_lens.attribution_graphs.arrays import validation
from lrp_lens.views import View
from lrp_lens.views.groups import words_of


@dataclass(frozen=True)
class Boundary:
    """One place in the residual stream; the index into `AttributionGraph.boundaries` is its number in edges."""

    name: str
    """Hook name, e.g. `blocks.3.hook_resid_mid`."""
    label: str
    """`embed`, `L3 mid` (after attention), `L3` (after the block)."""
    layer: int | None
    """The block it lies in or follows; None for the embedding."""
    mid: bool = False


@runtime_checkable
class Pass(Protocol):
    """What a graph asks of the pass it was made from."""

    def matrix(self, source: int, target: int) -> np.ndarray:
        """All edges between two boundaries, [target position, source position]."""

    def refine(self, *, source: tuple[int, int] | None, target: tuple[int, int], into: str) -> Any:
        """A View of what carries a node (`source` None) or an edge; nodes are (boundary, position)."""


@dataclass(frozen=True, eq=False, repr=False)
class GraphContents:
    """Arrays of one graph: boundaries B, transitions T = B - 1, positions n, edges E, parts P, sink kinds K.

    A transition t leads from boundary t (source) to boundary t + 1 (target).

    Raises:
        InputError: the arrays do not describe one graph (shapes, order of the edges, positions out of range).
    """

    boundaries: tuple[Boundary, ...]
    """Forward order: the embedding first, the final residual stream last."""
    token_strings: tuple[str, ...]
    """[n]"""
    special: np.ndarray
    """[n], True at BOS, EOS."""
    node_relevance: np.ndarray
    """[B, n] float64, of every node, kept or not."""
    transition: np.ndarray
    """[E] int32, sorted; within a transition by target, then source."""
    target: np.ndarray
    """[E] int32 position."""
    source: np.ndarray
    """[E] int32 position."""
    relevance: np.ndarray
    """[E] float64."""
    part_values: np.ndarray
    """[E, P], sums to `relevance` over P."""
    parts: tuple[str, ...]
    """P labels: `residual`, `MLP`, then per head `H0 OV`, `H0 K`, `H0 Q`, ...; (`all paths`,) if unknown."""
    sinks: np.ndarray
    """[T, K, n]: relevance of the target node (boundary t + 1, position) that no source receives."""
    sink_kinds: tuple[str, ...]
    """K labels, e.g. `bias`, `softmax`, `norm`, `MLP`."""
    pruned: np.ndarray
    """[T, n]: signed sum of the edges into each target that were dropped."""
    pruned_mass: np.ndarray
    """[T]: Σ|A| dropped."""
    total_mass: np.ndarray
    """[T]: Σ|A| before pruning."""
    metric_value: float
    metric_text: str
    rules_text: str
    towards: tuple[str, str] | None = None
    """Words for the sign, as in View."""
    answers: tuple[str, ...] = ()
    """[n], word for the answer that a token belongs to (answer, target, contrast), "" in the prompt; () for none.  A
    token sees the prompt before it, and of two answers its own."""
    pieces: tuple[str, ...] = ()
    """[n], what each token adds to the text of those before it, from which its word is known; () for not known."""
    target_positions: tuple[int, ...] = ()
    """Positions whose logits the metric reads, e.g. (n - 1,)."""
    notes: tuple[str, ...] = ()
    """Provenance in words: thresholds, method."""
    refinements: Mapping[str, Any] = field(default_factory=dict)
    """What `refine` found, kept for the HTML view: `"L3@7 into heads"` → View."""
    made_by: Pass | None = field(default=None, compare=False)
    """The pass; None after loading from a file."""

    def __post_init__(self) -> None:
        for name, value in validation.checked(self).items():
            object.__setattr__(self, name, value)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """[n], the word that a token is a piece of; "" where it is a whole word, or its text is not known."""
        labels, values = {"position": self.token_strings}, np.zeros(len(self.token_strings))
        return words_of(View(values, ("position",), labels, special=self.special, pieces=self.pieces or None))

    def __getstate__(self) -> dict[str, Any]:
        """What a copy in another process gets: everything but the pass."""
        return self.__dict__ | {"made_by": None}
