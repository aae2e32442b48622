"""run_with_relevance in low memory: block by block, each reduced to what was asked for before the next one is taken.

1. With a selection of hook points (`names_filter`) their activations and gradients are kept.
2. Without one, each default hook point leaves its relevance summed over the last axis, and each block its sinks: O(pos)
   numbers a layer, from which tokens, layers, heads, components and the ledger are made.
3. Several metrics share the forward pass, the blocks' inputs and each block's graph; each goes back through it once.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import Sites
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.metrics import BoundMetric
from lrp_lens.ops.gates import accumulation_dtype
from lrp_lens.progress import progress_bar
from lrp_lens.rules import RuleSet
from lrp_lens.run.absorbed import Absorbed, answered
from lrp_lens.run.balance import Balance
from lrp_lens.run.blocks import BlockRun, Part
from lrp_lens.run.by_rows import rows_of_a_block
from lrp_lens.run.recording import Wanted, accounts_only, require_reached
from lrp_lens.run.whole import Passed, kept, reads_returned_logits


def pass_by_blocks(
    model: Any,
    sites: Sites,
    batch: TokenBatch,
    bounds: Sequence[BoundMetric],
    rules: RuleSet,
    wanted: Wanted,
    logits: str,
    progress: bool | None = None,
    rows: int | None = None,
) -> list[Passed]:
    """The pass of `whole_pass`, with the same arguments, and two more.

    `progress` says whether to show a bar over the blocks, `rows` how many rows of attention are formed at a time; by
    default as many as fit (`rows_of_a_block`).

    Raises:
        InputError, MetricError, SiteError: as `run_with_relevance`.
    """
    run = BlockRun(
        model,
        batch,
        bounds,
        rules,
        wanted.names,
        logits=logits,
        whole_head=Names.LOGITS in wanted.chosen,
        returned=reads_returned_logits(bounds, sites, rules, wanted),
        rows=rows_of_a_block(sites, *batch.ids.shape) if rows is None else rows,
    )
    reduced = [_Reduced(run, wanted, index) for index in range(len(bounds))]
    gradients = [own.reduce(part, None) for own, part in zip(reduced, run.heads, strict=True)]
    layers = range(sites.n_layers - 1, -1, -1)
    for layer in progress_bar(layers, what="blocks", show=progress, unit="block"):
        gradients = [
            own.reduce(part, layer) for own, part in zip(reduced, run.block(layer, gradients), strict=True)
        ]
        # what the block behind it read is no longer compared with what this one writes
        run.calls.pop(layer + 1, None)
    for own, part in zip(reduced, run.embedding(gradients), strict=True):
        own.take(part)
    return [own.result() for own in reduced]


class _Reduced:
    """What is left of the parts of a pass, of one of its metrics."""

    def __init__(self, run: BlockRun, wanted: Wanted, index: int) -> None:
        self.run, self.wanted = run, wanted
        self.metric, self.value = run.metrics[index], run.values[index]
        self.unreached: set[str] = set()
        self.pairs: dict[str, tuple[Tensor, Tensor]] = {}
        self.sums: dict[str, Tensor] = {}
        self.sites = accounts_only(run.sites)
        self.absorbed = Absorbed(self.sites, run.rules)
        self.ledger = wanted.everything and answered(run.rules, run.sites)

    def reduce(self, part: Part, layer: int | None) -> Tensor:
        """Take a part; what is left of it for the next one is the gradient of what it read."""
        self.take(part)
        self.account(part, layer)
        return part.gradient

    def take(self, part: Part) -> None:
        """Keep what was asked for."""
        self.unreached |= part.unreached
        pairs = kept(part.calls, self.wanted.chosen)
        if self.wanted.everything:
            self.sums |= {name: _summed(*pair) for name, pair in pairs.items()}
        else:
            self.pairs |= pairs

    def account(self, part: Part, layer: int | None) -> None:
        """Enter what operations absorbed."""
        if self.ledger:
            run = self.run
            balance = Balance(
                self.sites,
                run.rules,
                part.calls,
                self.wanted.biases,
                part.norm_inputs,
                self.metric.metric.linear,
                run.batch.n_examples,
            )
            self.absorbed |= balance.absorbed(self.value, (layer,))

    def result(self) -> Passed:
        """The pass; hook points in the order of a forward pass."""
        run, wanted = self.run, self.wanted
        unreached = self.unreached - run.rules.cut(run.sites)
        require_reached(unreached, run.sites, wanted.lenient)
        order = [name for name in run.sites.record_of if name not in unreached]
        return Passed(
            run.logits,
            self.value,
            self.metric,
            {name: self.pairs[name][0] for name in order if name in self.pairs},
            {name: self.pairs[name][1] for name in order if name in self.pairs},
            {name: self.sums[name] for name in order if name in self.sums},
            self.absorbed if wanted.everything else None,
            str(run.row_blocks),
        )


def _summed(activation: Tensor, gradient: Tensor) -> Tensor:
    wide = accumulation_dtype(activation.dtype)
    with torch.no_grad():
        relevance = activation.to(wide) * gradient.to(wide)
        return relevance.sum(-1) if relevance.ndim > 2 else relevance
