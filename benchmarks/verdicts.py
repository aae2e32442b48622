"""Do verdicts name the cause?  `verify` on failures whose cause is known by construction, beside claims that are wrong.

1. Failures of the demo model: the corpus marks the words that the right answer has to be read from (evidence) and those
   that pull away from it (distractors).  Failures that are planted: right answers, into which a head or an MLP is made
   to write the wrong one at the position of the decision, so that the cause is inside the model.
2. Claims: relevance under a rule set; and, as controls, the same scores shuffled over tokens and places.
3. A claim of tokens is right if most of the tokens it names are known distractors (hidden) or evidence (amplified), and
   wrong about a planted failure; of places, if it names the planted one.  No intervention decides that.
4. Criterion: on half of the failures of each suite take the one with the largest F½ (passing = named the cause;
   precision counts twice as much as recall, as a verdict that blames the wrong words is worse than none); on the other
   half print precision, recall, calibration and the verdicts, of the chosen criterion and of the default.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import pandas as pd
import torch

from lrp_lens.cases import Case
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.failures.verification import CaseVerdict, Check, Criterion, Place
from lrp_lens.failures.verification.asked import Asked, Blame, blame
from lrp_lens.failures.verification.check import Event
from lrp_lens.failures.verification.plan import Plan
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.scope import attached
from lrp_lens.methods.facets import record_name
from lrp_lens.rules import as_rule_set
from lrp_lens.views.statistics.intervals import mean_interval

CAUSES = {"hide": ("distractor", "memory_cue"), "amplify": ("evidence", "fact")}
"""Check → the segments that a right claim names."""
EVENTS: tuple[Event, ...] = ("flip", "win")
CRITERIA = tuple(
    Criterion(event, most, supported, tokens)
    for event, most, supported, tokens in product(
        EVENTS, (0.0, 0.05, 0.1, 0.15, 0.25, 0.4, 1.0), (True, False), (1, 2, 3, 5)
    )
)
"""What is chosen from."""


@dataclass(frozen=True)
class Claim:
    """The checks of one claim about one failure."""

    suite: str
    half: int
    """0: the criterion is chosen here; 1: it is judged here."""
    source: str
    """relevance or shuffled."""
    planted: Place | None
    """Where the cause was planted; None for a failure of the model's own."""
    causes: dict[str, frozenset[int]]
    """Check → positions of the known cause."""
    checks: dict[Event, tuple[Check, Check, Check | None]]
    """Event → hide, amplify, silence (not run where tokens pass and no random draw does the same)."""

    def passes(self, kind: int, criterion: Criterion) -> bool:
        """Whether a check passes."""
        return criterion.passes(self.checks[criterion.event][kind])

    def right(self, kind: int, event: Event) -> bool:
        """Whether most of what the check names is the known cause."""
        check = self.checks[event][kind]
        if check is None:
            return False
        if kind == 2 or self.planted is not None:
            return kind == 2 and str(self.planted) in check.units
        known = self.causes[check.kind]
        return sum(at in known for at in check.positions) > len(check.positions) / 2

    def verdict(self, criterion: Criterion) -> CaseVerdict:
        """Of the whole case."""
        return criterion.verdict(*self.checks[criterion.event])


def shuffled(blamed: Blame, asked: Asked, seed: int) -> Blame:
    """The same scores on other tokens and places."""
    rng, tokens = np.random.default_rng(seed), blamed.tokens.copy()
    tokens[asked.maskable] = rng.permutation(tokens[asked.maskable])
    values = rng.permutation(list(blamed.places.values())).tolist()
    return replace(blamed, tokens=tokens, places=dict(zip(blamed.places, values, strict=True)))


def claims(
    asked: Asked,
    case: Case,
    half: int,
    rules: Any,
    planted: Place | None,
    draws: int,
    factor: float,
    seed: int,
) -> Iterator[Claim]:
    """The claim of relevance, and the control."""
    spans = {name: {at for span in own for at in range(*span)} for name, own in case.segments.items()}
    causes = {
        kind: frozenset().union(*(spans.get(name, set()) for name in names)) for kind, names in CAUSES.items()
    }
    blamed = blame(asked, rules)
    sources = {"relevance": blamed} | ({"shuffled": shuffled(blamed, asked, seed)} if planted is None else {})
    for source, own in sources.items():
        checks = {
            event: Plan(asked, Criterion(event, 0.0), factor, draws=draws, seed=seed).checks(
                own, "mean", False
            )[1]
            for event in EVENTS
        }
        yield Claim(case.suite, half, source, planted, causes, checks)


def plant(model: Any, asked: Asked, seed: int) -> tuple[Place, list[Any]] | None:
    """A head or MLP that writes the wrong answer at the decision until it leads as the right one did, and its hook."""
    rng, sites = np.random.default_rng(seed), resolve(model)
    layer, head = int(rng.integers(1, sites.n_layers)), int(rng.integers(model.cfg.n_heads))
    place = Place(layer, asked.length - 1, head if rng.random() < 0.5 else None)
    part = "mlp_out" if place.head is None else "z"
    point = sites.record_of[record_name(part, layer)].port
    assert point is not None
    at = (
        (..., place.position, slice(None))
        if place.head is None
        else (..., place.position, place.head, slice(None))
    )
    direction = model.W_U[:, asked.target] - model.W_U[:, asked.contrast]
    if place.head is not None:
        direction = model.W_O[layer, place.head] @ direction
    direction = (direction / direction.norm()).detach()
    with torch.no_grad():
        logits = forward(model, asked.batch.ids, None)[0, -1]
    before = logits[asked.contrast] - logits[asked.target]
    for size in 2.0 ** np.arange(-2, 9):

        def write(value: Any, hook: Any = None, size: float = size) -> Any:
            value = value.clone()
            value[at] += size * direction
            return value

        hooks = [(point.point, write)]
        with torch.no_grad(), attached(model, hooks):
            logits = forward(model, asked.batch.ids, None)[0, -1]
        lead = logits[asked.target] - logits[asked.contrast]
        if logits.argmax() == asked.target and lead > before:
            return place, hooks
    return None


def collect(limit: int, rules_name: str, draws: int, factor: float) -> list[Claim]:
    """Every claim about the model's own failures and the planted ones."""
    model, rules = load_demo_model(device="cpu"), as_rule_set(rules_name)
    found: list[Claim] = []
    for correct in (False, True):
        seen: dict[str, int] = {}
        for index, case in enumerate(demo_cases(correct=correct)):
            number = seen[case.suite] = seen.get(case.suite, -1) + 1
            if number >= limit:
                continue
            if not correct:
                asked = Asked.of(model, case, None, 1, None)
                found += claims(asked, case, number % 2, rules, None, draws, factor, index)
                continue
            swapped = replace(case, target=case.contrast, contrast=case.target, correct=False)
            asked = Asked.of(model, swapped, None, 1, None)
            made = plant(model, asked, index)
            if made is not None:
                with attached(model, made[1]):
                    found += claims(asked, swapped, number % 2, rules, made[0], draws, factor, index)
    return found


def scored(found: list[Claim], criterion: Criterion) -> pd.DataFrame:
    """One row per claim of tokens: right, passes, confidence."""
    rows = []
    for claim, (kind, name) in product(found, enumerate(CAUSES)):
        check = claim.checks[criterion.event][kind]
        if check is not None and check.units:
            passes = claim.passes(kind, criterion)
            right, sure = claim.right(kind, criterion.event), criterion.confidence(check) * passes
            source = claim.source if claim.planted is None else f"{claim.source}, planted"
            rows.append((claim.suite, source, name, right, passes, sure))
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
                "failures": "the model's own" if claim.planted is None else "planted",
                "claim": claim.source,
                "verdict": claim.verdict(criterion).value,
            }
            for claim in judged
        ]
    )
    print(pd.crosstab([verdicts["failures"], verdicts["claim"]], verdicts["verdict"]).to_string())
    asked_of = [claim for claim in judged if claim.planted is not None]
    planted = [claim for claim in asked_of if claim.checks[criterion.event][2] is not None]
    named = [claim.right(2, criterion.event) for claim in planted]
    passed = [claim.passes(2, criterion) for claim in planted]
    print(
        f"Planted: the check of places passes in {np.mean(passed):.2f}, names the place in {np.mean(named):.2f} of "
        f"{len(planted)} in which tokens did not settle it already ({len(asked_of)} in all)"
    )


if __name__ == "__main__":
    main()
