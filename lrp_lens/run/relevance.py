"""run_with_relevance: one forward and one backward pass, and relevance at every hook point.

`relevance_per_metric` is the same for several metrics, which share all but the backward pass.

1. Check the model, the prompt and the metric; plan the rules' hooks.  Nothing long has run yet.
2. Attach, in this order: leaves at the embeddings (nothing before them is differentiated), replacing gates,
   recorders, reading and scaling gates.  Parameters are kept out of the graph.
3. Forward; read the metric at the positions it names; one backward to every recorded tensor at once.
4. Relevance is activation ⊙ gradient (Bach et al. 2015; Ancona et al. 2018; AttnLRP, Achtibat et al. 2024).

The model is left as it was found, also after an exception.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import TypeAliasType

from lrp_lens.errors import InputError, MetricError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import require_eval, require_gradients, vocabulary_size
from lrp_lens.hosts.prefix import KeyValues
from lrp_lens.hosts.replay import NotReplayedError
from lrp_lens.hosts.sites import Sites
from lrp_lens.hosts.token_batch import Branch, TokenBatch
from lrp_lens.hosts.tokens import PaddingSide, tokenize, with_answers
from lrp_lens.metrics import BoundMetric, Metric, MetricLike, as_metric
from lrp_lens.rules import DEFAULT_RULES, RuleSet, as_rule_set, conserving
from lrp_lens.run.cache import RelevanceCache
from lrp_lens.run.choosing import Asked, choose
from lrp_lens.run.dropped import LayerDrops
from lrp_lens.run.low_memory import pass_by_blocks
from lrp_lens.run.reading import describe_metric
from lrp_lens.run.recording import NamesFilter, Wanted
from lrp_lens.run.whole import Passed, whole_pass

Messages = TypeAliasType("Messages", Sequence[Mapping[str, Any]])
"""[{"role": "user", "content": "..."}, ...]: a conversation, read through the tokenizer's chat template."""
Prompt = TypeAliasType(
    "Prompt",
    str
    | Messages
    | Sequence[str]
    | Sequence[Messages]
    | Sequence[int]
    | Int[Tensor, "..."]
    | Sequence[Tensor]
    | TokenBatch,
)
"""Text or messages, a list of these (a batch), token ids [pos] or [batch, pos], a list of id tensors; or what
`tokenize` returned."""
Memory = TypeAliasType("Memory", Literal["auto", "full", "low"])


def ask(
    model: Any,
    prompt: Prompt,
    metric: MetricLike | None,
    padding_side: PaddingSide | None = None,
    prepend_bos: bool | None = None,
) -> tuple[TokenBatch, BoundMetric]:
    """The question as rows of tokens, answers appended, and as a metric bound to them.

    Raises:
        InputError, MetricError: as `run_with_relevance`.
    """
    batch, bounds = ask_all(model, prompt, [metric], padding_side, prepend_bos)
    return batch, bounds[0]


def ask_all(
    model: Any,
    prompt: Prompt,
    metrics: Sequence[MetricLike | None],
    padding_side: PaddingSide | None = None,
    prepend_bos: bool | None = None,
) -> tuple[TokenBatch, list[BoundMetric]]:
    """`ask` with several metrics of the same rows.

    Raises:
        InputError: as `run_with_relevance`.
        MetricError: as there; or metrics that append different answers.
    """
    batch = tokenize(model, prompt, padding_side, prepend_bos)
    asked = [as_metric(metric).resolve(model) for metric in metrics]
    appended = {_appended(metric, batch) for metric in asked}
    if len(appended) > 1:
        raise MetricError(
            "Metrics share a pass where they append the same answer tokens to a prompt, or none; received "
            f"{', '.join(map(str, asked))}. Put those that do into one call, and the others into another."
        )
    batch = with_answers(model, batch, asked[0].branches())
    starts, lengths = batch.starts, batch.prompt_lengths
    return batch, [metric.bind(starts, lengths, vocabulary_size(model)) for metric in asked]


def _appended(metric: Metric, batch: TokenBatch) -> tuple[tuple[Branch, ...], ...]:
    """What a metric appends to each prompt; of what appends nothing, nothing."""
    branches = metric.branches()
    if not any(branch.ids for row in branches for branch in row):
        return ()
    return tuple(branches) * (batch.n_examples if len(branches) == 1 else 1)


def run_with_relevance(
    model: Any,
    prompt: Prompt,
    metric: MetricLike | None = None,
    *,
    rules: RuleSet | str = DEFAULT_RULES,
    names_filter: NamesFilter = None,
    padding_side: PaddingSide | None = None,
    prepend_bos: bool | None = None,
    logits: Literal["all", "metric"] = "all",
    memory: Memory = "auto",
    progress: bool | None = None,
) -> tuple[Float[Tensor, "row pos d_vocab"], RelevanceCache]:
    """Run the model once, forward and backward, and return logits and the relevance at every hook point.

    Args:
        model: a HookedTransformer or TransformerBridge in eval mode.
        prompt: text or messages, a list of these (a batch), token ids [pos] or [batch, pos], or a list of id tensors.
        metric: what to explain, e.g. `LogitDiff(" Mary", " John")`; default: top token against runner-up at the last
            position.  Any callable logits [batch, pos, d_vocab] → [batch] works.
        rules: a rule set or the name of a preset; the result names it.
        names_filter: None keeps every default hook point (nothing quadratic in length); or a name, a list of names,
            or a predicate, as in `run_with_cache`.
        padding_side: side on which shorter prompts of a batch are padded; default right.
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
        logits: "all", or "metric" to unembed only the positions the metric reads (faster; the returned logits then
            have those positions only, and in full the attention of a long prompt is left to a fused kernel).
        memory: "full" keeps every activation and gradient, in one forward and one backward pass; "low" goes block by
            block (a forward pass more): its peak is the model, the inputs of its blocks and one block, and it keeps
            what `names_filter` names or, without one, what every view and the ledger need.  "auto": in full where
            that takes at most half of the memory that is free, by an estimate; `cache.memory` says which it was and
            `cache.memory_text` why.
        progress: show a bar over the blocks of a pass in low memory; None: where it takes long.

    Returns:
        logits: [batch, pos, d_vocab], bit-identical to a plain forward pass (up to rounding where attention of a long
            prompt is formed in blocks of rows or by a fused kernel).  A metric of answers of several tokens appends
            them: its logits have their positions, too, and for two answers two rows for each prompt.
        cache: RelevanceCache; `cache["z", 5]` has the shape of the activation.

    Raises:
        InputError: empty or too long prompt, unknown token id, train mode, NaN logits, unknown hook name; or a pass
            that does not fit in the memory that is free (`lrp_lens.estimate`).
        MetricError: a token that is not one token of the vocabulary, or a position out of range.
        RuleError: rules that are neither a rule set nor the name of one.
        SiteError: an operation that no rule knows, or an edit that the host drops.

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model, run_with_relevance
        >>> model = load_demo_model()
        >>> _, rel = run_with_relevance(model, "then mary and john went to the park . john gave the key to",
        ...                             LogitDiff("mary", "john"))
        >>> rel.tokens().values.shape
        (15,)
    """
    return relevance_run(
        model, prompt, metric, rules, names_filter, padding_side, prepend_bos, logits, memory, progress
    )


def relevance_per_metric(
    model: Any,
    prompt: Prompt,
    metrics: Sequence[MetricLike | None],
    *,
    rules: RuleSet | str = DEFAULT_RULES,
    names_filter: NamesFilter = None,
    padding_side: PaddingSide | None = None,
    prepend_bos: bool | None = None,
    logits: Literal["all", "metric"] = "all",
    memory: Memory = "auto",
    progress: bool | None = None,
) -> tuple[Float[Tensor, "row pos d_vocab"], list[RelevanceCache]]:
    """Run the model forward once, and go back from each of several metrics: other tokens, or other positions.

    Each cache equals that of a `run_with_relevance` of its own.  In low memory the metrics share the blocks' inputs,
    and each block runs again once for all of them.

    Args:
        model: as `run_with_relevance`.
        prompt: as there; one prompt or a batch.
        metrics: the metrics, each as there; those that append answers append the same ones.
        rules: as there.
        names_filter: as there; the caches share their activations, and each holds gradients of its own.
        padding_side: as there.
        prepend_bos: as there.
        logits: "all", or "metric" to unembed only the positions that any metric reads.
        memory: as there.
        progress: as there.

    Returns:
        logits: [batch, pos, d_vocab].
        caches: one for each metric, in their order.

    Raises:
        InputError, RuleError, SiteError: as `run_with_relevance`; no list of metrics, or an empty one.
        MetricError: as there; or metrics that append different answers.

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model, relevance_per_metric
        >>> model = load_demo_model(device="cpu")
        >>> prompt = "then mary and john went to the park . john gave the key to"
        >>> _, caches = relevance_per_metric(model, prompt, [LogitDiff("mary", other) for other in ("john", "park")])
        >>> [cache.towards[1] for cache in caches]
        ['john', 'park']
    """
    given: Any = metrics
    if not isinstance(given, Sequence) or isinstance(given, str) or not len(given):
        raise InputError(
            f"metrics is a list of at least one metric; received {metrics!r}. Pass [LogitDiff(...), ...], or call "
            "run_with_relevance with one metric."
        )
    return relevance_runs(
        model, prompt, metrics, rules, names_filter, padding_side, prepend_bos, logits, memory, progress
    )


def relevance_run(
    model: Any, prompt: Prompt, metric: MetricLike | None, *options: Any, **named: Any
) -> tuple[Float[Tensor, "row pos d_vocab"], RelevanceCache]:
    """`relevance_runs` of one metric."""
    logits, caches = relevance_runs(model, prompt, [metric], *options, **named)
    return logits, caches[0]


def relevance_runs(
    model: Any,
    prompt: Prompt,
    metrics: Sequence[MetricLike | None],
    rules: RuleSet | str,
    names_filter: NamesFilter,
    padding_side: PaddingSide | None = None,
    prepend_bos: bool | None = None,
    logits: Literal["all", "metric"] = "metric",
    memory: Memory = "full",
    progress: bool | None = None,
    drops: LayerDrops | None = None,
    past: KeyValues | None = None,
) -> tuple[Float[Tensor, "row pos d_vocab"], list[RelevanceCache]]:
    """The pass of several metrics, with further backward passes if `drops` asks; in full it fills `past`."""
    require_gradients()
    sites = resolve(model)
    require_eval(model)
    rules = as_rule_set(rules)
    if logits not in ("all", "metric"):
        raise InputError(f"logits is 'all' or 'metric'; received {logits!r}.")
    if memory not in ("auto", "full", "low"):
        raise InputError(f"memory is 'auto', 'full' or 'low'; received {memory!r}.")
    batch, bounds = ask_all(model, prompt, metrics, padding_side, prepend_bos)
    wanted = Wanted.of(names_filter, sites, rules)
    rows, length = batch.ids.shape
    every_position = any(bound.positions is None for bound in bounds)
    asked = Asked(model, sites, rules, length, rows, wanted, logits, every_position, len(bounds))
    way, reason, fits = choose(asked, memory)
    if way == "low":
        try:
            passes = pass_by_blocks(model, sites, batch, bounds, rules, wanted, logits, progress)
        except NotReplayedError as error:
            if memory == "low" or not fits:
                raise
            way, reason = "full", f"{reason}; not block by block: {error}"
    if way == "full":
        passes = whole_pass(model, sites, batch, bounds, rules, wanted, logits, drops, past)
    return passes[0].logits, [_cache(model, sites, batch, rules, one, way, reason) for one in passes]


def _cache(
    model: Any, sites: Sites, batch: TokenBatch, rules: RuleSet, passed: Passed, way: str, reason: str
) -> RelevanceCache:
    reason = "; ".join(part for part in (reason, passed.remark) if part)
    text, towards = describe_metric(model, passed.metric.metric)
    return RelevanceCache(
        passed.activations,
        passed.gradients,
        metric_value=passed.value,
        metric_text=text,
        rules_text=str(rules),
        batch=batch,
        n_layers=sites.n_layers,
        towards=towards,
        metric=passed.metric,
        rules=rules,
        balance=passed.balance,
        conserving=conserving(sites),
        sums=passed.sums,
        memory=way,
        memory_text=reason,
    )
