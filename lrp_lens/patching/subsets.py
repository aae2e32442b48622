"""Subsets of cells, patched together: what single patches cannot show, and what bounds the effects nobody looked at.

1. A draw takes each cell of a site with probability p, independently.
2. All its cells are patched in one run of every prompt, each layer's by a hook at that layer.
3. Its effect is the change of the metric against the unpatched run, mean over prompts.

Many draws are one batch.  Source of the sampling: Kramár et al. 2024 (2403.00745), on diagnostics.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lrp_lens.checks import require_whole
from lrp_lens.errors import InputError, SiteError
from lrp_lens.hosts import dead, resolve
from lrp_lens.markup import Html, frame, told
from lrp_lens.methods.facets import Facet, facet_of
from lrp_lens.methods.inputs import PatchingMetric, base_and_source, per_prompt, settled_metric
from lrp_lens.patching.activation import patchable
from lrp_lens.patching.runs import Runs
from lrp_lens.patching.waves import BATCH_TOKENS
from lrp_lens.progress import progress_bar, require_show
from lrp_lens.run.pairs import Direction
from lrp_lens.run.plain import plain_logits


@dataclass(frozen=True, eq=False, repr=False)
class SubsetEffects:
    """Draws of a site's cells and what each did."""

    site: str
    axes: tuple[str, ...]
    """After the layer, as in `get_act_patch_*`."""
    chosen: Bool[np.ndarray, "draw layer ..."]
    """The cells of each draw."""
    live: Bool[np.ndarray, "layer ..."]
    """Cells that can be patched here; the others are in no draw."""
    effects: Float[np.ndarray, " draw"]
    """Change of the metric, mean over prompts."""
    probability: float
    direction: Direction

    def to_dataframe(self) -> pd.DataFrame:
        """One row per draw: cells (how many were patched), effect."""
        return pd.DataFrame(
            {"cells": self.chosen.reshape(len(self.chosen), -1).sum(1), "effect": self.effects}
        )

    def __repr__(self) -> str:
        low, high = self.effects.min(), self.effects.max()
        return (
            f"SubsetEffects({self.site}, {self.direction}: {len(self.effects)} draws of {self.live.sum()} cells at "
            f"{self.probability:g}; effects {low:+.4g} to {high:+.4g}, mean {self.effects.mean():+.4g})"
        )

    def _repr_html_(self) -> Html:
        return told(repr(self), frame(self.to_dataframe().describe().reset_index().round(4), border=0))


def patch_subsets(
    model: Any,
    clean: Any,
    corrupted: Any,
    metric: PatchingMetric | None = None,
    *,
    site: str,
    draws: int = 1000,
    probability: float = 0.05,
    seed: int = 0,
    direction: Direction = "denoising",
    batch_tokens: int = BATCH_TOKENS,
    prepend_bos: bool | None = None,
    progress: bool | None = None,
) -> SubsetEffects:
    """Patch random subsets of a site's cells together; `false_negative_bound` reads them.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        clean: prompts of one length, or token ids [batch, pos].
        corrupted: the same number of prompts of the same length.
        metric: as in `compare`, one.
        site: a name of `FACETS`.
        draws: subsets; one run of all prompts each.
        probability: of each cell to be in a draw. The smaller, the nearer a cell's mean effect is to its effect alone,
            and the more draws are needed.
        seed: of the draws.
        direction: "denoising" (the default, as transformer_lens.patching) or "noising"; see `Direction`.
        batch_tokens: positions that go through the model at once.
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
        progress: show a bar; None: on terminals and in notebooks, after two seconds.

    Raises:
        InputError: an unknown site, draws below 2, a probability outside (0, 1), or what `compare` refuses.
        SiteError: the model has no such site, or its patches there depend on each other.

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model
        >>> model = load_demo_model(device="cpu")
        >>> clean = "then mary and john went to the park . john gave the key to"
        >>> corrupted = "then mary and john went to the park . mary gave the key to"
        >>> found = patch_subsets(model, clean, corrupted, LogitDiff("mary", "john"), site="mlp_out", draws=10)
        >>> found.chosen.shape, found.effects.shape
        ((10, 4, 15), (10,))
    """
    facet = facet_of(site)
    require_whole(draws, "draws", 2)
    require_whole(seed, "seed", 0)
    require_whole(batch_tokens, "batch_tokens", 1)
    require_show(progress)
    if not 0 < probability < 1:
        raise InputError(f"A cell is drawn with a probability in (0, 1); received {probability!r}.")
    live, _ = patchable(resolve(model), dead(model), facet)
    asked = per_prompt(settled_metric(model, clean, metric, prepend_bos), model)
    batch, source = base_and_source(model, corrupted, clean, direction, asked, prepend_bos)
    runs = Runs(model, batch, source, [asked], live.values())
    shifted = [name for name in live.values() if runs.sites.record_of[name].plus]
    if shifted:
        raise SiteError(
            f"Cells that are patched together are set each to its own value; {runs.sites.host} patches {site} by a "
            "difference of streams, which other patches change. Use resid_pre, attn_out or mlp_out."
        )
    with torch.no_grad():
        points = runs.patch_points(live)
        sizes = dict(zip(facet.dims, next(iter(points.values()))[1].shape, strict=True))
        shape = (runs.sites.n_layers, *(sizes[axis] for axis in facet.axes))
        alive = np.zeros(shape, dtype=bool)
        alive[list(live)] = True
        chosen = (np.random.default_rng(seed).random((draws, *shape)) < probability) & alive
        found = []
        with progress_bar(None, draws, f"subsets of {site}", progress, "draw") as bar:
            copies = max(1, batch_tokens // batch.ids.numel())
            for begin in range(0, draws, copies):
                found.append(_together(runs, facet, points, chosen[begin : begin + copies]))
                bar.update(len(chosen[begin : begin + copies]))
    effects = torch.cat(found, dim=-1) - runs.base[..., None]
    return SubsetEffects(
        site,
        facet.axes,
        chosen,
        alive,
        effects[0].mean(0).double().cpu().numpy(),
        float(probability),
        direction,
    )


def _together(
    runs: Runs, facet: Facet, points: Any, chosen: Bool[np.ndarray, "copy layer ..."]
) -> Float[Tensor, "metric batch copy"]:
    """The metrics of each copy of the prompts under its own patches."""
    hooks = [(runs.sites.unembed_input.point, runs.readout.keep)]
    for layer, (port, value) in points.items():
        if chosen[:, layer].any():
            hooks.append((port.point, _patcher(facet, chosen[:, layer], value)))
    return runs.readout.values(plain_logits(runs.model, runs.batch.ids.repeat(len(chosen), 1), hooks))


def _patcher(facet: Facet, chosen: Bool[np.ndarray, "copy ..."], value: Tensor) -> Any:
    """A hook that puts `value` [*dims] into the chosen cells of each copy."""
    names: Sequence[str] = [dim for dim in facet.dims if dim in facet.axes]
    mask = torch.from_numpy(chosen).permute(0, *(1 + facet.axes.index(name) for name in names))
    for place, dim in enumerate(facet.dims):
        if dim not in facet.axes:
            mask = mask.unsqueeze(1 + place)

    def patch(tensor: Tensor, hook: Any) -> Tensor:
        copies = tensor.reshape(len(chosen), *value.shape)
        return torch.where(mask.to(tensor.device), value.to(tensor), copies).reshape(tensor.shape)

    return patch
