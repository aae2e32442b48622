"""What `faithfulness` returns: one row per case and method, curves as Views, and tables with intervals."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd

from lrp_lens.characters import shown
from lrp_lens.errors import InputError
from lrp_lens.markup import Html, captioned
from lrp_lens.masking import storage
from lrp_lens.masking.measures import MEASURES
from lrp_lens.methods.registry import spelled
from lrp_lens.views import View
from lrp_lens.views.statistics.intervals import mean_interval, paired_differences

_SHOWN = (
    "delta_a", "srg", "comprehensiveness", "sufficiency", "loo_correlation",
    "flip_tokens", "win_tokens", "evidence_top1", "evidence_iou",
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Faithfulness:
    """How well each method's token scores predict what masking does."""

    cases: pd.DataFrame
    """One row per case and method: case, suite, correct, tokens (that may be masked), metric (unmasked), method,
    and a column for each of `MEASURES`."""
    morf: View
    """The metric while masking the most relevant tokens first, dims (batch, method, masked); batch is the case."""
    lerf: View
    """The same, least relevant tokens first."""
    methods: tuple[str, ...]
    """Names, in the order given."""
    costs: dict[str, str]
    """Method → passes per prompt."""
    replacement: str
    """What masked embeddings are replaced by, in words."""
    seed: int
    """Seed of everything random."""
    limit: int
    """Flips are counted up to this many tokens; limit + 1 stands for "not within the limit"."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Method → wall-clock seconds of its scores, all cases; and "masking" for all curves."""
    notes: tuple[str, ...] = ()
    """Anything unusual, e.g. an interrupted run."""

    @property
    def n_cases(self) -> int:
        """Number of cases."""
        return self.cases["case"].nunique()

    def to_dataframe(self) -> pd.DataFrame:
        """The per-case table (a copy)."""
        return self.cases.copy()

    def summary(
        self, by: str | None = None, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
    ) -> pd.DataFrame:
        """Mean of every measure with a bootstrap interval over cases.

        Args:
            by: None, "suite" or "correct" for separate rows.
            level: share of the bootstrap means inside the interval.
            resamples: number of bootstrap draws.
            seed: seed of the draws.

        Returns:
            Columns (by,) method, measure, mean, low, high, n (cases that have the measure).

        Raises:
            InputError: another `by`, or a bad level.
        """
        if by not in (None, "suite", "correct"):
            raise InputError(f"A summary is by 'suite', by 'correct', or over all cases; received {by!r}.")
        rows: list[dict[str, Any]] = []
        groups: list[Any] = [(None, self.cases)] if by is None else list(self.cases.groupby(by, sort=False))
        for key, group in groups:
            for method in self.methods:
                own = group[group["method"] == method]
                for measure in MEASURES:
                    interval = mean_interval(
                        own[measure].to_numpy(dtype=np.float64), level=level, resamples=resamples, seed=seed
                    )
                    row = {"method": method, "measure": measure}
                    rows.append(row | dict(zip(("mean", "low", "high", "n"), interval, strict=True)))
                    if by is not None:
                        rows[-1] = {by: key} | rows[-1]
        return pd.DataFrame(rows)

    def differences(
        self, reference: str, measure: str = "delta_a", *, level: float = 0.95, resamples: int = 2000
    ) -> pd.DataFrame:
        """Each method minus a reference method (in any spelling), paired by case: columns method, mean, low, high, n.

        Raises:
            InputError: no such method or measure.
        """
        reference = spelled(reference, self.methods)
        self._require(reference, measure)
        wide = self.cases.pivot(index="case", columns="method", values=measure)
        found = paired_differences(
            wide[list(self.methods)], reference, level=level, resamples=resamples, method="percentile"
        )
        return found[["method", "mean", "low", "high", "n"]]

    def curves(self, *, level: float = 0.95, resamples: int = 500) -> pd.DataFrame:
        """Mean curves with intervals: columns method, order (MoRF, LeRF), masked (fraction), mean, low, high."""
        rows = []
        masked = np.linspace(0, 1, self.morf.shape[2])
        for order, view in (("MoRF", self.morf), ("LeRF", self.lerf)):
            for m, method in enumerate(self.methods):
                for step, fraction in enumerate(masked):
                    values = np.asarray(view.values[:, m, step], dtype=np.float64)
                    interval = mean_interval(values, level=level, resamples=resamples)[:3]
                    rows.append((method, order, float(fraction), *interval))
        return pd.DataFrame(rows, columns=["method", "order", "masked", "mean", "low", "high"])

    def table(self, measures: Sequence[str] = _SHOWN) -> pd.DataFrame:
        """The summary to look at: a row per method, a column per measure, "mean ± half the interval"."""
        for measure in measures:
            self._require(None, measure)
        summary = self.summary().set_index(["method", "measure"])
        columns: dict[str, list[str]] = {"passes": [self.costs[method] for method in self.methods]}
        for measure in measures:
            arrow = "↑" if MEASURES[measure].higher else "↓"
            cells = [_cell(summary.loc[(method, measure)]) for method in self.methods]
            columns[f"{MEASURES[measure].title} {arrow}"] = cells
        return pd.DataFrame(columns, index=pd.Index(self.methods, name="method"))

    def to_markdown(self, measures: Sequence[str] = _SHOWN) -> str:
        """`table` as a Markdown table, what it was measured with underneath."""
        table = self.table(measures).reset_index()
        rows = [list(table.columns), ["---"] * table.shape[1], *table.to_numpy().tolist()]
        return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows) + f"\n\n{self._caption()}"

    def plot(self, measure: str | None = None, *, methods: Sequence[str] | None = None) -> Any:
        """Deletion curves of the methods, or one measure of each with its interval; a plotly figure.

        Args:
            measure: a column of `MEASURES`, e.g. "delta_a"; None draws the curves.
            methods: the methods to show; None shows all.

        Raises:
            InputError: no such measure or method.
        """
        from lrp_lens.plots.faithfulness import plot_faithfulness, plot_faithfulness_measure

        if measure is None:
            return plot_faithfulness(self.curves(), methods=methods)
        self._require(None, measure)
        summary = self.summary()
        for method in methods or ():
            self._require(method, measure)
        shown = summary if methods is None else summary[summary["method"].isin(list(methods))]
        found = MEASURES[measure]
        title = f"{found.title}: {found.words}"
        return plot_faithfulness_measure(shown, measure, title=title, higher_is_better=found.higher)

    def _caption(self) -> str:
        seen = f"{self.n_cases} case{'s' if self.n_cases > 1 else ''}"
        said = (
            f"{seen}; masked embeddings become: {self.replacement}; mean ± half of the 95 % bootstrap interval over "
            f"cases; k counts up to {self.limit} tokens, {self.limit + 1} beyond; seed {self.seed}."
        )
        return " ".join((said, *self.notes))

    def _require(self, method: str | None, measure: str) -> None:
        if method is not None and method not in self.methods:
            raise InputError(f"The methods here are {', '.join(self.methods)}; received {method!r}.")
        if measure not in MEASURES:
            raise InputError(f"A measure is one of {', '.join(MEASURES)}; received {measure!r}.")

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to one safetensors file (words as JSON in its header; no pickle)."""
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Faithfulness":
        """Read a faithfulness result written by `save`.

        Raises:
            InputError: the file is missing or is not a saved faithfulness result.
        """
        return cls(**storage.load(path))

    def __repr__(self) -> str:
        said = f"Faithfulness of {len(self.methods)} methods\n{self.table().to_string()}\n{self._caption()}"
        return shown(said)

    def _repr_html_(self) -> Html:
        """`table`, each column shaded from its worst method (white) to its best (blue)."""
        from lrp_lens.plots.cells import html_table, shaded_cell, word_cell

        table, means = self.table(), self.summary().set_index(["method", "measure"])["mean"]
        strengths: list[Any] = []
        for measure in _SHOWN:
            values = np.array([means[method, measure] for method in self.methods], dtype=np.float64)
            values = values if MEASURES[measure].higher else -values
            low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 0.0)
            strengths.append((values - low) / (high - low) if high > low else np.full(len(values), np.nan))
        rows = []
        for index, (method, cells) in enumerate(zip(self.methods, table.to_numpy().tolist(), strict=True)):
            shaded = [shaded_cell(text, own[index]) for text, own in zip(cells[1:], strengths, strict=True)]
            rows.append([word_cell(method), word_cell(cells[0]), *shaded])
        caption = f"{self._caption()} Shade: worst (white) to best (blue) method of each column."
        return captioned(html_table(["method", "passes"], list(table.columns[1:]), rows), below=caption)


def _cell(row: Any) -> str:
    """A mean and half the length of its interval."""
    if np.isnan(row["mean"]):
        return "–"
    if np.isnan(row["low"]):
        return f"{row['mean']:.2f}"
    return f"{row['mean']:.2f} ± {(row['high'] - row['low']) / 2:.2f}"
