"""attribution_graph: which state of the residual stream handed relevance to which.

The reference is "Contrastive Attribution in the Wild" (arXiv 2604.17761); its definition of an edge, and the slow way
to compute it, are in `batch_packed`.

1. One forward and one backward pass, block by block (`state_pass`).
2. Between neighbouring boundaries: edges in closed form (`rows`), pruned while they are formed (`stream`).
3. Between boundaries further apart (`layers`): batch-packed, one backward pass for many targets at once.
4. Everything left out is accounted for: for every target Σ in-edges + pruned + sinks = its relevance.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from torch import Tensor
from tqdm.auto import tqdm

from lrp_lens.edges.account import SINK_KINDS, LayerAccount
from lrp_lens.edges.batch_packed import batch_packed
from lrp_lens.edges.refine import refine
from lrp_lens.edges.state_pass import LayerTensors, StatePass, tolerance
from lrp_lens.edges.stream import Pruned, Pruning, part_labels, prune_matrix, prune_transition
from lrp_lens.errors import InputError, SiteError
from lrp_lens.graph import AttributionGraph, Boundary
from lrp_lens.graph.pruning import check_share, check_threshold
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import require_gradients
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.text import tokenize
from lrp_lens.metrics import CallableMetric, Metric, as_metric
from lrp_lens.relevance import Prompt, vocabulary_size
from lrp_lens.rules import ATTN_LRP, RuleSet
from lrp_lens.views import View

Split = Literal["mid"] | None
Method = Literal["closed_form", "batch_packed"]


def attribution_graph(
    model: Any,
    prompt: Prompt,
    metric: Metric | Callable[[Tensor], Tensor] | None = None,
    *,
    rules: RuleSet = ATTN_LRP,
    layers: Sequence[int] | None = None,
    split: Split = "mid",
    method: Method = "closed_form",
    node_threshold: float = 0.01,
    edge_threshold: float = 0.0,
    mass: float = 0.85,
    max_edges: int | None = 200_000,
    block: int | None = None,
    progress: bool | None = None,
) -> AttributionGraph | list[AttributionGraph]:
    """Cross-layer attribution graph of a metric: hidden states as nodes, relevance handed on as edges.

    Args:
        model: a HookedTransformer or TransformerBridge in eval mode.
        prompt: text, list of texts, token ids [pos] or [batch, pos], or a list of id tensors.  Several prompts give a
            list of graphs, one after the other.
        metric: what to explain, e.g. `LogitDiff(" Mary", " John")`; default: top token against runner-up.
        rules: a rule set; default AttnLRP.
        layers: boundaries to keep, ascending: 0 is the embedding, l + 1 the stream after block l; default all.
            Neighbours further apart than one block are joined by batch-packed edges.
        split: "mid" for nodes after attention, too, or None.  Parallel and attention-only blocks have no such state.
        method: "closed_form", or "batch_packed", the slow definition (equation 11 of the paper).
        node_threshold: nodes with |R| at most this share of |metric| keep no edges (the paper: 0.01).
        edge_threshold: edges with |A| at most this share of |metric| go.
        mass: share of Σ|A| of each transition that the strongest edges kept hold together (the paper: 0.85); 1 keeps
            all.
        max_edges: at most so many edges for each transition; None for no limit.
        block: target rows formed at a time (for batch_packed: targets that share a backward pass); default by memory.
        progress: show a bar; default for prompts of 512 tokens and more.

    Returns:
        AttributionGraph; a list of them for several prompts.

    Raises:
        InputError, MetricError, SiteError: as `run_with_relevance`; InputError also for layers that are not ascending
            boundaries of the model, and for thresholds out of range.

    Example:
        >>> from lrp_lens import LogitDiff, attribution_graph, load_demo_model
        >>> graph = attribution_graph(load_demo_model(), "then mary and john went to the park . john gave the key to",
        ...                           LogitDiff("mary", "john"))
        >>> graph.matrix(0, ("resid_mid", 0)).shape
        (15, 15)
    """
    options = Options(split, method, node_threshold, edge_threshold, mass, max_edges, block, progress)
    require_gradients()
    sites = resolve(model)
    kept = _layers(layers, sites.n_layers)
    batch = tokenize(model, prompt, None)
    asked = as_metric(metric).resolve(model)
    asked.bind(batch.starts, batch.lengths, vocabulary_size(model))
    spans = enumerate(zip(batch.starts, batch.lengths, strict=True))
    prompts = [batch.ids[row, start : start + length] for row, (start, length) in spans]
    graphs = [
        StateGraph(StatePass(model, ids, _of_example(asked, row), rules), kept, options).build()
        for row, ids in enumerate(prompts)
    ]
    return graphs[0] if batch.single else graphs


def _layers(layers: Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
    """The boundaries kept.

    Raises:
        InputError: unless they are two or more of 0 … n_layers, ascending.
    """
    if layers is None:
        return tuple(range(n_layers + 1))
    kept = tuple(layers)
    whole = all(isinstance(one, int) and not isinstance(one, bool) for one in kept)
    if not whole or len(kept) < 2 or list(kept) != sorted(set(kept)) or kept[0] < 0 or kept[-1] > n_layers:
        raise InputError(
            f"layers are two or more boundaries, ascending, from 0 (embedding) to {n_layers} (after the last block); "
            f"received {layers!r}."
        )
    return kept


def _of_example(metric: Metric, row: int) -> Metric:
    """The metric of one prompt of a batch."""
    names = [name for name in ("target", "contrast", "token") if hasattr(metric, name)]
    if isinstance(metric, CallableMetric) or len(metric.terms()) == 1:
        return metric
    return replace(metric, **{name: [getattr(metric, name)[row]] for name in names})


@dataclass(frozen=True)
class Options:
    """How a graph is made; see `attribution_graph`."""

    split: Split = "mid"
    method: Method = "closed_form"
    node_threshold: float = 0.01
    edge_threshold: float = 0.0
    mass: float = 0.85
    max_edges: int | None = 200_000
    block: int | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.split not in ("mid", None):
            raise InputError(f"split is 'mid' or None; received {self.split!r}.")
        if self.method not in ("closed_form", "batch_packed"):
            raise InputError(f"method is 'closed_form' or 'batch_packed'; received {self.method!r}.")
        check_share(self.mass)
        check_threshold("node_threshold", self.node_threshold)
        check_threshold("edge_threshold", self.edge_threshold)
        for name in ("max_edges", "block"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} is a number of 1 or more, or None; received {value!r}.")

    def pruning(self, metric: float) -> Pruning:
        """In the metric's units."""
        size = abs(metric)
        return Pruning(self.node_threshold * size, self.edge_threshold * size, self.mass, self.max_edges)

    def words(self) -> str:
        """What was kept, for the graph's notes."""
        most = "" if self.max_edges is None else f", at most {self.max_edges} edges a transition"
        return (
            f"kept: nodes with |R| > {self.node_threshold:g}·|metric|, edges with |A| > {self.edge_threshold:g}·"
            f"|metric|, the strongest edges that hold {100 * self.mass:g} % of each transition's mass{most}"
        )


class StateGraph:
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
        found: dict[tuple[str, str], Pruned] = {}
        wanted = {(a.name, b.name) for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)}
        layers = range(run.sites.n_layers - 1, min(self.kept[0], run.sites.n_layers) - 1, -1)
        show = run.length >= 512 if options.progress is None else options.progress
        with tqdm(total=len(layers) * run.length, disable=not show, unit="row", desc="edges") as bar:
            for layer in layers:
                tensors = run.layer(layer)
                self._note(tensors)
                if options.method == "closed_form":
                    for ends, edges in self._closed_form(tensors, wanted, pruning):
                        found[ends] = edges
                bar.update(run.length)
        for source, target in zip(self.boundaries, self.boundaries[1:], strict=False):
            if (source.name, target.name) not in found:
                found[source.name, target.name] = self._packed(source, target, pruning, show)
        return self._graph(
            [found[a.name, b.name] for a, b in zip(self.boundaries, self.boundaries[1:], strict=False)]
        )

    def _note(self, tensors: LayerTensors) -> None:
        """Keep the relevance of this layer's states."""
        layer = tensors.layer
        self.relevance[Names.resid_post(layer)] = tensors.relevance(Names.resid_post(layer))
        if self.run.mid_states:
            self.relevance[Names.resid_mid(layer)] = tensors.relevance(Names.resid_mid(layer))
        before = Names.resid_post(layer - 1) if layer else Names.resid_pre(0)
        self.relevance[before] = tensors.relevance(Names.resid_pre(layer))

    def _closed_form(
        self, tensors: LayerTensors, wanted: set[tuple[str, str]], pruning: Pruning
    ) -> Iterator[tuple[tuple[str, str], Pruned]]:
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
                pruned = prune_transition(transition, pruning, received=received, block=self.options.block)
                self._check(pruned, tensors.layer)
                yield ends, pruned

    def _check(self, pruned: Pruned, layer: int) -> None:
        self.column_error = max(self.column_error, pruned.column_error)
        if not pruned.column_error < tolerance(self.run.final_state.dtype, 1e-2):
            raise SiteError(
                f"Edges of a source sum to what its q, k and v received; in layer {layer} of "
                f"{self.run.sites.architecture} they miss it by {pruned.column_error:.2g}. Use method='batch_packed', "
                "and report the architecture."
            )

    def _packed(self, source: Boundary, target: Boundary, pruning: Pruning, show: bool) -> Pruned:
        """The edges between two boundaries, by definition."""
        copies = self.options.block or 16
        desc = f"{source.label} → {target.label}"
        with tqdm(total=self.run.length, disable=not show, unit="row", desc=desc) as bar:
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
        positions = None if run.metric.positions is None else run.metric.positions[0].unique().tolist()
        everywhere = list(range(run.length))
        return AttributionGraph(
            boundaries=self.boundaries,
            token_strings=run.batch.strings[0],
            special=run.batch.special[0].cpu().numpy(),
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
            target_positions=tuple(positions if final and positions is not None else everywhere),
            notes=(f"method: {self.options.method}", self.options.words()),
            made_by=self,
        )

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
        for _, pruned in self._closed_form(tensors, {(start.name, end.name)}, everything):
            matrix = np.zeros((self.run.length, self.run.length))
            matrix[pruned.target, pruned.source] = pruned.relevance
            return matrix
        raise AssertionError((start, end))

    def refine(self, *, source: tuple[int, int] | None, target: tuple[int, int], into: str) -> View:
        """What carries a node, or an edge between neighbours."""
        end = (self.boundaries[target[0]], target[1])
        start = None if source is None else (self.boundaries[source[0]], source[1])
        return refine(self.run, source=start, target=end, into=into)


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
