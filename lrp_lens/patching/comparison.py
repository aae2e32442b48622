"""Comparison: what `compare` found, as tables, views and plots; the numbers are `Scored`'s."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd

from lrp_lens.characters import shown
from lrp_lens.errors import InputError
from lrp_lens.markup import Html, captioned, frame
from lrp_lens.methods.registry import spelled
from lrp_lens.patching import storage
from lrp_lens.patching.checks import as_list
from lrp_lens.patching.scored import Scored
from lrp_lens.rules import GRADIENT
from lrp_lens.views import View
from lrp_lens.views.statistics.agreement import above_floor, halves, require_floor
from lrp_lens.views.statistics.intervals import interval

_DIMS = {"pos": "position", "dest_pos": "position", "src_pos": "source"}
SPLITS = 20
NO_EFFECT = "no cell has an effect"
LOSSES = (
    "metric", "site", "method", "gradient", "lrp", "difference", "difference_low", "difference_high", "loses",
)  # fmt: skip
"""Columns of `Comparison.losses`."""


def _doubts(scores: np.ndarray, exact: np.ndarray) -> list[str]:
    """Why statistics of mean scores and effects [cell] are NaN although there are both."""
    found = [] if exact.any() else [NO_EFFECT]
    return found + [
        "all scores are equal" for _ in range(len(scores) > 1 and bool((scores == scores[0]).all()))
    ]


@dataclass(eq=False)
class Comparison(Scored):
    """Exact effects and every method's scores of the same cells, per prompt."""

    def with_floor(self, floor: float | int) -> "Comparison":
        """The same scores, ranked over the cells above another share of the largest effect; 0 ranks every cell.

        Raises:
            InputError: unless 0 <= floor < 1.
        """
        require_floor(floor)
        return replace(self, floor=floor)

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to one file: safetensors with JSON in its header; never pickle.

        Raises:
            InputError: if the path cannot be written.
        """
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Comparison":
        """Read what `save` wrote.

        Raises:
            InputError: if the file is missing, or holds no comparison.
        """
        return cls(**storage.load(path))

    def table(self) -> pd.DataFrame:
        """One row per metric, site and method, tidy.

        Columns: metric, site, method; each statistic with `_low` and `_high` (95 % bootstrap interval over prompts);
        n_cells; n_ranked (cells above the floor, see `compare`); for each top_k, top_k_cells: the k that was used,
        at most n_ranked; n_prompts; forwards, backwards, seconds and peak_mb of the method for all sites together;
        and of activation patching for this site (exact_..., exact_forwards without patches that change nothing);
        unsigned; note (why cells or numbers are missing).
        """
        rows = []
        for (metric, site, method), found in self.scores.items():
            row: dict[str, Any] = {"metric": metric, "site": site, "method": method}
            for name in self.statistics:
                value, low, high = interval(self.sampled(metric, site, method, name))
                row |= {name: value, f"{name}_low": low, f"{name}_high": high}
            kept, truth = self.pair(metric, site, method, range(self.n_prompts))
            cells = 0 if kept is None else kept.shape[1]
            ranked = int(above_floor(truth.mean(0), self.floor).sum()) if cells else 0
            row |= {"n_cells": cells, "n_ranked": ranked}
            row |= {f"top_{k}_cells": min(k, ranked) for k in self.ks}
            row |= {"n_prompts": self.n_prompts}
            row |= vars(found.cost)
            exact = self.exact[metric, site].cost
            row |= {"exact_forwards": exact.forwards, "exact_seconds": exact.seconds}
            notes = [*found.why, *([] if kept is None else _doubts(kept.mean(0), truth.mean(0)))]
            if found.draws is not None:
                notes.append(
                    f"mean over {len(found.draws)} random rankings; intervals over them and the prompts"
                )
            row |= {"unsigned": found.unsigned, "note": "; ".join(notes)}
            rows.append(row)
        return pd.DataFrame(rows)

    def to_dataframe(self) -> pd.DataFrame:
        """The same as `table`."""
        return self.table()

    def noise_floor(self) -> pd.DataFrame:
        """Exact against exact on halves of the prompts, per metric and site: mean and 95 % range of 20 splits; note.

        Agreement above this is not to be had with half as many prompts; the method "random" shows the other end.
        """
        rows = []
        for (metric, site), found in self.exact.items():
            cells = self.cells(found.values)
            cells = cells[:, ~np.isnan(cells).any(0)]
            row: dict[str, Any] = {"metric": metric, "site": site}
            for name in self.statistics:
                statistic = partial(self.apply, name, mean=cells.mean(0))
                value, low, high = halves(cells, statistic, SPLITS, self.seed)
                row |= {name: value, f"{name}_low": low, f"{name}_high": high}
            row["note"] = "" if cells.any() else NO_EFFECT
            rows.append(row)
        return pd.DataFrame(rows)

    def losses(self, statistic: str = "pearson") -> pd.DataFrame:
        """Where LRP loses: each LRP method minus GRADIENT, paired over bootstrap samples; worst first.

        Columns: metric, site, method, gradient, lrp, difference, difference_low, difference_high, loses (the whole
        interval lies below 0).  No rows without LRP methods.

        Args:
            statistic: pearson, spearman, sign_agreement or top_k; of a scale more is not better.

        Raises:
            InputError: if GRADIENT is not among the methods, or for an unknown statistic.
        """
        ordered = [name for name in self.statistics if name != "scale"]
        if statistic not in ordered:
            raise InputError(
                f"A statistic of which more is better is one of {', '.join(ordered)}; received {statistic!r}."
            )
        if not any(method == GRADIENT.name for _, _, method in self.scores):
            raise InputError("LRP loses or wins against GRADIENT, which was not compared. Add it to methods.")
        rows = []
        for (metric, site, method), found in self.scores.items():
            if not found.lrp or found.values is None:
                continue
            plain = self.sampled(metric, site, GRADIENT.name, statistic)
            ruled = self.sampled(metric, site, method, statistic)
            difference, low, high = interval(ruled - plain)
            rows.append(
                {"metric": metric, "site": site, "method": method, "gradient": plain[0], "lrp": ruled[0]}
                | {"difference": difference, "difference_low": low, "difference_high": high}
                | {"loses": high < 0}
            )
        table = pd.DataFrame(rows, columns=list(LOSSES))
        return table.sort_values("difference", kind="stable").reset_index(drop=True)

    def view(self, site: str, method: str | None = None, metric: str | None = None) -> View:
        """Mean scores of one site, dims as transformer_lens lays them out; of activation patching without `method`.

        Args:
            site: a compared site.
            method: its name, in any spelling.
            metric: name of the metric; the first by default.

        Raises:
            InputError: if site, method or metric was not compared.
        """
        metric = metric or next(iter(self.exact))[0]
        method = None if method is None else spelled(method, [name for _, _, name in self.scores])
        key = (metric, site) if method is None else (metric, site, method)
        found = (self.exact if method is None else self.scores).get(key)  # type: ignore[arg-type]
        if found is None or found.values is None:
            raise InputError(
                f"There are no scores of {key}; compared were {', '.join(map(str, self.scores))}."
            )
        axes = self.facets[site].axes
        name = "activation patching" if method is None else method
        dims = ("layer", *(_DIMS.get(axis, axis) for axis in axes))
        return View(
            values=found.values.mean(0),
            dims=dims,
            labels={dim: self.tokens for dim in ("position", "source") if dim in dims and self.tokens},
            pieces=self.pieces or None if "position" in dims else None,
            name=name,
            units="change of the metric",
            notes=(f"metric: {metric}", f"site: {site}", f"{self.direction}, {self.n_prompts} prompts"),
        )

    def plot(self, site: str, methods: str | Sequence[str] | None = None, metric: str | None = None) -> Any:
        """Per method: heat maps of exact and method on one scale, and their scatter with the identity line.

        Args:
            site: a compared site.
            methods: names, or one of them; every method with scores by default.
            metric: name of the metric; the first by default.

        Returns:
            plotly figure.
        """
        from lrp_lens.plots.comparison import plot_comparison

        metric = metric or next(iter(self.exact))[0]
        names = [
            method
            for (name, where, method), found in self.scores.items()
            if (name, where) == (metric, site) and found.values is not None
        ]
        names = names if methods is None else as_list(methods, "methods")
        exact = self.view(site, None, metric)
        return plot_comparison(exact, [self.view(site, name, metric) for name in names], title=site)

    def __repr__(self) -> str:
        sites, methods = list(self.facets), list(dict.fromkeys(method for _, _, method in self.scores))
        lines = [
            f"Comparison({self.n_prompts} prompts of {self.length} tokens, {self.direction}; sites "
            f"{', '.join(sites)}; methods {', '.join(methods)})"
        ]
        for metric, site in self.exact:
            agree = [
                f"{method} {self.on_prompts(metric, site, method, range(self.n_prompts), 'pearson'):.2f}"
                for name, where, method in self.scores
                if (name, where) == (metric, site)
            ]
            lines.append(f"  Pearson with activation patching, {metric}, {site}: {', '.join(agree)}")
        return shown("\n".join(lines))

    def _repr_html_(self) -> Html:
        columns = ["metric", "site", "method", "pearson", "pearson_low", "pearson_high", "n_cells"]
        columns += ["spearman", "sign_agreement", *(f"top_{k}" for k in self.ks), "n_ranked", "note"]
        note = (
            f"n_ranked: cells with at least {self.floor:.2g} of the largest effect, for ranks and signs; "
            "the top k are at most as many."
        )
        return captioned(frame(self.table()[columns].round(3)), below=note)
