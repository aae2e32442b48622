"""The pass in full: one forward, one backward for each metric, and every recorded tensor kept.

1. Attach, in this order: leaves at the embeddings (nothing before them is differentiated), replacing gates,
   recorders, reading and scaling gates.  Parameters are kept out of the graph.
2. Forward; read each metric at the positions it names; from each, one backward through the same graph to every
   recorded tensor at once.
3. Where only the logits that the metrics read are asked for, a long prompt's attention is left to PyTorch's fused
   kernel in every layer in which nobody looks and no rule acts (`RowBlocks.by_kernel`): the same up to rounding, and
   sooner.  With all logits the host's own operations run, and logits are bit-identical to those of a plain pass.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.prefix import KeyValues
from lrp_lens.hosts.scope import attached, graph_released, modules_of, parameters_frozen
from lrp_lens.hosts.sites import LogitSite, Sites
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.metrics import BoundMetric
from lrp_lens.ops.deferred import NotByRowsError
from lrp_lens.rules import RuleSet
from lrp_lens.run.absorbed import Absorbed
from lrp_lens.run.balance import Balance, Calls
from lrp_lens.run.by_rows import SHORT, RowBlocks
from lrp_lens.run.dropped import LayerDrops
from lrp_lens.run.finite import require_finite_backward, require_finite_forward
from lrp_lens.run.reading import JointReading, concrete_metric, differentiable_value, unembedded
from lrp_lens.run.recording import (
    Recorder,
    Wanted,
    accounts_only,
    backward,
    complete,
    pass_hooks,
    require_reached,
    total,
)


@dataclass(frozen=True, eq=False)
class Passed:
    """What a pass leaves, whichever way it went."""

    logits: Float[Tensor, "row pos d_vocab"]
    value: Float[Tensor, " batch"]
    metric: BoundMetric
    """With its tokens chosen."""
    activations: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor]
    sums: Mapping[str, Tensor]
    """Relevance summed over the last axis, where the tensors were not kept."""
    balance: Balance | Absorbed | None
    """What the ledger is closed from; None for a selection."""
    remark: str = ""
    """What went otherwise than its way goes, and why."""


def reads_returned_logits(
    bounds: Sequence[BoundMetric], sites: Sites, rules: RuleSet, wanted: Wanted
) -> bool:
    """Whether a ledger needs an account of what follows the unembedding."""
    capped = any(rules.may_take(site) for site in sites.of(LogitSite))
    return wanted.everything and (capped or not all(bound.metric.linear for bound in bounds))


def kept(calls: Mapping[str, Calls], names: frozenset[str] | set[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Activation and gradient of each record that a caller may hold: one tensor, or several calls of equal shape."""
    return {
        name: (item.activations[-1], total(item.gradients))
        for name, item in calls.items()
        if name in names and len({one.shape for one in item.activations}) == 1
    }


def whole_pass(
    model: Any,
    sites: Sites,
    batch: TokenBatch,
    bounds: Sequence[BoundMetric],
    rules: RuleSet,
    wanted: Wanted,
    logits: str,
    drops: LayerDrops | None = None,
    past: KeyValues | None = None,
    kernel: bool | None = None,
) -> list[Passed]:
    """One forward pass, and one backward pass for each metric; the results share their activations.

    Args:
        model: the host.
        sites: its sites.
        batch: rows of tokens.
        bounds: the metrics bound to them, at least one.
        rules: the rule set.
        wanted: what is recorded.
        logits: "all", or "metric" to unembed only what the metrics read.
        drops: asks for further backward passes of the same graph, of a single metric.
        past: keeps the keys and values of these rows, without padding on the left.
        kernel: whether attention is left to a fused kernel where that may be; default: as `by_kernel` says.

    Raises:
        InputError, MetricError, SiteError: as `run_with_relevance`.
    """
    if kernel is None:
        kernel = past is None and batch.left_mask is None and by_kernel(logits, batch.ids.shape[1])
    try:
        return _pass(model, sites, batch, bounds, rules, wanted, logits, drops, past, kernel)
    except NotByRowsError:  # somebody reads a pattern at no hook point
        return _pass(model, sites, batch, bounds, rules, wanted, logits, drops, past, False)


def by_kernel(logits: str, length: int) -> bool:
    """Whether a pass in full over prompts of a length may leave attention to a fused kernel."""
    return logits == "metric" and length >= SHORT


def _pass(
    model: Any,
    sites: Sites,
    batch: TokenBatch,
    bounds: Sequence[BoundMetric],
    rules: RuleSet,
    wanted: Wanted,
    logits: str,
    drops: LayerDrops | None,
    past: KeyValues | None,
    kernel: bool,
) -> list[Passed]:
    recorder, reading = Recorder(sites, batch), JointReading(bounds)
    passed = []
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        parts = modules_of(model)
        stack.enter_context(graph_released(model, parts))
        stack.enter_context(parameters_frozen(model, parts))
        leaves = (Names.EMBED, Names.POS_EMBED)
        gates = [] if drops is None else drops.hooks()
        plan, length = rules.plan(model), batch.ids.shape[1]
        fused = RowBlocks(model)
        if kernel:
            fused = RowBlocks.by_kernel(model, sites, rules, plan, wanted.names, length)
        found = pass_hooks(plan, sites, rules, recorder, wanted.names, leaves, gates)
        if logits == "metric" and not reading.every_position:
            found.hooks.append((sites.unembed_input.point, unembedded(reading)))
        stack.enter_context(attached(model, *found))
        if past is None:
            with fused.entered(range(sites.n_layers)):
                output = forward(model, batch.ids, batch.left_mask)
        else:
            output = past.forward(batch.ids)
            past.detach()
        require_finite_forward(output.detach(), recorder.kept)
        if reads_returned_logits(bounds, sites, rules, wanted):
            recorder.kept[Names.RETURNED_LOGITS] = [output]
        read = [
            _value(reading, index, output, logits == "metric", batch) for index in range(len(reading.bounds))
        ]
        for index, (bound, value) in enumerate(read):
            last = index == len(read) - 1
            calls, unreached = backward(value.sum(), recorder, keep_graph=not last or drops is not None)
            for gradient in calls[Names.EMBED].gradients:
                require_finite_backward(gradient, calls)
            if drops is not None:
                drops.run(value, recorder, calls, set(wanted.chosen))
            passed.append((bound, value.detach(), calls, unreached))
    remark = fused.kernel_remark
    return [_result(sites, rules, wanted, batch, recorder, output.detach(), remark, *one) for one in passed]


def _value(
    reading: JointReading, index: int, output: Tensor, selected: bool, batch: TokenBatch
) -> tuple[BoundMetric, Tensor]:
    """One metric with its tokens chosen, and its value in the graph."""
    rows = reading.rows(output, index, selected)
    bound = concrete_metric(reading.bounds[index], rows, batch)
    return bound, differentiable_value(bound, rows)


def _result(
    sites: Sites,
    rules: RuleSet,
    wanted: Wanted,
    batch: TokenBatch,
    recorder: Recorder,
    logits: Tensor,
    remark: str,
    bound: BoundMetric,
    value: Tensor,
    calls: dict[str, Calls],
    unreached: set[str],
) -> Passed:
    """What one backward pass found, as it is handed on."""
    unreached = unreached and unreached - rules.cut(sites)
    require_reached(unreached, sites, wanted.lenient)
    chosen = wanted.chosen - unreached
    complete(calls, sites, wanted.accounts | chosen)
    balance = None
    if wanted.everything:
        inputs = {name: tuple(found) for name, found in recorder.norm_inputs.items()}
        balance = Balance(
            accounts_only(sites), rules, calls, wanted.biases, inputs, bound.metric.linear, batch.n_examples
        )
    pairs = kept(calls, chosen)
    return Passed(
        logits,
        value,
        bound,
        {name: pairs[name][0] for name in sites.record_of if name in pairs},
        {name: pairs[name][1] for name in sites.record_of if name in pairs},
        {},
        balance,
        remark,
    )
