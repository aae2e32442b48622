"""CircuitCurve: how much of the metric the best k % of edges (or nodes) carry, for every k, method and ranking.

1. f(k) = (m(C_k) - m(∅)) / (m(full) - m(∅)), means over prompts, of the circuits that `circuit_curve` ran.
2. CPR = ∫ f dk over the signed ranking, CMD = ∫ |1 - f| dk over the absolute one, by trapezoids from the smallest k
   to the largest (Mueller et al. 2504.13151).  CPR is best large, CMD best 0.
3. Intervals: bootstrap over prompts, which are drawn once for all methods.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from lrp_lens.characters import shown
from lrp_lens.errors import InputError
from lrp_lens.markup import Html, captioned, frame
from lrp_lens.views.statistics.intervals import percentile_interval

RANDOM = "random"


@dataclass(frozen=True, eq=False, repr=False)
class CircuitCurve:
    """Share of the metric that circuits of growing size recover."""

    fractions: np.ndarray
    """Shares of all edges (nodes), [size]."""
    methods: tuple[str, ...]
    """One per row of `values`."""
    rankings: tuple[str, ...]
    """ "absolute", "signed" or "random", one per row."""
    values: np.ndarray
    """The metric of each circuit on each prompt, [row, size, batch]."""
    sizes: np.ndarray
    """Edges of each circuit after pruning, [row, size]."""
    full: np.ndarray
    """With all edges, [batch]."""
    empty: np.ndarray
    """With none, [batch]."""
    draws: np.ndarray
    """Share of each prompt in each bootstrap sample, [sample, batch]."""
    confidence: float
    level: str
    text: str
    """Ablation, direction, selection."""

    def _ratio(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """f from means over weighted prompts, [..., size] for weights [batch], or with samples in front."""
        full, empty = weights @ self.full, weights @ self.empty
        gap = np.where(np.abs(full - empty) > 0, full - empty, np.nan)
        return np.asarray((np.moveaxis(values @ weights.T, -1, 0).T - empty).T / gap[:, None, None])

    @property
    def recovered(self) -> np.ndarray:
        """f(k), which papers call faithfulness, [row, size]."""
        n = len(self.full)
        return self._ratio(self.values, np.full((1, n), 1 / n))[0]

    def _samples(self) -> np.ndarray:
        return self._ratio(self.values, self.draws)

    def interval(self) -> np.ndarray:
        """Bootstrap interval of f(k), [bound, row, size]; NaN for a single prompt."""
        return percentile_interval(self._samples(), self.confidence)

    def areas(self) -> pd.DataFrame:
        """One row per method: cpr (signed ranking) and cmd (absolute ranking), each with its bootstrap interval."""
        point, samples = self.recovered, self._samples()
        rows: list[dict[str, Any]] = []
        for method in dict.fromkeys(self.methods):
            row: dict[str, Any] = {"method": method}
            for name, ranking, area in (("cpr", "signed", cpr), ("cmd", "absolute", cmd)):
                index = self._row(method, ranking)
                low, high = percentile_interval(area(self.fractions, samples[:, index]), self.confidence)
                row |= {name: float(area(self.fractions, point[index]))}
                row |= {f"{name}_low": float(low), f"{name}_high": float(high)}
            rows.append(row)
        return pd.DataFrame(rows)

    def _row(self, method: str, ranking: str) -> int:
        for index, key in enumerate(zip(self.methods, self.rankings, strict=True)):
            if key in ((method, ranking), (method, RANDOM)):
                return index
        raise InputError(
            f"This curve has no {ranking} ranking of {method!r}; it has {', '.join(self.methods)}."
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per method, ranking and size: fraction, edges, metric, recovered, low, high."""
        point, (low, high) = self.recovered, self.interval()
        rows = [
            {
                "method": method,
                "ranking": ranking,
                "fraction": float(fraction),
                "edges": int(self.sizes[row, size]),
                "metric": float(self.values[row, size].mean()),
                "recovered": float(point[row, size]),
                "low": float(low[row, size]),
                "high": float(high[row, size]),
            }
            for row, (method, ranking) in enumerate(zip(self.methods, self.rankings, strict=True))
            for size, fraction in enumerate(self.fractions)
        ]
        return pd.DataFrame(rows)

    def plot(
        self,
        ranking: Literal["absolute", "signed"] = "absolute",
        *,
        methods: Sequence[str] | None = None,
    ) -> Any:
        """Recovered share against size, one line per method, a plotly figure.

        Args:
            ranking: "absolute" (CMD's) or "signed" (CPR's); a random control is shown with either.
            methods: the methods to show, in this order; None shows all.

        Raises:
            InputError: no such method or ranking.
        """
        from lrp_lens.plots.circuits import plot_circuit_curve

        return plot_circuit_curve(self.to_dataframe(), ranking, methods=methods, level=self.level)

    def _headline(self) -> str:
        return (
            f"CircuitCurve({self.level}s, {self.text}; {len(self.full)} prompt{'s' * (len(self.full) > 1)}; metric "
            f"{self.full.mean():.4g} with all edges, {self.empty.mean():.4g} with none)"
        )

    def __repr__(self) -> str:
        table = self.areas().to_string(index=False, float_format="{:.3f}".format)
        return shown(f"{self._headline()}\n{table}")

    def _repr_html_(self) -> Html:
        return captioned(frame(self.areas(), float_format="{:.3f}".format, border=0), self._headline())


def cpr(fractions: np.ndarray, recovered: np.ndarray) -> np.ndarray:
    """∫ f dk, circuit performance ratio, over the last axis.

    Example:
        >>> float(cpr(np.array([0.0, 1.0]), np.array([0.0, 1.0])))
        0.5
    """
    return np.asarray(np.trapezoid(recovered, fractions, axis=-1))


def cmd(fractions: np.ndarray, recovered: np.ndarray) -> np.ndarray:
    """∫ |1 - f| dk, circuit-model distance, over the last axis.

    Example:
        >>> float(cmd(np.array([0.0, 1.0]), np.array([1.0, 1.0])))
        0.0
    """
    return np.asarray(np.trapezoid(np.abs(1 - recovered), fractions, axis=-1))
