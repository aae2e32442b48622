"""Running one block again: on the state it read, on copies of it, or on another.

1. During one forward pass keep what every block was called with: its state and its other arguments (masks, rotary
   tables, ALiBi), so that a block run again sees the same mask and positions.
2. `BlockCall.run` calls the block as the host did; hooks attached at that time act.  A call appends to a cache of keys
   and values, so each gets another one (`Past`), or none.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from lrp_lens.errors import SiteError

_STATE = "hidden_states"


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


def _is_cache(value: Any) -> bool:
    """Whether an argument is a cache of keys and values, whatever its class."""
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
        past: (layer, rows) → a cache of keys and values for another call; by default blocks are called without one.
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
            rest = tuple(cache if _is_cache(value) else value for value in rest)
            kwargs = {name: cache if _is_cache(value) else value for name, value in kwargs.items()}
            calls[layer] = BlockCall(module, state.detach(), rest, kwargs)

        return hook

    try:
        for layer, block in enumerate(model.blocks):
            handles.append(block.register_forward_pre_hook(keep(layer), with_kwargs=True))
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def is_attention_only(model: Any) -> bool:
    """Whether the blocks have no MLP."""
    return bool(getattr(model.cfg, "attn_only", False))


__all__ = ["BlockCall", "blocks_captured", "is_attention_only"]
