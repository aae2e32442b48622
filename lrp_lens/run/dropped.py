"""One forward pass, and for each layer the gradient with that layer dropped, by backward passes of the same graph.

1. A gate at every attention and MLP output lets the gradient through, or nothing while its layer is the one dropped.
2. What lies behind a layer does not depend on its being dropped: the pass of layer l starts at the stream behind it,
   with the gradient that the whole pass found there, and everything above is the whole pass' own.
3. That needs a stream through which all of layer l reaches the metric.  It is not taken on trust: from layer to layer,
   with nothing dropped, the same way must give what the whole pass gave; else every pass starts at the metric.

Source: GradDrop, Kramár et al. 2024 (2403.00745), section 3.1.2.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lrp_lens.hosts.names import Names
from lrp_lens.hosts.scope import HookFunction
from lrp_lens.hosts.sites import Sites
from lrp_lens.ops.gates import rerouted
from lrp_lens.run.balance import Calls
from lrp_lens.run.recording import Recorder, complete, total

Start = tuple[Tensor, Tensor | None]
"""Where a backward pass starts, and the gradient there; None for the metric itself."""


class LayerDrops:
    """The gates of a run, and after it the gradients of each pass.

    Args:
        sites: of the model.
    """

    def __init__(self, sites: Sites) -> None:
        self.sites = sites
        self.gradients: list[dict[str, Tensor]] = []
        """Dropped layer → hook name → gradient; the whole pass' own tensors above that layer."""
        self._dropped: int | None = None

    def hooks(self) -> list[tuple[Any, HookFunction]]:
        """Gates, to be attached behind those that replace, before those that record."""
        found = []
        for layer in range(self.sites.n_layers):
            for name in (Names.attn_out(layer), Names.mlp_out(layer)):
                record = self.sites.record_of.get(name)
                if record is not None and record.port is not None:
                    found.append((record.port.point, self._gate(layer)))
        return found

    def _gate(self, layer: int) -> HookFunction:
        def through(gradient: Tensor) -> Any:
            return (None,) if self._dropped == layer else gradient

        def gate(tensor: Tensor, hook: Any) -> Tensor:
            return rerouted(tensor, tensor, through)

        return gate

    def run(self, value: Tensor, recorder: Recorder, calls: Mapping[str, Calls], names: set[str]) -> None:
        """The backward passes, once the whole one is done.

        Args:
            value: the metric of each prompt, in the graph.
            recorder: what was recorded.
            calls: what the whole pass found.
            names: whose gradients are wanted.
        """
        whole: Start = (value.sum(), None)
        starts = [whole] * self.sites.n_layers
        for layer in range(self.sites.n_layers - 1):
            behind = Names.resid_pre(layer + 1)
            if [tensor.requires_grad for tensor in recorder.kept.get(behind, ())] == [True]:
                starts[layer] = recorder.kept[behind][0], calls[behind].gradients[0]
        if not self._same_way(starts, recorder, calls):
            starts = [whole] * self.sites.n_layers
        above = dict(calls)
        complete(above, self.sites, names)
        for layer, (start, gradient) in enumerate(starts):
            below = self._recorded(recorder, range(layer + 1))
            self._dropped = layer
            found = self._backward(start, gradient, recorder, calls, below)
            self._dropped = None
            complete(found, self.sites, names & set(found))
            every = above | found
            self.gradients.append({name: total(every[name].gradients) for name in names if name in every})

    def _same_way(self, starts: Sequence[Start], recorder: Recorder, calls: Mapping[str, Calls]) -> bool:
        """Whether the stream behind each layer is all that what is recorded in it reaches the metric by."""
        for layer, (start, gradient) in enumerate(starts):
            inside = self._recorded(recorder, (layer,))
            found = {} if gradient is None else self._backward(start, gradient, recorder, calls, inside)
            for name, one in found.items():
                for mine, expected in zip(one.gradients, calls[name].gradients, strict=True):
                    if not torch.allclose(mine, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
                        return False
        return True

    def _recorded(self, recorder: Recorder, layers: Iterable[int]) -> list[str]:
        inside = set(layers)
        return [name for name in recorder.kept if self.sites.record_of[name].layer in inside]

    def _backward(
        self,
        start: Tensor,
        gradient: Tensor | None,
        recorder: Recorder,
        calls: Mapping[str, Calls],
        names: list[str],
    ) -> dict[str, Calls]:
        """Gradients of these records, 0 where the pass does not arrive."""
        tensors = [one for name in names for one in recorder.kept[name] if one.requires_grad]
        reached: tuple[Tensor | None, ...] = ()
        if tensors:
            reached = torch.autograd.grad(start, tensors, gradient, retain_graph=True, allow_unused=True)
        left = iter(reached)
        found = {}
        for name in names:
            of = [next(left) if tensor.requires_grad else None for tensor in recorder.kept[name]]
            pairs = zip(recorder.kept[name], of, strict=True)
            own = tuple(torch.zeros_like(tensor) if one is None else one for tensor, one in pairs)
            found[name] = replace(calls[name], gradients=own)
        return found
