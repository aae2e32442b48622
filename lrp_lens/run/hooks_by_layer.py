"""What is attached while one part of a model runs: the rules' hooks that belong to it, and a recorder's.

A hook belongs to the block in which its point is, or to what is outside of the blocks.
"""

from collections.abc import Collection, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from lrp_lens.hosts.replay import layers_of_modules
from lrp_lens.hosts.scope import attached, modules_of, parameters_frozen, release_graph
from lrp_lens.hosts.sites import Sites
from lrp_lens.rules import Hook, RuleSet
from lrp_lens.run.absorbed import Layer
from lrp_lens.run.recording import PassHooks, Recorder, pass_hooks


class HooksByLayer:
    """The rules' hooks and the names of the records of each layer.

    Args:
        model: the host.
        sites: its sites.
        rules: the rule set.
        plan: its hooks.
        names: what is recorded.
    """

    def __init__(
        self, model: Any, sites: Sites, rules: RuleSet, plan: Iterable[Hook], names: Collection[str]
    ) -> None:
        self.model, self.sites, self.rules = model, sites, rules
        layer_of = layers_of_modules(model)
        self._plan: dict[Layer, list[Hook]] = {}
        for hook in plan:
            self._plan.setdefault(layer_of.get(id(hook.port.point)), []).append(hook)
        self._parts: dict[Layer, list[nn.Module]] = {}
        self._names: dict[Layer, set[str]] = {}
        for name in names:
            record = sites.record_of[name]
            module = record.module if record.port is None else record.port.point
            self._names.setdefault(layer_of.get(id(module)), set()).add(name)

    def names_in(self, layer: Layer) -> set[str]:
        """What is recorded in a block, or outside of the blocks."""
        return self._names.get(layer, set())

    def parts(self, layer: Layer) -> list[nn.Module]:
        """The modules of a block, or of the model."""
        if layer not in self._parts:
            self._parts[layer] = modules_of(self.model if layer is None else self.model.blocks[layer])
        return self._parts[layer]

    def of(
        self,
        layers: Iterable[Layer],
        recorder: Recorder,
        names: Collection[str],
        leaves: Iterable[str] = (),
    ) -> PassHooks:
        """The hooks of some layers; those at the embedding are always among them, as one says which rules act."""
        plan = [hook for layer in dict.fromkeys((None, *layers)) for hook in self._plan.get(layer, ())]
        return pass_hooks(plan, self.sites, self.rules, recorder, names, leaves)

    def attached(self, recorder: Recorder, names: Collection[str], layers: Iterable[Layer]) -> ExitStack:
        """A scope with the rules of some layers and a recorder attached, gradients on, their parameters frozen."""
        layers = list(layers)
        found = self.of(layers, recorder, names)
        stack = ExitStack()
        stack.enter_context(torch.enable_grad())
        parts = [part for layer in layers for part in self.parts(layer)]
        stack.enter_context(parameters_frozen(self.model, parts))
        stack.callback(release_graph, parts)
        stack.enter_context(attached(self.model, *found))
        return stack
