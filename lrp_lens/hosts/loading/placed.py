"""A local model whose weights accelerate spreads over devices, and keeps on disk where asked to (`device_map`).

1. transformers reads the directory with the map; what goes to "disk", or to "cpu" beside an accelerator, is offloaded.
2. TransformerBridge is built around it without its own loader, which refuses such models: its norms run inside Hugging
   Face's modules here, so accelerate's hooks act (`lrp_lens.hosts.offload`).
3. Where it adds a weight of its own to an offloaded module (zeros as b_U), accelerate's hook is told what to bring in.
"""

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lrp_lens.errors import InputError
from lrp_lens.hosts.loading.original import Original
from lrp_lens.hosts.offload import offloaded
from lrp_lens.hosts.scope import modules_of

DeviceMap = str | Mapping[str, str | int | torch.device]


@dataclass(frozen=True)
class Placement:
    """Where the parts of a model go."""

    device_map: DeviceMap
    """As transformers takes it: part → device, "cpu" or "disk"; or "auto" and its like."""
    folder: Path | None = None
    """Where what goes to disk is written, if the directory's own files cannot be read from."""


def require_placeable(
    name: str | Path, device_map: DeviceMap, device: Any, host: str, processing: Mapping[str, bool]
) -> None:
    """Refuse what cannot be placed by a map, before anything is read.

    Raises:
        InputError: the message says what to use instead.
    """
    if not isinstance(device_map, str | Mapping) or not device_map:
        raise InputError(
            f"device_map is a text such as 'auto', or part → device, 'cpu' or 'disk'; received {device_map!r}"
        )
    if device is not None:
        raise InputError(
            f"device_map says where every part goes; received device={device!r}, too. Leave it out"
        )
    if host == "HookedTransformer" or any(processing.values()):
        raise InputError(
            "device_map needs TransformerBridge, which runs Hugging Face's modules as they are placed; received "
            f"host={host!r} and processing {dict(processing)}. Leave them out, or device_map"
        )
    if not (Path(name).expanduser() / "config.json").is_file():
        raise InputError(
            f"device_map places the weights of a local directory with config.json; {str(name)!r} is none. Download the "
            "model (huggingface_hub.snapshot_download) and pass its directory"
        )


def bridge_of_placed(original: Original, dtype: torch.dtype, placement: Placement) -> Any:
    """A bridge around a local model with its weights placed.

    Raises:
        InputError: weights that are missing or broken, a map that transformers does not take, or an offloaded layer
            that TransformerBridge would take apart.
    """
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    where = placement.device_map
    options: dict[str, Any] = {"device_map": where if isinstance(where, str) else dict(where)}
    if placement.folder is not None:
        options["offload_folder"] = str(placement.folder)
    try:
        model = original.weights(dtype, **options)
    except ValueError as error:
        raise InputError(
            f"A device_map says of every part of the model where it goes; transformers does not take {where!r}: {error}"
        ) from error
    held: dict[Any, set[str]] = {part: _held(part) for part in offloaded(modules_of(model))}
    try:
        bridge = build_bridge_from_module(
            model,
            model.config.architectures[0],
            hf_config=model.config,
            dtype=dtype,
            tokenizer=original.tokenizer(),
        )
    except NotImplementedError as error:
        raise InputError(
            "TransformerBridge copies the parts of a fused q, k and v when it is built, and "
            f"{type(model).__name__} has such layers among those that device_map offloads. Keep its blocks in memory "
            "(dtype=torch.bfloat16 halves them, memory='low' bounds a pass)."
        ) from error
    for part, names in held.items():
        zeros = {name: torch.zeros(part._parameters[name].shape, dtype=dtype) for name in _held(part) - names}
        part._hf_hook.weights_map = ChainMap(zeros, part._hf_hook.weights_map)
    return bridge


def _held(module: nn.Module) -> set[str]:
    return {name for name, weight in module._parameters.items() if weight is not None}
