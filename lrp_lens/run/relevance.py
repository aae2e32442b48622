"""run_with_relevance: one forward and one backward pass, and relevance at every hook point.

1. Check the model, the prompt and the metric; plan the rules' hooks.  Nothing long has run yet.
2. Attach, in this order: leaves at the embeddings (nothing before them is differentiated), replacing gates,
   recorders, reading and scaling gates.  Parameters are kept out of the graph.
3. Forward; read the metric at the positions it names; one backward to every recorded tensor at once.
4. Relevance is activation ⊙ gradient (Bach et al. 2015; Ancona et al. 2018; AttnLRP, Achtibat et al. 2024).

The model is left as it was found, also after an exception.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from typing_extensions import TypeAliasType

from lrp_lens.errors import InputError, MetricError, SiteError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import forward, require_eval, require_finite, require_gradients, vocabulary_size
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.scope import attached, graph_released, parameters_frozen
from lrp_lens.hosts.sites import LogitSite, NormSite, Sites
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import PaddingSide, token_strings, tokenize, with_answers
from lrp_lens.metrics import BoundMetric, Metric, MetricLike, as_metric
from lrp_lens.rules import DEFAULT_RULES, RuleSet, as_rule_set, conserving
from lrp_lens.run.balance import Balance
from lrp_lens.run.cache import RelevanceCache
from lrp_lens.run.dropped import LayerDrops
from lrp_lens.run.recording import (
    NamesFilter,
    Recorder,
    accounts_only,
    backward,
    complete,
    ledger_records,
    nonzero_biases,
    selector,
    total,
    with_completions,
)

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
    batch = tokenize(model, prompt, padding_side, prepend_bos)
    asked = as_metric(metric).resolve(model)
    batch = with_answers(model, batch, asked.branches())
    return batch, asked.bind(batch.starts, batch.prompt_lengths, vocabulary_size(model))


def describe_metric(model: Any, metric: Metric) -> tuple[str, tuple[str, str] | None]:
    """The metric in words, and the two ends of its sign."""
    return metric.words(lambda ids: token_strings(model, ids))


def unembedded(bound: BoundMetric) -> Callable[..., Tensor]:
    """A hook that keeps only the positions the metric reads."""

    def hook(tensor: Tensor, hook: Any) -> Tensor:
        return bound.select(tensor)

    return hook


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
            have those positions only).

    Returns:
        logits: [batch, pos, d_vocab], bit-identical to a plain forward pass.  A metric of answers of several tokens
            appends them: its logits have their positions, too, and for two answers two rows for each prompt.
        cache: RelevanceCache; `cache["z", 5]` has the shape of the activation.

    Raises:
        InputError: empty or too long prompt, unknown token id, train mode, NaN logits, unknown hook name.
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
    return relevance_run(model, prompt, metric, rules, names_filter, padding_side, prepend_bos, logits)


def relevance_run(
    model: Any,
    prompt: Prompt,
    metric: MetricLike | None,
    rules: RuleSet | str,
    names_filter: NamesFilter,
    padding_side: PaddingSide | None = None,
    prepend_bos: bool | None = None,
    logits: Literal["all", "metric"] = "metric",
    drops: LayerDrops | None = None,
) -> tuple[Float[Tensor, "row pos d_vocab"], RelevanceCache]:
    """`run_with_relevance`, and further backward passes of the same graph where `drops` asks for them."""
    require_gradients()
    sites = resolve(model)
    require_eval(model)
    rules = as_rule_set(rules)
    if logits not in ("all", "metric"):
        raise InputError(f"logits is 'all' or 'metric'; received {logits!r}.")
    batch, bound = ask(model, prompt, metric, padding_side, prepend_bos)
    keep = selector(names_filter, sites)
    chosen = {record.name for record in sites.records if keep(record)}
    everything = names_filter is None
    biases = nonzero_biases(sites) if everything else {}
    accounts = ledger_records(sites, rules, biases) if everything else set()
    private = with_completions(chosen | {Names.EMBED} | accounts, sites) - chosen
    recorder = Recorder(sites, batch)
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(graph_released(model))
        stack.enter_context(parameters_frozen(model))
        hooks = _hooks(model, sites, rules, recorder, chosen | private, bound, logits, drops)
        stack.enter_context(attached(model, *hooks))
        output = forward(model, batch.ids, batch.left_mask)
        require_finite(output.detach())
        rows = output if logits == "metric" else bound.select(output)
        bound = concrete_metric(bound, rows, batch)
        value = bound.read(rows)
        if not value.requires_grad:
            raise MetricError(
                f"A metric depends on the logits differentiably; {bound.metric} does not. Avoid .item() and argmax; "
                "or a hook on the model cuts the logits off (model.reset_hooks() removes them all)."
            )
        capped = any(rules.may_take(site) for site in sites.of(LogitSite))
        if everything and (not bound.metric.linear or capped):
            # the ledger's account of what follows the unembedding
            recorder.kept[Names.RETURNED_LOGITS] = [output]
        calls, unreached = backward(value, recorder, keep_graph=drops is not None)
        if drops is not None:
            drops.run(value, recorder, calls, chosen)
    unreached -= rules.cut(sites)
    if unreached and not callable(names_filter):
        raise SiteError(
            f"Relevance needs a gradient at every recorded point; {sites.host} computes "
            f"{', '.join(sorted(unreached))} outside the graph. Leave it out of names_filter, or use "
            "HookedTransformer; a hook on the model may cut it off (model.reset_hooks() removes them all); a rule of "
            "your own that does says so in `cuts`."
        )
    chosen -= unreached
    complete(calls, sites, accounts | chosen)
    balance = None
    if everything:
        balance = Balance(
            accounts_only(sites),
            rules,
            calls,
            biases,
            {name: tuple(inputs) for name, inputs in recorder.norm_inputs.items()},
            bound.metric.linear,
            batch.n_examples,
        )
    text, towards = describe_metric(model, bound.metric)
    kept = {
        name: calls[name]
        for name in sites.record_of
        if name in chosen and name in calls and len({a.shape for a in calls[name].activations}) == 1
    }
    cache = RelevanceCache(
        {name: item.activations[-1] for name, item in kept.items()},
        {name: total(item.gradients) for name, item in kept.items()},
        metric_value=value.detach(),
        metric_text=text,
        rules_text=str(rules),
        batch=batch,
        n_layers=sites.n_layers,
        towards=towards,
        metric=bound,
        rules=rules,
        balance=balance,
        conserving=conserving(sites),
    )
    return output.detach(), cache


def _hooks(
    model: Any,
    sites: Sites,
    rules: RuleSet,
    recorder: Recorder,
    names: set[str],
    bound: BoundMetric,
    logits: str,
    drops: LayerDrops | None,
) -> tuple[list[tuple[Any, Any]], list[tuple[Any, Any]]]:
    """Hooks on hook points, in the order in which those of one point run; and hooks on modules."""
    plan = rules.plan(model)
    hooks: list[tuple[Any, Any]] = [
        (hook.port.point, hook.function) for hook in plan if hook.stage == "replace"
    ]
    leaves = [
        sites.record_of[name].port for name in (Names.EMBED, Names.POS_EMBED) if name in sites.record_of
    ]
    hooks += [(port.point, recorder.leaf) for port in leaves if port is not None]
    hooks += [] if drops is None else drops.hooks()
    module_hooks: list[tuple[Any, Any]] = []
    for name in names:
        record = sites.record_of.get(name)
        if record is None:
            continue
        if record.port is not None:
            hooks.append((record.port.point, recorder.hook(record)))
        elif record.module is not None:
            module_hooks.append((record.module, recorder.module_hook(name)))
    for site in sites.of(NormSite):
        if site.result in names and rules.may_take(site):
            module = sites.record_of[site.result].module
            if site.input is not None:
                hooks.append((site.input.point, recorder.input_hook(site.result)))
            elif module is not None:
                module_hooks.append((module, recorder.input_hook(site.result)))
    hooks += [(hook.port.point, hook.function) for hook in plan if hook.stage != "replace"]
    if logits == "metric" and bound.positions is not None:
        hooks.append((sites.unembed_input.point, unembedded(bound)))
    return hooks, module_hooks


def concrete_metric(bound: BoundMetric, rows: Tensor, batch: TokenBatch) -> BoundMetric:
    """The metric with the tokens chosen that it reads off these logits, e.g. RunnerUp's LogitDiff."""
    chosen = bound.metric.concrete(rows.detach())
    return (
        bound if chosen is bound.metric else chosen.bind(batch.starts, batch.prompt_lengths, rows.shape[-1])
    )
