"""The command: claims, the criterion that is chosen on one half, and how it does on the other."""

import argparse
import time
from itertools import pairwise, product

import numpy as np
import pandas as pd
import torch

from benchmarks.verdicts.claims import EVENTS, PLANTED, TOKENS, Claim, collect
from lrp_lens.failures.verification import Criterion
from lrp_lens.failures.verification.check import Kind
from lrp_lens.failures.verification.edits import AttentionEdge
from lrp_lens.views.statistics.intervals import mean_interval

CRITERIA = tuple(
    Criterion(event, most, supported, tokens)
    for event, most, supported, tokens in product(
        EVENTS, (0.0, 0.05, 0.1, 0.15, 0.25, 0.4, 1.0), (True, False), (1, 2, 3, 5)
    )
)
"""What is chosen from."""


def scored(found: list[Claim], criterion: Criterion, kinds: tuple[Kind, ...] = TOKENS) -> pd.DataFrame:
    """One row per claim: right, passes, confidence.

    Planted edges are left to their own check: what they carry stands at a token, and to name it is not quite wrong.
    """
    rows = []
    for claim, kind in product(found, kinds):
        check = claim.check(kind, criterion.event)
        if check is not None and check.units and not isinstance(claim.planted, AttentionEdge):
            passes = claim.passes(kind, criterion)
            right, sure = claim.right(kind, criterion.event), criterion.confidence(check) * passes
            source = claim.source if claim.planted is None else f"{claim.source}, planted"
            rows.append((claim.suite, source, kind, right, passes, sure))
    return pd.DataFrame(rows, columns=["suite", "source", "check", "right", "passes", "confidence"])


def rates(rows: pd.DataFrame) -> tuple[float, float, float]:
    """Precision, recall, F½."""
    both = (rows["right"] & rows["passes"]).sum()
    precision = both / max(rows["passes"].sum(), 1)
    recall = both / max(rows["right"].sum(), 1)
    return precision, recall, 1.25 * precision * recall / max(0.25 * precision + recall, 1e-9)


def _share(values: pd.Series) -> str:
    mean, low, high, n = mean_interval(values.to_numpy(dtype=np.float64))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}] of {n}"


def main() -> None:
    """Choose, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rules", default="ATTN_LRP")
    parser.add_argument("--limit", type=int, default=20, help="cases a suite")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--factor", type=float, default=2.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    found = collect(options.limit, options.rules, options.draws, options.factor)
    spent = time.process_time() - start
    chosen, judged = ([claim for claim in found if claim.half == half] for half in (0, 1))
    table = sorted(((rates(scored(chosen, one)), one) for one in CRITERIA), key=lambda row: -row[0][2])
    print(f"{len(found)} claims, rules {options.rules}, factor {options.factor:g}, {spent:.0f} CPU s")
    for (p, r, f), one in table[:8]:
        print(f"  F½ {f:.3f} (precision {p:.2f}, recall {r:.2f}): {one}")
    criterion = table[0][1]
    print(f"Chosen on one half, judged on the other: {criterion}")
    judge(judged, criterion)
    if criterion != Criterion():
        print(f"The default, on the other half: {Criterion()}")
        judge(judged, Criterion())


def judge(judged: list[Claim], criterion: Criterion) -> None:
    """Print how one criterion does."""
    rows = scored(judged, criterion)
    for name, own in [("all", rows), *rows.groupby("check")]:
        p, r, f = rates(own)
        print(f"{name}: precision {p:.2f}, recall {r:.2f}, F½ {f:.2f} ({len(own)} claims)")
        print(f"  of passing claims right: {_share(own.loc[own['passes'], 'right'])}")
        print(f"  of right claims passing: {_share(own.loc[own['right'], 'passes'])}")
        print(f"  of wrong claims passing: {_share(own.loc[~own['right'], 'passes'])}")
    for source, own in rows.groupby("source"):
        print(f"  {source}: right {_share(own['right'])}; passing {_share(own['passes'])}")
    passing = rows[rows["passes"]]
    edges = np.array([0, 0.7, 0.8, 0.9, 0.95, 1.01])
    print("Calibration of passing claims: confidence, share right")
    for low, high in pairwise(edges.tolist()):
        own = passing[(passing["confidence"] >= low) & (passing["confidence"] < high)]
        if len(own):
            print(f"  {own['confidence'].mean():.2f}: {_share(own['right'])}")
    off = passing["confidence"] - passing["right"]
    print(f"  mean confidence − share right {off.mean():+.2f}; Brier {(off**2).mean():.3f}")
    verdicts = pd.DataFrame(
        [
            {
                "failures": kind_of(claim),
                "claim": claim.source,
                "verdict": claim.verdict(criterion).value,
            }
            for claim in judged
        ]
    )
    print(pd.crosstab([verdicts["failures"], verdicts["claim"]], verdicts["verdict"]).to_string())
    for planted, kind in PLANTED.items():
        every = [claim for claim in judged if isinstance(claim.planted, planted)]
        there = [claim for claim in every if claim.check(kind, criterion.event) is not None]
        named = [claim.right(kind, criterion.event) for claim in there]
        passed = [claim.passes(kind, criterion) for claim in there]
        print(
            f"Planted, {kind}: the check passes in {np.mean(passed):.2f}, names the cause in {np.mean(named):.2f} of "
            f"{len(there)} in which tokens did not settle it already ({len(every)} in all)"
        )
    edges = scored([claim for claim in judged if claim.planted is None], criterion, ("cut",))
    for source, own in edges.groupby("source"):
        print(f"Edges of the model's own failures, {source}: passing {_share(own['passes'])}")
        print(f"  reading a known distractor: of all {_share(own['right'])}", end="; ")
        print(f"of passing {_share(own.loc[own['passes'], 'right'])}")


def kind_of(claim: Claim) -> str:
    """The kind of failure that a claim is about."""
    if claim.planted is None:
        return "the model's own"
    return "planted edge" if isinstance(claim.planted, AttentionEdge) else "planted head or MLP"


if __name__ == "__main__":
    main()
