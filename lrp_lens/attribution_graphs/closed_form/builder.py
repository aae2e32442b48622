"""A graph in the making, from the last block to the first, and what it is asked afterwards.

1. Each block: states and gradients (`state_pass`), accounts (`account`), edges pruned while formed (`stream`).
2. Boundaries further apart than one block are joined by batch-packed edges.
3. The pass is kept with the graph, so that dense matrices and refinements can run single blocks again.
"""

from collections.abc import Callable, Iterator

import numpy as np
from torch import Tensor

from lrp_lens.attribution_graphs.arrays import AttributionGraph, Boundary
from lrp_lens.attribution_graphs.arrays.text import CAUTION
from lrp_lens.attribution_graphs.closed_form.account import SINK_KINDS, LayerAccount
from lrp_lens.attribution_graphs.closed_form.batch_packed import batch_packed
from lrp_lens.attribution_graphs.closed_form.checkpoint import Ends, LayerCheckpoint
from lrp_lens.attribution_graphs.closed_form.options import Options
from lrp_lens.attribution_graphs.closed_form.refine import refine
from lrp_lens.attribution_graphs.closed_form.state_pass import LayerTensors, StatePass, tolerance
from lrp_lens.attribution_graphs.closed_form.stream import Pruned, Pruning, prune_matrix, prune_transition
from lrp_lens.attribution_graphs.closed_form.transition import part_labels
from lrp_lens.errors import InputError, SiteError
from lrp_lens.hosts.names import Names
from lrp_lens.progress import progress_bar
from lrp_lens.rules import conserving, holds_patterns
from lrp_lens.run.conservation import caution
from lrp_lens.views import View


class GraphBuilder:
    """One graph in the making; afterwards what `AttributionGraph.made_by` asks for matrices and refinements."""

    def __init__(self, run: StatePass, kept: tuple[int, ...], options: Options) -> None:
        self.run, self.kept, self.options = run, kept, options
        self.boundaries = self._boundaries()
        self.relevance: dict[str, Tensor] = {}
        self.column_error = 0.0

    def _boundaries(self) -> tuple[Boundary, ...]:
        found = []
        for before, one in zip((None, *self.kept), self.kept, strict=False):
            closed = before is not None and one == before + 1
            if closed and self.options.split == "mid" and self.run.mid_states:
                found.append(Boundary(Names.resid_mid(one - 1), f"L{one - 1} mid", one - 1, mid=True))
            if one == 0:
                found.append(Boundary(Names.resid_pre(0), "embed", None))
            else:
                found.append(Boundary(Names.resid_post(one - 1), f"L{one - 1}", one - 1))
        return tuple(found)

    # ------------------------------------------------------------------------------- building
    def build(self) -> AttributionGraph:
        """Run the pass backwards, a block at a time, and collect the edges."""
        run, options = self.run, self.options
        pruning = options.pruning(run.metric_value)
        found: dict[Ends, Pruned] = {}
        wanted = {(a.name, b.name) for a, b in self.pairs}
        layers = range(run.sites.n_layers - 1, min(self.kept[0], run.sites.n_layers) - 1, -1)
        checkpoint = LayerCheckpoint(run, self.kept, options)
        with progress_bar(None, len(layers) * run.length, "edges", options.progress, "row") as bar:
            for done, layer in enumerate(layers, start=1):
                stored = checkpoint.load(layer)
                if stored is None:
                    edges = self._layer(layer, wanted, pruning, bar.update)
                    checkpoint.save(layer, edges, self._relevance_of(layer), self._gradients_of(layer))
                else:
                    edges, relevance, gradients = stored
                    device = run.final_state.device
                    self.relevance |= {name: one.to(device) for name, one in relevance.items()}
                    run.gradients |= {name: one.to(device) for name, one in gradients.items()}
                for pruned in edges.values():
                    self.column_error = max(self.column_error, pruned.column_error)
                found |= edges
                bar.update(done * run.length - bar.n)
        for source, target in self.pairs:
            if (source.name, target.name) not in found:
                found[source.name, target.name] = self._packed(source, target, pruning)
        graph = self._graph([found[a.name, b.name] for a, b in self.pairs])
        self._require_balance(graph)
        return graph

    def _require_balance(self, graph: AttributionGraph) -> None:
        """Raise SiteError unless every target accounts for its relevance."""
        size = np.abs(graph.node_relevance).max()
        missing = graph.balance()["remainder"].abs().max() / (size if size else 1.0)
        if not missing < tolerance(self.run.final_state.dtype, 1e-3):
            raise SiteError(
                f"A state's relevance is that of its edges and sinks; here {missing:.2g} of the largest is missing. "
                "Does a hook on the model change activations? Remove it (model.reset_hooks()). Does a rule of your own "
                f"answer otherwise than its hooks act? See {self.run.rules.name}. Else report the architecture."
            )

    @property
    def pairs(self) -> list[tuple[Boundary, Boundary]]:
        """Neighbouring boundaries."""
        return list(zip(self.boundaries, self.boundaries[1:], strict=False))

    def _states_of(self, layer: int) -> list[str]:
        before = Names.resid_post(layer - 1) if layer else Names.resid_pre(0)
        mid = [Names.resid_mid(layer)] if self.run.mid_states else []
        return [before, *mid, Names.resid_post(layer)]

    def _relevance_of(self, layer: int) -> dict[str, Tensor]:
        return {name: self.relevance[name] for name in self._states_of(layer)}

    def _gradients_of(self, layer: int) -> dict[str, Tensor]:
        names = {*self._states_of(layer), Names.resid_pre(layer)}
        return {name: self.run.gradients[name] for name in names}

    def _layer(
        self, layer: int, wanted: set[Ends], pruning: Pruning, progress: Callable[[int], object]
    ) -> dict[Ends, Pruned]:
        """One block back, and its edges."""
        tensors = self.run.layer(layer)
        for name in self._states_of(layer):
            own = Names.resid_pre(layer) if name not in tensors else name
            self.relevance[name] = tensors.relevance(own)
        if self.options.method == "batch_packed":
            return {}
        return dict(self._closed_form(tensors, wanted, pruning, progress))

    def _closed_form(
        self,
        tensors: LayerTensors,
        wanted: set[Ends],
        pruning: Pruning,
        progress: Callable[[int], object] = lambda rows: None,
    ) -> Iterator[tuple[Ends, Pruned]]:
        """The edges of one block between the boundaries kept."""
        before = Names.resid_post(tensors.layer - 1) if tensors.layer else Names.resid_pre(0)
        names = {Names.resid_pre(tensors.layer): before}
        inside = {before, Names.resid_mid(tensors.layer), Names.resid_post(tensors.layer)}
        if not any({source, target} <= inside for source, target in wanted):
            return
        edges, received = self.run.attention(tensors)
        account = LayerAccount(self.run, tensors, edges, received)
        for start, end, transition in account.transitions(self.options.split == "mid"):
            ends = (names.get(start, start), end)
            if ends in wanted:
                pruned = prune_transition(
                    transition, pruning, received=received, block=self.options.block, progress=progress
                )
                self._check(pruned, tensors.layer)
                yield ends, pruned

    def _check(self, pruned: Pruned, layer: int) -> None:
        if not pruned.column_error < tolerance(self.run.final_state.dtype, 1e-2):
            raise SiteError(
                f"Edges of a source sum to what its q, k and v received; in layer {layer} of "
                f"{self.run.sites.architecture} they miss it by {pruned.column_error:.2g}. Does a rule of "
                f"your own answer otherwise than its hooks act? See {self.run.rules.name}. Else use "
                "method='batch_packed', and report the architecture."
            )

    def _packed(self, source: Boundary, target: Boundary, pruning: Pruning) -> Pruned:
        """The edges between two boundaries, by definition."""
        copies = self.options.block or 16
        desc = f"{source.label} → {target.label}"
        with progress_bar(None, self.run.length, desc, self.options.progress, "row") as bar:
            matrix = batch_packed(
                self.run, _place(source), _place(target), copies=copies, progress=bar.update
            )
        return prune_matrix(matrix, self.relevance[source.name], self.relevance[target.name], pruning)

    def _graph(self, transitions: list[Pruned]) -> AttributionGraph:
        run = self.run
        heads = run.sites.n_heads
        packed = [one.parts.shape[1] == 1 for one in transitions]
        labels = part_labels(heads) if not all(packed) else ()
        labels += ("all paths",) if any(packed) else ()
        kinds = (*SINK_KINDS, "not apportioned") if any(packed) else SINK_KINDS
        parts = [_widened(one.parts, labels) for one in transitions]
        sinks = np.stack(
            [np.stack([one.sinks.get(kind, np.zeros(run.length)) for kind in kinds]) for one in transitions]
        )
        counts = [len(one.relevance) for one in transitions]
        final = self.boundaries[-1].name == run.final
        read = run.at_positions(run.gradients[run.final].abs()).sum(-1).nonzero().flatten().tolist()
        return AttributionGraph(
            boundaries=self.boundaries,
            token_strings=run.batch.shown.strings[0],
            special=run.batch.shown.special[0].cpu().numpy(),
            pieces=run.batch.shown.pieces[0] if run.batch.shown.pieces else (),
            answers=run.batch.shown.answers[0] if run.batch.forced else (),
            node_relevance=np.stack(
                [self.relevance[one.name].double().cpu().numpy() for one in self.boundaries]
            ),
            transition=np.repeat(np.arange(len(counts)), counts),
            target=np.concatenate([one.target for one in transitions]),
            source=np.concatenate([one.source for one in transitions]),
            relevance=np.concatenate([one.relevance for one in transitions]),
            part_values=np.concatenate(parts),
            parts=labels,
            sinks=sinks,
            sink_kinds=kinds,
            pruned=np.stack([one.pruned for one in transitions]),
            pruned_mass=np.array([one.pruned_mass for one in transitions]),
            total_mass=np.array([one.total_mass for one in transitions]),
            metric_value=run.metric_value,
            metric_text=run.metric_text,
            rules_text=str(run.rules),
            towards=run.towards,
            target_positions=tuple(read if final else range(run.length)),
            notes=(
                *self._cautions(),
                f"method: {self.options.method}",
                *_remarks(run),
                *self.options.words(run.metric_value),
            ),
            made_by=self,
        )

    def _cautions(self) -> tuple[str, ...]:
        """A note where the states before the first block (a token and its position) hardly account for the metric."""
        run = self.run
        if self.boundaries[0].layer is not None:
            return ()
        held = self.relevance[self.boundaries[0].name].double().tolist()
        said = caution(run.metric_value, held, conserving(run.sites), run.rules.name)
        return (CAUTION + said,) if said else ()

    # ------------------------------------------------------------------------------- afterwards
    def matrix(self, source: int, target: int) -> np.ndarray:
        """All edges between two boundaries, [target position, source position]."""
        start, end = self.boundaries[source], self.boundaries[target]
        adjacent = target == source + 1 and self.options.method == "closed_form"
        if adjacent and (end.layer or 0) - (-1 if start.layer is None else start.layer) <= 1:
            return self._dense(start, end)
        return batch_packed(self.run, _place(start), _place(end)).double().cpu().numpy()

    def _dense(self, start: Boundary, end: Boundary) -> np.ndarray:
        layer = end.layer
        assert layer is not None
        everything = Pruning(-1.0, -1.0, 1.0, None)
        tensors = self.run.layer(layer)
        _, pruned = next(self._closed_form(tensors, {(start.name, end.name)}, everything))
        matrix = np.zeros((self.run.length, self.run.length))
        matrix[pruned.target, pruned.source] = pruned.relevance
        return matrix

    def refine(self, *, source: tuple[int, int] | None, target: tuple[int, int], into: str) -> View:
        """What carries a node, or an edge inside one block.

        Raises:
            InputError: for an edge whose source is not before its target in the target's block; it has dimensions only
                if it is the source's that are asked for, through all blocks between.
        """
        end = (self.boundaries[target[0]], target[1])
        if source is None:
            return refine(self.run, source=None, target=end, into=into)
        start = (self.boundaries[source[0]], source[1])
        first, last = _place(start[0]), _place(end[0])
        if first >= last:
            raise InputError(
                f"An edge leads forwards; received {start[0].label}@{start[1]} → {end[0].label}@{end[1]}. Swap them."
            )
        mid_to_next = self.run.mid_states and self.options.split == "mid"
        inside = (last[0], False) if last[1] else (last[0] - 1, mid_to_next)
        if first != inside:
            raise InputError(
                "An edge is refined between neighbouring states of one block; "
                f"{start[0].label} → {end[0].label} spans more. Refine the edges or the nodes on the way."
            )
        return refine(self.run, source=start, target=end, into=into)


def _remarks(run: StatePass) -> tuple[str, ...]:
    """Notes: where no edge can go by way of queries and keys, and which attention was not taken in blocks of rows."""
    remarks = [str(run.row_blocks)]
    if holds_patterns(run.rules, run.sites):
        remarks.append(f"no K and Q edges: {run.rules.name} holds attention patterns constant")
    return tuple(remark for remark in remarks if remark)


def _place(boundary: Boundary) -> tuple[int, bool]:
    """(block, mid) as `batch_packed` counts them."""
    if boundary.layer is None:
        return 0, False
    return (boundary.layer, True) if boundary.mid else (boundary.layer + 1, False)


def _widened(parts: np.ndarray, labels: tuple[str, ...]) -> np.ndarray:
    """Parts in the columns of all labels; one column is `all paths`, two are residual and MLP."""
    wide = np.zeros((len(parts), len(labels)), dtype=parts.dtype)
    columns = slice(-1, None) if parts.shape[1] == 1 else slice(0, parts.shape[1])
    wide[:, columns] = parts
    return wide
