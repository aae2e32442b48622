"""The finished layers of an interrupted graph, a part each in the caller's folder (`lrp_lens.files.checkpoints`).

1. After a layer: its kept edges, its accounts, the relevance of its states and the gradients at its boundaries.
2. The next call makes the forward pass again and takes what the folder holds, from the last layer backwards.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_lens.attribution_graphs.closed_form.options import Options
from lrp_lens.attribution_graphs.closed_form.state_pass import StatePass
from lrp_lens.attribution_graphs.closed_form.stream import Pruned
from lrp_lens.files.checkpoints import Checkpoint
from lrp_lens.run.identity import model_identity, spelled

Ends = tuple[str, str]


class LayerCheckpoint:
    """The folder of one graph in the making; without one in the options, nothing is kept.

    Args:
        run: the pass that layers are made of.
        kept: the boundaries of the graph.
        options: how it is made, and the folder.

    Raises:
        InputError: as `Checkpoint`.
    """

    def __init__(self, run: StatePass, kept: tuple[int, ...], options: Options) -> None:
        def identity() -> dict[str, Any]:
            chosen = {one.name: getattr(options, one.name) for one in fields(options)}
            for name in ("checkpoint", "progress", "block"):
                del chosen[name]
            return chosen | {
                "model": model_identity(run.model),
                "prompt": run.batch.ids.tolist(),
                "metric": spelled(run.metrics[0].metric),
                "rules": spelled(run.rules),
                "layers": kept,
            }

        self._parts = Checkpoint(options.checkpoint, "Layer/2", identity)

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
        header: dict[str, Any] = {"transitions": []}
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
        self._parts.write(f"layer_{layer}", tensors, header)

    def load(self, layer: int) -> tuple[dict[Ends, Pruned], dict[str, Tensor], dict[str, Tensor]] | None:
        """A finished layer: its edges, relevance and gradients; None if there is none.

        Raises:
            InputError: as `Checkpoint.read`.
        """
        stored = self._parts.read(f"layer_{layer}")
        if stored is None:
            return None
        tensors, header = stored

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
