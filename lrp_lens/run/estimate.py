"""estimate: what a pass will need, in bytes and operations, before it runs; and which way it goes (`memory="auto"`).

1. Short passes of either kind are counted (`run.counting`).
2. "auto": in full where that takes at most half of the memory that is free, else block by block (Chen et al. 2016,
   1604.06174).  Short prompts, far below by a rough bound, are not counted at all.
3. What does not fit is refused, with the number and what would fit.

Not counted is what a kernel allocates and frees within one operation.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from lrp_lens.errors import InputError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import device_of, require_eval, require_gradients, vocabulary_size
from lrp_lens.hosts.memory import free_bytes
from lrp_lens.hosts.scope import modules_of
from lrp_lens.hosts.sites import Sites
from lrp_lens.markup import Html, told
from lrp_lens.rules import DEFAULT_RULES, RuleSet, as_rule_set
from lrp_lens.run.by_rows import rows_of_a_block
from lrp_lens.run.counting import BLOCKS, Way, count
from lrp_lens.run.recording import NamesFilter, Wanted

WAYS: tuple[Way, ...] = ("full", "low")
_SHARE_FOR_FULL = 0.5
"""Of the memory that is free; the rest is for what is done with the result."""
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
        prompts = f"{self.batch} prompt{'s' if self.batch > 1 else ''} of {self.n_tokens} tokens"
        lines = [f"Estimate for {prompts}, beyond the model's {_words(self.model)}"]
        for way in WAYS:
            need = self.of(way)
            lines.append(f"  memory={way!r}: {_words(need.peak)}, {need.flops / 1e12:.3g} TFLOP")
            lines += [f"    {part}: {_words(size)}" for part, size in need.parts.items()]
        lines.append(f"  free: {'unknown' if self.free is None else _words(self.free)}")
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
    for name, value in (("n_tokens", n_tokens), ("batch", batch)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} is a whole number, at least 1; received {value!r}.")
    require_gradients()
    require_eval(model)
    sites, rules = resolve(model), as_rule_set(rules)
    wanted = Wanted.of(names_filter, sites, rules)
    return _estimated(model, sites, n_tokens, batch, rules, wanted, logits, every_position)


def _estimated(
    model: Any,
    sites: Sites,
    n_tokens: int,
    batch: int,
    rules: RuleSet,
    wanted: Wanted,
    logits: str,
    every_position: bool,
    metrics: int = 1,
) -> Estimate:
    size = next(model.parameters()).element_size()
    shown = n_tokens if logits == "all" or every_position else 1
    output = batch * shown * vocabulary_size(model) * size
    inputs = sites.n_layers * batch * n_tokens * int(model.cfg.d_model) * size
    needs = []
    for way in WAYS:
        rows = rows_of_a_block(sites, batch, n_tokens) if way == "low" else None
        counted = count(model, sites, way, rules, wanted, logits, every_position, rows is not None, metrics)
        square = None if rows is None or counted.remark else float(BLOCKS * n_tokens * rows)
        peak = counted.alive.at(n_tokens, batch, square)
        parts = {"logits": output} | ({"block inputs": inputs} if way == "low" else {})
        parts["graph, gradients, temporaries"] = peak - sum(parts.values())
        needs.append(Need(peak, parts, counted.kept.at(n_tokens, batch), counted.flops.at(n_tokens, batch)))
    return Estimate(n_tokens, batch, _weights(model), needs[0], needs[1], free_bytes(device_of(model)))


def _weights(model: Any) -> int:
    """Bytes of the parameters and buffers, each once."""
    held = (
        one for part in modules_of(model) for one in (*part._parameters.values(), *part._buffers.values())
    )
    return sum({id(one): one.nbytes for one in held if one is not None}.values())


def _rough(model: Any, n_tokens: int, batch: int) -> int:
    """More than any pass takes."""
    cfg = model.cfg
    heads, d_head, d_mlp = int(cfg.n_heads), int(cfg.d_head), int(getattr(cfg, "d_mlp", None) or 0)
    experts = int(getattr(cfg, "experts_per_token", None) or 1)
    width = 60 * int(cfg.d_model) + 40 * heads * d_head + 16 * experts * d_mlp
    numbers = int(cfg.n_layers) * n_tokens * (width + 24 * heads * n_tokens)
    size = max(4, next(model.parameters()).element_size())
    return size * batch * (numbers + 8 * n_tokens * vocabulary_size(model)) + 2 * _weights(model)


def choose(
    model: Any,
    sites: Sites,
    shape: tuple[int, int],
    rules: RuleSet,
    wanted: Wanted,
    logits: str,
    every_position: bool,
    memory: str,
    metrics: int = 1,
) -> tuple[Way, str, bool]:
    """Which way a pass goes, why, and whether it could go in full.

    Args:
        model: the host.
        sites: its sites.
        shape: rows and columns of the batch.
        rules: the rule set.
        wanted: what is recorded.
        logits: "all" or "metric".
        every_position: whether the metric reads all logits.
        memory: "auto", "full" or "low".
        metrics: how many metrics go back through the pass.

    Raises:
        InputError: if it does not fit in the memory that is free.
    """
    batch, n_tokens = shape
    free = free_bytes(device_of(model))
    asked: Way = "low" if memory == "low" else "full"
    if free is None or metrics * _rough(model, n_tokens, batch) <= _SHARE_FOR_FULL * free:
        if memory != "auto":
            return asked, "asked for", True
        return (
            "full",
            "far below the memory that is free" if free is not None else "free memory unknown",
            True,
        )
    need = _estimated(model, sites, n_tokens, batch, rules, wanted, logits, every_position, metrics)
    fits = need.full.peak <= free
    if memory == "auto":
        asked = "full" if need.full.peak <= _SHARE_FOR_FULL * free else "low"
    text = f"in full {_words(need.full.peak)}, in low memory {_words(need.low.peak)}; {_words(free)} are free"
    if need.of(asked).peak > free:
        remedy = "Use memory='low'"
        if asked == "low":
            remedy = "Use logits='metric'" if logits == "all" else "Name fewer hook points in names_filter"
            remedy += ", a smaller batch or a shorter prompt (lrp_lens.estimate says what those need)"
        elif need.low.peak > free:
            remedy = "Use a smaller batch or a shorter prompt (lrp_lens.estimate says what those need)"
        raise InputError(
            f"A pass fits in memory; {batch} × {n_tokens} tokens need, beyond the model, {text}. {remedy}."
        )
    return asked, text, fits


def _words(size: int) -> str:
    return f"{size / _GIGA:.3g} GB"
