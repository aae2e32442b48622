"""The rows of all cases as Markdown tables with intervals, for README and docs.

Every interval is a 95 % bootstrap interval over cases; differences are paired by case, and their p is corrected by
Holm for the number of rule sets compared (`lrp_lens.views.statistics.intervals`).
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.evidence.parts import SITES
from benchmarks.evidence.ranking import KEY, by_case, estimate, markdown
from benchmarks.evidence.recommendations import ATTENTION, STREAM
from lrp_lens.circuits.curve import cmd, cpr
from lrp_lens.views.statistics.intervals import bootstrap_weights, mean_interval, paired_differences

TOKEN_MEASURES = {
    "delta_a": "ΔA",
    "comprehensiveness": "compr.",
    "loo_correlation": "LOO ρ",
    "evidence_top1": "precision@1",
    "evidence_precision": "precision@k",
}
"""Column → heading.  precision@k: of as many top tokens as there is evidence, the share that is evidence."""
KINDS = {"right answers": True, "failures": False}
STREAM_AND_ATTENTION = {"residual stream, attention and MLP outputs": STREAM, "heads, q, k, v": ATTENTION}


def cell(values: pd.Series) -> str:
    """A mean with its interval."""
    mean, low, high, n = mean_interval(values.to_numpy(dtype=np.float64))
    if not n:
        return "–"
    return f"{mean:.2f}" if np.isnan(low) else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def token_table(rows: pd.DataFrame) -> str:
    """One line per method: the measures, for each model, replacement, and right answers and failures apart.

    Of two sets of k tokens with the overlap IoU, the share of the one that lies in the other is 2 IoU / (1 + IoU).
    """
    rows = rows.assign(evidence_precision=2 * rows["evidence_iou"] / (1 + rows["evidence_iou"]))
    parts = []
    for (model, replacement), own in rows.groupby(["model", "replacement"], sort=False):
        for kind, correct in KINDS.items():
            asked = own[own["correct"] == correct]
            n = asked.drop_duplicates(KEY).shape[0]
            lines = [
                [str(method), *(cell(found[name]) for name in TOKEN_MEASURES)]
                for method, found in asked.groupby("method", sort=False)
            ]
            parts.append(
                f"**{model}**, masked embeddings become: {replacement}; {n} {kind}\n\n"
                + markdown(lines, ["rules or method", *TOKEN_MEASURES.values()])
            )
    return "\n\n".join(parts)


def share_table(rows: pd.DataFrame) -> str:
    """One line per rule set: median share of the metric that all tokens hold, and how far it lies from one."""
    parts = []
    for model, own in rows.groupby("model", sort=False):
        lines = []
        for method, found in own.groupby("method", sort=False):
            share = found["share"]
            low, middle, high = (f"{100 * share.quantile(at):.0f} %" for at in (0.1, 0.5, 0.9))
            beyond = ((share < 0.5) | (share > 2)).mean()
            lines.append([str(method), middle, low, high, f"{100 * beyond:.0f} %"])
        cases, tasks = own.drop_duplicates(KEY).shape[0], own["task"].nunique()
        header = ["rules", "median", "a tenth below", "a tenth above", "below ½ or above 2"]
        parts.append(f"**{model}**, {cases} prompts of {tasks} tasks\n\n{markdown(lines, header)}")
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
    """ΔA of each rule set minus that of the reference, paired by case: all cases, right answers, failures."""
    found = {"all cases": rows} | {kind: rows[rows["correct"] == value] for kind, value in KINDS.items()}
    return _differences(
        {kind: by_case(own, "delta_a", "replacement", own["replacement"].unique()) for kind, own in found.items()},
        f"ΔA minus that of {reference}", reference, methods,
    )  # fmt: skip


def component_differences(rows: pd.DataFrame, reference: str, methods: Iterable[str]) -> str:
    """Pearson with patching of each rule set minus that of the reference, paired by pair, mean over sites."""
    return _differences(
        {group: by_case(rows, "pearson", "site", sites) for group, sites in STREAM_AND_ATTENTION.items()},
        f"Pearson minus that of {reference}", reference, methods,
    )  # fmt: skip


def _differences(cases: dict[str, pd.DataFrame], measure: str, reference: str, methods: Iterable[str]) -> str:
    """One line per rule set; for each group of cases the paired difference, how many cases, and p (Holm)."""
    lines: dict[str, list[str]] = {name: [name] for name in methods if name != reference}
    for wide in cases.values():
        known = [name for name in (reference, *lines) if name in wide and wide[name].notna().any()]
        found = paired_differences(wide[known], reference) if reference in known and len(wide) > 1 else None
        rows = {} if found is None else {str(row.method): row for row in found.itertuples()}
        for name, line in lines.items():
            row = rows.get(name)
            line += (
                ["–", "–", "–"]
                if row is None
                else [f"{row.mean:+.2f} [{row.low:+.2f}, {row.high:+.2f}]", str(row.n), f"{row.p_holm:.3g}"]
            )
    header = [column for group in cases for column in (f"{measure}: {group}", "cases", "p (Holm)")]
    return markdown([line for line in lines.values() if set(line[1:]) != {"–"}], ["rules", *header])


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


def missed_table(rows: pd.DataFrame) -> str:
    """One line per method: for each number of heads looked at, bound and largest effect of the others, in logits."""
    parts = []
    for model, own in rows.groupby("model", sort=False):
        tops = sorted(own["top"].unique())
        lines = []
        for method, found in own.groupby("method", sort=False):
            by_top = [found[found["top"] == top] for top in tops]
            lines.append(
                [str(method), *(f"{one['exact'].mean():.2f} (≤ {one['bound'].mean():.2f})" for one in by_top)]
            )
        groups = own.drop_duplicates(KEY).shape[0]
        header = [f"first {top} of {top + int(own.loc[own['top'] == top, 'missed'].max())}" for top in tops]
        parts.append(
            f"**{model}**, outputs of heads, the first pairs of {groups} tasks: the largest effect of a head that is "
            "not among the first, in logits, mean over tasks (and its 95 % bound from subsets patched together, which "
            f"needs no patch of a single head)\n\n{markdown(lines, ['rules or method', *header])}"
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
