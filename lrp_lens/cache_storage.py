"""Saving a RelevanceCache: activations and gradients as tensors, its words and its ledger as JSON.

What is read has to fit together: shapes, a text for every token, finite numbers, and the ledger's tokens equal to
the relevance at the embeddings.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.files import AnyPath
from lrp_lens.files.headers import understood
from lrp_lens.files.shapes import require_shapes
from lrp_lens.files.tensors import read, write
from lrp_lens.hosts.names import Names
from lrp_lens.ledger import Ledger

KIND = "RelevanceCache/1"
_TENSORS = {"metric_value": "metric_value", "tokens": "token_ids", "special": "special"}
_WORDS = ("metric_text", "rules_text", "token_strings", "n_layers", "single", "towards")
_ROUNDING = 1e-2
"""Share of the ledger's magnitude by which its tokens may miss the relevance at the embeddings."""


def save(cache: Any, ledger: Ledger | None, path: AnyPath) -> None:
    """See RelevanceCache.save; the ledger is None where the cache holds a selection."""
    tensors = {f"activation/{name}": tensor for name, tensor in cache.activations.items()}
    tensors |= {f"gradient/{name}": tensor for name, tensor in cache.gradients.items()}
    tensors |= {name: getattr(cache, own) for name, own in _TENSORS.items()}
    words = {name: getattr(cache, name) for name in _WORDS}
    write(path, KIND, tensors, words | {"ledger": None if ledger is None else ledger.to_dict()})


def load(path: AnyPath) -> dict[str, Any]:
    """The constructor arguments of a saved cache.

    Raises:
        InputError: the file is missing, holds no cache, was changed, or its parts do not fit together.
    """
    tensors, words = read(path, KIND)

    def part(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}

    with understood(path, KIND):
        fields = {name: tensors[name] for name in _TENSORS} | {name: words[name] for name in _WORDS}
        fields |= {"activations": part("activation/"), "gradients": part("gradient/")}
        fields["token_strings"] = tuple(map(tuple, words["token_strings"]))
        fields["towards"] = tuple(words["towards"]) if words["towards"] else None
        fields["finished_ledger"] = None if words["ledger"] is None else Ledger.from_dict(words["ledger"])
        _check(fields)
        return fields


def _check(fields: dict[str, Any]) -> None:
    batch, length = fields["tokens"].shape
    require_shapes(
        "RelevanceCache",
        fields,
        {"tokens": (batch, length), "special": (batch, length), "metric_value": (batch,)},
    )
    activations, gradients = fields["activations"], fields["gradients"]
    if set(activations) != set(gradients):
        raise InputError(
            "RelevanceCache has a gradient for every activation; received "
            f"{sorted(set(activations) ^ set(gradients))[:4]} without the other."
        )
    for what, tensors in (("activations", activations), ("gradients", gradients)):
        require_shapes(
            f"RelevanceCache.{what}", tensors, {name: tuple(one.shape) for name, one in activations.items()}
        )
    if any(len(one) != batch for one in activations.values()):
        raise InputError(
            f"RelevanceCache holds {batch} prompts; some of its activations have another number."
        )
    if [len(one) for one in fields["token_strings"]] != [length] * batch:
        raise InputError(
            f"RelevanceCache names the {length} tokens of each of its {batch} prompts; received "
            f"{[len(one) for one in fields['token_strings']]} names."
        )
    ledger: Ledger | None = fields["finished_ledger"]
    if ledger is not None and Names.EMBED in activations:
        product = activations[Names.EMBED].double() * gradients[Names.EMBED].double()
        found = {"tokens": product.flatten(1).sum(-1), "metric": fields["metric_value"].double()}
        for name, value in found.items():
            off = np.abs(getattr(ledger, name) - torch.as_tensor(value).numpy())
            if not (off <= _ROUNDING * ledger.magnitude).all():
                raise InputError(
                    f"The ledger of a RelevanceCache belongs to its activations; its {name} are off by {off.max():.3g}."
                )
