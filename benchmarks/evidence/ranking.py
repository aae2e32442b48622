"""Rule sets ranked by a mean over cases in which every model has the same weight, with paired bootstrap differences.

1. A case has one number per method; only cases in which all that are ranked have one are counted, so that every
   comparison is paired.
2. The mean is taken over the cases of each model, then over the models.  In the bootstrap, cases are drawn with
   replacement within each model, the same draws for every method.
3. The test of a difference flips the signs of the cases' differences, each weighted as in the mean; p is corrected by
   Holm for the number of rule sets that are compared with the best.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lrp_lens.views.statistics.intervals import bootstrap_weights, interval, paired_differences

RESAMPLES = 5000
KEY = ["model", "task", "half", "case"]
"""What makes a case."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """Methods, best first."""

    names: tuple[str, ...]
    samples: np.ndarray
    """The mean (first row) and its bootstrap draws, [1 + resample, name]."""
    cases: dict[str, int]
    """Model → cases behind the means."""
    p: dict[str, float]
    """Name → that its difference to the best has no sign, corrected by Holm."""
    known: pd.DataFrame
    """The cases that were counted, and all methods of theirs."""

    def of(self, name: str) -> np.ndarray:
        """Mean and draws of one, [1 + resample]."""
        return np.asarray(self.samples[:, self.names.index(name)])

    def difference(self, name: str, other: str) -> np.ndarray:
        """The first minus the second, paired by case, [1 + resample]."""
        return self.of(name) - self.of(other)

    @property
    def n(self) -> str:
        """Cases of each model, in words."""
        return " + ".join(f"{count} {model}" for model, count in self.cases.items())


def ranked(cases: pd.DataFrame, names: Iterable[str], resamples: int = RESAMPLES) -> Ranking | None:
    """The methods of these names that are there, by their mean; None if no case or no method is left.

    Args:
        cases: one row per case (index `KEY`), one column per method; NaN where it has no number.
        names: the methods that are ranked. One that has no number in most cases of a model is left out (a rule set
            that cuts queries off says nothing of them); then cases in which another has none.
        resamples: bootstrap draws.
    """
    present = [name for name in names if name in cases.columns]
    often = (cases[present].notna().groupby(level="model").mean() > 0.5).all()
    chosen = [name for name in present if often.get(name, False)]
    known = cases.dropna(subset=chosen)
    if not chosen or not len(known):
        return None
    values = known[chosen]
    samples = means_over_models(values, resamples)
    order = np.argsort(-samples[0], kind="stable")
    counts = known.groupby(level="model", sort=False).size()
    best = chosen[order[0]]
    p: dict[str, float] = {}
    if len(chosen) > 1:
        weights = len(known) / (len(counts) * counts)
        weighted = values.mul(known.index.get_level_values("model").map(weights.to_dict()).to_numpy(), axis=0)
        tested = paired_differences(weighted, best, method="percentile", resamples=resamples)
        p = dict(zip(tested["method"], tested["p_holm"], strict=True))
    names = tuple(chosen[index] for index in order)
    return Ranking(names, samples[:, order], {str(k): int(v) for k, v in counts.items()}, p, known)


def means_over_models(values: pd.DataFrame, resamples: int) -> np.ndarray:
    """Mean over the cases of each model, then over models, and its draws: [1 + resample, column]."""
    parts = [
        bootstrap_weights(len(own), resamples, seed) @ own.to_numpy(dtype=np.float64)
        for seed, (_, own) in enumerate(values.groupby(level="model", sort=True))
    ]
    return np.asarray(np.mean(parts, axis=0))


def estimate(samples: np.ndarray, sign: str = "") -> str:
    """The statistic (first entry) and the interval of its draws."""
    value, low, high = interval(samples)
    return f"{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]"


def markdown(rows: Iterable[Iterable[str]], header: list[str]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def by_case(rows: pd.DataFrame, values: str, over: str, wanted: Iterable[str]) -> pd.DataFrame:
    """One row per case and one column per method: the mean over replacements (sites, ablations), each once.

    NaN unless the case has a number for every one of `wanted`.
    """
    wanted = list(wanted)
    held = rows[(rows["half"] == "held out") & rows[over].isin(wanted)]
    wide = held.pivot(index=[*KEY, over], columns="method", values=values)
    return wide.groupby(level=KEY).sum(min_count=len(wanted)) / len(wanted)
