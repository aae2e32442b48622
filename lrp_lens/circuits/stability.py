"""Stability: would other prompts have given the same circuit?

1. Draw the prompts with replacement, and take each edge's mean score over the draw.
2. The circuit of size k holds the k strongest edges, ranked as `top_edges` ranks them and before pruning (what pruning
   leaves hangs on single edges).  An edge that scores exactly 0 is in none: its rank would only be its place.
3. Jaccard index |A ∩ B| / |A ∪ B| of each draw's circuit with that of all prompts, and of the draws' circuits pairwise.
   Two random circuits of k among N edges have about k / (2 N - k).
4. Means over draws (pairs of draws), and the percentile interval over draws of the first.

A draw leaves out about a third of the prompts and repeats others, so the index says how much hangs on which prompts
they were, not how close the circuit is to the truth: a bias that all prompts share is perfectly stable.

Source: the bootstrap, Efron 1979; the index, Jaccard 1912.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from lrp_lens.checks import is_whole
from lrp_lens.circuits import select
from lrp_lens.circuits.growing import FRACTIONS
from lrp_lens.circuits.result import ComponentEdges
from lrp_lens.errors import InputError
from lrp_lens.views.statistics.intervals import bootstrap_weights, percentile_interval

STABLE = 0.8
"""Jaccard index with the circuit of all prompts from which on a circuit is called stable."""


def stability(
    edges: ComponentEdges,
    sizes: Iterable[int] | None = None,
    *,
    absolute: bool = True,
    resamples: int = 200,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """How far the strongest edges are the same when the prompts are drawn again.

    Args:
        edges: scores of several prompts.
        sizes: numbers of edges (by position: of edges at positions); by default MIB's shares of all, from one edge on.
        absolute: rank by |score|; False by score.
        resamples: draws of the prompts.
        seed: of the draws.
        confidence: of the interval.

    Returns:
        One row per size. Columns: edges (the size), share (of all edges); jaccard, low, high (with the circuit of all
        prompts: mean over draws and their percentile interval); pairwise (mean over pairs of draws); chance (two
        random circuits of that size); stable (jaccard of at least .8).  NaN where every circuit is empty.

    Raises:
        InputError: fewer than two prompts, sizes that no circuit has, scores that are NaN, or options out of range.

    Example:
        >>> from lrp_lens import RELP, LogitDiff, load_demo_model
        >>> from lrp_lens.circuits import component_edges
        >>> model = load_demo_model(device="cpu")
        >>> clean = [f"then mary and john went to the {place} . john gave the key to" for place in ("park", "garden")]
        >>> corrupted = [one.replace("john gave", "mary gave") for one in clean]
        >>> edges = component_edges(model, clean, corrupted, LogitDiff("mary", "john"), rules=RELP)
        >>> list(stability(edges, [20]).columns)
        ['edges', 'share', 'jaccard', 'low', 'high', 'pairwise', 'chance', 'stable']
    """
    if not isinstance(edges, ComponentEdges):
        raise InputError(
            f"Stability is of ComponentEdges, which keep the scores of each prompt; received {type(edges).__name__}. "
            "Make them with component_edges(...)."
        )
    free = np.isfinite(select.ranking(edges, absolute))
    n, total = len(edges.values), int(free.sum())
    counts = [max(1, int(share * total)) for share in FRACTIONS] if sizes is None else list(sizes)
    wrong = [size for size in counts if not is_whole(size) or not 1 <= size <= total]
    if wrong or not counts:
        raise InputError(f"Circuits have 1 to {total} edges here; received {wrong or 'no size'}.")
    if n < 2 or resamples < 2 or not 0 < confidence < 1:
        raise InputError(
            "Stability needs two prompts to draw from, two draws and a confidence in (0, 1); received "
            f"{n}, {resamples} and {confidence}. Score more prompts together."
        )
    flat = edges.values.reshape(n, -1)[:, free.ravel()]
    drawn = bootstrap_weights(n, resamples, seed) @ flat.astype(np.float64)
    ranked = np.abs(drawn) if absolute else drawn
    place = np.argsort(np.argsort(-ranked, axis=1, kind="stable"), axis=1)
    rows = []
    for size in dict.fromkeys(counts):
        together = _jaccard((place < size) & (drawn != 0))
        own = together[0, 1:]
        low, high = percentile_interval(own, confidence)
        jaccard = _mean(own)
        pairwise = _mean(together[1:, 1:][np.triu_indices(resamples, 1)])
        chance = size / (2 * total - size)
        rows.append(
            (int(size), size / total, jaccard, float(low), float(high), pairwise, chance, jaccard >= STABLE)
        )
    names = ["edges", "share", "jaccard", "low", "high", "pairwise", "chance", "stable"]
    return pd.DataFrame(rows, columns=names)


def _jaccard(circuits: Bool[np.ndarray, "circuit edge"]) -> Float[np.ndarray, "circuit circuit"]:
    """|A ∩ B| / |A ∪ B| of every two circuits; NaN of two empty ones."""
    kept = circuits[:, circuits.any(0)].astype(np.float32)  # counts are exact up to 2²⁴
    shared = (kept @ kept.T).astype(np.float64)
    sizes = np.diag(shared)
    union = sizes[:, None] + sizes[None] - shared
    return np.divide(shared, union, out=np.full_like(shared, np.nan), where=union > 0)


def _mean(values: Float[np.ndarray, " draw"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
