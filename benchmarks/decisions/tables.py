"""What rows say: coverage, cost, verdicts and flips, as Markdown tables."""

from collections.abc import Iterable
from itertools import product

import numpy as np
import pandas as pd

from benchmarks.decisions.rows import HIDDEN, RULES
from benchmarks.evidence.ranking import markdown
from lrp_lens.views.statistics.intervals import bootstrap_weights, mean_interval

COLUMNS = (
    "way", "checked", "gap", "score", "carries", "cut", "reason", "search_seconds", "forwarded", "verdict",
)  # fmt: skip
"""What is read of failures; a run without any has none of it."""
GOALS = {("IFEval", "checked contrast"): 0.5, ("IFEval", "checked contrast, gap > 1"): 0.2}
"""(task, column) → the share to reach, stated before anything was measured (the paper, by hand: 0.135)."""
SECONDS = 60
"""Of processor time that a search is to take at most, stated before, too."""


def every_table(rows: pd.DataFrame) -> str:
    """All tables of a run."""
    rows = rows.reindex(columns=[*rows.columns, *(one for one in COLUMNS if one not in rows)])
    failures = rows[rows["failure"].astype(bool)]
    made = {
        "Coverage": coverage(rows),
        "Goals, stated before the run": goals(failures),
        "How decisions were found": ways(failures),
        "Cost of the search, processor seconds a failure": cost(failures),
        "Verdicts, of the failures with a checked contrast": verdicts(failures),
        "Hiding the m most blamed tokens": flip_table(failures),
    }
    return "\n\n".join(f"## {title}\n\n{table}" for title, table in made.items())


def coverage(rows: pd.DataFrame) -> str:
    """Of each task: prompts, failures, and the shares of these with a checked contrast."""
    lines = []
    for task, own in rows.groupby("task"):
        failures = own[own["failure"].astype(bool)]
        silent = own["reason"].astype(str).str.startswith("not judged").sum()
        counts = [len(own), silent, len(failures), int(failures["cut"].eq(True).sum())]
        checked = checks(failures)
        lines.append([str(task), *map(str, counts), *(share(checked[one]) for one in reversed([*checked]))])
    header = ["task", "prompts", "not judged", "failures", "of these cut off"]
    return markdown(lines, [*header, "checked contrast, gap > 1", "checked contrast"])


def checks(failures: pd.DataFrame) -> dict[str, np.ndarray]:
    """Which failures have a contrast that is known to be right, whatever its gap, and above 1."""
    checked = failures["checked"].eq(True).to_numpy()
    wide = failures["gap"].to_numpy(dtype=np.float64) > 1
    return {"checked contrast": checked, "checked contrast, gap > 1": checked & wide}


def goals(failures: pd.DataFrame) -> str:
    """Each goal and what came out, also where it was missed."""
    lines = []
    for task, own in failures.groupby("task"):
        found = {name: float(np.mean(values)) for name, values in checks(own).items()}
        asked = {name: goal for (about, name), goal in GOALS.items() if about == task}
        lines += [
            [str(task), name, f"≥ {goal:.2f}", f"{found[name]:.2f}", told(found[name] >= goal)]
            for name, goal in asked.items()
        ]
        most = float(own["search_seconds"].max())
        lines.append([str(task), "slowest search", f"≤ {SECONDS} s", f"{most:.0f} s", told(most <= SECONDS)])
    return markdown(lines, ["task", "what", "goal", "result", ""])


def told(reached: bool) -> str:
    """In a word."""
    return "reached" if reached else "missed"


def ways(failures: pd.DataFrame) -> str:
    """How many decisions carry the answer, are lucky, only raise the score, are a runner-up, or were not found."""
    lines = []
    for task, own in failures.groupby("task"):
        pivot, accepted = own["way"] == "pivot", own["score"].ge(1)
        carries = own["carries"].eq(True)
        counts = [pivot & accepted & carries, pivot & accepted & ~carries, pivot & ~accepted]
        counts += [own["way"] == "runner-up", ~own["way"].isin(["pivot", "runner-up"])]
        lines.append([str(task), *(str(int(one.sum())) for one in counts)])
    header = ["task", "pivot that carries the answer", "lucky pivot", "pivot that only raises the score"]
    return markdown(lines, [*header, "runner-up", "none"])


def cost(failures: pd.DataFrame) -> str:
    """Median, nine in ten, and the largest, over failures."""
    lines = []
    for task, own in failures.groupby("task"):
        seconds = own["search_seconds"].to_numpy(dtype=np.float64)
        told = [f"{one:.1f}" for one in (*np.quantile(seconds, [0.5, 0.9]), seconds.max())]
        within = f"{np.mean(seconds <= SECONDS):.2f}"
        lines.append([str(task), *told, within, f"{own['forwarded'].median():.0f}"])
    header = ["task", "median", "nine in ten below", "largest", f"within {SECONDS} s", "tokens run (median)"]
    return markdown(lines, header)


def verdicts(failures: pd.DataFrame) -> str:
    """How many failures have which verdict, of those that could be verified."""
    lines = []
    for task, own in failures.groupby("task"):
        counts = own["verdict"].value_counts()
        names = [int(counts.get(one, 0)) for one in ("input", "graph", "none")]
        lines.append([str(task), *map(str, names), str(len(own) - sum(names))])
    return markdown(lines, ["task", "input", "graph", "none", "not verified"])


def flip_table(failures: pd.DataFrame) -> str:
    """Flip rates beside random tokens: of each task and of all, under each rule set, and their ratio."""
    lines = []
    parts = [*failures.groupby("task"), *([("all", failures)] if failures["task"].nunique() > 1 else [])]
    for (task, own), rules, size in product(parts, RULES, HIDDEN):
        names = [f"{rules}_flip_{size}", f"random_flip_{size}"]
        if set(names) <= set(own.columns) and len(pair := own[names].dropna().to_numpy(dtype=np.float64)):
            told = [share(pair[:, 0]), share(pair[:, 1]), ratio(pair)]
            lines.append([str(task), rules, str(size), *told])
    return markdown(lines, ["task", "rules", "m", "most blamed", "random", "ratio (goal: 2)"])


def ratio(pairs: np.ndarray, resamples: int = 2000) -> str:
    """The ratio of two rates with its interval of 95 % over cases, which are drawn together.

    A draw in which neither happens says nothing: it counts as 0 at the lower end and as ∞ at the upper one.
    """
    draws = bootstrap_weights(len(pairs), resamples, 0) @ pairs
    with np.errstate(divide="ignore", invalid="ignore"):
        value, *found = (draws[:, 0] / draws[:, 1]).tolist()
    ends = [
        float(np.quantile(np.nan_to_num(found, nan=unknown, posinf=np.inf), level, method="inverted_cdf"))
        for level, unknown in ((0.025, 0.0), (0.975, np.inf))
    ]
    told = ["–" if np.isnan(one) else "∞" if np.isinf(one) else f"{one:.1f}" for one in (value, *ends)]
    return f"{told[0]} [{told[1]}, {told[2]}]"


def share(values: Iterable[float | bool]) -> str:
    """A mean with its interval of 95 % over cases: Clopper–Pearson's of yes and no, else the bootstrap's."""
    from scipy.stats import binomtest

    known = np.asarray(list(values), dtype=np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return "none"
    mean, low, high, n = mean_interval(known)
    if np.isin(known, (0, 1)).all():
        found = binomtest(int(known.sum()), n).proportion_ci(0.95)
        low, high = float(found.low), float(found.high)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}] of {n}"
