"""run_with_relevance: one forward and one backward pass, and relevance at every hook point.

1. Check the model, the prompt and the metric; plan the rules' hooks.  Nothing long has run yet.
2. Attach, in this order: leaves at the embeddings (nothing before them is differentiated), replacing gates,
   recorders, reading and scaling gates.  Parameters are kept out of the graph.
3. Forward; read the metric at the positions it names; one backward to every recorded tensor at once.
4. Relevance is activation ⊙ gradient (Bach et al. 2015; Ancona et al. 2018; AttnLRP, Achtibat et al. 2024).

The model is left as it was found, also after an exception.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.cache import RelevanceCache
from lrp_lens.errors import InputError, MetricError, SiteError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import forward, require_eval, require_finite, require_gradients
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.scope import attached, graph_released, parameters_frozen
from lrp_lens.hosts.sites import NormSite, Sites
from lrp_lens.hosts.text import PaddingSide, TokenBatch, token_strings, tokenize
from lrp_lens.ledger import Balance
from lrp_lens.metrics import BoundMetric, CallableMetric, LogitDiff, Metric, RunnerUp, as_metric
from lrp_lens.recording import (
    NamesFilter,
    Recorder,
    accounts_only,
    backward,
    complete,
    cut_by_rule,
    ledger_records,
    nonzero_biases,
    selector,
    total,
    with_completions,
)
from lrp_lens.rules import ATTN_LRP, Plain, RuleSet

Prompt = str | Sequence[str] | Sequence[int] | Int[Tensor, "..."] | Sequence[Tensor]


def describe_metric(model: Any, metric: Metric) -> tuple[str, tuple[str, str] | None]:
    """The metric in words, and the two ends of its sign."""
    if not isinstance(metric, LogitDiff):
        return (
            getattr(metric.function, "__name__", "callable")
            if isinstance(metric, CallableMetric)
            else str(metric)
        ), None
    target = token_strings(model, metric.target)
    contrast = tuple(
        ", ".join(repr(text) for text in token_strings(model, others)) for others in metric.contrast
    )
    if len(set(target)) > 1 or len(set(contrast)) > 1:
        return "LogitDiff(one target and contrast per prompt)", ("the target", "the contrast")
    mean = "mean of " if len(metric.contrast[0]) > 1 else ""
    ends = (target[0], contrast[0].strip("'\"") if not mean else f"{mean}{contrast[0]}")
    return f"LogitDiff({target[0]!r} - {mean}{contrast[0]}) at position {metric.pos}", ends


def unembedded(bound: BoundMetric) -> Callable[..., Tensor]:
    """A hook that keeps only the positions the metric reads."""

    def hook(tensor: Tensor, hook: Any) -> Tensor:
        return bound.select(tensor)

    return hook


def run_with_relevance(
    model: Any,
    prompt: Prompt,
    metric: Metric | Callable[[Tensor], Tensor] | None = None,
    *,
    rules: RuleSet = ATTN_LRP,
    names_filter: NamesFilter = None,
    padding_side: PaddingSide | None = None,
    logits: Literal["all", "metric"] = "all",
) -> tuple[Float[Tensor, "batch pos d_vocab"], RelevanceCache]:
    """Run the model once, forward and backward, and return logits and the relevance at every hook point.

    Args:
        model: a HookedTransformer or TransformerBridge in eval mode.
        prompt: text, list of texts (a batch), token ids [pos] or [batch, pos], or a list of id tensors.
        metric: what to explain, e.g. `LogitDiff(" Mary", " John")`; default: top token against runner-up at the last
            position.  Any callable logits [batch, pos, d_vocab] → [batch] works.
        rules: a rule set; default AttnLRP.
        names_filter: None keeps every default hook point (nothing quadratic in length); or a name, a list of names,
            or a predicate, as in `run_with_cache`.
        padding_side: side on which shorter prompts of a batch are padded; default right.
        logits: "all", or "metric" to unembed only the positions the metric reads (faster; the returned logits then
            have those positions only).

    Returns:
        logits: [batch, pos, d_vocab], bit-identical to a plain forward pass.
        cache: RelevanceCache; `cache["z", 5]` has the shape of the activation.

    Raises:
        InputError: empty or too long prompt, unknown token id, train mode, NaN logits, unknown hook name.
        MetricError: a token that is not one token of the vocabulary, or a position out of range.
        SiteError: an operation that no rule knows, or an edit that the host drops.

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model, run_with_relevance
        >>> model = load_demo_model()
        >>> _, rel = run_with_relevance(model, "then mary and john went to the park . john gave the key to",
        ...                             LogitDiff("mary", "john"))
        >>> rel.tokens().values.shape
        (15,)
    """
    require_gradients()
    sites = resolve(model)
    require_eval(model)
    if not isinstance(rules, RuleSet):
        raise InputError(f"rules is a RuleSet such as ATTN_LRP; received {rules!r}.")
    if logits not in ("all", "metric"):
        raise InputError(f"logits is 'all' or 'metric'; received {logits!r}.")
    batch = tokenize(model, prompt, padding_side)
    asked = as_metric(metric).resolve(model)
    bound = asked.bind(batch.starts, batch.lengths, vocabulary_size(model))
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
        hooks = _hooks(model, sites, rules, recorder, chosen | private, bound, logits)
        stack.enter_context(attached(model, *hooks))
        output = forward(model, batch.ids, batch.left_mask)
        require_finite(output.detach())
        rows = output if logits == "metric" else bound.select(output)
        bound = concrete_metric(bound, rows, batch)
        value = bound.read(rows)
        if not value.requires_grad:
            raise MetricError(
                f"A metric depends on the logits differentiably; {asked} does not. Avoid .item() and argmax."
            )
        if everything and (not bound.metric.linear or isinstance(rules.softcap, Plain)):
            # the ledger's account of what follows the unembedding
            recorder.kept[Names.RETURNED_LOGITS] = [output]
        calls, unreached = backward(value, recorder)
    unreached -= cut_by_rule(sites, rules)
    if unreached and not callable(names_filter):
        raise SiteError(
            f"Relevance needs a gradient at every recorded point; {sites.host} computes "
            f"{', '.join(sorted(unreached))} outside the graph. Leave it out of names_filter, or use HookedTransformer."
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
            len(batch.lengths),
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
        tokens=batch.ids,
        token_strings=batch.strings,
        special=batch.special,
        n_layers=sites.n_layers,
        single=batch.single,
        towards=towards,
        metric=bound,
        rules=rules,
        balance=balance,
    )
    return output.detach(), cache


def vocabulary_size(model: Any) -> int:
    """Number of logits at each position."""
    return int(getattr(model.cfg, "d_vocab_out", None) or model.cfg.d_vocab)


def _hooks(
    model: Any,
    sites: Sites,
    rules: RuleSet,
    recorder: Recorder,
    names: set[str],
    bound: BoundMetric,
    logits: str,
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
        if site.result in names and isinstance(rules.rule_for("norm", site.layer), Plain):
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
    """RunnerUp becomes the LogitDiff that these logits select."""
    if not isinstance(bound.metric, RunnerUp):
        return bound
    return bound.metric.concrete(rows.detach()).bind(batch.starts, batch.lengths, rows.shape[-1])
