"""suggest_rules: pick a rule set for each site on some prompts, and judge the choice on the others.

1. Compare every candidate with activation patching on all prompts.
2. Split the prompts into a calibration set and a held-out set.
3. Per site, choose the candidate with the highest agreement on the calibration set.
4. Report its agreement on the held-out set, beside that of every other candidate and the best that was to be had.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd

from lrp_lens.checks import require_whole
from lrp_lens.errors import InputError
from lrp_lens.markup import Html, frame
from lrp_lens.methods.inputs import PatchingMetric, aligned
from lrp_lens.patching.checks import as_list
from lrp_lens.patching.compare import CANDIDATES, SITES, compare
from lrp_lens.patching.comparison import Comparison
from lrp_lens.rules import RuleSet, as_rule_set
from lrp_lens.run.pairs import Direction

STATISTICS = ("pearson", "spearman", "sign_agreement", "top_10")
"""What a choice may be made by: more is better.  (Of the scale 1 is best, so it ranks nothing.)"""


@dataclass(frozen=True, eq=False)
class Suggestion:
    """A rule set per site, and the evidence."""

    rules: Mapping[str, RuleSet]
    """Site → the chosen rule set, for `get_lrp_patch_{site}(..., rules=...)`."""
    table: pd.DataFrame
    """One row per site: chosen, calibration, held_out (agreement of the choice), best_held_out and its name, and the
    held-out agreement of every candidate."""
    comparison: Comparison

    def __repr__(self) -> str:
        chosen = ", ".join(f"{site}: {rules.name}" for site, rules in self.rules.items())
        return f"Suggestion({chosen})"

    def plot(self, site: str | None = None) -> Any:
        """The comparison behind a choice, `Comparison.plot`.

        Args:
            site: one of those that were asked for; None takes the first.
        """
        return self.comparison.plot(next(iter(self.rules)) if site is None else site)

    def _repr_html_(self) -> Html:
        return frame(self.table.round(3))


def suggest_rules(
    model: Any,
    clean: Any,
    corrupted: Any,
    metric: PatchingMetric | None = None,
    *,
    sites: str | Sequence[str] = SITES,
    candidates: RuleSet | str | Sequence[RuleSet | str] = CANDIDATES,
    calibration: float = 0.5,
    statistic: str = "pearson",
    seed: int = 0,
    floor: float | int = 0.01,
    direction: Direction = "denoising",
    prepend_bos: bool | None = None,
    progress: bool | None = None,
) -> Suggestion:
    """Choose rules per site by agreement with activation patching on calibration prompts.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        clean: prompts of one length.
        corrupted: their corrupted twins.
        metric: one number per prompt; default: each clean prompt's top token against its runner-up.
        sites: names of `FACETS`, or one of them.
        candidates: rule sets to choose from, or names of presets; GRADIENT is attribution patching.
        calibration: share of the prompts that the choice is made on.
        statistic: pearson, spearman, sign_agreement or top_10.
        seed: of the split.
        floor: as in `compare`: weaker cells have no rank and no sign.
        direction: "denoising" (the default, as transformer_lens.patching) or "noising"; see `Direction`.
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
        progress: as in `compare`.

    Raises:
        InputError: fewer than two prompts on either side, an unknown statistic, several metrics, or what `compare`
            refuses; before the first patch.

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model
        >>> model = load_demo_model(device="cpu")
        >>> names = ("mary", "john", "anna", "peter")
        >>> pairs = [("mary", "john"), ("john", "mary")] * 2
        >>> text = "then {} and {} went to the park . {} gave the key to"
        >>> clean = [text.format(a, b, "john") for a, b in pairs]
        >>> corrupted = [text.format(a, b, "mary") for a, b in pairs]
        >>> suggest_rules(model, clean, corrupted, LogitDiff("mary", "john"), sites=["mlp_out"]).table.shape[0]
        1
    """
    if not isinstance(statistic, str) or statistic not in STATISTICS:
        raise InputError(
            f"A statistic to choose by is one of {', '.join(STATISTICS)}; received {statistic!r}."
        )
    if isinstance(metric, Mapping):
        raise InputError(f"Rules are chosen for one metric; received {list(metric)}. Call it once for each.")
    sites = as_list(sites, "sites")
    sets = [as_rule_set(one) for one in as_list(candidates, "candidates", (str, RuleSet))]
    n_prompts = aligned(model, clean, "clean", prepend_bos=prepend_bos).n_examples
    chosen_on, held_out = _split(n_prompts, calibration, require_whole(seed, "seed", 0))
    found = compare(
        model, clean, corrupted, metric, sites=sites, methods=sets, samples=0, seed=seed,
        floor=floor, direction=direction, ks=(10,), prepend_bos=prepend_bos, progress=progress,
    )  # fmt: skip
    by_name = {rules.name: rules for rules in sets}
    rules, rows = {}, []
    for site in sites:
        parts: list[dict[str, float]] = [
            {name: found.on_prompts("metric", site, name, prompts, statistic) for name in by_name}
            for prompts in (chosen_on, held_out)
        ]
        known = {name: value for name, value in parts[0].items() if np.isfinite(value)}
        if not known:
            raise InputError(
                f"No candidate scores {site}: every one cuts it off. Add GRADIENT to candidates."
            )
        best = max(known, key=lambda name: known[name])
        top = max(known, key=lambda name: parts[1][name])
        rules[site] = by_name[best]
        row = {"site": site, "chosen": best, "calibration": parts[0][best], "held_out": parts[1][best]}
        rows.append(row | {"best_held_out": parts[1][top], "best": top} | parts[1])
    return Suggestion(rules, pd.DataFrame(rows), found)


def _split(n_prompts: int, calibration: Any, seed: int) -> tuple[list[int], list[int]]:
    """Calibration and held-out prompts."""
    share = isinstance(calibration, Real) and not isinstance(calibration, bool)
    if not (share and 0 < calibration < 1):
        raise InputError(f"calibration is a share of the prompts between 0 and 1; received {calibration!r}.")
    order = np.random.default_rng(seed).permutation(n_prompts).tolist()
    middle = round(calibration * n_prompts)
    chosen_on, held_out = order[:middle], order[middle:]
    if min(len(chosen_on), len(held_out)) < 2:
        raise InputError(
            f"Calibration and held-out set have two prompts each at least; received {len(chosen_on)} and "
            f"{len(held_out)}. Pass more prompts."
        )
    return chosen_on, held_out
