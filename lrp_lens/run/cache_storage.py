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
from lrp_lens.hosts.token_batch import Segment, TokenBatch
from lrp_lens.run.ledger import Ledger

KIND = "RelevanceCache/4"
_WORDS = ("metric_text", "rules_text", "n_layers", "towards", "cautions", "memory", "memory_text")
_OF_BATCH = ("starts", "lengths", "strings", "single", "examples", "forced", "roles", "pieces", "segments")
_ROUNDING = 1e-2
"""Share of the ledger's magnitude by which its tokens may miss the relevance at the embeddings."""


def save(cache: Any, ledger: Ledger | None, path: AnyPath) -> None:
    """See RelevanceCache.save; the ledger is None where the cache holds a selection."""
    tensors = {f"activation/{name}": tensor for name, tensor in cache.activations.items()}
    tensors |= {f"gradient/{name}": tensor for name, tensor in cache.gradients.items()}
    tensors |= {f"sum/{name}": tensor for name, tensor in cache.sums.items()}
    batch = cache.batch
    tensors |= {"metric_value": cache.metric_value, "tokens": batch.ids, "special": batch.special}
    words = {name: getattr(cache, name) for name in _WORDS}
    words["batch"] = {name: getattr(batch, name) for name in _OF_BATCH}
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
        fields = {"metric_value": tensors["metric_value"]} | {name: words[name] for name in _WORDS}
        fields["finished_cautions"] = fields.pop("cautions")
        fields |= {"activations": part("activation/"), "gradients": part("gradient/"), "sums": part("sum/")}
        fields["batch"] = _batch(tensors["tokens"], tensors["special"], words["batch"])
        fields["finished_ledger"] = None if words["ledger"] is None else Ledger.from_dict(words["ledger"])
        fields["towards"] = words["towards"] and tuple(words["towards"])
        _check(fields)
        return fields


def _batch(ids: Tensor, special: Tensor, words: dict[str, Any]) -> TokenBatch:
    """The rows of tokens, checked to fit together."""
    rows, length = ids.shape
    require_shapes("RelevanceCache", {"special": special}, {"special": (rows, length)})
    segments = tuple(tuple(Segment(*one) for one in row) for row in words.get("segments", ()))
    batch = TokenBatch(ids=ids, special=special, **words | {"segments": segments})
    spans = zip(batch.starts, batch.lengths, strict=True)
    if len(batch.starts) != rows or not all(0 <= start < start + count <= length for start, count in spans):
        raise InputError(
            f"RelevanceCache says where each of its {rows} rows of {length} tokens begins and how long it is; received "
            f"{batch.starts} and {batch.lengths}."
        )
    ends = {
        (row[0].start, row[-1].stop - prompt)
        for row, prompt in zip(batch.segments, batch.prompt_lengths, strict=False)
        if row
    }
    if (batch.segments and len(batch.segments) != rows) or not ends <= {(0, 0)}:
        raise InputError(
            f"RelevanceCache names stretches of each of its {rows} prompts from beginning to end; received "
            f"{[row[-1:] for row in batch.segments]}."
        )
    if [len(one) for one in batch.strings] != [length] * rows:
        raise InputError(
            f"RelevanceCache names the {length} tokens of each of its {rows} rows; received "
            f"{[len(one) for one in batch.strings]} names."
        )
    return batch


def _check(fields: dict[str, Any]) -> None:
    batch: TokenBatch = fields["batch"]
    require_shapes("RelevanceCache", fields, {"metric_value": (batch.n_examples,)})
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
    require_shapes(
        "RelevanceCache.sums",
        fields["sums"],
        {name: (*batch.ids.shape, *one.shape[2:]) for name, one in fields["sums"].items()},
    )
    if any(len(one) != len(batch.ids) for one in activations.values()):
        raise InputError(
            f"RelevanceCache holds {len(batch.ids)} rows of tokens; some of its activations have another number. "
            "Pass the arrays as one run made them."
        )
    ledger: Ledger | None = fields["finished_ledger"]
    tokens = fields["sums"].get(Names.EMBED)
    if Names.EMBED in activations:
        tokens = activations[Names.EMBED].double() * gradients[Names.EMBED].double()
    if ledger is not None and tokens is not None:
        found = {
            "tokens": batch.per_example(tokens.double().flatten(1).sum(-1)),
            "metric": fields["metric_value"].double(),
        }
        for name, value in found.items():
            off = np.abs(getattr(ledger, name) - torch.as_tensor(value).numpy())
            if not (off <= _ROUNDING * ledger.magnitude).all():
                raise InputError(
                    f"The ledger of a RelevanceCache belongs to its activations; its {name} are off by "
                    f"{off.max():.3g}. Pass both as one run made them."
                )
