"""Which layers' attention a pass takes in blocks of rows (`lrp_lens.hosts.by_rows`), and why others are in full.

In low memory:

1. A prompt so short that all its scores fit into one block is not cut.
2. A layer is in full where scores or pattern are asked for, where a hook of the user's stands at them, or where a rule
   does not say what it does row by row; all are where the host's operations cannot be taken so.
3. Otherwise the hooks of its rules at scores, pattern and z act on each block instead of the whole.

A pass in full takes layers in which no rule acts inside as one block of all rows, for the sake of time: PyTorch's fused
kernel makes z and its gradients of q, k and v (`RowBlocks.by_kernel`).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from lrp_lens.hosts.by_rows import attention_by_rows, refusal
from lrp_lens.hosts.scope import stands_at
from lrp_lens.hosts.sites import AttentionSite, Port, Sites
from lrp_lens.ops.by_rows import Functions
from lrp_lens.rules import Hook, RuleSet
from lrp_lens.rules.planning import mixes_rows, of_rows

SCORES_OF_A_BLOCK = 2**20
"""About a dozen tensors of so many numbers are there at one time."""
SHORT = 512
"""Prompts of fewer tokens gain nothing by a fused kernel: writing operations down takes as long as they do."""


def rows_of_a_block(sites: Sites, batch: int, length: int) -> int | None:
    """Rows of a block; None where one block would hold all of them.

    Args:
        sites: of the model.
        batch: rows of tokens.
        length: tokens of each.
    """
    size = max(1, SCORES_OF_A_BLOCK // (batch * sites.n_heads * length))
    return size if size < length else None


@dataclass(frozen=True, eq=False)
class RowBlocks:
    """The attention layers of one pass."""

    model: Any
    size: int = 0
    layers: Mapping[AttentionSite, Functions] = field(default_factory=dict)
    """In blocks of rows, with what their rules do there."""
    in_full: Mapping[int, str] = field(default_factory=dict)
    """Layer → why its attention is in full, though the prompt is long."""
    found: dict[str, tuple[int, int, bool]] = field(default_factory=dict)
    """What was found out of the masks when they were made first."""

    @classmethod
    def of(
        cls,
        model: Any,
        sites: Sites,
        rules: RuleSet,
        plan: Collection[Hook],
        names: Collection[str],
        size: int | None,
    ) -> "RowBlocks":
        """The layers of a pass.

        Args:
            model: the host.
            sites: its sites.
            rules: the rule set.
            plan: its hooks.
            names: what is recorded.
            size: rows of a block; None for attention in full.
        """
        if size is None:
            return cls(model)
        layers: dict[AttentionSite, Functions] = {}
        in_full: dict[int, str] = {}
        hooks: dict[str, list[Hook]] = {}
        for hook in plan:
            hooks.setdefault(hook.port.name, []).append(hook)
        recorded = {port for name in names if (port := sites.record_of[name].port) is not None}
        for site in sites.of(AttentionSite):
            reason = (
                _asked_for(site, recorded) or mixes_rows(site, rules.rules_at(site)) or refusal(model, sites)
            )
            if reason:
                in_full[site.layer or 0] = reason
            else:
                layers[site] = _functions(site, hooks)
        return cls(model, size, layers, in_full, sites.remembered.setdefault("masks", {}))

    @classmethod
    def by_kernel(
        cls,
        model: Any,
        sites: Sites,
        rules: RuleSet,
        plan: Collection[Hook],
        names: Collection[str],
        length: int,
    ) -> "RowBlocks":
        """The layers that a pass in full leaves to a fused kernel, where their masks allow it; arguments as `of`.

        `length` is that of the rows, which have no padding on the left.
        """
        every = cls.of(model, sites, rules, plan, names, length)
        layers = {site: functions for site, functions in every.layers.items() if not functions}
        return cls(model, length, layers, every.in_full, every.found)

    def acts_on_rows(self, hook: Hook) -> bool:
        """Whether a hook of the rules acts on blocks of rows, so that it is not attached to its hook point."""
        site = self._site_of.get(hook.port.name)
        return site is not None and bool(of_rows(site, hook))

    @cached_property
    def _site_of(self) -> dict[str, AttentionSite]:
        """Name of a hook point in a layer in blocks of rows → its attention."""
        return {port.name: site for site in self.layers for port in _inside(site)}

    @contextmanager
    def entered(self, layers: Collection[int], length: int | None = None) -> Iterator[None]:
        """Take the attention of these layers so while the host runs them; of all, in a forward pass of a length."""
        chosen = {site: functions for site, functions in self.layers.items() if site.layer in layers}
        if not chosen:
            yield
            return
        whole = None if self.in_full else length
        with attention_by_rows(self.model, chosen, self.size, whole, self.found):
            yield

    @property
    def kernel_remark(self) -> str:
        """Which layers were left to a fused kernel, for the text of a result in full; "" for none."""
        layers = [site.layer or 0 for site in self.layers]
        where = _layers(layers, self.model.cfg.n_layers)
        return f"attention of {where} by PyTorch's fused kernel, the same up to rounding" if layers else ""

    def __str__(self) -> str:
        """What is in full, for the text of a result; "" for nothing."""
        reasons: dict[str, list[int]] = {}
        for layer, reason in self.in_full.items():
            reasons.setdefault(reason, []).append(layer)
        return "; ".join(
            f"attention of {_layers(layers, len(self.in_full) + len(self.layers))} in full: {reason}"
            for reason, layers in reasons.items()
        )


def _layers(layers: list[int], of: int) -> str:
    return "every layer" if len(layers) == of else ", ".join(f"L{layer}" for layer in layers)


def _asked_for(site: AttentionSite, recorded: Collection[Port]) -> str:
    """Which hook point needs all scores at once."""
    for port in (site.scores, site.pattern):
        if port is not None and port in recorded:
            return f"{port.name} is asked for"
        if port is not None and stands_at(port.point):
            return f"a hook stands at {port.name}"
    return ""


def _inside(site: AttentionSite) -> list[Port]:
    return [port for port in (site.scores, site.pattern, site.v, site.z) if port is not None]


def _functions(site: AttentionSite, hooks: Mapping[str, Sequence[Hook]]) -> Functions:
    """What rules do on blocks of rows, by part, those of one hook point in their order."""
    found: dict[str, list[Any]] = {}
    for port in _inside(site):
        for hook in hooks.get(port.name, ()):
            part = of_rows(site, hook)
            if part:
                found.setdefault(part, []).append(partial(_called, hook))
    return found


def _called(hook: Hook, tensor: Tensor) -> Tensor | None:
    return hook.function(tensor, hook=hook.port.point)
