"""Intervals over cases, and paired differences between methods.

1. Cases are drawn with replacement, and the interval holds the central share of the statistic of those draws, the
   percentile bootstrap (Efron 1979).  The same draws serve every method, so that differences are paired by case.
2. For means there is BCa, too, which corrects the interval for bias and skew (Efron 1987).
3. A difference of two methods is the mean of the differences case by case, with its interval.  It is tested by
   flipping their signs (Fisher 1935), which is valid for any number of cases where the bootstrap needs many; p is
   corrected for the number of comparisons by Holm (1979).
"""

from collections.abc import Mapping
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from lrp_lens.errors import InputError

Bootstrap = Literal["percentile", "BCa"]
_ROUNDING = 1e-14
"""Share of the largest value within which all are equal."""


def bootstrap_weights(n_prompts: int, samples: int, seed: int) -> Float[np.ndarray, "sample prompt"]:
    """Shares of each prompt in each bootstrap sample; the first row is the plain mean."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=samples)
    return np.concatenate([np.full((1, n_prompts), 1 / n_prompts), counts / n_prompts])


def percentile_interval(
    samples: Float[np.ndarray, "sample *shape"], level: float = 0.95
) -> Float[np.ndarray, "2 *shape"]:
    """Lower and upper end of the central share of a statistic's bootstrap draws; NaN where no draw has one.

    Example:
        >>> percentile_interval(np.array([np.nan, *range(101)]), 0.9).round(9).tolist()
        [5.0, 95.0]
    """
    flat = samples.reshape(len(samples), int(np.prod(samples.shape[1:])))
    bounds = np.full((2, flat.shape[1]), np.nan)
    for index, column in enumerate(flat.T):
        known = column[np.isfinite(column)]
        if len(known):
            bounds[:, index] = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return bounds.reshape(2, *samples.shape[1:])


def interval(values: Float[np.ndarray, " sample"], level: float = 0.95) -> tuple[float, float, float]:
    """The statistic itself (first entry) and the percentile interval of its draws (the rest)."""
    low, high = percentile_interval(values[1:], level)
    return float(values[0]), float(low), float(high)


def mean_interval(
    values: Float[np.ndarray, " case"],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: Bootstrap = "percentile",
) -> tuple[float, float, float, int]:
    """Mean, lower and upper end of its bootstrap interval, and the number of cases behind them.

    Args:
        values: one number per case; NaN cases do not count.
        level: share of the bootstrap means inside the interval.
        resamples: number of bootstrap draws.
        seed: seed of the draws.
        method: "percentile" or "BCa".

    Returns:
        mean, low, high, n; the interval is NaN below two cases, the mean below one.

    Raises:
        InputError: level outside (0, 1), no resamples, or another method.

    Example:
        >>> mean_interval(np.array([1.0, 1.0, np.nan]))
        (1.0, 1.0, 1.0, 2)
    """
    if not 0 < level < 1 or resamples < 1 or method not in ("percentile", "BCa"):
        raise InputError(
            f"An interval needs 0 < level < 1, resamples ≥ 1 and method 'percentile' or 'BCa'; received {level}, "
            f"{resamples} and {method!r}."
        )
    known = np.asarray(values[~np.isnan(values)], dtype=np.float64)
    n = len(known)
    mean = float(known.mean()) if n else float("nan")
    if n < 2:
        return mean, float("nan"), float("nan"), n
    if np.ptp(known) <= _ROUNDING * np.abs(known).max():  # BCa is 0/0
        return mean, mean, mean, n
    from scipy.stats import bootstrap

    found = bootstrap(
        (known,), np.mean, axis=-1, vectorized=True, n_resamples=resamples, confidence_level=level,
        method=method, rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return mean, float(found.low), float(found.high), n


def paired_differences(
    scores: Mapping[str, Float[np.ndarray, " case"]] | pd.DataFrame,
    reference: str | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
    method: Bootstrap = "BCa",
) -> pd.DataFrame:
    """Every method minus the reference, or every pair of methods, case by case.

    Args:
        scores: method → one number per case, the cases in one order; NaN where a method has none, and the case does
            not count for that pair.
        reference: the method that is taken from all others; None compares every pair, the later minus the earlier.
        level: share of the bootstrap means inside each interval.
        resamples: bootstrap draws, and sign flips where there are more than that.
        seed: seed of both.
        method: "BCa" or "percentile", of the interval.

    Returns:
        Columns method, reference, mean, low, high, n (cases); p, two-sided, that the difference has no sign, and
        p_holm, corrected for all rows of the table.  An interval is for its row alone.

    Raises:
        InputError: fewer than two methods, unequal numbers of cases, an unknown reference, and `mean_interval`'s.

    Example:
        >>> scores = {"a": np.arange(6.0), "b": np.arange(6.0) + [1, 2, 1, 2, 1, 2], "c": np.arange(6.0)[::-1]}
        >>> paired_differences(scores, "a")[["method", "mean", "p", "p_holm"]]
          method  mean        p   p_holm
        0      b   1.5  0.03125   0.0625
        1      c   0.0  1.00000   1.0000
    """
    columns = {str(name): np.asarray(values, dtype=np.float64) for name, values in scores.items()}
    shapes = sorted({values.shape for values in columns.values()})
    if len(columns) < 2 or len(shapes) != 1 or len(shapes[0]) != 1:
        raise InputError(
            "Differences are of at least two methods with one number for each of the same cases; received shapes "
            f"{shapes} for {', '.join(columns) or 'none'}. Give cases without a number NaN."
        )
    if reference is not None and reference not in columns:
        raise InputError(f"The methods here are {', '.join(columns)}; received {reference!r}.")
    pairs = [(name, reference) for name in columns if name != reference]
    if reference is None:
        pairs = [(later, earlier) for earlier, later in combinations(columns, 2)]
    rows = []
    for name, other in pairs:
        difference = columns[name] - columns[str(other)]
        found = mean_interval(difference, level=level, resamples=resamples, seed=seed, method=method)
        rows.append((name, other, *found, _sign_flips(difference[~np.isnan(difference)], resamples, seed)))
    table = pd.DataFrame(rows, columns=["method", "reference", "mean", "low", "high", "n", "p"])
    return table.assign(p_holm=holm(table["p"].to_numpy()))


def _sign_flips(differences: Float[np.ndarray, " case"], resamples: int, seed: int) -> float:
    """Two-sided p of the mean among those after flipping signs, of every choice of signs where they are few enough."""
    from scipy.stats import permutation_test

    if len(differences) < 2:
        return float("nan") if not len(differences) else 1.0
    found = permutation_test(
        (differences,), np.mean, permutation_type="samples", vectorized=True, axis=-1, n_resamples=resamples,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def holm(p: Float[np.ndarray, " test"]) -> Float[np.ndarray, " test"]:
    """P-values corrected for their number, step-down (Holm 1979); NaN is no test.

    The smallest is multiplied by the number of tests, the next by one less, …; none is below one before it, or over 1.

    Example:
        >>> holm(np.array([0.04, 0.01, np.nan])).tolist()
        [0.04, 0.02, nan]
    """
    corrected = np.full(len(p), np.nan)
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected
