"""Agreement of two score vectors, with bootstrap intervals over prompts.

1. Scores are kept per prompt, [prompt, cell]; a method is judged by its mean over prompts.
2. A bootstrap sample draws prompts with replacement; the same samples serve every method, so differences are paired.
3. Statistics: Pearson, Spearman (average ranks, as most ties are exact zeros), sign agreement over the cells in which
   the exact effect is not 0, and the overlap of the k cells with the largest |score| (its expectation, where cells
   tie for the last places).
4. Ranks and signs count a cell without effect as much as the strongest one, so they are taken over the cells above a
   floor, a share of the largest |exact|.  Pearson and the scale keep every cell: a method that blames cells without
   effect is to be seen somewhere.
"""

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from lrp_lens.errors import InputError

Rows = Float[np.ndarray, "sample cell"]
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


def pearson(scores: Rows, exact: Rows) -> Float[np.ndarray, " sample"]:
    """Correlation of each row; NaN where a row is constant.

    Example:
        >>> pearson(np.array([[1.0, 2.0, 4.0]]), np.array([[2.0, 4.0, 8.0]])).round(6).tolist()
        [1.0]
    """
    a = scores - scores.mean(-1, keepdims=True)
    b = exact - exact.mean(-1, keepdims=True)
    scale = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.where(scale > 0, (a * b).sum(-1) / np.where(scale > 0, scale, 1), np.nan)


def _ranks(row: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(row, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse.reshape(-1)]


def spearman(scores: Rows, exact: Rows) -> Float[np.ndarray, " sample"]:
    """Rank correlation of each row, ties at their average rank.

    Example:
        >>> spearman(np.array([[1.0, 2.0, 9.0]]), np.array([[2.0, 4.0, 5.0]])).round(6).tolist()
        [1.0]
    """
    return pearson(np.stack([*map(_ranks, scores)]), np.stack([*map(_ranks, exact)]))


def sign_agreement(scores: Rows, exact: Rows) -> Float[np.ndarray, " sample"]:
    """Share of the cells with an effect in which the score has its sign.

    Example:
        >>> sign_agreement(np.array([[1.0, -2.0, 9.0]]), np.array([[2.0, 4.0, 0.0]])).tolist()
        [0.5]
    """
    effect = np.abs(exact) > NOTHING * np.abs(exact).max(-1, keepdims=True)
    agree = (np.sign(scores) == np.sign(exact)) & effect
    count = effect.sum(-1)
    return np.where(count > 0, agree.sum(-1) / np.maximum(count, 1), np.nan)


def scale(scores: Rows, exact: Rows) -> Float[np.ndarray, " sample"]:
    """Slope of the line through 0 of scores against exact effects: 1 means equal magnitudes, which Pearson ignores.

    Example:
        >>> scale(np.array([[1.0, 2.0]]), np.array([[2.0, 4.0]])).tolist()
        [0.5]
    """
    size = (exact * exact).sum(-1)
    return np.where(size > 0, (scores * exact).sum(-1) / np.where(size > 0, size, 1), np.nan)


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

    def overlap(scores: Rows, exact: Rows) -> Float[np.ndarray, " sample"]:
        if not 1 <= k <= scores.shape[-1]:
            return np.full(len(scores), np.nan)
        shared = (_chosen(scores, k) * _chosen(exact, k)).sum(-1) / k
        return np.where(exact.any(-1), shared, np.nan)

    return overlap


def _chosen(values: Rows, k: int) -> Rows:
    """Probability of each cell to be among the k of its row with the largest |value|, ties drawn at random."""
    size = np.abs(values)
    last = -np.partition(-size, k - 1, axis=-1)[:, k - 1 : k]
    above, tied = size > last, size == last
    places = k - above.sum(-1, keepdims=True)
    return np.asarray(above + tied * places / tied.sum(-1, keepdims=True))


def bootstrap_weights(n_prompts: int, samples: int, seed: int) -> Float[np.ndarray, "sample prompt"]:
    """Shares of each prompt in each bootstrap sample; the first row is the plain mean."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=samples)
    return np.concatenate([np.full((1, n_prompts), 1 / n_prompts), counts / n_prompts])


def interval(values: Float[np.ndarray, " sample"], level: float = 0.95) -> tuple[float, float, float]:
    """The statistic itself (first entry) and its percentile bootstrap interval (the rest)."""
    rest = values[1:][np.isfinite(values[1:])]
    if not len(rest):
        return float(values[0]), np.nan, np.nan
    low, high = np.quantile(rest, [(1 - level) / 2, (1 + level) / 2])
    return float(values[0]), float(low), float(high)


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
    if not len(values):
        return np.nan, np.nan, np.nan
    low, high = np.quantile(values, [0.025, 0.975])
    return float(values.mean()), float(low), float(high)
