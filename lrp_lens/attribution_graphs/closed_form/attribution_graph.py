"""attribution_graph: which state of the residual stream handed relevance to which.

The reference is "Contrastive Attribution in the Wild" (arXiv 2604.17761); its definition of an edge, and the slow way
to compute it, are in `batch_packed`.

1. One forward and one backward pass, block by block (`state_pass`).
2. Between neighbouring boundaries: edges in closed form (`rows`), pruned while they are formed (`stream`).
3. Between boundaries further apart (`layers`): batch-packed, one backward pass for many targets at once.
4. Everything left out is accounted for: for every target Σ in-edges + pruned + sinks = its relevance.
"""

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import Any

from lrp_lens.attribution_graphs.arrays import AttributionGraph
from lrp_lens.attribution_graphs.closed_form.builder import GraphBuilder
from lrp_lens.attribution_graphs.closed_form.options import Method, Options, Split
from lrp_lens.attribution_graphs.closed_form.state_pass import StatePass
from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import require_gradients, vocabulary_size
from lrp_lens.metrics import MetricLike
from lrp_lens.rules import DEFAULT_RULES, RuleSet, as_rule_set
from lrp_lens.run.relevance import Prompt, ask

QUESTIONS = {
    "norm": ("conserves", "derivative", "kept"),
    "attention": ("share", "sinks", "row_gradients"),
    "softmax": ("conserves", "at_scores"),
    "softcap": ("conserves", "slope"),
    "linear": ("conserves", "factor"),
} | dict.fromkeys(("activation", "product", "experts"), ("conserves",))
"""What edges in closed form ask of the rules."""


def attribution_graph(
    model: Any,
    prompt: Prompt,
    metric: MetricLike | None = None,
    *,
    rules: RuleSet | str = DEFAULT_RULES,
    prepend_bos: bool | None = None,
    layers: Sequence[int] | None = None,
    split: Split = "mid",
    method: Method = "closed_form",
    node_threshold: float | int = 0.01,
    edge_threshold: float | int = 0.0,
    mass: float | int = 0.85,
    max_edges: int | None = 200_000,
    block: int | None = None,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool | None = None,
) -> AttributionGraph | list[AttributionGraph]:
    """Cross-layer attribution graph of a metric: hidden states as nodes, relevance handed on as edges.

    Args:
        model: a HookedTransformer or TransformerBridge in eval mode.
        prompt: text, list of texts, token ids [pos] or [batch, pos], or a list of id tensors.  Several prompts give a
            list of graphs, one after the other.
        metric: what to explain, e.g. `LogitDiff(" Mary", " John")`; default: top token against runner-up.
        rules: a rule set or the name of a preset.  Rules that hold attention patterns constant (RELP_FROZEN_PATTERN,
            CP_LRP) show what was copied to where (OV); those that do not (ATTN_LRP, RELP) also where was looked (K, Q).
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
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
        checkpoint: folder in which finished layers are kept; the same call goes on where an interrupted one stopped.
            One prompt at a time.
        progress: show a bar; None: on terminals and in notebooks, after two seconds.

    Returns:
        AttributionGraph; a list of them for several prompts.

    Raises:
        RuleError: a rule that does not answer what edges in closed form ask; method="batch_packed" asks nothing.
        InputError, MetricError, SiteError: as `run_with_relevance`; InputError also for layers that are not ascending
            boundaries of the model, and for thresholds out of range.

    Example:
        >>> from lrp_lens import LogitDiff, attribution_graph, load_demo_model
        >>> graph = attribution_graph(load_demo_model(), "then mary and john went to the park . john gave the key to",
        ...                           LogitDiff("mary", "john"))
        >>> graph.matrix(0, ("resid_mid", 0)).shape
        (15, 15)
    """
    options = Options(
        split, method, node_threshold, edge_threshold, mass, max_edges, block, checkpoint, progress
    )
    require_gradients()
    sites, rules = resolve(model), as_rule_set(rules)
    if method == "closed_form":
        rules.require("attribution_graph", sites, QUESTIONS, where="in the blocks")
    kept = _layers(layers, sites.n_layers)
    batch, bound = ask(model, prompt, metric, None, prepend_bos)
    if checkpoint is not None and not batch.single:
        raise InputError(
            f"A checkpoint holds one graph; received {batch.n_examples} prompts. Call once for each "
            "prompt, with a folder each."
        )
    graphs = []
    for index in range(batch.n_examples):
        one = batch.example(index)
        own = bound.metric.example(index).bind(one.starts, one.prompt_lengths, vocabulary_size(model))
        graphs.append(GraphBuilder(StatePass(model, one, own, rules), kept, options).build())
    return graphs[0] if batch.single else graphs


def _layers(layers: Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
    """The boundaries kept.

    Raises:
        InputError: unless they are two or more of 0 … n_layers, ascending.
    """
    if layers is None:
        return tuple(range(n_layers + 1))
    kept: tuple[Any, ...] = tuple(layers) if isinstance(layers, Iterable) else ()
    if (
        not all(map(is_whole, kept))
        or len(kept) < 2
        or list(kept) != sorted(set(kept))
        or kept[0] < 0
        or kept[-1] > n_layers
    ):
        raise InputError(
            f"layers are two or more boundaries, ascending, from 0 (embedding) to {n_layers} (after the last block); "
            f"received {layers!r}."
        )
    return tuple(map(int, kept))
