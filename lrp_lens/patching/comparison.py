"""Comparison: what `compare` found, per prompt and cell, and the tables and plots made of it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from lrp_lens.errors import InputError
from lrp_lens.patching.facets import Facet
from lrp_lens.patching.statistics import (
    Statistic,
    above_floor,
    bootstrap_weights,
    halves,
    interval,
    pearson,
    require_floor,
    scale,
    sign_agreement,
    spearman,
    top_overlap,
)
from lrp_lens.views import View

_DIMS = {"pos": "position", "dest_pos": "position", "src_pos": "source"}
SPLITS = 20
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


@dataclass(eq=False)
class Comparison:
    """Exact effects and every method's scores of the same cells, per prompt."""

    n_prompts: int
    length: int
    n_layers: int
    ks: tuple[int, ...]
    samples: int
    seed: int
    direction: str
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

    def _apply(
        self, statistic: str, scores: np.ndarray, exact: np.ndarray, mean: np.ndarray | None = None
    ) -> np.ndarray:
        """A statistic of each row; the floor is taken of `mean` [cell], by default of the first row of `exact`.

        The top k are at most as many as there are cells above the floor, and scores of all cells compete for them.
        """
        if not scores.shape[-1]:
            return np.full(len(scores), np.nan)
        ranked = above_floor(exact[0] if mean is None else mean, self.floor)
        if statistic in RANKED:
            scores, exact = scores[:, ranked], exact[:, ranked]
        if statistic.startswith("top_"):
            k = int(statistic.removeprefix("top_"))
            if k <= scores.shape[-1]:
                return top_overlap(min(k, int(ranked.sum())))(scores, exact)
        return self.statistics[statistic](scores, exact)

    def with_floor(self, floor: float | int) -> "Comparison":
        """The same scores, ranked over the cells above another share of the largest effect; 0 ranks every cell.

        Raises:
            InputError: unless 0 <= floor < 1.
        """
        require_floor(floor)
        return replace(self, floor=floor)

    def _samples(self, metric: str, site: str, method: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Means over each bootstrap sample of prompts, of scores and exact effects."""
        scores, exact = self._pair(metric, site, method, range(self.n_prompts))
        return None if scores is None else (self._weights @ scores, self._weights @ exact)

    def sampled(self, metric: str, site: str, method: str, statistic: str) -> np.ndarray:
        """A statistic of the mean over prompts (first entry) and of every bootstrap sample, [1 + samples]."""
        means = self._samples(metric, site, method)
        if means is None or (statistic == "sign_agreement" and self.scores[metric, site, method].unsigned):
            return np.full(len(self._weights), np.nan)
        return self._apply(statistic, *means)

    def on_prompts(
        self, metric: str, site: str, method: str, prompts: Sequence[int], statistic: str
    ) -> float:
        """A statistic of the mean over some prompts only."""
        scores, exact = self._pair(metric, site, method, prompts)
        if scores is None:
            return float("nan")
        return float(self._apply(statistic, scores.mean(0)[None], exact.mean(0)[None])[0])

    def _pair(
        self, metric: str, site: str, method: str, prompts: Sequence[int]
    ) -> tuple[np.ndarray | None, np.ndarray]:
        """Scores and exact effects [prompt, cell] without the cells that one of them misses."""
        found, exact = self.scores[metric, site, method], self._cells(self.exact[metric, site].values)
        exact = exact[list(prompts)]
        if found.values is None:
            return None, exact
        scores = self._cells(found.values)[list(prompts)]
        known = ~(np.isnan(scores).any(0) | np.isnan(exact).any(0))
        if not known.any():
            return None, exact
        return scores[:, known], np.abs(exact[:, known]) if found.unsigned else exact[:, known]

    def _cells(self, values: np.ndarray | None) -> np.ndarray:
        assert values is not None
        return values.reshape(self.n_prompts, -1)

    def table(self) -> pd.DataFrame:
        """One row per metric, site and method, tidy.

        Columns: metric, site, method; each statistic with `_low` and `_high` (95 % bootstrap interval over prompts);
        n_cells; n_ranked (cells above the floor, see `compare`); n_prompts; forwards, backwards, seconds and peak_mb
        of the method for all sites together; and of activation patching for this site (exact_...); unsigned; note
        (why cells are missing).
        """
        rows = []
        for (metric, site, method), found in self.scores.items():
            row: dict[str, Any] = {"metric": metric, "site": site, "method": method}
            for name in self.statistics:
                value, low, high = interval(self.sampled(metric, site, method, name))
                row |= {name: value, f"{name}_low": low, f"{name}_high": high}
            kept, truth = self._pair(metric, site, method, range(self.n_prompts))
            cells = 0 if kept is None else kept.shape[1]
            ranked = int(above_floor(truth.mean(0), self.floor).sum()) if cells else 0
            row |= {"n_cells": cells, "n_ranked": ranked, "n_prompts": self.n_prompts}
            row |= vars(found.cost)
            exact = self.exact[metric, site].cost
            row |= {"exact_forwards": exact.forwards, "exact_seconds": exact.seconds}
            row |= {"unsigned": found.unsigned, "note": "; ".join(found.why)}
            rows.append(row)
        return pd.DataFrame(rows)

    def to_dataframe(self) -> pd.DataFrame:
        """The same as `table`."""
        return self.table()

    def noise_floor(self) -> pd.DataFrame:
        """Exact against exact on halves of the prompts, per metric and site: mean and 95 % range of 20 splits.

        Agreement above this is not to be had with half as many prompts; the method RANDOM shows the other end.
        """
        rows = []
        for (metric, site), found in self.exact.items():
            cells = self._cells(found.values)
            cells = cells[:, ~np.isnan(cells).any(0)]
            row: dict[str, Any] = {"metric": metric, "site": site}
            for name in self.statistics:
                statistic = partial(self._apply, name, mean=cells.mean(0))
                value, low, high = halves(cells, statistic, SPLITS, self.seed)
                row |= {name: value, f"{name}_low": low, f"{name}_high": high}
            rows.append(row)
        return pd.DataFrame(rows)

    def losses(self, statistic: str = "pearson") -> pd.DataFrame:
        """Where LRP loses: each LRP method minus GRADIENT, paired over bootstrap samples; worst first.

        Columns: metric, site, method, gradient, lrp, difference, difference_low, difference_high, loses (the whole
        interval lies below 0).

        Raises:
            InputError: if GRADIENT is not among the methods, or for an unknown statistic.
        """
        if statistic not in self.statistics:
            raise InputError(f"A statistic is one of {', '.join(self.statistics)}; received {statistic!r}.")
        if not any(method == "GRADIENT" for _, _, method in self.scores):
            raise InputError("LRP loses or wins against GRADIENT, which was not compared. Add it to methods.")
        rows = []
        for (metric, site, method), found in self.scores.items():
            if not found.lrp or found.values is None:
                continue
            plain = self.sampled(metric, site, "GRADIENT", statistic)
            ruled = self.sampled(metric, site, method, statistic)
            difference, low, high = interval(ruled - plain)
            rows.append(
                {"metric": metric, "site": site, "method": method, "gradient": plain[0], "lrp": ruled[0]}
                | {"difference": difference, "difference_low": low, "difference_high": high}
                | {"loses": high < 0}
            )
        return pd.DataFrame(rows).sort_values("difference", kind="stable").reset_index(drop=True)

    def view(self, site: str, method: str | None = None, metric: str | None = None) -> View:
        """Mean scores of one site, dims as transformer_lens lays them out; of activation patching without `method`.

        Raises:
            InputError: if site, method or metric was not compared.
        """
        metric = metric or next(iter(self.exact))[0]
        key = (metric, site) if method is None else (metric, site, method)
        found = (self.exact if method is None else self.scores).get(key)  # type: ignore[arg-type]
        if found is None or found.values is None:
            raise InputError(
                f"There are no scores of {key}; compared were {', '.join(map(str, self.scores))}."
            )
        axes = self.facets[site].axes
        name = "activation patching" if method is None else method
        return View(
            values=found.values.mean(0),
            dims=("layer", *(_DIMS.get(axis, axis) for axis in axes)),
            name=name,
            units="change of the metric",
            notes=(f"metric: {metric}", f"site: {site}", f"{self.direction}, {self.n_prompts} prompts"),
        )

    def plot(self, site: str, methods: Sequence[str] | None = None, metric: str | None = None) -> Any:
        """Per method: heat maps of exact and method on one scale, and their scatter with the identity line.

        Args:
            site: a compared site.
            methods: names; every method with scores by default.
            metric: name of the metric; the first by default.

        Returns:
            plotly figure.
        """
        from lrp_lens.plots.comparison import plot_comparison

        metric = metric or next(iter(self.exact))[0]
        names = methods or [
            method
            for (name, where, method), found in self.scores.items()
            if (name, where) == (metric, site) and found.values is not None
        ]
        exact = self.view(site, None, metric)
        return plot_comparison(exact, [self.view(site, name, metric) for name in names], title=site)

    def __repr__(self) -> str:
        sites, methods = list(self.facets), list(dict.fromkeys(method for _, _, method in self.scores))
        return (
            f"Comparison({self.n_prompts} prompts of {self.length} tokens, {self.direction}; sites "
            f"{', '.join(sites)}; methods {', '.join(methods)})"
        )

    def _repr_html_(self) -> str:
        columns = ["metric", "site", "method", "pearson", "pearson_low", "pearson_high", "n_cells"]
        columns += ["spearman", "sign_agreement", "n_ranked"]
        note = f"<p>n_ranked: cells with at least {self.floor:.2g} of the largest effect, for ranks and signs.</p>"
        return str(self.table()[columns].round(3).to_html(index=False)) + note
