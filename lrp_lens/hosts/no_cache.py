"""A cache of keys and values that keeps none, for passes that nothing goes on from.

Models of transformers make a cache unless they are given one, and it would hold the keys and values of every layer
until the end of the pass: more than the inputs of the blocks.  And OLMo 2's attention on TransformerBridge runs in
half precision only behind a cache, which brings v to the type that its rotation left k in.
"""

import inspect
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache


class NothingKept(DynamicCache):  # type: ignore[misc]  # transformers has no types
    """Stands where a cache of keys and values is read and written, and is always empty.

    Example:
        >>> keys, values = torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4, dtype=torch.bfloat16)
        >>> cache = NothingKept()
        >>> cache.update(keys, values, 0)[1].dtype, cache.get_seq_length()
        (torch.float32, 0)
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """What an empty cache returns: keys and values in one piece, in the wider of their types."""
        dtype = torch.promote_types(key_states.dtype, value_states.dtype)
        return key_states.contiguous(), value_states.to(dtype).contiguous()


def without_cache(model: Any) -> dict[str, Any]:
    """Arguments with which a TransformerBridge's forward pass keeps no keys and values."""
    if "past_key_values" not in inspect.signature(model.original_model.forward).parameters:
        return {}
    return {"past_key_values": NothingKept()}
