"""Counting short passes, to know what long ones need.

1. Three short passes of either kind are counted (`ops.live_bytes`): the bytes alive after each operation are
   polynomials of the length, so they are known at every length, on every architecture, host and rule set, without a
   formula for any.  A model is counted once for each kind of pass.
2. A long prompt's attention is formed in blocks of rows in low memory (`run.by_rows`).  Counted are passes of four
   blocks: what grows there with n² grows with 4 · n · rows.

Not counted is what a kernel allocates and frees within one operation.
"""

import weakref
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lrp_lens.hosts.by_rows import refusal
from lrp_lens.hosts.forward import vocabulary_size
from lrp_lens.hosts.liveness import probe_tokens
from lrp_lens.hosts.scope import quiet
from lrp_lens.hosts.sites import Sites
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.metrics import CallableMetric, LogitDiff, Metric
from lrp_lens.ops.live_bytes import Counter, Growth
from lrp_lens.rules import RuleSet
from lrp_lens.run.low_memory import pass_by_blocks
from lrp_lens.run.recording import Wanted
from lrp_lens.run.whole import whole_pass

Way = Literal["full", "low"]
BLOCKS = 4
"""Of rows, in a short pass."""
_PASSES: dict[Way, Any] = {"full": whole_pass, "low": pass_by_blocks}
_PROBE = 16


@dataclass(frozen=True, eq=False)
class Counted:
    """One way of a model's passes, at any length."""

    alive: Growth
    kept: Growth
    flops: Growth
    remark: str
    """What was not taken in blocks of rows, and why."""


_counted: "weakref.WeakKeyDictionary[Any, dict[Any, Counted]]" = weakref.WeakKeyDictionary()


def count(
    model: Any,
    sites: Sites,
    way: Way,
    rules: RuleSet,
    wanted: Wanted,
    logits: str,
    every_position: bool,
    by_rows: bool,
    metrics: int = 1,
) -> Counted:
    """The three passes, once for each kind.

    Args:
        model: the host.
        sites: its sites.
        way: "full" or "low".
        rules: the rule set.
        wanted: what is recorded.
        logits: "all" or "metric".
        every_position: whether the metric reads all logits.
        by_rows: whether attention is taken in blocks of rows or, in full, left to a fused kernel.
        metrics: how many metrics share the forward pass.
    """
    first = next(model.parameters())
    kind = (way, str(rules), wanted.names, wanted.chosen, logits, every_position, by_rows, metrics)
    key = (*kind, first.dtype, first.device)
    known = _counted.setdefault(model, {})
    if key not in known:
        step = max(2, min(_PROBE, int(model.cfg.n_ctx) // 3))
        step = step // BLOCKS * BLOCKS or step
        lengths = [step, 2 * step, 3 * step]
        counters, kept = [], []
        for length in lengths:
            batch = tokenize(model, probe_tokens(model, length), None, None)
            metric: Metric = CallableMetric(_everything) if every_position else LogitDiff(0, 1)
            bound = metric.bind(batch.starts, batch.prompt_lengths, vocabulary_size(model))
            counter = Counter()
            options: dict[str, Any] = {"kernel": by_rows}
            if way == "low":
                options = {"rows": max(1, length // BLOCKS)} if by_rows else {}
            if by_rows:
                refusal(model, sites)  # found out once, and not counted
            with quiet(model.hook_dict.values()), counter:
                passed = _PASSES[way](
                    model, sites, batch, [bound] * metrics, rules, wanted, logits, **options
                )
                kept.append([counter.alive])
            remark = passed[0].remark
            del passed
            counters.append(counter)
        known[key] = Counted(
            Growth.through(lengths, [one.timeline for one in counters]),
            Growth.through(lengths, kept),
            Growth.through(lengths, [[one.flops] for one in counters]),
            remark,
        )
    return known[key]


def _everything(logits: torch.Tensor) -> torch.Tensor:
    """A metric of all logits."""
    return logits.log_softmax(-1).mean((1, 2))
