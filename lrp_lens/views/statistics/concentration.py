"""Concentration of magnitudes, many groups or rows at once: Gini coefficient, entropy, the share of the largest."""

import numpy as np


def gini(values: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Gini coefficient of the magnitudes in each group: 0 all equal, 1 − 1/m one of m holds everything.

    G = 2 Σ_k k·x_(k) / (m Σ x) − (m + 1)/m, with x sorted upwards and k from 1.

    Args:
        values: [N]; magnitudes are taken.
        groups: [N] group of each value, 0 … count − 1.
        count: how many groups.

    Returns:
        [count]; NaN for a group without values or with only zeros.

    Example:
        >>> gini(np.array([1.0, 1.0, 0.0, 4.0]), np.array([0, 0, 1, 1]), 2).tolist()
        [0.0, 0.5]
    """
    magnitudes = np.abs(np.asarray(values, dtype=np.float64))
    order = np.lexsort((magnitudes, groups))
    sizes = np.bincount(groups, minlength=count)
    rank = np.arange(len(magnitudes)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    ordered, group = magnitudes[order], np.asarray(groups)[order]
    total = np.bincount(group, weights=ordered, minlength=count)
    ranked = np.bincount(group, weights=rank * ordered, minlength=count)
    return ratio(2 * ranked, sizes * total) - ratio(sizes + 1.0, np.where(total > 0, sizes, 0))


def entropy(values: np.ndarray) -> np.ndarray:
    """Entropy, in bits, of each row's magnitudes as shares p: −Σ p·log₂ p.  NaN for a row of zeros.

    Example:
        >>> entropy(np.array([[1.0, -1.0, 0.0], [5.0, 0.0, 0.0]])).tolist()
        [1.0, 0.0]
    """
    magnitudes = np.abs(values)
    total = magnitudes.sum(axis=-1, keepdims=True)
    share = np.where(total > 0, magnitudes / np.where(total > 0, total, 1), np.nan)
    logs = np.log2(np.where(share > 0, share, 1.0))
    return -(share * logs).sum(axis=-1) + 0.0


def top_share(values: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Share of each row's Σ|value| that its k largest magnitudes hold.  NaN for a row of zeros.

    Args:
        values: [rows, columns].
        k: [rows], how many in each row.
    """
    magnitudes = -np.sort(-np.abs(values), axis=-1)
    top = np.where(np.arange(values.shape[-1]) < k[:, None], magnitudes, 0.0)
    return ratio(top.sum(axis=-1), magnitudes.sum(axis=-1))


def needed(values: np.ndarray, share: float) -> np.ndarray:
    """How many of each row's largest magnitudes together reach this share of Σ|value|; 0 for a row of zeros."""
    magnitudes = -np.sort(-np.abs(values), axis=-1)
    running = np.cumsum(magnitudes, axis=-1)
    before = np.concatenate([np.zeros_like(running[..., :1]), running[..., :-1]], axis=-1)
    return ((before < share * running[..., -1:]) & (magnitudes > 0)).sum(axis=-1)


def ratio(part: np.ndarray | np.number, whole: np.ndarray | np.number) -> np.ndarray:
    """part / whole, NaN where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole != 0)
