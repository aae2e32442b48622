"""The pass in full: one forward, one backward, and every recorded tensor kept.

1. Attach, in this order: leaves at the embeddings (nothing before them is differentiated), replacing gates,
   recorders, reading and scaling gates.  Parameters are kept out of the graph.
2. Forward; read the metric at the positions it names; one backward to every recorded tensor at once.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.hosts.forward import forward, require_finite
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.scope import attached, graph_released, parameters_frozen
from lrp_lens.hosts.sites import LogitSite, Sites
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.metrics import BoundMetric
from lrp_lens.rules import RuleSet
from lrp_lens.run.absorbed import Absorbed
from lrp_lens.run.balance import Balance, Calls
from lrp_lens.run.dropped import LayerDrops
from lrp_lens.run.reading import concrete_metric, differentiable_value, unembedded
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


def reads_returned_logits(bound: BoundMetric, sites: Sites, rules: RuleSet, wanted: Wanted) -> bool:
    """Whether the ledger needs an account of what follows the unembedding."""
    capped = any(rules.may_take(site) for site in sites.of(LogitSite))
    return wanted.everything and (not bound.metric.linear or capped)


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
    bound: BoundMetric,
    rules: RuleSet,
    wanted: Wanted,
    logits: str,
    drops: LayerDrops | None = None,
) -> Passed:
    """One forward and one backward pass.

    Args:
        model: the host.
        sites: its sites.
        batch: rows of tokens.
        bound: the metric bound to them.
        rules: the rule set.
        wanted: what is recorded.
        logits: "all", or "metric" to unembed only what the metric reads.
        drops: asks for further backward passes of the same graph.

    Raises:
        InputError, MetricError, SiteError: as `run_with_relevance`.
    """
    recorder = Recorder(sites, batch)
    with ExitStack() as stack:
        stack.enter_context(torch.enable_grad())
        stack.enter_context(graph_released(model))
        stack.enter_context(parameters_frozen(model))
        leaves = (Names.EMBED, Names.POS_EMBED)
        gates = [] if drops is None else drops.hooks()
        plan = rules.plan(model)
        hooks, module_hooks = pass_hooks(plan, sites, rules, recorder, wanted.names, leaves, gates)
        if logits == "metric" and bound.positions is not None:
            hooks.append((sites.unembed_input.point, unembedded(bound)))
        stack.enter_context(attached(model, hooks, module_hooks))
        output = forward(model, batch.ids, batch.left_mask)
        require_finite(output.detach())
        rows = output if logits == "metric" else bound.select(output)
        bound = concrete_metric(bound, rows, batch)
        value = differentiable_value(bound, rows)
        if reads_returned_logits(bound, sites, rules, wanted):
            recorder.kept[Names.RETURNED_LOGITS] = [output]
        calls, unreached = backward(value.sum(), recorder, keep_graph=drops is not None)
        if drops is not None:
            drops.run(value, recorder, calls, set(wanted.chosen))
    unreached -= rules.cut(sites)
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
        output.detach(),
        value.detach(),
        bound,
        {name: pairs[name][0] for name in sites.record_of if name in pairs},
        {name: pairs[name][1] for name in sites.record_of if name in pairs},
        {},
        balance,
    )
