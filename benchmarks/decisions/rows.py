"""One prompt as a row: is it a failure, where was it decided, what did the search cost, what do interventions say."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrp_lens.cases import Case
from lrp_lens.errors import LrpLensError
from lrp_lens.failures.decision import find_decision
from lrp_lens.failures.decision.checker import Checker, judge
from lrp_lens.failures.verification.asked import Asked
from lrp_lens.failures.verification.blame import blame
from lrp_lens.failures.verification.edits import Edit
from lrp_lens.failures.verification.readings import Readings
from lrp_lens.failures.verification.verify import verify
from lrp_lens.hosts.vocabulary import string_ids
from lrp_lens.rules import as_rule_set

HIDDEN = (1, 3, 5)
"""How many tokens are hidden at once (m)."""
RULES = ("ATTN_LRP", "RELP_FROZEN_PATTERN")
"""Whose most blamed tokens are hidden: those of `verify` and of `explain`."""
_SECONDS = 10.0


@dataclass(frozen=True)
class Settings:
    """How a prompt is measured."""

    rules: str = "ATTN_LRP"
    max_new_tokens: int = 96
    budget: int = 3072
    draws: int = 20
    """Random draws of each control of `verify`."""
    sets: int = 8
    """Random sets of m tokens beside the m most blamed ones."""
    seed: int = 0


def row(model: Any, case: Case, checker: Checker, settings: Settings) -> dict[str, Any]:
    """The row of one prompt; an error is its reason.

    Only a decision whose contrast is known to be right is verified.
    """
    found: dict[str, Any] = {"case": case.id, "suite": case.suite, "failure": False, "reason": ""}
    start = time.process_time()
    try:
        decision = find_decision(
            model, case, checker, max_new_tokens=settings.max_new_tokens, budget=settings.budget
        )
    except LrpLensError as error:
        return found | {"reason": f"{type(error).__name__}: {error}"}
    found |= {"search_seconds": time.process_time() - start, "forwarded": decision.forwarded}
    if failed := judge(checker, decision.completion, _SECONDS).failure:
        return found | {"reason": f"not judged: {failed}"}
    found |= {"failure": not decision.right, "reason": decision.excluded}
    said = len(string_ids(model, decision.completion)) if decision.completion else 0
    found |= {"completion_tokens": said, "cut": said >= settings.max_new_tokens}
    if decision.right:
        return found
    found |= {"way": decision.way or "none", "checked": decision.checked, "gap": decision.gap}
    if decision.way == "pivot":
        best = decision.pivots[0]
        found |= {"carries": best.carries, "score": best.score, "position": best.position}
    if not decision.checked:
        return found
    start = time.process_time()
    try:
        seen = verify(
            model, decision.case, rules=settings.rules, draws=settings.draws, seed=settings.seed, thorough=False,
            stability=False, repairs=False, progress=False,
        )  # fmt: skip
        found |= {"verdict": seen.verdict.value, "pattern": seen.pattern.value, "confidence": seen.confidence}
        found |= {"tokens": len(seen.token_strings), "verify_seconds": time.process_time() - start}
        found |= flips(model, decision.case, settings)
    except LrpLensError as error:  # the completion's token is ahead by nothing, say
        found["reason"] = f"{type(error).__name__}: {error}"
    return found


def flips(model: Any, case: Case, settings: Settings, sizes: Sequence[int] = HIDDEN) -> dict[str, float]:
    """What hiding the m most blamed tokens does under each rule set, and m random ones: does the preference turn, and
    by how much does the gap drop?"""
    asked = Asked.of(model, case, None, 1, None)
    positions = asked.maskable
    _, replacement = asked.replacement("mean", settings.seed)
    readings = Readings(asked, replacement, 2.0, {}, settings.seed)
    rng, found = np.random.default_rng(settings.seed), dict[str, float]()
    (whole,) = readings.of([Edit()])
    for size in sizes:
        if len(positions) > size:
            draws = [sorted(rng.permutation(positions)[:size].tolist()) for _ in range(settings.sets)]
            others = readings.of([Edit(hidden=tuple(one)) for one in draws])
            found[f"random_flip_{size}"] = float(np.mean([one.flip for one in others]))
            found[f"random_drop_{size}"] = float(np.mean([whole.gap - one.gap for one in others]))
    for rules in RULES:
        blamed = blame(asked, as_rule_set(rules))
        found[f"{rules}_share"] = float(blamed.tokens.sum()) / whole.gap
        for size in sizes:
            top = blamed.supporters(positions, size, 1)
            if len(top) == size:
                (own,) = readings.of([Edit(hidden=tuple(sorted(top)))])
                found |= {
                    f"{rules}_flip_{size}": float(own.flip),
                    f"{rules}_drop_{size}": whole.gap - own.gap,
                }
    return found
