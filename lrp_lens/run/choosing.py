"""Which way a pass goes (`memory="auto"`), before it runs; what does not fit is refused, with what would fit.

1. In full where that takes at most half of the memory that is free, else block by block (Chen et al. 2016,
   1604.06174).  Prompts far below by a rough bound are not estimated at all; of a way that is asked for, only that way.
   Where accelerate offloads weights it is block by block: a pass in full would bring in all of them.
2. Where it does not fit, options are tried one after the other on the estimate, least loss first: low memory, fewer
   logits, no hook points kept, fewer metrics, fewer prompts, shorter prompts.  The first that fits is named.
"""

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Any

from lrp_lens.errors import InputError
from lrp_lens.hosts.forward import device_of, vocabulary_size
from lrp_lens.hosts.memory import free_bytes
from lrp_lens.hosts.offload import offloaded
from lrp_lens.hosts.scope import modules_of
from lrp_lens.hosts.sites import Sites
from lrp_lens.rules import RuleSet
from lrp_lens.run.counting import Way
from lrp_lens.run.estimate import Need, in_words, needed, weights
from lrp_lens.run.recording import Wanted

_SHARE_FOR_FULL = 0.5
"""Of the memory that is free; the rest is for what is done with the result."""


@dataclass(frozen=True)
class Asked:
    """A pass that somebody asks for."""

    model: Any
    sites: Sites
    rules: RuleSet
    n_tokens: int
    batch: int
    wanted: Wanted
    logits: str
    every_position: bool
    metrics: int = 1

    def need(self, way: Way) -> Need:
        """What one way needs."""
        return needed(
            way,
            self.model,
            self.sites,
            self.n_tokens,
            self.batch,
            self.rules,
            self.wanted,
            self.logits,
            self.every_position,
            self.metrics,
        )

    @property
    def offloaded(self) -> bool:
        """Whether accelerate offloads weights of the model."""
        remembered = self.sites.remembered
        if "offloaded" not in remembered:
            remembered["offloaded"] = bool(offloaded(modules_of(self.model)))
        return bool(remembered["offloaded"])


def choose(asked: Asked, memory: str) -> tuple[Way, str, bool]:
    """Which way a pass goes, why, and whether it could go in full.

    Args:
        asked: the pass.
        memory: "auto", "full" or "low".

    Raises:
        InputError: if it does not fit in the memory that is free.
    """
    free = free_bytes(device_of(asked.model))
    if memory == "auto" and asked.offloaded:
        return *choose(asked, "low")[:1], "weights are offloaded, and one block's brought in at a time", True
    way: Way = "low" if memory == "low" else "full"
    if free is None or _rough(asked, way) <= _SHARE_FOR_FULL * free:
        if memory != "auto":
            return way, "asked for", True
        reason = "far below the memory that is free" if free is not None else "free memory unknown"
        return "full", reason, True
    if memory != "auto" and asked.need(way).peak <= free:
        return way, "asked for", True
    full, low = asked.need("full").peak, asked.need("low").peak
    if memory == "auto":
        way = "full" if full <= _SHARE_FOR_FULL * free else "low"
    text = f"in full {in_words(full)}, in low memory {in_words(low)}; {in_words(free)} are free"
    if (full if way == "full" else low) > free:
        raise InputError(
            f"A pass fits in memory; {_what(asked)} need, beyond the model, {text}. "
            f"{_remedy(asked, way, low, free)}"
        )
    return way, text, full <= free


def _what(asked: Asked) -> str:
    metrics = "" if asked.metrics == 1 else f" and {asked.metrics} metrics"
    return f"{asked.batch} × {asked.n_tokens} tokens{metrics}"


def _remedy(asked: Asked, way: Way, low: int, free: int) -> str:
    """The options that bring a pass into the memory that is free, and what it needs with them."""
    words = ["memory='low'"] if way == "full" else []

    def fit(other: Asked) -> int | None:
        peak = other.need("low").peak
        return peak if peak <= free else None

    def sentence(peak: int) -> str:
        return f"Use {' and '.join(words)}: {in_words(peak)}."

    if words and low <= free:
        return sentence(low)
    if asked.logits == "all" and not asked.every_position:
        asked = replace(asked, logits="metric")
        words.append("logits='metric'")
        if (peak := fit(asked)) is not None:
            return sentence(peak)
    if not asked.wanted.everything:
        reduced = replace(asked, wanted=Wanted.of(None, asked.sites, asked.rules))
        if (peak := fit(reduced)) is not None:
            words.append("no names_filter (views and the ledger need none)")
            return sentence(peak)
    for name, what in (
        ("metrics", "at most {:,} metrics at a time"),
        ("batch", "batches of at most {:,}"),
        ("n_tokens", "prompts of at most {:,} tokens"),
    ):
        most = getattr(asked, name)
        changes: list[dict[str, Any]] = [{name: value} for value in range(1, most)]
        fewer = [replace(asked, **change) for change in changes]
        found = bisect_left(fewer, True, key=lambda one: fit(one) is None)
        asked = fewer[max(found, 1) - 1] if fewer else asked
        if fewer:
            words.append(what.format(getattr(asked, name)))
        if found and (peak := fit(asked)) is not None:
            return sentence(peak)
    return "Not even one token fits: free some memory, or use a smaller model or weights in bfloat16."


def _rough(asked: Asked, way: Way) -> int:
    """More than any such pass takes; in low memory one block at a time, and of the others what they read."""
    cfg, n_tokens = asked.model.cfg, asked.n_tokens
    heads, d_head, d_mlp = int(cfg.n_heads), int(cfg.d_head), int(getattr(cfg, "d_mlp", None) or 0)
    experts = int(getattr(cfg, "experts_per_token", None) or 1)
    width = 60 * int(cfg.d_model) + 40 * heads * d_head + 16 * experts * d_mlp
    layers = int(cfg.n_layers)
    held = 1 + (0 if asked.wanted.everything else len(asked.wanted.chosen)) if way == "low" else layers
    of_one = width + 24 * heads * n_tokens
    numbers = n_tokens * (min(held, layers) * of_one + layers * int(cfg.d_model))
    size = max(4, next(asked.model.parameters()).element_size())
    rows = size * asked.batch * (numbers + 8 * n_tokens * vocabulary_size(asked.model))
    remembered = asked.sites.remembered
    if "weights" not in remembered:
        remembered["weights"] = weights(asked.model, elsewhere=True)
    return asked.metrics * (rows + 2 * int(remembered["weights"]))
