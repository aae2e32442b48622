"""A result in one file: torch tensors of any dtype as safetensors, all else as JSON in the header.  Never pickle."""

import json
from collections.abc import Mapping
from os import fspath
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lrp_lens.files.headers import KEY, opened, sealed, understood
from lrp_lens.files.paths import AnyPath, replacing


def write(path: AnyPath, kind: str, tensors: Mapping[str, Tensor], words: Any) -> None:
    """Write tensors and words; see `lrp_lens.files.arrays.write`.

    Raises:
        InputError: the path cannot be written.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as part:
        save_file(plain, part, metadata={KEY: sealed(kind, words, described(plain))})


def read(path: AnyPath, kind: str) -> tuple[dict[str, Tensor], Any]:
    """The tensors, on the CPU, and words of a file written by `write`.

    Raises:
        InputError: nothing there, not a safetensors file, one of another kind, or one that was changed.
    """
    with understood(path, kind):
        with safe_open(fspath(path), framework="pt") as file:
            header = (file.metadata() or {}).get(KEY, "null")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return tensors, opened(path, kind, header, described(tensors))


def said(path: AnyPath) -> dict[str, Any] | None:
    """What the header of a safetensors file says, unchecked, without reading arrays; None if it cannot be read."""
    try:
        with safe_open(fspath(path), framework="pt") as file:
            found = json.loads((file.metadata() or {}).get(KEY, "{}"))
    except (SafetensorError, OSError, ValueError):
        return None
    return found if isinstance(found, dict) else {}


def described(tensors: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Any]]:
    """Each tensor with its bytes, for the checksum."""
    return {name: (one, one.reshape(-1).view(torch.uint8).numpy()) for name, one in tensors.items()}
