"""estimate: what a pass will need, in bytes and operations, before it runs.

1. Short passes of either kind are counted (`run.counting`).
2. What they say of a long one is split by what holds it: logits, inputs of the blocks, graph and temporaries; offloaded
   weights are among these while they are in the graph.
3. A process holds more than its tensors.  On a CPU its allocator keeps what lies between them: a share of these, larger
   in low memory for prompts so short that blocks give nothing back; and kernels work in memory of their own, which
   hardly grows.  Both are measured (`python -m benchmarks scaling` sets estimates beside peaks).
"""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from lrp_lens.checks import require_whole
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import device_of, require_eval, require_gradients, vocabulary_size
from lrp_lens.hosts.memory import free_bytes
from lrp_lens.hosts.scope import modules_of
from lrp_lens.hosts.sites import Sites
from lrp_lens.markup import Html, told
from lrp_lens.rules import DEFAULT_RULES, RuleSet, as_rule_set
from lrp_lens.run.blocks import GIVEN_BACK_FROM
from lrp_lens.run.by_rows import rows_of_a_block
from lrp_lens.run.counting import BLOCKS, Way, count
from lrp_lens.run.recording import NamesFilter, Wanted
from lrp_lens.run.whole import by_kernel

WAYS: tuple[Way, ...] = ("full", "low")
ALLOCATOR = "kept by the allocator"
KERNELS = "scratch of the kernels"
_KEPT_BY_ALLOCATOR, _KEPT_IN_PIECES = 0.4, 2.2
"""Of the bytes that tensors hold at the peak, on a CPU; in low memory where blocks do not give back what they freed."""
_PIECES_FROM = 2**16
"""Bytes of a block's input; what smaller blocks free is used again."""
_OF_KERNELS = 25_000_000
"""Bytes at most, on a CPU, where tensors are many times as large; of blocks that give nothing back they are among the
pieces."""
_GIGA = 1e9


@dataclass(frozen=True)
class Need:
    """What one pass needs beyond the model."""

    peak: int
    """Bytes at the moment when most are held."""
    parts: dict[str, int]
    """The peak, by what holds it."""
    kept: int
    """Bytes of what is returned."""
    flops: int
    """Floating point operations of matrix products and attention, forward and backward."""


@dataclass(frozen=True)
class Estimate:
    """What `run_with_relevance` needs for prompts of a length, each way.

    Example:
        >>> from lrp_lens import estimate, load_demo_model
        >>> need = estimate(load_demo_model(device="cpu"), 64)
        >>> need.low.peak < need.full.peak and sum(need.full.parts.values()) == need.full.peak
        True
    """

    n_tokens: int
    batch: int
    metrics: int
    model: int
    """Bytes of the weights."""
    full: Need
    low: Need
    free: int | None
    """Bytes free on the model's device now; None where nothing says."""

    def of(self, way: Way) -> Need:
        """What one way needs."""
        return self.low if way == "low" else self.full

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each way and part: bytes."""
        rows = [("", "model", self.model)]
        for way in WAYS:
            need = self.of(way)
            rows += [(way, part, size) for part, size in need.parts.items()]
            rows += [(way, "peak beyond the model", need.peak), (way, "of it returned", need.kept)]
        return pd.DataFrame(rows, columns=["memory", "part", "bytes"])

    def _repr_html_(self) -> Html:
        return told(str(self))

    def __str__(self) -> str:
        tokens = f"{self.n_tokens} token{'s' if self.n_tokens > 1 else ''}"
        prompts = f"{self.batch} prompt{'s' if self.batch > 1 else ''} of {tokens}"
        prompts += f" and {self.metrics} metrics" if self.metrics > 1 else ""
        lines = [f"Estimate for {prompts}, beyond the model's {in_words(self.model)}"]
        for way in WAYS:
            need = self.of(way)
            lines.append(f"  memory={way!r}: {in_words(need.peak)}, {need.flops / 1e12:.3g} TFLOP")
            lines += [f"    {part}: {in_words(size)}" for part, size in need.parts.items()]
        lines.append(f"  free: {'unknown' if self.free is None else in_words(self.free)}")
        return "\n".join(lines)


def estimate(
    model: Any,
    n_tokens: int,
    batch: int = 1,
    *,
    rules: RuleSet | str = DEFAULT_RULES,
    names_filter: NamesFilter = None,
    logits: Literal["all", "metric"] = "all",
    every_position: bool = False,
    metrics: int = 1,
) -> Estimate:
    """What `run_with_relevance` will need; three short passes each way say it.

    Args:
        model: a HookedTransformer or TransformerBridge in eval mode.
        n_tokens: length of the prompts, at least 1.
        batch: how many rows there are.
        rules: a rule set or the name of a preset, as in the pass.
        names_filter: as in the pass.
        logits: as in the pass.
        every_position: whether the metric reads the logits of all positions.
        metrics: how many metrics share the pass (`relevance_per_metric`).

    Returns:
        Bytes by part and operations, of a pass in full and of one in low memory.

    Raises:
        InputError: a number below 1, train mode, or an unknown hook name.
        SiteError: as `run_with_relevance`.

    Example:
        >>> from lrp_lens import load_demo_model
        >>> print(estimate(load_demo_model(device="cpu"), 64).n_tokens)
        64
    """
    for name, value in (("n_tokens", n_tokens), ("batch", batch), ("metrics", metrics)):
        require_whole(value, name, 1)
    require_gradients()
    require_eval(model)
    sites, rules = resolve(model), as_rule_set(rules)
    wanted = Wanted.of(names_filter, sites, rules)
    asked = (model, sites, n_tokens, batch, rules, wanted, logits, every_position, metrics)
    full, low = (needed(way, *asked) for way in WAYS)
    return Estimate(n_tokens, batch, metrics, weights(model), full, low, free_bytes(device_of(model)))


def needed(
    way: Way,
    model: Any,
    sites: Sites,
    n_tokens: int,
    batch: int,
    rules: RuleSet,
    wanted: Wanted,
    logits: str,
    every_position: bool,
    metrics: int = 1,
) -> Need:
    """What one way needs, with what is wanted spelled out; other arguments as `estimate`."""
    size = next(model.parameters()).element_size()
    shown = n_tokens if logits == "all" or every_position else 1
    parts = {"logits": batch * shown * vocabulary_size(model) * size}
    if way == "low":
        parts["block inputs"] = sites.n_layers * batch * n_tokens * int(model.cfg.d_model) * size
    rows = rows_of_a_block(sites, batch, n_tokens) if way == "low" else None
    other = rows is not None if way == "low" else by_kernel(logits, n_tokens)
    counted = count(model, sites, way, rules, wanted, logits, every_position, other, metrics)
    square = None if rows is None or counted.remark else float(BLOCKS * n_tokens * rows)
    peak = counted.alive.at(n_tokens, batch, square)
    parts["graph, gradients, temporaries"] = peak - sum(parts.values())
    if device_of(model).type == "cpu":
        block_input = batch * n_tokens * int(model.cfg.d_model) * size
        in_pieces = way == "low" and _PIECES_FROM <= block_input < GIVEN_BACK_FROM
        parts[ALLOCATOR] = round((_KEPT_IN_PIECES if in_pieces else _KEPT_BY_ALLOCATOR) * peak)
        parts[KERNELS] = 0 if in_pieces else min(_OF_KERNELS, peak // 2)
    kept, flops = counted.kept.at(n_tokens, batch), counted.flops.at(n_tokens, batch)
    return Need(sum(parts.values()), parts, kept, flops)


def weights(model: Any, elsewhere: bool = False) -> int:
    """Bytes of the parameters and buffers in memory, each once; `elsewhere` adds those that accelerate offloads."""
    held = (
        one for part in modules_of(model) for one in (*part._parameters.values(), *part._buffers.values())
    )
    counted = {id(one): one.nbytes for one in held if one is not None and (elsewhere or not one.is_meta)}
    return sum(counted.values())


def in_words(size: int) -> str:
    """Bytes for a message."""
    return f"{size / _GIGA:.3g} GB"
