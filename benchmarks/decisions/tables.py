"""What rows say: coverage, cost, verdicts and flips, as Markdown tables."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from benchmarks.decisions.rows import HIDDEN
from benchmarks.evidence.ranking import markdown
from lrp_lens.views.statistics.intervals import mean_interval

COLUMNS = ("way", "checked", "gap", "search_seconds", "forwarded", "verdict")
"""What is read of failures; a run without any has none of it."""


def every_table(rows: pd.DataFrame) -> str:
    """All tables of a run."""
    rows = rows.reindex(columns=[*rows.columns, *(one for one in COLUMNS if one not in rows)])
    failures = rows[rows["failure"].astype(bool)]
    made = {
        "Coverage": coverage(rows),
        "Cost of the search, processor seconds a failure": cost(failures),
        "Verdicts": verdicts(failures),
        "Hiding the m most blamed tokens": flip_table(failures),
    }
    return "\n\n".join(f"## {title}\n\n{table}" for title, table in made.items())


def coverage(rows: pd.DataFrame) -> str:
    """Of each task: prompts, failures, and the shares with a checked contrast and with any."""
    lines = []
    for task, own in rows.groupby("task"):
        failures = own[own["failure"].astype(bool)]
        checked = failures["checked"].astype(bool).to_numpy() if len(failures) else np.zeros(0, dtype=bool)
        wide = checked & (failures["gap"].to_numpy(dtype=np.float64) > 1) if len(failures) else checked
        there = (failures["way"] != "none").to_numpy() if len(failures) else checked
        lines.append(
            [str(task), str(len(own)), str(len(failures)), *(share(one) for one in (wide, checked, there))]
        )
    header = ["task", "prompts", "failures", "checked contrast, gap > 1", "checked contrast", "any contrast"]
    return markdown(lines, header)


def cost(failures: pd.DataFrame) -> str:
    """Median, nine in ten, and the largest, over failures."""
    lines = []
    for task, own in failures.groupby("task"):
        seconds = own["search_seconds"].to_numpy(dtype=np.float64)
        told = [f"{one:.1f}" for one in (*np.quantile(seconds, [0.5, 0.9]), seconds.max())]
        lines.append([str(task), *told, f"{own['forwarded'].median():.0f}"])
    return markdown(lines, ["task", "median", "nine in ten below", "largest", "tokens run (median)"])


def verdicts(failures: pd.DataFrame) -> str:
    """How many failures have which verdict, of those that could be verified."""
    lines = []
    for task, own in failures.groupby("task"):
        counts = own["verdict"].value_counts()
        names = [int(counts.get(one, 0)) for one in ("input", "graph", "none")]
        lines.append([str(task), *map(str, names), str(len(own) - sum(names))])
    return markdown(lines, ["task", "input", "graph", "none", "not verified"])


def flip_table(failures: pd.DataFrame) -> str:
    """Flip rates beside random tokens, and the paired difference."""
    lines = []
    for task, own in failures.groupby("task"):
        for size in HIDDEN:
            names = [f"flip_{size}", f"random_{size}"]
            if not set(names) <= set(own.columns):
                continue
            pair = own[names].dropna().to_numpy(dtype=np.float64)
            if len(pair):
                difference = mean_interval(pair[:, 0] - pair[:, 1])
                told = f"{difference[0]:+.2f} [{difference[1]:+.2f}, {difference[2]:+.2f}]"
                lines.append([str(task), str(size), share(pair[:, 0]), share(pair[:, 1]), told])
    return markdown(lines, ["task", "m", "most blamed", "random", "difference"])


def share(values: Iterable[float | bool]) -> str:
    """A mean with its interval of 95 % over cases."""
    mean, low, high, n = mean_interval(np.asarray(list(values), dtype=np.float64))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}] of {n}" if n else "none"
