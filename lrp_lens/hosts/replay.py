"""Running a part of the model again: one block, on the state it read or on another, or what follows the last block.

1. During one forward pass keep what every block was called with: its state and its other arguments (masks, rotary
   tables, ALiBi), so that a block run again sees the same mask and positions.
2. `BlockCall.run` calls the block as the host did; hooks attached at that time act.  A call appends to a cache of keys
   and values, so each gets another one (`Past`), or none.
3. `logits_of` runs what follows the blocks: final norm, unembedding, soft-cap.
4. Nothing is taken on trust: `deviation` says how far from what it wrote before a part writes now.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lrp_lens.errors import SiteError
from lrp_lens.hosts.no_cache import NothingKept
from lrp_lens.hosts.sites import LogitSite, Sites

_STATE = "hidden_states"


class NotReplayedError(SiteError):
    """A part of a model that does not write again what it wrote before."""


@dataclass(frozen=True)
class Past:
    """Stands for the cache of keys and values that a block was called with."""

    of_rows: Callable[[Tensor], Any]
    """Which row each copy is of → a cache that holds what it held before the call."""


@dataclass(frozen=True, eq=False)
class BlockCall:
    """One block, and what the host called it with, for the rows of one example."""

    module: nn.Module
    state: Tensor
    """The residual stream that it read, [row, pos, d_model], detached."""
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, states: Tensor, rows: Tensor | None = None) -> Tensor:
        """The residual stream after the block, [copies, pos, d_model].

        Args:
            states: the stream before it, same shape.
            rows: which row each copy is of; default the rows themselves (without a cache of keys and values).
        """
        if rows is None:
            args, kwargs = self.args, self.kwargs
        else:
            count = self.state.shape[0]
            args = tuple(_of_rows(value, rows, count) for value in self.args)
            kwargs = {name: _of_rows(value, rows, count, name) for name, value in self.kwargs.items()}
        output = self.module(states, *args, **kwargs)
        return output[0] if isinstance(output, tuple) else output


def _holds_past(value: Any) -> bool:
    """Whether an argument is a cache of keys and values, whatever its class; one that keeps none may stay."""
    if isinstance(value, NothingKept):
        return False
    return callable(getattr(value, "get_seq_length", None)) or "KeyValueCache" in type(value).__name__


def _of_rows(value: Any, rows: Tensor, count: int, name: str = "") -> Any:
    """An argument for copies of some of `count` rows; tensors that broadcast over the batch stay as they are."""
    if isinstance(value, Past):
        return value.of_rows(rows)
    if isinstance(value, tuple):
        return tuple(_of_rows(one, rows, count, name) for one in value)
    if isinstance(value, Tensor) and name == "alibi":  # one row per head: [row · head, 1, pos]
        return value.unflatten(0, (count, -1))[rows.to(value.device)].flatten(0, 1)
    if isinstance(value, Tensor) and value.ndim > 1 and value.shape[0] == count:
        return value[rows.to(value.device)] if count > 1 else value.expand(len(rows), *value.shape[1:])
    return value


@contextmanager
def blocks_captured(
    model: Any, past: Callable[[int, Tensor], Any] | None = None
) -> Iterator[dict[int, BlockCall]]:
    """Keep every block's call of the forward pass inside; the dictionary fills layer by layer.

    Args:
        model: HookedTransformer or TransformerBridge.
        past: (layer, rows) → a cache of keys and values for another call; by default blocks are called without one,
            or with one that keeps nothing.
    """
    calls: dict[int, BlockCall] = {}
    handles = []

    def keep(layer: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs = dict(kwargs)
            state = kwargs.pop(_STATE, None)
            state, rest = (args[0], args[1:]) if state is None and args else (state, args)
            if not isinstance(state, Tensor):
                raise SiteError(
                    f"A block reads one residual stream; block {layer} of {type(model).__name__} was called with "
                    f"{type(state).__name__} in its place. Report the architecture."
                )
            if "use_cache" in kwargs:
                kwargs["use_cache"] = False
            cache = None if past is None else Past(partial(past, layer))
            rest = tuple(cache if _holds_past(value) else value for value in rest)
            kwargs = {name: cache if _holds_past(value) else value for name, value in kwargs.items()}
            calls[layer] = BlockCall(module, state.detach(), rest, kwargs)

        return hook

    try:
        for layer, block in enumerate(model.blocks):
            handles.append(block.register_forward_pre_hook(keep(layer), with_kwargs=True))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def stream_cut(model: Any) -> Iterator[list[Tensor]]:
    """The graph ends before the first block, and no other begins; yields what that block is given, in the graph."""
    given: list[Tensor] = []
    building = torch.is_grad_enabled()

    def cut(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given.append(kwargs[_STATE] if _STATE in kwargs else args[0])
        torch.set_grad_enabled(False)
        if _STATE in kwargs:
            return args, kwargs | {_STATE: given[-1].detach()}
        return (given[-1].detach(), *args[1:]), kwargs

    handle = model.blocks[0].register_forward_pre_hook(cut, with_kwargs=True)
    try:
        yield given
    finally:
        torch.set_grad_enabled(building)
        handle.remove()


def logits_of(
    model: Any, sites: Sites, final: Float[Tensor, "row pos d_model"]
) -> Float[Tensor, "row read d_vocab"]:
    """Logits of a final stream, of the positions that a hook before the unembedding leaves."""
    norm = getattr(model, "ln_final", None)
    logits: Tensor = model.unembed(final if norm is None else norm(final))
    for site in sites.of(LogitSite):
        logits = logits if site.softcap is None else site.softcap * (logits / site.softcap).tanh()
    return logits


def deviation(found: Tensor, expected: Tensor) -> float:
    """How far a part that ran again is from what it wrote before, as a share of the largest number there.

    Infinite for another shape.
    """
    if found.shape != expected.shape:
        return float("inf")
    scale = expected.abs().amax().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((found.detach() - expected).abs().amax() / scale)


def rounding(dtype: torch.dtype) -> float:
    """The deviation that rounding explains; hosts compute parts of a float64 model in float32."""
    return min(max(1000 * torch.finfo(dtype).eps, 1e-5), 0.1)


def layers_of_modules(model: Any) -> dict[int, int]:
    """id of each module inside a block, hook points included → the block's index."""
    return {id(part): layer for layer, block in enumerate(model.blocks) for part in block.modules()}


def is_attention_only(model: Any) -> bool:
    """Whether the blocks have no MLP."""
    return bool(getattr(model.cfg, "attn_only", False))
