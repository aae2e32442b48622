"""Agreement of two score vectors.

1. Pearson, Spearman (average ranks, as most ties are exact zeros), sign agreement over the cells in which the exact
   effect is not 0, and the overlap of the k cells with the largest |score| (its expectation, where cells tie for the
   last places), of rows [..., cell].  What is undefined is NaN, without a warning.
2. Ranks and signs count a cell without effect as much as the strongest one, so they are taken over the cells above a
   floor, a share of the largest |exact|.  Pearson and the scale keep every cell: a method that blames cells without
   effect is to be seen somewhere.
"""

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lrp_lens.errors import InputError
from lrp_lens.views.statistics.concentration import ratio
from lrp_lens.views.statistics.intervals import percentile_interval

Rows = Float[np.ndarray, "*sample cell"]
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]

NOTHING = 1e-6
"""Cells with an exact effect below this share of the largest have no sign."""


def require_floor(floor: Any) -> None:
    """Raise InputError unless 0 <= floor < 1, a number."""
    number = isinstance(floor, Real) and not isinstance(floor, bool)
    if not (number and 0 <= floor < 1):
        raise InputError(
            f"floor is a share of the largest effect, 0 <= floor < 1; received {floor!r}. 0 ranks every cell."
        )


def above_floor(exact: Float[np.ndarray, " cell"], floor: float | int) -> Bool[np.ndarray, " cell"]:
    """Cells whose |exact| reaches that share of the largest; every cell for a floor of 0, none where all are 0.

    Example:
        >>> above_floor(np.array([0.0, -0.5, 10.0]), 0.01).tolist()
        [False, True, True]
    """
    size = np.abs(exact)
    largest = size.max(initial=0)
    return (size >= floor * largest) & (largest > 0)


def pearson(scores: Rows, exact: Rows) -> Float[np.ndarray, "*sample"]:
    """Correlation of each row; NaN where a row is constant.

    Example:
        >>> pearson(np.array([[1.0, 2.0, 4.0]]), np.array([[2.0, 4.0, 8.0]])).round(6).tolist()
        [1.0]
    """
    a = scores - scores.mean(-1, keepdims=True)
    b = exact - exact.mean(-1, keepdims=True)
    return ratio((a * b).sum(-1), np.sqrt((a * a).sum(-1) * (b * b).sum(-1)))


def spearman(scores: Rows, exact: Rows) -> Float[np.ndarray, "*sample"]:
    """Rank correlation of each row, ties at their average rank; NaN where a row is constant.

    Example:
        >>> spearman(np.array([[1.0, 2.0, 9.0]]), np.array([[2.0, 4.0, 5.0]])).round(6).tolist()
        [1.0]
    """
    from scipy.stats import rankdata  # takes a second to import

    return pearson(rankdata(scores, axis=-1), rankdata(exact, axis=-1))


def sign_agreement(scores: Rows, exact: Rows) -> Float[np.ndarray, "*sample"]:
    """Share of the cells with an effect in which the score has its sign.

    Example:
        >>> sign_agreement(np.array([[1.0, -2.0, 9.0]]), np.array([[2.0, 4.0, 0.0]])).tolist()
        [0.5]
    """
    effect = np.abs(exact) > NOTHING * np.abs(exact).max(-1, keepdims=True)
    agree = (np.sign(scores) == np.sign(exact)) & effect
    return ratio(agree.sum(-1), effect.sum(-1))


def scale(scores: Rows, exact: Rows) -> Float[np.ndarray, "*sample"]:
    """Slope of the line through 0 of scores against exact effects: 1 means equal magnitudes, which Pearson ignores.

    Example:
        >>> scale(np.array([[1.0, 2.0]]), np.array([[2.0, 4.0]])).tolist()
        [0.5]
    """
    return ratio((scores * exact).sum(-1), (exact * exact).sum(-1))


def top_overlap(k: int) -> Statistic:
    """Share of the k cells with the largest |exact| that are among the k with the largest |score|.

    Cells that tie for the last places are drawn at random; the result is the expected share, so that no order of the
    cells matters.  NaN with fewer than k cells, or where no cell has an effect.

    Example:
        >>> top_overlap(1)(np.array([[1.0, -2.0]]), np.array([[2.0, 4.0]])).tolist()
        [1.0]
        >>> top_overlap(1)(np.array([[0.0, 0.0]]), np.array([[2.0, 4.0]])).tolist()  # no opinion: chance
        [0.5]
    """

    def overlap(scores: Rows, exact: Rows) -> Float[np.ndarray, "*sample"]:
        if not 1 <= k <= scores.shape[-1]:
            return np.full(scores.shape[:-1], np.nan)
        shared = (_chosen(scores, k) * _chosen(exact, k)).sum(-1) / k
        return np.where(exact.any(-1), shared, np.nan)

    return overlap


def _chosen(values: Rows, k: int) -> Rows:
    """Probability of each cell to be among the k of its row with the largest |value|, ties drawn at random."""
    size = np.abs(values)
    last = -np.partition(-size, k - 1, axis=-1)[..., k - 1 : k]
    above, tied = size > last, size == last
    places = k - above.sum(-1, keepdims=True)
    return np.asarray(above + tied * places / tied.sum(-1, keepdims=True))


def halves(
    exact: Float[np.ndarray, "prompt cell"], statistic: Statistic, splits: int, seed: int
) -> tuple[float, float, float]:
    """Exact against exact on random halves of the prompts: mean over splits, and their 95 % range.

    What even activation patching itself does not reach with half of the prompts is noise.
    """
    rng = np.random.default_rng(seed)
    first, second = [], []
    for _ in range(splits):
        order = rng.permutation(len(exact))
        middle = len(exact) // 2
        first.append(exact[order[:middle]].mean(0))
        second.append(exact[order[middle:]].mean(0))
    values = statistic(np.stack(first), np.stack(second))
    values = values[np.isfinite(values)]
    low, high = percentile_interval(values)
    return float(values.mean()) if len(values) else np.nan, float(low), float(high)
