"""What the manual and README say of failures in the wild is what the committed rows say."""

import re
from collections.abc import Callable

import pandas as pd
import pytest

from benchmarks import choice_failures
from benchmarks.decisions import tables as decisions
from benchmarks.evidence.store import Store
from benchmarks.minimal_pairs import tables as minimal_pairs
from tools.picture import ROOT

RESULTS = ROOT / "benchmarks" / "results"
MADE: dict[str, tuple[str, Callable[[pd.DataFrame], str]]] = {
    "decisions": ("decisions", decisions.every_table),
    "minimal_pairs": ("pairs", minimal_pairs.every_table),
    "choice_failures": ("choices", choice_failures.every_table),
}
"""Folder → the part of its files, and what makes its tables."""


def rows(folder: str) -> pd.DataFrame:
    """The committed rows."""
    return Store(RESULTS / folder).every(MADE[folder][0])


@pytest.mark.full
@pytest.mark.parametrize("folder", MADE)
def test_tables_are_made_of_the_rows(folder: str) -> None:
    stored = (RESULTS / folder / "tables.md").read_text(encoding="utf-8")
    assert stored == MADE[folder][1](rows(folder)) + "\n"


def test_the_page_shows_the_tables() -> None:
    page = (ROOT / "docs" / "failures_in_the_wild.md").read_text(encoding="utf-8")
    shown = [
        line
        for line in page.partition("## Results")[2].splitlines()
        if line.startswith("|") and "---" not in line
    ]
    made = "\n".join((RESULTS / folder / "tables.md").read_text(encoding="utf-8") for folder in MADE)
    assert len(shown) > 30 and set(shown) <= set(made.splitlines())
    held = page.partition("## Results")[2]
    for title in ("Coverage", "Goals, stated before the run", "Precision@k on all failures, smollm2", "Cost"):
        (table,) = re.findall(rf"^## {re.escape(title)}\n\n(.*?)\n(?:\n|\Z)", made, re.DOTALL | re.MULTILINE)
        assert table in held, title


def test_readme_says_what_came_out() -> None:
    (said,) = re.findall(
        r"^\*\*Failures in the wild\.\*\*.*", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    found = rows("decisions")
    for task, own in found[found["failure"].astype(bool)].groupby("task"):
        every, wide = (int(one.sum()) for one in decisions.checks(own).values())
        assert f"{every} of {len(own)} failures at {task} ({wide} with a gap above 1)" in said
        late = int((own["search_seconds"] > decisions.SECONDS).sum())
        assert f"{late} of {len(own)} at {task}" in said
    pairs = rows("minimal_pairs")
    base, pairs = pairs[pairs["model"] == "gemma3-270m"], pairs[pairs["model"] == "smollm2"]
    other = [
        f"{name} {100 * base[f'{name}@1'].mean():.0f} %" for name in ("leave-one-out", "RELP_FROZEN_PATTERN")
    ]
    assert f"On {len(base)} of Gemma 3 270M's it is the other way round: {', '.join(other)}, chance " in said
    ranked = {
        name: pairs[f"{name}@1"].mean() for name in ("RELP_FROZEN_PATTERN", "leave-one-out", "GRADIENT")
    }
    told = ", ".join(f"{name} {100 * value:.0f} %" for name, value in ranked.items())
    assert f"{told}, chance {100 * pairs['evidence chance'].mean():.0f} %" in said
    assert f"{len(pairs)} of SmolLM2's failures at BLiMP" in said
    wrong = rows("choice_failures")
    demo, wrong = wrong[wrong["model"] == "demo"], wrong[wrong["model"] == "smollm2"]
    assert len(demo) >= 40 and demo["seconds"].sum() <= 300
    assert f"{len(demo)} of the demo model take {demo['seconds'].sum() / 60:.1f} minutes" in said
    counts = wrong["verdict"].value_counts()
    shares = ", ".join(f"{counts[name]} {name}" for name in ("input", "graph", "none"))
    assert f"{len(wrong)} wrong choices through triage: {shares}" in said
