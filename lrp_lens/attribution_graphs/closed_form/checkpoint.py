"""Interrupted graphs go on: one safetensors file for each finished layer, in a folder of the caller's.

1. After a layer: its kept edges, its accounts, the relevance of its states and the gradients at its boundaries.
2. The next call makes the forward pass again and takes what the folder holds, from the last layer backwards.
3. A file is used only if it was written for the same tokens, metric, value, rules and options; any other is an error.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_lens.attribution_graphs.closed_form.stream import Pruned
from lrp_lens.errors import InputError
from lrp_lens.files import tensors as tensor_files

_KIND = "Layer/1"
Ends = tuple[str, str]


class Checkpoint:
    """The folder of one graph in the making.

    Args:
        folder: made if it does not exist.
        identity: everything that a stored layer depends on, as JSON.

    Raises:
        InputError: if the path is a file.
    """

    def __init__(self, folder: str | PathLike[str], identity: Any) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"A checkpoint is a folder; {str(folder)!r} is a file. Pass another path.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"A checkpoint is a folder that can be made; {str(folder)!r} cannot: {error.strerror}."
            ) from error
        self.identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def _path(self, layer: int) -> Path:
        return self.folder / f"layer_{layer}.safetensors"

    def save(
        self,
        layer: int,
        found: Mapping[Ends, Pruned],
        relevance: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
    ) -> None:
        """Write one layer; the file appears only when it is complete."""
        tensors = {f"relevance/{name}": one for name, one in relevance.items()}
        tensors |= {f"gradient/{name}": one for name, one in gradients.items()}
        header: dict[str, Any] = {"identity": self.identity, "transitions": []}
        for number, (ends, pruned) in enumerate(found.items()):
            numbers = {}
            for one in fields(pruned):
                value = getattr(pruned, one.name)
                if isinstance(value, np.ndarray):
                    tensors[f"{number}/{one.name}"] = torch.from_numpy(value.copy())
                elif isinstance(value, float):
                    numbers[one.name] = value
            tensors |= {f"{number}/sink/{kind}": torch.from_numpy(one) for kind, one in pruned.sinks.items()}
            header["transitions"].append({"ends": ends, "numbers": numbers})
        tensor_files.write(self._path(layer), _KIND, tensors, header)

    def load(self, layer: int) -> tuple[dict[Ends, Pruned], dict[str, Tensor], dict[str, Tensor]] | None:
        """A finished layer: its edges, relevance and gradients; None if there is none.

        Raises:
            InputError: if the file is damaged or belongs to another graph.
        """
        path = self._path(layer)
        if not path.is_file():
            return None
        try:
            tensors, header = tensor_files.read(path, _KIND)
        except InputError as error:
            raise InputError(f"A checkpoint holds finished layers; one cannot be read: {error}") from error
        if header.get("identity") != self.identity:
            raise InputError(
                f"A checkpoint goes on with the prompt, metric, rules and options it was written for; {str(path)!r} "
                "belongs to another graph. Pass another folder."
            )

        def part(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: one for name, one in tensors.items() if name.startswith(prefix)}

        found = {}
        for number, one in enumerate(header["transitions"]):
            arrays: dict[str, Any] = {
                name: tensor.numpy() for name, tensor in part(f"{number}/").items() if "/" not in name
            }
            sinks = {kind: tensor.numpy() for kind, tensor in part(f"{number}/sink/").items()}
            found[one["ends"][0], one["ends"][1]] = replace(_EMPTY, **arrays, **one["numbers"], sinks=sinks)
        return found, part("relevance/"), part("gradient/")


_NOTHING = np.zeros(0)
_EMPTY = Pruned(_NOTHING, _NOTHING, _NOTHING, _NOTHING, _NOTHING, 0.0, 0.0, {}, 0.0)
