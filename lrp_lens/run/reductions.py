"""From a RelevanceCache to Views: sums of relevance over hidden dimensions, positions, heads, segments."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.hosts.names import Names, resolve_name
from lrp_lens.hosts.token_batch import Segment, TokenBatch
from lrp_lens.run.ledger import Ledger
from lrp_lens.views import View


@runtime_checkable
class Cache(Protocol):
    """What a reduction reads of a RelevanceCache."""

    batch: TokenBatch
    n_layers: int
    metric_text: str
    rules_text: str
    towards: tuple[str, str] | None

    @property
    def cautions(self) -> tuple[str, ...]:
        """Of each example, what its tokens do not hold."""
        ...

    def __contains__(self, key: object) -> bool: ...

    def __getitem__(self, key: Any) -> Tensor: ...

    def holds(self, key: Any) -> bool:
        """Whether relevance is known there, in full or summed."""
        ...

    def summed(self, key: Any) -> Tensor:
        """Relevance summed over the last axis."""
        ...

    def sum_to_positions(self, key: Any) -> Tensor:
        """Relevance per position, [batch, pos]."""
        ...

    def ledger(self) -> Ledger:
        """Where the metric went."""
        ...


def _view(cache: Cache, values: Tensor, dims: tuple[str, ...], name: str, **labels: tuple[Any, ...]) -> View:
    """A view of `values` [batch, *dims]; without a batch axis if the caller gave a single prompt."""
    array = values.detach().cpu().numpy()
    single, shown = cache.batch.single, cache.batch.shown
    special: np.ndarray | None = None
    answer: np.ndarray | None = None
    text: dict[str, Any] = {}
    if "position" in dims:
        labels["position"] = shown.strings[0] if single else shown.strings
        special, answer = shown.special.cpu().numpy(), np.array(shown.answers)
        special, answer = (special[0], answer[0]) if single else (special, answer)
        answer = answer if (answer != "").any() else None
        text["pieces"] = shown.pieces[0] if single and shown.pieces else shown.pieces
        spans = tuple(
            {"message": _together(own, "name"), "role": _together(own, "role")}
            for own in cache.batch.named_spans
        )
        text["spans"] = (spans[0] if single else spans) if any(cache.batch.named_spans) else None
    array, dims = (array[0], dims) if single else (array, ("batch", *dims))
    return View(
        values=array,
        dims=dims,
        labels=labels,
        name=name,
        units="logits",
        special=special,
        answer=answer,
        towards=cache.towards,
        notes=(f"metric: {cache.metric_text}", f"rules: {cache.rules_text.splitlines()[0]}"),
        **text,
    )


def tokens(cache: Cache) -> View:
    """Σ over d_model of embedding ⊙ gradient, per token."""
    view = _view(cache, cache.sum_to_positions(Names.EMBED), ("position",), "token relevance")
    return replace(view, cautions=cache.cautions)


def positions(cache: Cache) -> View:
    """Σ over d_model of position embedding ⊙ gradient, per position."""
    if cache.holds(Names.POS_EMBED):
        values = cache.sum_to_positions(Names.POS_EMBED)
    else:
        values = cache.sum_to_positions(Names.EMBED) * 0
    return _view(cache, values, ("position",), "position embedding relevance")


def layers(cache: Cache, mid: bool) -> View:
    """Residual stream relevance, embedding first."""
    names = [(Names.resid_pre(0), "embed")]
    for layer in range(cache.n_layers):
        if mid and cache.holds(Names.resid_mid(layer)):
            names.append((Names.resid_mid(layer), f"L{layer} mid"))
        names.append((Names.resid_post(layer), f"L{layer}"))
    values = torch.stack([cache.sum_to_positions(name) for name, _ in names], dim=1)
    labels = tuple(label for _, label in names)
    view = _view(cache, values, ("layer", "position"), "residual stream relevance", layer=labels)
    return replace(view, cautions=cache.cautions)


def heads(cache: Cache, by_position: bool) -> View:
    """Relevance of z summed over d_head (and positions)."""
    parts = [
        cache.batch.per_position(cache.summed(("z", layer))).transpose(1, 2)
        for layer in range(cache.n_layers)
    ]
    values = torch.stack(parts, dim=1)
    if by_position:
        return _view(cache, values, ("layer", "head", "position"), "head relevance")
    return _view(cache, values.sum(-1), ("layer", "head"), "head relevance")


def neurons(cache: Cache, layer: int, by_position: bool) -> View:
    """Relevance of the MLP's activations after the nonlinearity."""
    key = ("post", layer)
    resolve_name(key, cache.n_layers)  # raises for a layer that the model does not have
    if key not in cache and not cache.holds(key):
        raise InputError(
            f"Layer {layer} keeps no neurons; attention-only blocks and mixtures of experts have none at one hook "
            "point. Use components() for the MLP as a whole."
        )
    values = cache.batch.per_position(cache[key])
    dims = ("position", "neuron") if by_position else ("neuron",)
    return _view(
        cache, values if by_position else values.sum(1), dims, f"L{layer % cache.n_layers} neuron relevance"
    )


def components(cache: Cache) -> View:
    """Total relevance of everything that writes to the residual stream."""
    parts: list[tuple[str, Tensor]] = [("embed", cache.sum_to_positions(Names.EMBED).sum(-1))]
    if cache.holds(Names.POS_EMBED):
        parts.append(("pos_embed", cache.sum_to_positions(Names.POS_EMBED).sum(-1)))
    for layer in range(cache.n_layers):
        z = cache.batch.per_example(cache.summed(("z", layer)).sum(1))
        parts += [(f"L{layer}H{head}", z[:, head]) for head in range(z.shape[1])]
        if cache.holds(Names.mlp_out(layer)):
            parts.append((f"L{layer} MLP", cache.sum_to_positions(Names.mlp_out(layer)).sum(-1)))
    biases = [row for row in cache.ledger().rows if row.kind == "bias"]
    parts += [(row.label, torch.as_tensor(row.amount).to(parts[0][1])) for row in biases]
    values = torch.stack([value for _, value in parts], dim=1)
    labels = tuple(label for label, _ in parts)
    return _view(cache, values, ("component",), "component relevance", component=labels)


def _own_segments(cache: Cache) -> dict[str, list[tuple[int, int]]]:
    """The spans that the prompts came with, by name."""
    spans = set(cache.batch.named_spans)
    if len(spans) != 1 or () in spans:
        raise InputError(
            "A prompt of messages, or with a completion, has segments of its own, and a batch shares them only where "
            f"all are alike; here {'none has any' if spans == {()} else 'they differ'}. Pass segments, e.g. "
            "{'question': (1, 5)}."
        )
    return _together(spans.pop(), "name")


def _together(
    segments: Sequence[Segment], field: Literal["name", "role"]
) -> dict[str, list[tuple[int, int]]]:
    """Name, or role, → spans, in the order in which they appear."""
    named: dict[str, list[tuple[int, int]]] = {}
    for one in segments:
        named.setdefault(getattr(one, field), []).append((one.start, one.stop))
    return named


def segments(cache: Cache, named: Mapping[str, Any] | None) -> View:
    """Token relevance summed over named spans; `(rest)` is what no span holds."""
    own = named is None
    named = _own_segments(cache) if named is None else named
    if not isinstance(named, Mapping):
        raise InputError(
            f"Segments have names; received {named!r}. Pass a mapping such as {{'question': (1, 5)}}."
        )
    view = tokens(cache).by(named)
    if own:  # they hold every token
        view = view.select(segment=slice(0, len(named)))
    return replace(view, name="segment relevance")
