"""The rows of all cases as Markdown tables with intervals, for README and docs.

Every interval is a 95 % bootstrap interval over cases; differences are paired by case, and their p is corrected by
Holm for the number of rule sets compared (`lrp_lens.views.statistics.intervals`).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.evidence.parts import SITES
from benchmarks.evidence.ranking import KEY, estimate, markdown
from lrp_lens.circuits.curve import cmd, cpr
from lrp_lens.views.statistics.intervals import bootstrap_weights, mean_interval, paired_differences

TOKEN_MEASURES = {
    "delta_a": "ΔA",
    "comprehensiveness": "compr.",
    "loo_correlation": "LOO ρ",
    "evidence_top1": "top-1",
}


def cell(values: pd.Series) -> str:
    """A mean with its interval."""
    mean, low, high, n = mean_interval(values.to_numpy(dtype=np.float64))
    if not n:
        return "–"
    return f"{mean:.2f}" if np.isnan(low) else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def token_table(rows: pd.DataFrame) -> str:
    """One line per method: the measures, right answers and failures apart, for each model and replacement."""
    parts = []
    for (model, replacement), own in rows.groupby(["model", "replacement"], sort=False):
        n = {kind: own[own["correct"] == kind].drop_duplicates(KEY).shape[0] for kind in (True, False)}
        header = ["rules or method", *(f"{name}, right" for name in TOKEN_MEASURES.values()), "ΔA, failures"]
        lines = []
        for method, found in own.groupby("method", sort=False):
            right, wrong = found[found["correct"]], found[~found["correct"]]
            lines.append(
                [str(method), *(cell(right[name]) for name in TOKEN_MEASURES), cell(wrong["delta_a"])]
            )
        parts.append(
            f"**{model}**, masked embeddings become: {replacement}; {n[True]} right answers, {n[False]} failures\n\n"
            + markdown(lines, header)
        )
    return "\n\n".join(parts)


def task_table(rows: pd.DataFrame) -> str:
    """One line per model and task, one column per method: the mean ΔA, both replacements together.

    A task has few cases: what a mean over all of them hides, not what settles anything by itself.
    """
    methods = list(dict.fromkeys(rows["method"]))
    wide = rows.pivot_table(
        index=["model", "task"], columns="method", values="delta_a", aggfunc="mean", sort=False
    )
    cases = rows.drop_duplicates(KEY).groupby(["model", "task"]).size()
    lines = [
        [*map(str, key), str(cases[key]), *("–" if np.isnan(value) else f"{value:.2f}" for value in values)]
        for key, values in zip(wide.index, wide.reindex(columns=methods).to_numpy(), strict=True)
    ]
    return markdown(lines, ["model", "task", "cases", *methods])


def token_differences(rows: pd.DataFrame, reference: str, methods: Iterable[str]) -> str:
    """ΔA of each rule set minus that of the reference, paired by case, over everything in `rows`."""
    wide = rows.pivot(index=[*KEY, "replacement"], columns="method", values="delta_a")
    wide = wide.groupby(level=KEY).mean()
    found = paired_differences(
        wide[[reference, *(one for one in methods if one != reference and one in wide)]], reference
    )
    lines = [
        [
            str(row.method),
            f"{row.mean:+.2f} [{row.low:+.2f}, {row.high:+.2f}]",
            str(row.n),
            f"{row.p_holm:.3g}",
        ]
        for row in found.itertuples()
    ]
    return markdown(lines, ["rules", f"ΔA minus that of {reference}", "cases", "p (Holm)"])


def component_table(rows: pd.DataFrame, statistic: str = "pearson") -> str:
    """One line per method, one column per site: the mean over pairs of the agreement with activation patching."""
    parts = []
    for model, own in rows.groupby("model", sort=False):
        n = own.drop_duplicates(KEY).shape[0]
        lines = [
            [str(method), *(cell(found.loc[found["site"] == site, statistic]) for site in SITES)]
            for method, found in own.groupby("method", sort=False)
        ]
        tasks = own["task"].nunique()
        parts.append(
            f"**{model}**, {statistic} with activation patching, mean over {n} pairs of {tasks} tasks\n\n"
            + markdown(lines, ["rules or method", *SITES])
        )
    return "\n\n".join(parts)


def head_table(rows: pd.DataFrame) -> str:
    """One line per method: the correlation over heads of what ablation takes with the method's scores."""
    parts = []
    for model, own in rows.groupby("model", sort=False):
        n = own.drop_duplicates(KEY).shape[0]
        lines = [
            [
                str(method),
                *(cell(found.loc[found["ablation"] == kind, "pearson"]) for kind in ("zero", "mean")),
            ]
            for method, found in own.groupby("method", sort=False)
        ]
        parts.append(
            f"**{model}**, {n} prompts\n\n" + markdown(lines, ["rules", "zero ablation", "mean ablation"])
        )
    return "\n\n".join(parts)


PUBLISHED = (
    ("GPT-2 small: EAP-IG (activations)", 1.82, 0.03),
    ("GPT-2 small: EAP", 1.20, 0.03),
    ("GPT-2 small: random", 0.25, 0.75),
)
"""CPR and CMD on indirect objects as MIB prints them (Mueller et al. 2504.13151): another model, other prompts."""


def circuit_table(rows: pd.DataFrame, resamples: int = 2000) -> str:
    """CPR (signed ranking), the same with f clipped at 1, and CMD (absolute ranking), with intervals over pairs."""
    parts = []
    for model, own in rows.groupby("model", sort=False):
        keys = own.drop_duplicates(KEY).shape[0]
        weights = bootstrap_weights(keys, resamples, seed=0)
        lines = []
        for method, found in own.groupby("method", sort=False):
            signed, absolute = (
                _shares(found[found["ranking"].isin([ranking, "random"])], weights)
                for ranking in ("signed", "absolute")
            )
            fractions = np.sort(found["fraction"].unique())
            areas = (cpr(fractions, signed), cpr(fractions, signed.clip(max=1)), cmd(fractions, absolute))
            lines.append([str(method), *map(estimate, areas)])
        parts.append(
            f"**{model}**, {keys} pairs\n\n" + markdown(lines, ["ranking", "CPR", "CPR, f ≤ 1", "CMD"])
        )
    theirs = [
        [name, f"{larger:.2f}", "not published", f"{distance:.2f}"] for name, larger, distance in PUBLISHED
    ]
    parts.append(
        "**Not measured here**: published by MIB (2504.13151) for another model and other prompts, for orientation\n\n"
        + markdown(theirs, ["model: ranking", "CPR", "CPR, f ≤ 1", "CMD"])
    )
    return "\n\n".join(parts)


def stability_table(rows: pd.DataFrame) -> str:
    """One line per method, one column per size: Jaccard index of the strongest edges over resampled pairs."""
    parts = []
    for model, own in rows[rows["ranking"] == "absolute"].groupby("model", sort=False):
        sizes = own.sort_values("edges").drop_duplicates("edges")
        lines = []
        for method, found in own.groupby("method", sort=False):
            by_size = found.set_index("edges").loc[sizes["edges"]]
            lines.append([str(method), *map(_stable, by_size.itertuples())])
        lines.append(["two random circuits", *(f"{chance:.2f}" for chance in sizes["chance"])])
        counts = zip(sizes["edges"].tolist(), sizes["share"].tolist(), strict=True)
        header = [f"{count} edges ({100 * share:.2g} %)" for count, share in counts]
        parts.append(
            f"**{model}**, edges scored on {own['pairs'].iloc[0]} pairs, drawn again with replacement: Jaccard index "
            "with the edges of all pairs [95 % of the draws]; ⚠ below .8\n\n"
            + markdown(lines, ["method", *header])
        )
    return "\n\n".join(parts)


def _stable(row: Any) -> str:
    return f"{row.jaccard:.2f} [{row.low:.2f}, {row.high:.2f}]" + ("" if row.stable else " ⚠")


def _shares(rows: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """f(k) of all pairs (first row) and of every resample, [resample, size]."""
    by_pair = rows.pivot_table(index="fraction", columns=KEY, values="circuit").to_numpy()
    pairs = rows.drop_duplicates(KEY).sort_values(KEY)
    full, empty = (weights @ pairs[name].to_numpy() for name in ("full", "empty"))
    return (weights @ by_pair.T - empty[:, None]) / (full - empty)[:, None]
