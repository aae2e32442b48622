"""Tables of the comparison: seconds and memory of each, ratios, and the goals beside what was reached."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.scaling.tables import made_with, table


@dataclass(frozen=True)
class Goal:
    """One piece of work should take at most `most` times what another does."""

    work: str
    other: str
    of: str
    """"cpu" or "peak_mb"."""
    most: float
    from_tokens: int = 0


GOALS = (
    *(
        goal
        for host in ("TransformerBridge", "HookedTransformer")
        for goal in (
            Goal(f"{host} low", "lxt checkpointing", "cpu", 1.0, 1024),
            Goal(f"{host} low", "lxt checkpointing", "peak_mb", 1.25, 1024),
            Goal(f"{host} full", f"{host} plain", "cpu", 1.0),
            Goal(f"{host} full", "lxt", "cpu", 1.0),
            Goal(f"{host} full tokens", "lxt", "cpu", 1.0),
        )
    ),
)
WORDS = {"cpu": "time", "peak_mb": "memory"}


def ratio(rows: pd.DataFrame, goal: Goal, tokens: int) -> float:
    """The median over the turns, NaN where one of the two was not measured."""
    part = rows[(rows["tokens"] == tokens) & rows["refused"].isna()].set_index("turn")
    one, other = (part[part["work"] == work][goal.of] for work in (goal.work, goal.other))
    return float((one / other).median())


def goals(rows: pd.DataFrame) -> list[list[str]]:
    """A row for each goal: what was measured at each length, and at how many lengths that is enough."""
    found = []
    for goal in GOALS:
        lengths = sorted(n for n in rows["tokens"].unique() if n >= goal.from_tokens)
        values = {tokens: ratio(rows, goal, tokens) for tokens in lengths}
        known = {tokens: value for tokens, value in values.items() if value == value}
        if known:
            told = ", ".join(f"{value:.2f} ({tokens:,})" for tokens, value in known.items())
            reached = sum(value <= goal.most for value in known.values())
            what = f"{goal.work}, {WORDS[goal.of]}, beside {goal.other}"
            found.append([what, f"≤ {goal.most:g}", told, f"{reached} of {len(known)}"])
    return found


def sentence(rows: pd.DataFrame) -> str:
    """What README says, of the longest prompt that was measured."""
    tokens = int(rows["tokens"].max())
    time, memory, full, plain = (
        ratio(rows, Goal(f"TransformerBridge {ours}", other, of, 1.0), tokens)
        for ours, other, of in (
            ("low", "lxt checkpointing", "cpu"),
            ("low", "lxt checkpointing", "peak_mb"),
            ("full", "lxt", "cpu"),
            ("full", "TransformerBridge plain", "cpu"),
        )
    )
    return (
        f"On SmolLM2-135M (TransformerBridge, {tokens:,} tokens, one thread of a busy machine, ratios within one run) "
        f"a pass in low memory, every view made, took {time:.2f} times the time and {memory:.2f} times the memory of "
        f"lxt 2.1 with gradient checkpointing, which finds tokens only; in full {full:.2f} times the time of lxt "
        f"without it, and {plain:.2f} times the time of a plain forward and backward pass."
    )


def every_table(rows: pd.DataFrame, heads: Sequence[Mapping[str, Any]]) -> str:
    """All of it, in markdown."""
    parts = [made_with(head) for head in heads]
    lengths = sorted(rows["tokens"].unique())
    done = rows[rows["refused"].isna()]
    for column, unit, scale in (("cpu", "s", 1.0), ("peak_mb", "GB", 1e-3)):
        middle = done.groupby(["work", "tokens"], sort=False)[column].median() * scale
        lines = [
            [work, *(f"{middle[work, n]:.2f} {unit}" if (work, n) in middle.index else "–" for n in lengths)]
            for work in rows["work"].unique()
        ]
        title = "Processor seconds" if column == "cpu" else "Peak memory above the model"
        parts += [f"## {title}", table(["pass", *(f"{n:,} tokens" for n in lengths)], lines)]
    parts += ["## Goals", table(["what", "goal", "ratio (tokens)", "reached at"], goals(rows))]
    apart = rows.groupby("work")["apart"].max().dropna()
    parts += [
        "Furthest apart, of the largest token: " + "; ".join(f"{a:.0e} ({w})" for w, a in apart.items()) + "."
    ]
    return "\n\n".join(parts)
