"""Activation patching: the exact effect of each patch, one patched forward pass per cell.

1. Run the clean prompts once, or take their cache.
2. For each cell, run the corrupted prompts with the clean activation put in, and read the metric.

transformer_lens.patching does it wherever it is right for the host (`lrp_lens.hosts.patching`).  Elsewhere, or with
`engine="batched"`, many patched runs go through the model as one batch, and every edit is checked to be live.
TransformerBridge's resid_mid is patched at attn_out: the stream is resid_pre + attn_out there, and a patch of attn_out
by the difference of the streams makes the stream the clean one for MLP and skip path alike.
Source: Vig et al. 2020; Meng et al. 2202.05262; transformer_lens.patching (Nanda).
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import SiteError
from lrp_lens.hosts import dead, resolve
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.patching import sweep, transformer_lens_patches
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.sites import Port
from lrp_lens.metrics import Metric
from lrp_lens.patching.attribution import missing_parts, require_part
from lrp_lens.patching.checks import Engine, require_engine, require_whole
from lrp_lens.patching.facets import Facet, record_name
from lrp_lens.patching.inputs import activations, aligned, is_cache, source_activations
from lrp_lens.progress import progress_bar
from lrp_lens.rules import GRADIENT

BATCH_ROWS = 64
"""Prompts that go through the model at once in our own sweeps."""


def activation_values(
    model: Any,
    prompts: Any,
    source: Any,
    facet: Facet,
    metrics: Sequence[Metric],
    *,
    engine: Engine = "auto",
    batch_rows: int = BATCH_ROWS,
    progress: bool | None = None,
) -> Float[Tensor, "metric batch layer ..."]:
    """Each prompt's metrics under every patch of a facet, [metric, batch, layer, *axes]; NaN where no edit is live.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        prompts: the run that is patched; the metrics' answers are appended to both runs.
        source: the other run: ActivationCache or prompts.
        facet: an entry of `FACETS`.
        metrics: one number per prompt each; all read the same patched runs.
        engine: "auto" takes transformer_lens.patching where it is right.
        batch_rows: rows of one batch of our own engine.
        progress: show a bar; None: on terminals and in notebooks, after two seconds.

    Raises:
        InputError: for an unknown engine, or batch_rows below 1.
        SiteError: if the model has no such part in any layer, the host drops every edit of it, or transformer_lens
            is asked for and not right there.
    """
    require_whole(batch_rows, "batch_rows", 1)
    live, right = patchable(model, facet, engine)
    n_layers = resolve(model).n_layers
    batch = aligned(model, prompts, "corrupted", metrics[0])
    source = source if is_cache(source) else aligned(model, source, "clean", metrics[0])
    other = source_activations(model, source, live.values(), (batch.ids.shape[0], batch.ids.shape[1]))
    if right and engine != "batched":
        return _by_transformer_lens(model, batch.ids, other, facet, metrics, n_layers, progress)
    return _batched(model, batch.ids, other, facet, metrics, live, batch_rows, progress)


def patchable(model: Any, facet: Facet, engine: Engine = "auto") -> tuple[dict[int, str], bool]:
    """Where a facet's patches are live, layer → hook name, and whether transformer_lens is right for all of them.

    Nothing is run, so that it may be asked before long work.

    Raises:
        InputError, SiteError: as `activation_values`.
    """
    require_engine(engine)
    require_part(model, facet.part)
    sites = resolve(model)
    missing = missing_parts(model, GRADIENT)
    names = {layer: record_name(facet.part, layer) for layer in range(sites.n_layers)}
    live = {layer: name for layer, name in names.items() if name not in missing}
    if not live:
        raise SiteError(
            f"A patch must reach the logits; {missing[names[0]]}. Leave {facet.part} out, or use HookedTransformer "
            "(or eager attention) for this model."
        )
    right = transformer_lens_patches(model, facet.part) and len(live) == len(names)
    if engine == "transformer_lens" and not right:
        raise SiteError(
            f"transformer_lens.patching is not right for {facet.part} of {sites.architecture} in {sites.host}. "
            "Use engine='auto' or 'batched'."
        )
    return live, right


def _evaluate(logits: Tensor, metrics: Sequence[Metric]) -> Float[Tensor, "metric batch"]:
    return torch.stack([metric(logits).detach() for metric in metrics])


def _by_transformer_lens(
    model: Any,
    tokens: Tensor,
    other: Mapping[str, Tensor],
    facet: Facet,
    metrics: Sequence[Metric],
    n_layers: int,
    progress: bool | None,
) -> Tensor:
    """transformer_lens keeps one scalar per cell, in float32; the metrics of each prompt are kept beside it."""
    values: list[Tensor] = []
    sizes = _axis_sizes(facet, next(iter(other.values())))
    total = n_layers * math.prod(sizes)

    with torch.no_grad(), progress_bar(None, total, facet.name, progress, "patch") as bar:

        def read(logits: Tensor) -> Tensor:
            values.append(_evaluate(logits, metrics))
            bar.update()
            return values[-1].mean()

        sweep(facet.name, model, tokens, other, read)
    return torch.stack(values, dim=-1).reshape(*values[0].shape, n_layers, *sizes)


def _axis_sizes(facet: Facet, activation: Tensor) -> list[int]:
    sizes = dict(zip(facet.dims, activation.shape, strict=True))
    return [sizes[axis] for axis in facet.axes]


def _chunks(cells: list[tuple[int, ...]], size: int) -> Iterator[list[tuple[int, ...]]]:
    for start in range(0, len(cells), size):
        yield cells[start : start + size]


def _batched(
    model: Any,
    tokens: Tensor,
    other: Mapping[str, Tensor],
    facet: Facet,
    metrics: Sequence[Metric],
    live: Mapping[int, str],
    batch_rows: int,
    progress: bool | None,
) -> Tensor:
    """Patched copies of the prompts, stacked; the hook puts its own patch into each copy."""
    n_layers, n_prompts = resolve(model).n_layers, tokens.shape[0]
    size = max(1, batch_rows // n_prompts)
    layers: dict[int, Tensor] = {}
    ports = _patch_points(model, tokens, other, live)
    sizes = _axis_sizes(facet, next(iter(other.values())))
    cells = list(itertools.product(*map(range, sizes)))
    total = len(live) * len(cells)
    with torch.no_grad(), progress_bar(None, total, facet.name, progress, "patch") as bar:
        for layer, (port, value) in ports.items():
            found: list[Tensor] = []
            for chunk in _chunks(cells, size):
                with attached(model, [(port.point, _patcher(facet, chunk, value))]):
                    logits = forward(model, tokens.repeat(len(chunk), 1), None)
                rows = logits.split(n_prompts)
                found += [_evaluate(row, metrics) for row in rows]
                bar.update(len(chunk))
            layers[layer] = torch.stack(found, dim=-1)
    some = next(iter(layers.values()))
    full = [layers.get(layer, torch.full_like(some, math.nan)) for layer in range(n_layers)]
    return torch.stack(full, dim=2).reshape(*some.shape[:2], n_layers, *sizes)


def _patch_points(
    model: Any, tokens: Tensor, other: Mapping[str, Tensor], live: Mapping[int, str]
) -> dict[int, tuple[Port, Tensor]]:
    """Where to put what, per layer."""
    sites = resolve(model)
    records = sites.record_of
    behind = {layer: name for layer, name in live.items() if records[name].plus}
    needed = [*behind.values(), *(record_name("attn_out", layer) for layer in behind)]
    own = activations(model, tokens, needed) if behind else {}
    points: dict[int, tuple[Port, Tensor]] = {}
    for layer, name in live.items():
        port, value = records[name].port, other[name]
        if layer in behind:
            writer = record_name("attn_out", layer)
            port, value = records[writer].port, own[writer] + (value.reshape(own[name].shape) - own[name])
        if port is None or port.name in dead(model):
            raise SiteError(
                f"A patch must reach the logits; {sites.host} drops the edit at {name!r}. Leave this site out, or use "
                "the other host for this model."
            )
        points[layer] = (port, value)
    return points


def _patcher(facet: Facet, cells: list[tuple[int, ...]], value: Tensor) -> Any:
    indices = []
    for cell in cells:
        at = dict(zip(facet.axes, cell, strict=True))
        indices.append(tuple(at.get(dim, slice(None)) for dim in facet.dims))

    def patch(tensor: Tensor, hook: Any) -> Tensor:
        copies = tensor.clone().reshape(len(cells), *value.shape)
        for copy, index in zip(copies, indices, strict=True):
            copy[index] = value[index].to(copy)
        return copies.reshape(tensor.shape)

    return patch
