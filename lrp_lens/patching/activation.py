"""Activation patching: the exact effect of each patch.

1. The run that is patched is made once, the other run once (`Runs`).
2. A patch that puts in what the run has there anyway, bit for bit in every row, leaves the run as it was: the metric is
   the unpatched one.  So are all patches before the first token in which prompts differ; they are not run.
3. For each other cell, the patched run: the clean activation put in, and the metric read.  It starts at the patched
   layer and position, from the stream of the unpatched run, and many go on together (`waves`).
4. Where a restarted run is not the run (`hosts.restart` checks it), whole runs go through the model, many in a batch.
   Where functions of the user's are attached to the model, which may count on the batch or its positions,
   transformer_lens.patching runs one whole run at a time if it is right there (`lrp_lens.hosts.patching`).

Every edit is checked to be live.
Source: Vig et al. 2020; Meng et al. 2202.05262; transformer_lens.patching (Nanda).
"""

import itertools
import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.checks import require_whole
from lrp_lens.errors import SiteError
from lrp_lens.files.checkpoints import Checkpoint
from lrp_lens.hosts import dead, resolve
from lrp_lens.hosts.patching import sweep, transformer_lens_patches
from lrp_lens.hosts.scope import attached, hooked
from lrp_lens.hosts.sites import Sites
from lrp_lens.methods.facets import Facet, record_name
from lrp_lens.methods.inputs import aligned, is_cache
from lrp_lens.methods.missing import missing_parts, require_part
from lrp_lens.metrics import Metric
from lrp_lens.patching.cells import Chosen, Where, grouped, position_of, require_choice
from lrp_lens.patching.checks import Engine, require_engine
from lrp_lens.patching.runs import Runs
from lrp_lens.patching.waves import BATCH_TOKENS, Moved, Points, wave, whole_batches
from lrp_lens.progress import progress_bar
from lrp_lens.rules import GRADIENT

PART = "Comparison part/2"
"""What a checkpoint of a comparison holds."""


@dataclass(frozen=True)
class Options:
    """How patches are run, and which."""

    engine: Engine = "auto"
    chosen: Chosen | None = None
    """None for every cell."""
    batch_tokens: int = BATCH_TOKENS
    progress: bool | None = None
    checkpoint: Checkpoint = Checkpoint(None, PART)
    """Where finished parts are kept."""


def activation_values(
    model: Any,
    prompts: Any,
    source: Any,
    facet: Facet,
    metrics: Sequence[Metric],
    *,
    engine: Engine = "auto",
    layers: Any = None,
    positions: Any = None,
    batch_tokens: int = BATCH_TOKENS,
    progress: bool | None = None,
) -> Float[Tensor, "metric batch layer ..."]:
    """Each prompt's metrics under every patch of a facet, [metric, batch, layer, *axes]; NaN where no edit is live.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        prompts: the run that is patched; the metrics' answers are appended to both runs.
        source: the other run: ActivationCache or prompts.
        facet: an entry of `FACETS`.
        metrics: one number per prompt each; all read the same patched runs.
        engine: "auto", "restarted" (refused where it is not exact), "batched" (whole runs) or "transformer_lens".
        layers: those that are patched, one or several; the others are NaN.
        positions: those that are patched; the others are NaN.
        batch_tokens: positions that go through the model at once.
        progress: show a bar; None: on terminals and in notebooks, after two seconds.

    Raises:
        InputError: for an unknown engine, batch_tokens below 1, layers or positions out of range.
        SiteError: if the model has no such part in any layer, the host drops every edit of it, or an engine
            is asked for that is not right there.
    """
    require_whole(batch_tokens, "batch_tokens", 1)
    require_choice([facet], layers, positions, engine)
    live, right = patchable(resolve(model), dead(model), facet, engine)
    batch = aligned(model, prompts, "corrupted", metrics[0])
    source = source if is_cache(source) else aligned(model, source, "clean", metrics[0])
    runs = Runs(model, batch, source, metrics, live.values())
    chosen = None
    if layers is not None or positions is not None:
        chosen = Chosen.of(layers, positions, runs.sites.n_layers, runs.length)
    return patched_values(runs, facet, live, right, Options(engine, chosen, batch_tokens, progress))[0]


def patchable(
    sites: Sites, dropped: Mapping[str, str], facet: Facet, engine: Engine = "auto"
) -> tuple[dict[int, str], bool]:
    """Where a facet's patches are live, layer → hook name, and whether transformer_lens is right for all of them.

    Nothing is run, so that it may be asked before long work.

    Raises:
        InputError, SiteError: as `activation_values`.
    """
    require_engine(engine)
    require_part(sites, facet.part)
    missing = missing_parts(sites, dropped, GRADIENT)
    names = {layer: record_name(facet.part, layer) for layer in range(sites.n_layers)}
    live = {layer: name for layer, name in names.items() if name not in missing}
    if not live:
        raise SiteError(
            f"A patch must reach the logits; {missing[names[0]]}. Leave {facet.part} out, or use HookedTransformer "
            "(or eager attention) for this model."
        )
    right = transformer_lens_patches(sites.host, facet.part) and len(live) == len(names)
    if engine == "transformer_lens" and not right:
        raise SiteError(
            f"transformer_lens.patching is not right for {facet.part} of {sites.architecture} in {sites.host}. "
            "Use engine='auto' or 'batched'."
        )
    return live, right


def patched_values(
    runs: Runs, facet: Facet, live: Mapping[int, str], right: bool, options: Options
) -> tuple[Float[Tensor, "metric batch layer ..."], int]:
    """Each prompt's metrics under the chosen patches of a facet, [metric, batch, layer, *axes]; NaN elsewhere.

    Args:
        runs: the two runs.
        facet: an entry of `FACETS`.
        live: what `patchable` said.
        right: what `patchable` said.
        options: how, and which.

    Returns:
        values, and how many patches had to be run: the others change nothing.
    """
    engine = _engine(runs, right, options)
    with torch.no_grad():
        points = runs.patch_points(live)
        sizes = _axis_sizes(facet, next(iter(points.values()))[1])
        cells = list(itertools.product(*map(range, sizes)))
        number = {cell: index for index, cell in enumerate(cells)}
        where = [(layer, cell) for layer in live for cell in cells]
        if options.chosen is not None:
            where = [one for one in where if options.chosen.keeps(facet, one)]
        same: frozenset[Where] = frozenset()
        # a function of the user's may do anything
        if engine != "transformer_lens" and not hooked(runs.model):
            same = runs.unchanged(facet, live)
        total = runs.sites.n_layers * len(cells)
        values = runs.base[..., None].repeat(1, 1, total).fill_(math.nan)
        with progress_bar(None, len(where), facet.name, options.progress, "patch") as bar:
            for name, items in _pieces(engine, facet, where, runs.length).items():
                stored = options.checkpoint.read(name)
                if stored is not None:
                    found = stored[0]["values"]
                    bar.update(len(items))
                else:
                    found = _piece(runs, facet, points, engine, items, same, options, bar.update)
                    options.checkpoint.write(name, {"values": found}, {})
                at = [layer * len(cells) + number[cell] for layer, cell in items]
                values[..., at] = found.to(values)
    ran = sum(one not in same for one in where)
    return values.reshape(*runs.base.shape, runs.sites.n_layers, *sizes), ran


def _engine(runs: Runs, right: bool, options: Options) -> str:
    """Which of the three ways is taken; "auto" and "restarted" ask whether a restarted run is the run.

    Raises:
        SiteError: where "restarted" is asked for and is not exact.
    """
    if options.engine in ("transformer_lens", "batched"):
        return options.engine
    if options.engine == "auto" and hooked(runs.model):
        return "transformer_lens" if right and options.chosen is None else "batched"
    if runs.run.start(0) is not None:
        return "restarted"
    if options.engine == "restarted":
        raise SiteError(
            f"A restarted run gives what the run gave; {runs.sites.architecture} in {runs.sites.host} gives something "
            "else block by block. Use engine='auto' or 'batched', which make whole runs."
        )
    return "batched"


def _pieces(engine: str, facet: Facet, where: Sequence[Where], length: int) -> dict[str, Sequence[Where]]:
    """What is run, and kept in a checkpoint, at a time."""
    if engine == "transformer_lens":
        return {facet.name: where}
    if engine == "restarted":
        return {f"{facet.name}_from_{start}": items for start, items in grouped(facet, where, length).items()}
    layers = dict.fromkeys(layer for layer, _ in where)
    return {
        f"{facet.name}_in_{one}": [(layer, cell) for layer, cell in where if layer == one] for one in layers
    }


def _piece(
    runs: Runs,
    facet: Facet,
    points: Points,
    engine: str,
    where: Sequence[Where],
    same: Container[Where],
    options: Options,
    moved: Moved,
) -> Float[Tensor, "metric batch cell"]:
    if engine == "transformer_lens":
        return _by_transformer_lens(runs, facet, moved)
    values = runs.base[..., None].repeat(1, 1, len(where))
    changing = [index for index, one in enumerate(where) if one not in same]
    moved(len(where) - len(changing))
    if not changing:
        return values
    ran = [where[index] for index in changing]
    if engine == "batched":
        values[..., changing] = whole_batches(runs, facet, points, ran, options.batch_tokens, moved)
        return values
    first = min(position_of(facet, cell) or 0 for _, cell in ran)
    start = runs.run.start(first) or runs.run.start(0)
    assert start is not None
    values[..., changing] = wave(runs, facet, points, start, ran, options.batch_tokens, moved)
    return values


def _by_transformer_lens(runs: Runs, facet: Facet, moved: Moved) -> Float[Tensor, "metric batch cell"]:
    """transformer_lens keeps one scalar per cell, in float32; the metrics of each prompt are kept beside it."""
    found: list[Tensor] = []

    def read(logits: Tensor) -> Tensor:
        found.append(runs.readout.values(logits))
        moved(1)
        return found[-1].mean()

    names = [record_name(facet.part, layer) for layer in range(runs.sites.n_layers)]
    with attached(runs.model, [(runs.sites.unembed_input.point, runs.readout.keep)]):
        sweep(facet.name, runs.model, runs.batch.ids, runs.other(names), read)
    return torch.cat(found, dim=-1)


def _axis_sizes(facet: Facet, activation: Tensor) -> list[int]:
    sizes = dict(zip(facet.dims, activation.shape, strict=True))
    return [sizes[axis] for axis in facet.axes]
