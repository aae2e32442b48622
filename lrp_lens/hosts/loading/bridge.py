"""Into TransformerBridge, which runs the Hugging Face modules themselves."""

from typing import Any

import torch
from transformer_lens.model_bridge import TransformerBridge

from lrp_lens.hosts.loading.original import Original, read_from_hub
from lrp_lens.hosts.loading.placed import Placement, bridge_of_placed


def bridge_from_hub(name: str, dtype: torch.dtype, device: str) -> Any:
    """A model on the hub, by TransformerLens's own loader.

    Raises:
        InputError: the hub has no such model, or cannot be reached.
    """
    with read_from_hub(name):
        return TransformerBridge.boot_transformers(name, dtype=dtype, device=device).eval()


def bridge_from_original(
    original: Original, dtype: torch.dtype, device: str, placement: Placement | None = None
) -> Any:
    """A local model; without a tokenizer, a bridge that takes token ids only.

    Raises:
        InputError: weights that are missing or broken, or cannot be placed so.
    """
    if placement is not None:
        bridge = bridge_of_placed(original, dtype, placement)
    elif original.has_tokenizer:
        bridge = _with_tokenizer(original, dtype, device)
    else:
        bridge = _without(original, dtype, device)
    bridge.cfg.model_name = original.name
    return bridge.eval()


def _without(original: Original, dtype: torch.dtype, device: str) -> Any:
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    model = original.weights(dtype).to(device)
    architecture = model.config.architectures[0]
    return build_bridge_from_module(model, architecture, hf_config=model.config, dtype=dtype)


def _with_tokenizer(original: Original, dtype: torch.dtype, device: str) -> Any:
    read = {} if original.model is None else {"hf_model": original.weights(dtype).to(device)}
    try:
        return TransformerBridge.boot_transformers(
            str(original.directory), dtype=dtype, device=device, **read
        )
    except OSError as error:
        raise original.unreadable(error) from error
