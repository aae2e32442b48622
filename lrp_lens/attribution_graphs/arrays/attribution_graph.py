"""AttributionGraph: hidden states, and how much of its relevance each hands back to each.

The reference is "Contrastive Attribution in the Wild" (arXiv 2604.17761).

1. Nodes are states of the residual stream at a boundary (embedding, after attention, after a block) and a position;
   a node's relevance is activation ⊙ gradient, summed over the width.
2. An edge leads from a source state to a target state at the next boundary kept; its relevance is the part of the
   target's relevance that the source receives.  Its parts say how: residual, MLP, and per head OV, K and Q.
3. For every target: Σ in-edges + pruned + sinks = its relevance.  Sinks are biases, the softmax, ... (the ledger's).
4. Nothing here needs a model.  `matrix` and `refine` ask the pass the graph was made from, if it is still there.
"""

from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, Literal

import numpy as np
import pandas as pd

from lrp_lens.attribution_graphs.arrays import nodes as named
from lrp_lens.attribution_graphs.arrays import paths, pruning, tables, text
from lrp_lens.attribution_graphs.arrays.contents import GraphContents
from lrp_lens.attribution_graphs.arrays.interchange import networks, neuronpedia, storage
from lrp_lens.attribution_graphs.arrays.nodes import BoundaryKey, Edge, Node
from lrp_lens.errors import InputError
from lrp_lens.views import View


@dataclass(frozen=True, eq=False, repr=False)
class AttributionGraph(GraphContents):
    """A graph with its tables, smaller graphs, paths, files and pictures; `GraphContents` says what it consists of.

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model
        >>> from lrp_lens.attribution_graphs.closed_form import attribution_graph
        >>> prompt = "then mary and john went to the park . john gave the key to"
        >>> graph = attribution_graph(load_demo_model(), prompt, LogitDiff("mary", "john"), rules="ATTN_LRP")
        >>> strongest = graph.edges.iloc[0]
        >>> strongest["transition"], strongest["source_token"], strongest["part"]
        ('L2 → L3 mid', 'mary', 'H3 K')
        >>> small = graph.prune(mass=0.6).subgraph()
        >>> len(small.relevance) < len(graph.relevance), bool(small.balance()["remainder"].abs().max() < 1e-4)
        (True, True)

    Raises:
        InputError: the arrays do not describe one graph (shapes, order of the edges, positions out of range).
    """

    # Naming

    def boundary(self, key: BoundaryKey) -> int:
        """The number of a boundary in edges and in `boundaries`.

        Args:
            key: 0 for the embedding, l + 1 for the state after block l, -1 for the last; a label ("L3 mid"), a site and
                its layer (("resid_mid", 3)), or a hook name.

        Raises:
            InputError: the graph has no such boundary.
        """
        return named.boundary_index(self, key)

    @property
    def targets(self) -> tuple[tuple[int, int], ...]:
        """The nodes (boundary, position) whose logits the metric reads, at the last boundary."""
        return tuple((len(self.boundaries) - 1, position) for position in self.target_positions)

    @property
    def in_graph(self) -> np.ndarray:
        """[B, n], True for the nodes that a kept edge touches, and for the targets of the metric."""
        return tables.in_graph(self)

    # Tables

    @property
    def edges(self) -> pd.DataFrame:
        """The kept edges: moves between tokens first, then edges that stay at one token, each strongest first.

        The index is the edge's number in the arrays; `edges[edges.move]` are the moves.

        Columns: transition ("L2 mid → L2"), source, source_position, source_token, target, target_position,
        target_token (source and target are boundary labels), move (source and target position differ), relevance,
        share (of the target's |relevance|), part (the strongest, e.g. "H3 OV"), part_relevance, head (its number,
        missing if the part is no head), layer (the block inside which the edge lies).
        """
        return tables.edge_table(self)

    @property
    def parts_table(self) -> pd.DataFrame:
        """Every part of every kept edge, in the order of `edges`; the index is the edge's number, once for each part.

        Columns: those of `edges` that name its ends, move, layer, part ("H3 OV"), mechanism ("OV", "K", "Q",
        "residual", "MLP"), head, relevance.  For the strongest OV parts between different tokens:
        `t[t.move & (t.mechanism == "OV")]`.
        """
        return tables.part_table(self)

    @property
    def nodes(self) -> pd.DataFrame:
        """Every node, kept or not, in forward order.

        Columns: boundary (label), layer, mid, position, token, special, relevance, share (of |metric|), in_edges,
        out_edges, in_graph.
        """
        return tables.node_table(self)

    @property
    def sinks_table(self) -> pd.DataFrame:
        """The sinks that hold anything: boundary, position, token, kind, relevance; largest first."""
        return tables.sink_table(self)

    def parts_of(self, edge: Edge) -> pd.Series:
        """The parts of one edge by label, strongest first; they sum to its relevance.

        Args:
            edge: its number in the arrays (the index of `edges`), or (source node, target node), each a boundary key
                and a position: (("L2", 4), ("L2 mid", 7)).

        Raises:
            InputError: the graph has no such edge.
        """
        return tables.parts_of(self, edge)

    def balance(self) -> pd.DataFrame:
        """The account of every target node: relevance = edges + pruned + sinks + remainder.

        Columns: boundary, position, token, relevance, edges, pruned, sinks, remainder.  A remainder beyond rounding
        is a bug of whatever made the graph.
        """
        return tables.balance(self)

    def dropped(self) -> pd.DataFrame:
        """What pruning took from each transition.

        Columns: transition, edges_kept, total_mass (Σ|A| before), dropped_mass, dropped_share, dropped_relevance (the
        signed sum).
        """
        return pruning.dropped(self)

    # Pruning

    def prune(
        self,
        *,
        node_threshold: float | int | None = None,
        edge_threshold: float | int | None = None,
        mass: float | int | None = None,
    ) -> "AttributionGraph":
        """A smaller graph; what was dropped moves into `pruned` and `pruned_mass`.

        Args:
            node_threshold: drops edges that touch a node with |R| ≤ this share of |metric|.
            edge_threshold: drops edges with |A| ≤ this share of |metric|.
            mass: in each transition, keeps the strongest edges that hold this share of its Σ|A| before any pruning.

        Raises:
            InputError: no criterion, or one out of range.
        """
        return pruning.prune(self, node_threshold=node_threshold, edge_threshold=edge_threshold, mass=mass)

    def subgraph(self, *nodes: Node) -> "AttributionGraph":
        """The edges that lead, through kept edges, to these nodes, (boundary key, position) each.

        Without any, to `targets`.

        Raises:
            InputError: no such node, or no node given and the graph names no target.
        """
        chosen = [named.node_index(self, one) for one in nodes] or list(self.targets)
        if not chosen:
            raise InputError(
                "A connected subgraph needs a node to lead to; the graph has no target_positions. "
                'Pass one, e.g. subgraph(("L3", 7)).'
            )
        return pruning.subgraph(self, chosen)

    def paths(
        self,
        k: int = 10,
        *,
        source: BoundaryKey | Node | None = None,
        target: Node | None = None,
        by: Literal["relevance", "mass"] = "relevance",
        node_floor: float = 0.001,
        fold: bool = True,
    ) -> pd.DataFrame:
        """The k strongest chains of edges from a boundary (or a node) to the target; see `graph.paths.top_paths`.

        Paths that move between tokens come first, told by their moves; `fold=False` tells every path literally.
        """
        return paths.top_paths(self, k, source=source, target=target, by=by, node_floor=node_floor, fold=fold)

    # The pass

    def detached(self) -> "AttributionGraph":
        """The same graph without its pass: it lets go of the model, and `matrix` and `refine` are those of a file."""
        return replace(self, made_by=None)

    def matrix(self, source: BoundaryKey, target: BoundaryKey) -> np.ndarray:
        """All edges between two boundaries before pruning, [target position, source position].

        Boundaries that are not adjacent need the pass the graph was made from; a graph loaded from a file rebuilds the
        matrix of adjacent ones if nothing was pruned there.

        Raises:
            InputError: the source does not precede the target, or the graph cannot know.
        """
        return tables.matrix(self, self.boundary(source), self.boundary(target))

    def refine(
        self, node_or_edge: Node | Edge, into: Literal["heads", "neurons", "dimensions"] = "heads"
    ) -> View:
        """Which heads, MLP neurons or residual dimensions carry a node or an edge; they sum to it.

        The answer is remembered in `refinements`, for the HTML view.

        Args:
            node_or_edge: (boundary key, position), or an edge as in `parts_of`.
            into: "heads", "neurons" or "dimensions".

        Raises:
            InputError: no such node or edge, or the graph was loaded from a file.
        """
        source, target, key = named.resolve(self, node_or_edge)
        if into not in ("heads", "neurons", "dimensions"):
            raise InputError(f"A node is refined into heads, neurons or dimensions; received {into!r}.")
        if self.made_by is None:
            raise InputError(
                f"Refining {key} needs the pass that made the graph; this graph has none (it was loaded from a file). "
                "Run attribution_graph again."
            )
        view: View = self.made_by.refine(source=source, target=target, into=into)
        self.refinements[f"{key} into {into}"] = view  # type: ignore[index]  # a dict, made in __post_init__
        return view

    # Pictures, files and other formats

    def plot(self, **options: Any) -> Any:
        """The graph as a plotly figure; `lrp_lens.plots.graph_html` makes an interactive page.

        Args:
            options: those of `lrp_lens.plots.plot_graph`.

        Raises:
            InputError: an option out of range.
        """
        from lrp_lens.plots.graph import plot_graph

        return plot_graph(self, **options)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the graph to one file: safetensors with JSON in its header, or .npz if the path ends so; never pickle.

        The pass is left behind; refinements are kept.
        """
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "AttributionGraph":
        """Read a graph written by `save`.

        Raises:
            InputError: the file is missing or holds no graph.
        """
        return cls(**storage.load(path))

    def to_bytes(self) -> bytes:
        """What `save` writes, to be kept in a table or a database; `from_bytes` reads it."""
        return storage.to_bytes(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> "AttributionGraph":
        """The graph that `to_bytes` was called on, without its pass.

        Raises:
            InputError: the bytes hold no graph.
        """
        return cls(**storage.from_bytes(data))

    def to_dataframe(self) -> pd.DataFrame:
        """The same as `edges`."""
        return self.edges

    def to_networkx(self) -> Any:
        """A networkx.DiGraph of the nodes in the graph, keyed by (boundary label, position)."""
        return networks.to_networkx(self)

    def to_neuronpedia(
        self, *, slug: str, scan: str, probability: float, path: str | PathLike[str] | None = None
    ) -> dict[str, Any]:
        """Neuronpedia's graph JSON, also written to `path` if given; see `graph.interchange.neuronpedia`."""
        return neuronpedia.to_neuronpedia(self, slug=slug, scan=scan, probability=probability, path=path)

    def __repr__(self) -> str:
        return text.describe(self)

    def _repr_html_(self) -> str:
        return text.describe_html(self)
