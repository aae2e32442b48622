"""Circuit: a set of edges of the component graph, and the pruning that keeps it connected.

1. A mask [writer, reader], or [writer, reader, position], over the edges a circuit can have; fixed writers (biases,
   position embeddings) belong to every circuit and are not counted.
2. Connected: an edge stays if a path of kept edges leads from the embedding to its writer, and one from its reader to
   the logits.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lrp_lens.characters import shown
from lrp_lens.circuits import storage
from lrp_lens.circuits.components import ComponentGraph
from lrp_lens.errors import InputError
from lrp_lens.markup import Html, frame, told
from lrp_lens.views import View


@dataclass(frozen=True, eq=False, repr=False)
class Circuit:
    """Edges that a circuit keeps.

    Example:
        >>> graph = ComponentGraph(n_layers=1, n_heads=2, n_key_value_heads=2, mlp=False)
        >>> circuit = Circuit.from_edges(graph, [("embed", "L0H1 v"), ("L0H1", "logits")])
        >>> len(circuit), circuit.nodes
        (2, ('embed', 'L0H1'))
    """

    graph: ComponentGraph
    mask: np.ndarray
    """True for the edges of the circuit, bool [writer, reader] or [writer, reader, position]."""
    name: str = "circuit"
    """How it was found, in words."""

    def __post_init__(self) -> None:
        free = self.graph.free
        mask = np.asarray(self.mask)
        if mask.dtype != bool or mask.ndim not in (2, 3) or mask.shape[:2] != free.shape:
            raise InputError(
                f"A circuit of this graph is a bool array [{free.shape[0]} writers, {free.shape[1]} readers] (or these "
                f"and positions); received {mask.dtype} {mask.shape}."
            )
        possible = free if mask.ndim == 2 else free[..., None]
        wrong = np.argwhere(mask & ~possible)
        if len(wrong):
            writer, reader = self.graph.writers[wrong[0][0]], self.graph.readers[wrong[0][1]]
            raise InputError(
                f"A circuit has edges that lead forward and depend on the prompt; {writer} → {reader} is none. "
                "Biases and position embeddings belong to every circuit."
            )
        object.__setattr__(self, "mask", mask)

    @classmethod
    def from_edges(
        cls, graph: ComponentGraph, edges: Iterable[tuple[str, str]], name: str = "circuit"
    ) -> "Circuit":
        """The circuit of these (writer, reader) labels, e.g. ("L0H1", "L1H0 q").

        Raises:
            InputError: for a label that the graph does not have, or a pair that does not connect.
        """
        mask = np.zeros_like(graph.free)
        for writer, reader in edges:
            mask[graph.writer(writer), graph.reader(reader)] = True
        return cls(graph, mask, name)

    @classmethod
    def from_nodes(cls, graph: ComponentGraph, nodes: Iterable[str], name: str = "circuit") -> "Circuit":
        """All edges between these writers ("embed", "L0H1", "L0 MLP") and from them to the logits.

        Raises:
            InputError: for a label that the graph does not have.
        """
        kept = np.zeros(len(graph.writers), dtype=bool)
        kept[[graph.writer(node) for node in nodes]] = True
        return cls(graph, edges_of_nodes(graph, kept), name)

    @classmethod
    def full(cls, graph: ComponentGraph) -> "Circuit":
        """Every edge."""
        return cls(graph, graph.free.copy(), "all edges")

    @classmethod
    def empty(cls, graph: ComponentGraph) -> "Circuit":
        """No edge."""
        return cls(graph, np.zeros_like(graph.free), "no edge")

    def __len__(self) -> int:
        """Number of edges (with positions: of edges at positions)."""
        return int(self.mask.sum())

    @property
    def by_position(self) -> bool:
        """Whether edges are kept or not at each position."""
        return self.mask.ndim == 3

    @property
    def anywhere(self) -> np.ndarray:
        """Whether an edge is kept at any position, bool [writer, reader]."""
        return np.asarray(self.mask.any(-1)) if self.by_position else self.mask

    @property
    def edges(self) -> tuple[tuple[str, str], ...]:
        """Labels of writer and reader, in the order of the graph (positions left out)."""
        pairs = np.argwhere(self.anywhere)
        return tuple((str(self.graph.writers[w]), str(self.graph.readers[r])) for w, r in pairs)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Labels of the writers that have an edge in the circuit."""
        kept = np.flatnonzero(self.anywhere.any(1))
        return tuple(str(self.graph.writers[index]) for index in kept)

    def pruned(self) -> "Circuit":
        """The part that is connected: on a path of its own edges from the embedding to the logits."""
        keep = connected_part(self.graph, self.anywhere)
        keep = keep[..., None] if self.by_position else keep
        return Circuit(self.graph, self.mask & keep, self.name)

    def complement(self) -> "Circuit":
        """All other edges."""
        free = self.graph.free[..., None] if self.by_position else self.graph.free
        return Circuit(self.graph, free & ~self.mask, f"all but {self.name}")

    def to_dataframe(self) -> pd.DataFrame:
        """One row per edge: writer, reader and, by position, position."""
        names = ["writer", "reader", "position"][: self.mask.ndim]
        table = pd.DataFrame(np.argwhere(self.mask), columns=names)
        table["writer"] = [str(self.graph.writers[index]) for index in table["writer"]]
        table["reader"] = [str(self.graph.readers[index]) for index in table["reader"]]
        return table

    def plot(self) -> Any:
        """Writers × readers as a heat map: 1 for an edge of the circuit, 0 for another one that there is."""
        from lrp_lens.plots.circuits import plot_component_edges

        labels = {
            "writer": tuple(map(str, self.graph.writers)),
            "reader": tuple(map(str, self.graph.readers)),
        }
        values = np.where(self.graph.free, self.anywhere.astype(float), np.nan)
        return plot_component_edges(View(values, ("writer", "reader"), labels, self.name, "edge"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one safetensors file."""
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Circuit":
        """Read what `save` wrote.

        Raises:
            InputError: if there is no file, or it is not such a file.
        """
        return cls(**storage.load(cls.__name__, path))

    def _repr_html_(self) -> Html:
        return told(repr(self), frame(self.to_dataframe().head(20), border=0))

    def __repr__(self) -> str:
        possible = self.graph.n_edges * (self.mask.shape[-1] if self.by_position else 1)
        first = ", ".join(f"{writer} → {reader}" for writer, reader in self.edges[:6])
        more = ", …" if len(self.edges) > 6 else ""
        return shown(
            f"Circuit({self.name}: {len(self)} of {possible} edges, {len(self.nodes)} writers; {first}{more})"
        )


def edges_of_nodes(graph: ComponentGraph, kept: np.ndarray) -> np.ndarray:
    """Edges between kept writers, and from them to the logits; bool [writer, reader] from bool [writer]."""
    reads = (graph.feeds & kept).any(1)
    reads[-1] = True
    return np.asarray(graph.free & kept[:, None] & reads[None])


def connected_part(graph: ComponentGraph, mask: np.ndarray) -> np.ndarray:
    """The edges of a mask [writer, reader] that lie on a path from the embedding to the logits."""
    reached = np.zeros(len(graph.writers), dtype=bool)
    reached[0] = True
    for index, _ in enumerate(graph.readers):  # readers stand in the order of the forward pass
        if (mask[:, index] & reached).any():
            reached |= graph.feeds[index]
    leads = np.zeros(len(graph.readers), dtype=bool)
    leads[-1] = True
    for index in range(len(graph.readers) - 2, -1, -1):
        onward = graph.feeds[index]
        leads[index] = bool((mask[onward] & leads).any())
    return np.asarray(mask & reached[:, None] & leads[None])
