"""Intervals over cases: the percentile bootstrap (Efron 1979).

Cases are drawn with replacement, the mean is taken, and the interval holds the central share of those means.  The
same draws serve every method of a table, so that differences between methods are paired by case.
"""

import numpy as np
from jaxtyping import Float

from lrp_lens.errors import InputError


def bootstrap_mean(
    values: Float[np.ndarray, " case"], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float, int]:
    """Mean, lower and upper end of its interval, and the number of cases behind them.

    Args:
        values: one number per case; NaN cases do not count.
        level: share of the bootstrap means inside the interval.
        resamples: number of bootstrap draws.
        seed: seed of the draws.

    Returns:
        mean, low, high, n; the interval is NaN below two cases, the mean below one.

    Raises:
        InputError: level outside (0, 1), or no resamples.

    Example:
        >>> bootstrap_mean(np.array([1.0, 1.0, np.nan]))
        (1.0, 1.0, 1.0, 2)
    """
    if not 0 < level < 1 or resamples < 1:
        raise InputError(f"An interval needs 0 < level < 1 and resamples ≥ 1; received {level}, {resamples}.")
    known = values[~np.isnan(values)]
    n = len(known)
    if n < 2:
        return (float(known[0]) if n else float("nan")), float("nan"), float("nan"), n
    rng = np.random.default_rng(seed)
    means = known[rng.integers(n, size=(resamples, n))].mean(1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(known.mean()), float(low), float(high), n
