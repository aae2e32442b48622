"""False negatives: how large may the effect of a cell be that a method ranks low?

AtP, AtP* and LRP patching rank cells without patching them; a cell outside the first k may matter all the same.  A
bound for all of them, from draws in which cells are patched together (`patch_subsets`):

1. For a cell n let d be the mean effect of the draws with n minus that of the draws without.  As all other cells are
   drawn independently of n, d estimates δ = E[e(S with n) - e(S without n)], the mean effect of n amid the others.
2. s² = s₊²/m₊ + s₋²/m₋ is the variance of d, ν its degrees of freedom (Welch 1947).  With t the (1 - α) quantile of
   Student's t with ν degrees, u = |d| + t s.
3. The bound is the largest u of the cells that are not among the k first, θ = max u.

Why it holds.  Let n* be the cell with the largest |δ| of those, and σ the sign of its δ.  By Welch's one-sided test
σ δ ≤ σ d + t s fails at the rate α at most; where it holds, |δ(n*)| = σ δ ≤ σ d + t s ≤ |d| + t s = u(n*) ≤ θ.  So
|δ| ≤ θ for all cells outside the first k at once, with confidence 1 - α.  n* is fixed by the model, not chosen by the
draws, so there is no correction for the number of cells.

What it assumes.  The ranking does not come from these draws.  The draws' mean effects are nearly normal (tens of draws
with the cell, no single draw that decides).  δ is the effect of n alone if effects add up; else they differ by what n
does with others at the rate p, the less the smaller p.  It holds for the prompts that were patched.

In the spirit of Kramár et al. 2024 (2403.00745), who bound the nodes that AtP* misses by sampling subsets; the paper
was not at hand, and statistic and proof are ours.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from lrp_lens.checks import require_whole
from lrp_lens.errors import InputError
from lrp_lens.patching.checks import as_list
from lrp_lens.patching.comparison import Comparison
from lrp_lens.patching.subsets import SubsetEffects

Cells = Float[np.ndarray, "layer ..."]
LEAST = 10
"""Draws with a cell, and without it, below which nothing is said of it: their means are not yet normal."""


def false_negative_bound(
    scored: "Comparison | Mapping[str, Any]",
    subsets: SubsetEffects,
    *,
    top: "int | list[int] | tuple[int, ...]" = (5, 10, 20),
    confidence: float = 0.95,
    metric: str | None = None,
) -> pd.DataFrame:
    """An upper bound on the effects of all cells that a method does not rank among its first.

    Args:
        scored: a `Comparison` with the site of the draws, or name → scores [layer, *axes] of a method.
        subsets: draws of that site, of the same prompts, direction and metric.
        top: how many cells of the largest |score| have been looked at, one number or several.
        confidence: of each bound.
        metric: name of the comparison's metric; the first by default.

    Returns:
        One row per method and number.  Columns: method, top, missed (cells outside the first); bound; layer and cell
        where it is reached, whose mean effect is difference and in draws of which it was draws; exact, the largest
        |effect| of the missed cells by activation patching (NaN unless `scored` is a Comparison).  The bound is
        infinite while a cell is in fewer than ten draws, or missing in fewer; make more.

    Raises:
        InputError: scores that do not fit the draws, another site or direction, or options out of range.

    Example:
        >>> from lrp_lens import LogitDiff, compare, load_demo_model
        >>> from lrp_lens.patching import patch_subsets
        >>> model, metric = load_demo_model(device="cpu"), LogitDiff("mary", "john")
        >>> clean = [f"then mary and john went to the {place} . john gave the key to" for place in ("park", "garden")]
        >>> corrupted = [one.replace("john gave", "mary gave") for one in clean]
        >>> site = "attn_head_out_all_pos"
        >>> found = compare(model, clean, corrupted, metric, sites=site, methods=["RELP"], samples=0)
        >>> draws = patch_subsets(model, clean, corrupted, metric, site=site, draws=200, probability=0.2)
        >>> bound = false_negative_bound(found, draws, top=4)
        >>> bool(bound.loc[0, "bound"] > bound.loc[0, "exact"])
        True
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence lies in (0, 1); received {confidence!r}.")
    scores, exact = _scores(scored, subsets, metric)
    difference, limit, counts = upper_limits(subsets, confidence)
    live = subsets.live
    rows = []
    for method, own in scores.items():
        order = np.argsort(-np.where(live, np.nan_to_num(np.abs(own)), -1), axis=None, kind="stable")
        for number in as_list(top, "top", int):
            k = require_whole(number, "top", 0)
            left = order[k : int(live.sum())]
            if not len(left):
                raise InputError(f"There are {int(live.sum())} cells, and some are missed; received top={k}.")
            worst = left[int(np.argmax(limit.ravel()[left]))]
            layer, *cell = (int(index) for index in np.unravel_index(worst, live.shape))
            known = np.abs(exact.ravel()[left])
            rows.append(
                {
                    "method": method,
                    "top": k,
                    "missed": len(left),
                    "bound": float(limit.ravel()[worst]),
                    "layer": layer,
                    "cell": tuple(cell),
                    "difference": float(difference.ravel()[worst]),
                    "draws": int(counts.ravel()[worst]),
                    "exact": float(np.nanmax(known)) if np.isfinite(known).any() else np.nan,
                }
            )
    return pd.DataFrame(rows)


def upper_limits(subsets: SubsetEffects, confidence: float) -> tuple[Cells, Cells, Cells]:
    """Of each cell: mean effect amid the others, upper limit of its size, and the number of draws with it.

    Cells without enough draws have the limit inf; those that cannot be patched NaN.
    """
    from scipy.stats import t

    shape, effects = subsets.live.shape, subsets.effects
    inside = subsets.chosen.reshape(len(effects), -1).astype(np.float64)
    centred = effects - effects.mean()
    sizes, means, variances = [], [], []
    for mask in (inside, 1 - inside):
        m = mask.sum(0)
        mean = centred @ mask / np.maximum(m, 1)
        squares = (centred**2 @ mask - m * mean**2).clip(min=0)
        sizes.append(m)
        means.append(mean)
        variances.append(squares / np.maximum(m - 1, 1) / np.maximum(m, 1))
    difference = means[0] - means[1]
    variance = variances[0] + variances[1]
    spread = sum(own**2 / np.maximum(m - 1, 1) for own, m in zip(variances, sizes, strict=True))
    freedom = np.where(spread > 0, variance**2 / np.where(spread > 0, spread, 1), 1.0)
    limit = np.abs(difference) + t.ppf(confidence, freedom) * np.sqrt(variance)
    limit = np.where(np.minimum(*sizes) < LEAST, np.inf, limit)
    live = subsets.live.ravel()
    found = (np.where(live, difference, np.nan), np.where(live, limit, np.nan), sizes[0])
    return found[0].reshape(shape), found[1].reshape(shape), found[2].reshape(shape)


def _scores(scored: Any, subsets: SubsetEffects, metric: str | None) -> tuple[dict[str, Cells], Cells]:
    """Scores of each method and exact effects, means over prompts; no exact ones of a mapping."""
    shape, site = subsets.live.shape, subsets.site
    if isinstance(scored, Comparison):
        name = metric or next(iter(scored.exact))[0]
        if (name, site) not in scored.exact or scored.direction != subsets.direction:
            raise InputError(
                f"Draws and comparison are of one site, metric and direction; the draws are of {site}, "
                f"{subsets.direction}, the comparison has {', '.join(map(str, scored.exact))}, {scored.direction}."
            )
        values = scored.exact[name, site].values
        assert values is not None
        scores = {
            method: found.values.mean(0)
            for (which, where, method), found in scored.scores.items()
            if (which, where) == (name, site) and found.values is not None
        }
        exact = values.mean(0)
    elif isinstance(scored, Mapping):
        scores = {str(name): np.asarray(values, dtype=np.float64) for name, values in scored.items()}
        exact = np.full(shape, np.nan)
    else:
        raise InputError(f"Scores are a Comparison or name → array; received {type(scored).__name__}.")
    wrong = {name: values.shape for name, values in scores.items() if values.shape != shape}
    if wrong or not scores or exact.shape != shape:
        raise InputError(
            f"Scores of {site} are [layer, {', '.join(subsets.axes)}], here {shape}; received {wrong or 'none'}."
        )
    return scores, exact
