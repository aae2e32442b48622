"""Scored: exact effects and scores of the same cells, and how well they agree on any weighting of the prompts.

1. Per metric, site and method there are scores of each prompt and cell, beside the exact effects.
2. A statistic is taken of means over prompts (all, some, a bootstrap sample) without the cells that one side misses.
3. Ranks, signs and top-k are taken over the cells above the floor.  Unsigned scores are set against |exact|.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from lrp_lens.methods.facets import Facet
from lrp_lens.run.pairs import Direction
from lrp_lens.views.statistics.agreement import (
    Statistic,
    above_floor,
    pearson,
    scale,
    sign_agreement,
    spearman,
    top_overlap,
)
from lrp_lens.views.statistics.intervals import bootstrap_weights

RANKED = ("spearman", "sign_agreement")
"""Statistics over the cells above the floor only."""


@dataclass(frozen=True)
class Cost:
    """Of one method for all sites, or of activation patching for one site."""

    forwards: int
    """Forward passes over all prompts."""
    backwards: int
    seconds: float
    peak_mb: float
    """Rise of memory, see `Meter`."""


@dataclass(frozen=True)
class Scores:
    """One method's scores of one site."""

    method: str
    values: np.ndarray | None
    """[prompt, layer, *axes]; None where the method is not defined."""
    cost: Cost
    why: tuple[str, ...] = ()
    """Why cells are NaN."""
    unsigned: bool = False
    lrp: bool = False
    draws: np.ndarray | None = None
    """Random rankings, [draw, layer, *axes], the same for every prompt; `values` is the first of them."""


@dataclass(eq=False)
class Scored:
    """Exact effects and every method's scores of the same cells, per prompt, and any statistic of the two."""

    n_prompts: int
    length: int
    n_layers: int
    ks: tuple[int, ...]
    samples: int
    seed: int
    direction: Direction
    tokens: tuple[str, ...] = ()
    """What stands at each position, [position]: one token, or those of the clean prompts, "mary/john"."""
    pieces: tuple[str, ...] = ()
    """What each of these adds to the text, in the same form, from which a view has its words; () for not known."""
    floor: float | int = 0.01
    """Share of the largest |exact effect| of a site below which cells are left out of ranks, signs and top-k."""
    facets: dict[str, Facet] = field(default_factory=dict)
    exact: dict[tuple[str, str], Scores] = field(default_factory=dict)
    """(metric, site) → the change of each prompt's metric under each patch."""
    scores: dict[tuple[str, str, str], Scores] = field(default_factory=dict)
    """(metric, site, method) → scores."""

    def __post_init__(self) -> None:
        self._weights = bootstrap_weights(self.n_prompts, self.samples, self.seed)

    def add_exact(self, metric: str, facet: Facet, values: np.ndarray, cost: Cost) -> None:
        """Keep the exact effects of a site."""
        self.facets[facet.name] = facet
        self.exact[metric, facet.name] = Scores("exact", values, cost)

    def add(self, metric: str, facet: Facet, scores: Scores) -> None:
        """Keep a method's scores of a site."""
        self.scores[metric, facet.name, scores.method] = scores

    @property
    def statistics(self) -> dict[str, Statistic]:
        """Column → statistic."""
        named: dict[str, Statistic] = {
            "pearson": pearson,
            "spearman": spearman,
            "sign_agreement": sign_agreement,
            "scale": scale,
        }
        return named | {f"top_{k}": top_overlap(k) for k in self.ks}

    def apply(
        self, statistic: str, scores: np.ndarray, exact: np.ndarray, mean: np.ndarray | None = None
    ) -> np.ndarray:
        """A statistic of each row; the floor is taken of `mean` [cell], by default of the first row of `exact`.

        The top k are at most as many as there are cells above the floor, and scores of all cells compete for them.
        """
        if not scores.size:
            return np.full(len(scores), np.nan)
        ranked = above_floor(exact[0] if mean is None else mean, self.floor)
        if statistic in RANKED:
            scores, exact = scores[:, ranked], exact[:, ranked]
            if not ranked.any():
                return np.full(len(scores), np.nan)
        if statistic.startswith("top_"):
            k = int(statistic.removeprefix("top_"))
            return top_overlap(min(k, int(ranked.sum())))(scores, exact)
        return self.statistics[statistic](scores, exact)

    def _samples(self, metric: str, site: str, method: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Means over each bootstrap sample of prompts, of scores and exact effects."""
        scores, exact = self.pair(metric, site, method, range(self.n_prompts))
        return None if scores is None else (self._weights @ scores, self._weights @ exact)

    def sampled(self, metric: str, site: str, method: str, statistic: str) -> np.ndarray:
        """A statistic of the mean over prompts (first entry) and of every bootstrap sample, [1 + samples]."""
        if self.scores[metric, site, method].draws is not None:
            return self._of_draws(metric, site, method, self._weights, statistic)
        means = self._samples(metric, site, method)
        if means is None or (statistic == "sign_agreement" and self.scores[metric, site, method].unsigned):
            return np.full(len(self._weights), np.nan)
        return self.apply(statistic, *means)

    def on_prompts(
        self, metric: str, site: str, method: str, prompts: Sequence[int], statistic: str
    ) -> float:
        """A statistic of the mean over some prompts only."""
        if self.scores[metric, site, method].draws is not None:
            share = np.isin(np.arange(self.n_prompts), list(prompts)) / len(prompts)
            return float(self._of_draws(metric, site, method, share[None], statistic)[0])
        scores, exact = self.pair(metric, site, method, prompts)
        if scores is None:
            return float("nan")
        return float(self.apply(statistic, scores.mean(0)[None], exact.mean(0)[None])[0])

    def _of_draws(
        self, metric: str, site: str, method: str, weights: np.ndarray, statistic: str
    ) -> np.ndarray:
        """Random rankings: the mean over draws first, then one draw for each further row of weights [row, prompt]."""
        found, exact = self.scores[metric, site, method], self.cells(self.exact[metric, site].values)
        assert found.draws is not None
        known = ~np.isnan(exact).any(0)
        means, draws = weights @ exact[:, known], found.draws.reshape(len(found.draws), -1)[:, known]
        every = self.apply(statistic, draws, np.repeat(means[:1], len(draws), axis=0))
        turns = np.arange(len(means) - 1) % len(draws)
        rest = self.apply(statistic, draws[turns], means[1:], means[0])
        return np.concatenate([[every.mean()], rest])

    def pair(
        self, metric: str, site: str, method: str, prompts: Sequence[int]
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Scores and exact effects [prompt, cell] without the cells that one of them misses."""
        found, exact = self.scores[metric, site, method], self.cells(self.exact[metric, site].values)
        exact = exact[list(prompts)]
        if found.values is None:
            return None, exact
        scores = self.cells(found.values)[list(prompts)]
        known = ~(np.isnan(scores).any(0) | np.isnan(exact).any(0))
        if not known.any():
            return None, exact
        return scores[:, known], np.abs(exact[:, known]) if found.unsigned else exact[:, known]

    def cells(self, values: np.ndarray | None) -> np.ndarray:
        """Per prompt, the cells on one axis: [prompt, cell]."""
        assert values is not None
        return values.reshape(self.n_prompts, -1)
