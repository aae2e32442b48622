"""Tables of what was measured: ratios to the plain pass, peak memory, exponents, estimates beside what was taken."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

SUBJECT = ["model", "layers", "host"]
FROM = 512
"""Tokens from which exponents are fitted: below, what does not grow weighs too much."""
ENOUGH = 3
"""Lengths from which a sentence is made of a fit; of two it is a slope between two measurements."""
NAMES = {
    "plain": "plain forward + backward",
    "full": "in full",
    "low": "low memory",
    "low tokens": "low memory, tokens only",
    "graph": "state graph",
}


def medians(rows: pd.DataFrame) -> pd.DataFrame:
    """Over the turns: processor seconds, their ratio to the plain pass of the same turn, peak memory in GB."""
    done = rows[rows["refused"].isna()]
    keys = [*SUBJECT, "tokens"]
    plain = done[done["work"] == "plain"].set_index([*keys, "turn"])["cpu"].rename("plain")
    done = done.join(plain, on=[*keys, "turn"])
    done = done.assign(ratio=done["cpu"] / done["plain"], peak=done["peak_mb"] / 1e3)
    wanted = ["cpu", "ratio", "peak", "estimate_mb", "apart"]
    return done.groupby([*keys, "work"], sort=False)[wanted].median().reset_index()


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of log(value) against log(size); NaN for fewer than two sizes."""
    if len(set(sizes)) < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def exponents(found: pd.DataFrame, against: str) -> pd.DataFrame:
    """Exponents of time and memory against "tokens" (from 512 on) or "layers" (of the models whose layers vary)."""
    by_tokens = against == "tokens"
    chosen = (
        found[(found["layers"] == 0) & (found["tokens"] >= FROM)] if by_tokens else found[found["layers"] > 0]
    )
    rows = []
    for (model, host, work), part in chosen.groupby(["model", "host", "work"], sort=False):
        sizes = part[against].tolist()
        if len(set(sizes)) < 2:
            continue
        span = f"{min(sizes):,} to {max(sizes):,} ({len(sizes)})"
        both = (exponent(sizes, part[column].tolist()) for column in ("cpu", "peak"))
        rows.append((model, host, work, span, len(sizes), *both))
    return pd.DataFrame(rows, columns=["model", "host", "work", against, "sizes", "time", "memory"])


def made_with(head: Mapping[str, Any]) -> str:
    """How results were made, as a line."""
    return f"Made with: {'; '.join(f'{name} {value}' for name, value in head.items())}."


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows))


def _growth(found: pd.DataFrame, rows: pd.DataFrame, subject: tuple[str, int, str]) -> str:
    """A row for each length: plain seconds, then ratio and memory of each piece of work."""
    part = found[(found[SUBJECT] == list(subject)).all(axis=1)].set_index(["tokens", "work"])
    refused = rows[(rows[SUBJECT] == list(subject)).all(axis=1) & rows["refused"].notna()]
    because = refused.set_index(["tokens", "work"])["refused"].to_dict()
    lines = []
    for tokens in sorted(rows[(rows[SUBJECT] == list(subject)).all(axis=1)]["tokens"].unique()):
        cells = [f"{tokens:,}"]
        for work in NAMES:
            if (tokens, work) not in part.index:
                cells.append(because.get((tokens, work), "–"))
                continue
            row = part.loc[(tokens, work)]
            ratio = "" if work == "plain" or np.isnan(row["ratio"]) else f"{row['ratio']:.2f}× · "
            cells.append(f"{ratio}{row['cpu']:.2f} s · {row['peak']:.2f} GB")
        lines.append(cells)
    return table(["tokens", *NAMES.values()], lines)


def _sentence(row: Any) -> str:
    return (
        f"In low memory the peak of {row.model} on {row.host} grows with the length to the power of {row.memory:.2f}, "
        f"the time to the power of {row.time:.2f} ({row.tokens.partition(' (')[0]} tokens)."
    )


def _in_order(column: pd.Series) -> pd.Series:
    """SmolLM2 first, TransformerBridge first, numbers by size."""
    first = {"smollm2": "", "TransformerBridge": ""}
    return column.replace(first) if column.name in ("model", "host") else column


def every_table(rows: pd.DataFrame, heads: Sequence[Mapping[str, Any]]) -> str:
    """All of it, in markdown."""
    rows = rows.sort_values([*SUBJECT, "tokens"], kind="stable", key=_in_order)
    found = medians(rows)
    parts = [made_with(head) for head in heads]
    for model, layers, host in rows[rows["layers"] == 0][SUBJECT].drop_duplicates().itertuples(index=False):
        parts += [f"## {model} on {host}", _growth(found, rows, (model, layers, host))]
    for against in ("tokens", "layers"):
        fitted = exponents(found, against)
        lines = [
            [
                row.model,
                row.host,
                NAMES[row.work],
                getattr(row, against),
                f"{row.time:.2f}",
                f"{row.memory:.2f}",
            ]
            for row in fitted.itertuples(index=False)
        ]
        if lines:
            parts += [f"## Exponents against {against}"]
            parts += [table(["model", "host", "what", f"{against} (how many)", "time", "memory"], lines)]
        if against == "tokens":
            parts += list(
                map(
                    _sentence,
                    fitted[(fitted["work"] == "low") & (fitted["sizes"] >= ENOUGH)].itertuples(index=False),
                )
            )
    told = found[found["estimate_mb"].notna() & (found["layers"] == 0)]
    told = told.assign(estimate=told["estimate_mb"] / 1e3)
    lines = [
        [
            row.model,
            row.host,
            NAMES[row.work],
            f"{row.tokens:,}",
            f"{row.estimate:.2f} GB",
            f"{row.peak:.2f} GB",
            f"{row.peak / row.estimate:.2f}",
        ]
        for row in told.itertuples(index=False)
    ]
    header = ["model", "host", "way", "tokens", "estimate", "measured", "measured / estimate"]
    parts += ["## `estimate` beside what was taken", table(header, lines)]
    apart = found["apart"].max()
    parts += [f"Tokens in low memory and in full: at most {apart:.0e} of the largest apart."]
    return "\n\n".join(parts)
