"""One prompt as a row: is it a failure, where was it decided, what did the search cost, what do interventions say."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrp_lens.cases import Case
from lrp_lens.errors import LrpLensError
from lrp_lens.failures.decision import find_decision
from lrp_lens.failures.decision.checker import Checker
from lrp_lens.failures.verification import Edit, verify
from lrp_lens.failures.verification.asked import Asked
from lrp_lens.failures.verification.blame import blame
from lrp_lens.failures.verification.readings import Readings
from lrp_lens.rules import as_rule_set

HIDDEN = (1, 3, 5)
"""How many tokens are hidden at once (m)."""


@dataclass(frozen=True)
class Settings:
    """How a prompt is measured."""

    rules: str = "ATTN_LRP"
    max_new_tokens: int = 96
    budget: int = 3072
    draws: int = 20
    seed: int = 0


def row(model: Any, case: Case, checker: Checker, settings: Settings) -> dict[str, Any]:
    """The row of one prompt; an error is its reason."""
    found: dict[str, Any] = {"case": case.id, "suite": case.suite, "failure": False, "reason": ""}
    start = time.process_time()
    try:
        decision = find_decision(
            model, case, checker, max_new_tokens=settings.max_new_tokens, budget=settings.budget
        )
    except LrpLensError as error:
        return found | {"reason": f"{type(error).__name__}: {error}"}
    found |= {"search_seconds": time.process_time() - start, "forwarded": decision.forwarded}
    found |= {"failure": not decision.excluded.endswith("no failure"), "reason": decision.excluded}
    if not found["failure"]:
        return found
    found |= {"way": decision.way or "none", "checked": decision.checked, "gap": decision.gap}
    found |= {"target": decision.target, "contrast": decision.contrast}
    if decision.way is None:
        return found
    start = time.process_time()
    try:
        seen = verify(
            model, decision.case, rules=settings.rules, draws=settings.draws, seed=settings.seed, thorough=False,
            stability=False, repairs=False, progress=False,
        )  # fmt: skip
        found |= {"verdict": seen.verdict.value, "pattern": seen.pattern.value, "confidence": seen.confidence}
        found |= {"tokens": len(seen.token_strings), "notes": "; ".join(seen.notes)}
        found |= flips(model, decision.case, settings)
    except LrpLensError as error:  # the completion's token is ahead by nothing, say
        found["reason"] = f"{type(error).__name__}: {error}"
    return found | {"verify_seconds": time.process_time() - start}


def flips(model: Any, case: Case, settings: Settings, sizes: Sequence[int] = HIDDEN) -> dict[str, float]:
    """Whether hiding the m most blamed tokens turns the preference, and the share of random m tokens that do."""
    asked = Asked.of(model, case, None, 1, None)
    blamed, positions = blame(asked, as_rule_set(settings.rules)), asked.maskable
    _, replacement = asked.replacement("mean", settings.seed)
    readings = Readings(asked, replacement, 2.0, {}, settings.seed)
    rng, found = np.random.default_rng(settings.seed), dict[str, float]()
    for size in sizes:
        top = blamed.supporters(positions, size, 1)
        if len(top) < size:
            continue
        draws = [sorted(rng.permutation(positions)[:size].tolist()) for _ in range(settings.draws)]
        own, *others = readings.of([Edit(hidden=tuple(one)) for one in (sorted(top), *draws)])
        found[f"flip_{size}"] = float(own.flip)
        found[f"random_{size}"] = sum(one.flip for one in others) / len(others)
    return found
