"""Restarting a run at any layer and position: its rows, copies of them or changed ones go on block by block.

1. `Run` makes one forward pass without gradient and keeps what every block read, and the logits that are read.
2. `Run.start(after)` gives the blocks for the positions from `after` on: attention finds the keys and values of the
   positions before them in a cache, as in text generation.  In a causal model nothing before them can change.
3. Nothing is taken on trust: every block is run again on what it read, and the unembedding too, and must give what
   the run gave.  A host that computes anything else, or cannot do it, has no restart (`None`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.hosts.forward import forward, last_position
from lrp_lens.hosts.prefix import KeyValues
from lrp_lens.hosts.replay import BlockCall, blocks_captured, deviation, logits_of, rounding
from lrp_lens.hosts.scope import HookFunction, attached
from lrp_lens.hosts.sites import Sites


@dataclass(frozen=True, eq=False)
class Start:
    """The blocks of a run behind its first `after` positions."""

    after: int
    calls: Mapping[int, BlockCall]
    """Layer → the block, and the residual stream that it read, [row, pos - after, d_model]."""

    def state(self, layer: int, copies: int) -> Float[Tensor, "copies_row pos d_model"]:
        """What a block read, several times over: all rows, then all rows again."""
        return self.calls[layer].state.repeat(copies, 1, 1)

    def block(self, layer: int, states: Float[Tensor, "copies_row pos d_model"]) -> Tensor:
        """The stream behind a block, of copies of all rows."""
        n_rows = self.calls[layer].state.shape[0]
        rows = torch.arange(n_rows, device=states.device).repeat(len(states) // n_rows)
        return self.calls[layer].run(states, rows)


class Run:
    """One forward pass that can be restarted.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        sites: its sites.
        tokens: rows of one length.
        read: hook before the unembedding that keeps the positions that are read; None for all.

    Example:
        >>> import torch
        >>> from lrp_lens import load_demo_model
        >>> from lrp_lens.hosts import resolve
        >>> model = load_demo_model(device="cpu")
        >>> run = Run(model, resolve(model), model.to_tokens("then mary and john went to the park"))
        >>> start = run.start(5)
        >>> state = start.block(3, start.state(3, copies=1))  # the last of four blocks
        >>> torch.allclose(run.logits(run.whole(start, state)), run.own_logits, atol=1e-3)
        True
    """

    def __init__(
        self, model: Any, sites: Sites, tokens: Int[Tensor, "row pos"], read: HookFunction | None = None
    ) -> None:
        self.model, self.sites, self.tokens = model, sites, tokens
        self._past = KeyValues(model)
        self._starts: dict[int, Start | None] = {}
        self._reading = [] if read is None else [(sites.unembed_input.point, read)]
        with torch.no_grad(), attached(model, self._reading), blocks_captured(model) as calls:
            self.own_logits = forward(model, tokens, None)
        self._calls = calls
        self.final: Tensor | None = None
        """The stream behind the last block, once it is known that the run can be restarted."""

    def start(self, after: int) -> Start | None:
        """The blocks from a position on; None if they do not give what the run gave.

        Whether they do is found out once for each position.
        """
        if after not in self._starts:
            with torch.no_grad():
                self._starts[after] = self._from(after) if after else self._from_the_beginning()
        return self._starts[after]

    def whole(self, start: Start, states: Float[Tensor, "copies_row pos d_model"]) -> Tensor:
        """The final stream at all positions: before the start it is the run's own."""
        assert self.final is not None
        before = self.final[:, : start.after]
        return torch.cat((before.repeat(len(states) // len(before), 1, 1), states), dim=1)

    def logits(self, final: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row read d_vocab"]:
        """Logits of a final stream, of the positions that are read."""
        return logits_of(self.model, self.sites, final)

    def _from_the_beginning(self) -> Start | None:
        start = Start(0, self._calls)
        if sorted(self._calls) != list(range(self.sites.n_layers)):
            return None
        self.final = self._replayed(start, [call.state for _, call in sorted(self._calls.items())])
        if self.final is None:
            return None
        with attached(self.model, self._reading):
            return start if _same(self.logits(self.final), self.own_logits) else None

    def _from(self, after: int) -> Start | None:
        if self.start(0) is None or self.final is None:
            return None
        try:
            with attached(self.model, [(self.sites.unembed_input.point, last_position)]):
                if not self._past.filled:
                    self._past.forward(self.tokens)
                with blocks_captured(
                    self.model, lambda layer, rows: self._past.layer(layer, rows, after)
                ) as calls:
                    self._past.forward(self.tokens[:, after:], after, torch.arange(len(self.tokens)))
            expected = [call.state[:, after:] for _, call in sorted(self._calls.items())]
            start = Start(after, calls)
            same = all(_same(calls[layer].state, state) for layer, state in enumerate(expected))
            final = self._replayed(start, expected) if same else None
        except Exception:  # whatever a host says that has no such cache
            return None
        return start if final is not None and _same(final, self.final[:, after:]) else None

    def _replayed(self, start: Start, states: Sequence[Tensor]) -> Tensor | None:
        """The stream behind the last block, if every block gives what the next one read."""
        behind = None
        for layer, state in enumerate(states):
            if behind is not None and not _same(behind, state):
                return None
            behind = start.block(layer, state)
        return behind


def _same(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors are equal up to rounding."""
    return deviation(found, expected) <= rounding(expected.dtype)
