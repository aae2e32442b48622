"""transformer_lens.patching, where it is right: a thin wrapper, so that no other room needs transformer_lens.

Its sweeps run one patched forward pass per cell, in the order of the result's axes.  On TransformerBridge one of them
is not what it says: `hook_resid_mid` is the MLP's branch only, so the edit reaches the skip path just when it is made
in place, i.e. without gradients.
"""

from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import transformer_lens.patching
from jaxtyping import Int
from torch import Tensor


def transformer_lens_patches(host: str, part: str) -> bool:
    """Whether transformer_lens.patching is right for a part of a model of this host (given that it has it live)."""
    return part != "resid_mid" or host != "TransformerBridge"


def sweep(
    name: str,
    model: Any,
    tokens: Int[Tensor, "batch pos"],
    cache: Mapping[str, Tensor],
    read: Callable[[Tensor], Tensor],
) -> None:
    """Run transformer_lens.patching.get_act_patch_{name}; `read` gets each patched run's logits, in order.

    Its progress bar is not shown; `read` may move one.

    Args:
        name: a facet.
        model: HookedTransformer or TransformerBridge.
        tokens: the run that is patched.
        cache: activations that are patched in, by canonical hook name.
        read: logits → scalar; called once per cell, the last axis varying fastest.
    """
    function = getattr(transformer_lens.patching, f"get_act_patch_{name}")
    _without_bar(function.func)(model, tokens, cache, read, *function.args, **function.keywords)


def _without_bar(sweep: FunctionType) -> FunctionType:
    """The same function with names of its own, in which `tqdm` shows nothing: there is no option for that."""
    quiet = FunctionType(
        sweep.__code__,
        {**sweep.__globals__, "tqdm": iter},
        sweep.__name__,
        sweep.__defaults__,
        sweep.__closure__,
    )
    quiet.__kwdefaults__ = sweep.__kwdefaults__
    return quiet
