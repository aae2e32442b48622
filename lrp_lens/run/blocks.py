"""The pass block by block: one block's graph is alive at a time (gradient checkpointing, Chen et al. 2016, 1604.06174).

1. One forward pass without gradient keeps what every block read (and each block's other arguments), and the logits.
2. What follows the blocks runs again on the final stream, under the rules, at the positions that the metrics read:
   each metric's gradient there.
3. From the last block to the first: run the block again under the rules, backward from its output's gradient to
   everything recorded inside.  Attention of a long prompt is taken in blocks of rows (`run.by_rows`).
4. The embedding's own few operations stay in the graph from the first pass; the gradient of block 0 goes through them.

A part that runs again must write what it wrote before, or there is no such pass.  Gradients equal those of the pass in
full; memory is O(layers · pos · d_model) for the block inputs, plus one block.
"""

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import forward, require_eval, require_gradients
from lrp_lens.hosts.memory import give_back
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.replay import (
    BlockCall,
    NotReplayedError,
    blocks_captured,
    deviation,
    logits_of,
    rounding,
    stream_cut,
)
from lrp_lens.hosts.scope import attached, graph_released, parameters_frozen
from lrp_lens.hosts.sites import Sites
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.metrics import BoundMetric
from lrp_lens.rules import RuleSet
from lrp_lens.run.balance import Calls
from lrp_lens.run.by_rows import RowBlocks
from lrp_lens.run.finite import require_finite_backward, require_finite_forward
from lrp_lens.run.hooks_by_layer import HooksByLayer
from lrp_lens.run.reading import JointReading, concrete_metric, cut_off, differentiable_value, unembedded
from lrp_lens.run.recording import Recorder, backward, complete

_INPUT = "what this part read"
_LARGE = 2**20
"""Bytes of a block's input from which what it freed is returned to the system before the next one runs."""


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the model that ran again: what was recorded in it, and the gradient of what it read."""

    calls: dict[str, Calls]
    unreached: set[str]
    """Records without a gradient."""
    norm_inputs: dict[str, tuple[Tensor, ...]]
    gradient: Tensor
    """Of the stream that it read."""


class BlockRun:
    """One pass as the inputs of its blocks, and each metric's gradient at the final stream; any block can run again.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        batch: rows of tokens.
        bounds: the metrics bound to them, at least one.
        rules: the rule set.
        names: what is recorded, by hook point.
        logits: "all", or "metric" to unembed only what the metrics read.
        whole_head: whether what follows the blocks is recorded at all positions, not at those that the metrics read.
        returned: whether the logits behind the final soft-cap are recorded, too.
        rows: how many rows of attention are formed at a time; None for all.

    Raises:
        InputError, MetricError: as `run_with_relevance`.
        SiteError: as there; or if what follows the blocks does not give again what the host gave.
    """

    def __init__(
        self,
        model: Any,
        batch: TokenBatch,
        bounds: Sequence[BoundMetric],
        rules: RuleSet,
        names: Collection[str],
        *,
        logits: str = "metric",
        whole_head: bool = False,
        returned: bool = False,
        rows: int | None = None,
    ) -> None:
        require_eval(model)
        self.model, self.batch, self.rules = model, batch, rules
        self.sites: Sites = resolve(model)
        plan, names = rules.plan(model), set(names) & set(self.sites.record_of)
        self.row_blocks = RowBlocks.of(model, self.sites, rules, plan, names, rows)
        plan = [hook for hook in plan if not self.row_blocks.acts_on_rows(hook)]
        self.hooks = HooksByLayer(model, self.sites, rules, plan, names)
        self.calls: dict[int, BlockCall] = {}
        self._before = Recorder(self.sites, batch)
        reading = JointReading(bounds)
        narrow = not reading.every_position and (logits == "metric" or not whole_head)
        self._forward(reading, narrow=not reading.every_position and logits == "metric")
        self._heads(reading, narrow, returned)

    @property
    def final(self) -> str:
        """Name of the final residual stream."""
        return Names.resid_post(self.sites.n_layers - 1)

    # ------------------------------------------------------------------------------- once
    @property
    def mask_length(self) -> int | None:
        """Tokens, if a mask is made of positions alone."""
        return None if self.batch.left_mask is not None else self.batch.ids.shape[1]

    def _forward(self, reading: JointReading, narrow: bool) -> None:
        last = self.sites.record_of[self.final].port
        if last is None:
            raise NotReplayedError(
                f"A pass block by block ends at {self.final}; {self.sites.host} has no hook point there. Use "
                "memory='full', or the other host for this model."
            )
        seen: list[Tensor] = []

        def keep(tensor: Tensor, hook: Any) -> None:
            seen.append(tensor.detach())

        outside = self.hooks.names_in(None)
        leaves = (Names.EMBED, Names.POS_EMBED) if outside else ()
        found = self.hooks.of((None,), self._before, outside, leaves)
        found.hooks.append((last.point, keep))
        if narrow:
            found.hooks.append((self.sites.unembed_input.point, unembedded(reading)))
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(graph_released(self.model, self.hooks.parts(None)))
            stack.enter_context(parameters_frozen(self.model, self.hooks.parts(None)))
            self.calls = stack.enter_context(blocks_captured(self.model))
            given = stack.enter_context(stream_cut(self.model))
            stack.enter_context(attached(self.model, *found))
            stack.enter_context(self.row_blocks.entered(range(self.sites.n_layers), self.mask_length))
            self.logits = forward(self.model, self.batch.ids, self.batch.left_mask).detach()
            states = {Names.resid_pre(layer): (call.state,) for layer, call in self.calls.items()}
            require_finite_forward(self.logits, {**states, self.final: seen})
        if len(self.calls) != self.sites.n_layers or len(seen) != 1:
            raise NotReplayedError(
                f"A pass block by block calls each block once; {self.sites.host} called {len(self.calls)} of the "
                f"{self.sites.n_layers} blocks of {self.sites.architecture}. Use memory='full'."
            )
        self.final_state, self._embedded = seen[0], given[0]

    def _heads(self, reading: JointReading, narrow: bool, returned: bool) -> None:
        """What follows the blocks, again, in the graph."""
        recorder = Recorder(self.sites, self.batch)
        expected = reading.select(self.logits) if self._all_positions and narrow else self.logits
        with self.hooks.attached(recorder, self.hooks.names_in(None), (None,)) as stack:
            if narrow:
                keep = [(self.sites.unembed_input.point, unembedded(reading))]
                stack.enter_context(attached(self.model, keep))
            state = self.final_state.detach().requires_grad_(True)
            output = logits_of(self.model, self.sites, state)
            self._require_same(output, expected, "what follows the blocks")
            if returned:
                recorder.kept[Names.RETURNED_LOGITS] = [output]
            self.metrics = [
                concrete_metric(bound, reading.rows(expected, index, narrow), self.batch)
                for index, bound in enumerate(reading.bounds)
            ]
            values = [
                differentiable_value(bound, reading.rows(output, index, narrow))
                for index, bound in enumerate(self.metrics)
            ]
            self.values = [value.detach() for value in values]
            self.heads = self._back([value.sum() for value in values], recorder, state)

    @property
    def _all_positions(self) -> bool:
        return self.logits.shape[1] == self.batch.ids.shape[1]

    # ------------------------------------------------------------------------------- parts
    def block(
        self,
        layer: int,
        gradients: Sequence[Tensor],
        names: Collection[str] | None = None,
        at: str | None = None,
    ) -> list[Part]:
        """Run one block again and go back through it, from each of some gradients.

        Args:
            layer: block index.
            gradients: where to start from, [row, pos, d_model] each.
            names: what is recorded; default what the run records in this block.
            at: name of the state whose gradients they are; default the block's output.

        Raises:
            SiteError: if the block does not write what it wrote before.
        """
        require_gradients()
        require_eval(self.model, self.hooks.parts(layer))
        names = self.hooks.names_in(layer) if names is None else names
        recorder = Recorder(self.sites, self.batch)
        if self.calls[layer].state.nbytes >= _LARGE:
            give_back(self.final_state.device)  # what the block behind it left in pieces
        with self.hooks.attached(recorder, names, (layer,)):
            state = self.calls[layer].state.detach().requires_grad_(True)
            with self.row_blocks.entered((layer,)):
                output = self.calls[layer].run(state)
            self.require_same(layer, output)
            output = output if at is None else recorder.kept[at][-1]
            starts = [gradient.to(output) for gradient in gradients]
            return self._back([output] * len(starts), recorder, state, starts)

    def embedding(self, gradients: Sequence[Tensor]) -> list[Part]:
        """What comes before the blocks, from each gradient of block 0's input; once."""
        for name in set(self._before.kept) & set(self.heads[0].calls):
            del self._before.kept[name]  # it stands behind the blocks
        with torch.enable_grad():
            return self._back([self._embedded] * len(gradients), self._before, self._embedded, gradients)

    def _back(
        self,
        outputs: Sequence[Tensor],
        recorder: Recorder,
        state: Tensor,
        gradients: Sequence[Tensor | None] | None = None,
    ) -> list[Part]:
        """For each metric, from the output of a part to what was recorded in it and to the state that it read.

        Raises:
            MetricError: if no gradient arrives there, as a hook of the user's cuts the stream.
        """
        recorder.kept[_INPUT] = [state]
        parts = []
        for index, output in enumerate(outputs):
            start, more = None if gradients is None else gradients[index], index < len(outputs) - 1
            calls, unreached = backward(output, recorder, start, keep_graph=more)
            if _INPUT in unreached:
                raise cut_off(self.metrics[index].metric)
            found = calls.pop(_INPUT).gradients[0]
            require_finite_backward(found, calls)
            complete(calls, self.sites, set(calls))
            inputs = {name: tuple(tensors) for name, tensors in recorder.norm_inputs.items()}
            parts.append(Part(calls, unreached, inputs, found))
        return parts

    def require_same(self, layer: int, output: Tensor, row: int | None = None) -> None:
        """Raise SiteError unless a block that ran again wrote what it had written before.

        Args:
            layer: block index.
            output: what it wrote.
            row: the first of its copies is of this row; default: it ran on the rows themselves.
        """
        last = layer == self.sites.n_layers - 1
        before = self.final_state if last else self.calls[layer + 1].state
        found = output if row is None else output[0]
        self._require_same(found, before if row is None else before[row], f"block {layer}")

    def _require_same(self, found: Tensor, expected: Tensor, what: str) -> None:
        error = deviation(found, expected)
        if not error <= rounding(expected.dtype):
            raise NotReplayedError(
                f"A pass block by block runs each part again as it ran before; {what} of {self.sites.architecture} now "
                f"writes something else (by {error:.2g} of its range). Do weights or hooks change between calls? Keep "
                "them as they are, or use memory='full'; after a change make a graph anew."
            )
