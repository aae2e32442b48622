"""What rows say: precision of each method, beside chance, as Markdown tables."""

import numpy as np
import pandas as pd

from benchmarks.evidence.ranking import markdown
from benchmarks.minimal_pairs.rows import COSTLY, SIZES, methods
from lrp_lens.views.statistics.intervals import mean_interval

_DEAR = {one.name for one in COSTLY}


def every_table(rows: pd.DataFrame) -> str:
    """All tables of the runs, of each model its own."""
    made = {"Failures": failures(rows)}
    for model, own in rows.groupby("model", sort=False):
        few = own.dropna(subset=[f"{name}@1" for name in _DEAR if f"{name}@1" in own])
        made |= {
            f"Precision@k on all failures, {model}": precision(own.drop(columns=_columns(own, _DEAR))),
            f"Precision@k on the failures that every baseline was measured on, {model}": precision(few),
            f"Precision@1 by paradigm, {model}": by_paradigm(own),
        }
    return "\n\n".join(f"## {title}\n\n{table}" for title, table in made.items())


def failures(rows: pd.DataFrame) -> str:
    """How many pairs of each paradigm were asked, how many failed, and by more than one logit."""
    lines = [
        [
            str(model),
            str(paradigm),
            str(own["asked"].iloc[0]),
            str(len(own)),
            str(int((own["gap"] > 1).sum())),
        ]
        for (model, paradigm), own in rows.groupby(["model", "paradigm"], sort=False)
    ]
    return markdown(lines, ["model", "paradigm", "pairs", "failures", "gap > 1"])


def precision(rows: pd.DataFrame) -> str:
    """Each method: precision@k for the evidence, distractor@1; chance in the last line."""
    lines = []
    for name in sorted(methods(rows.columns), key=lambda name: -rows[f"{name}@1"].mean()):
        cells = [f"{name}@{size}" for size in SIZES]
        lines.append([name, *(cell(rows[one]) for one in (*cells, f"{name} distractor@1"))])
    chances = [cell(rows["evidence chance"].where(rows["tokens"] > size)) for size in SIZES]
    lines.append(["chance", *chances, cell(rows["distractor chance"])])
    return markdown(lines, ["method", *(f"precision@{size}" for size in SIZES), "distractor@1"])


def by_paradigm(rows: pd.DataFrame) -> str:
    """Precision@1 of each method in each paradigm, of one model."""
    names = methods(rows.columns)
    lines = []
    for paradigm, own in rows.groupby("paradigm", sort=False):
        told = [f"{own[f'{name}@1'].mean():.2f}" if own[f"{name}@1"].notna().any() else "–" for name in names]
        lines.append([str(paradigm), str(len(own)), *told, f"{own['evidence chance'].mean():.2f}"])
    return markdown(lines, ["paradigm", "failures", *names, "chance"])


def cell(values: pd.Series) -> str:
    """A mean with its interval of 95 % over failures, and how many there are."""
    mean, low, high, n = mean_interval(values.to_numpy(dtype=np.float64))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}] of {n}" if n else "–"


def _columns(rows: pd.DataFrame, names: set[str]) -> list[str]:
    return [one for one in rows.columns if any(one.startswith(f"{name}") for name in names)]
