"""Which edits are run of one case, and their controls.

1. `hide`: the 1, 2, … K tokens with the most relevance towards the target.  `amplify`: those with the most towards the
   contrast.  `silence`: the 1, 2, 4, 8 heads and MLPs, at their positions, with the most towards the target.
2. The control of each is run at one size, the first at which the event happens, or the largest: as many other tokens;
   as many other heads and as many other MLPs, as many of them at the position of the decision.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Any

import numpy as np

from lrp_lens.failures.verification.asked import Asked, Blame, Readings
from lrp_lens.failures.verification.check import Check, Kind, Step
from lrp_lens.failures.verification.criterion import CaseVerdict, Criterion
from lrp_lens.failures.verification.edits import Edit, Place
from lrp_lens.failures.verification.result import Variant
from lrp_lens.progress import progress_bar

PLACES: tuple[int, ...] = (1, 2, 4, 8)
"""How many places are silenced."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Which edits are run, of one case."""

    asked: Asked
    criterion: Criterion = Criterion()
    """Its event says at which size a control is run."""
    factor: float = 2.0
    """By which the values of amplified tokens are multiplied."""
    top_k: int = 5
    """How many tokens are hidden or amplified at most."""
    sizes: Sequence[int] = PLACES
    """How many places are silenced."""
    draws: int = 20
    """Random draws of each control."""
    seed: int = 0
    progress: bool | None = None

    def checks(
        self, blamed: Blame, replacement: str, thorough: bool
    ) -> tuple[str, tuple[Check, Check, Check | None]]:
        """The replacement in words, and the three checks."""
        made, rows = self.asked.replacement(replacement, self.seed)
        silence = blamed.means if replacement == "mean" else {}
        readings = Readings(self.asked, rows, self.factor, silence, self.seed)
        positions = self.asked.maskable
        steps = range(1, self.top_k + 1)
        hide = self._check(
            "hide", readings, blamed.supporters(positions, self.top_k, 1), steps, positions, thorough
        )
        amplify = self._check(
            "amplify", readings, blamed.supporters(positions, self.top_k, -1), steps, positions, thorough
        )
        silenced = None
        if thorough or self.criterion.verdict(hide, amplify, None) == CaseVerdict.NONE:
            top = blamed.top_places(max(self.sizes))
            silenced = self._check("silence", readings, top, self.sizes, list(blamed.places), thorough)
        return made.statement, (hide, amplify, silenced)

    def _check(
        self,
        kind: Kind,
        readings: Readings,
        units: Sequence[Any],
        sizes: Sequence[int],
        population: Sequence[Any],
        thorough: bool,
    ) -> Check:
        """The readings of the first units, and of random ones.

        Args:
            kind: what is done to them.
            readings: where it is run.
            units: positions or places, most blamed first.
            sizes: how many of them, increasing.
            population: what random ones are drawn from.
            thorough: whether a control is run where the event never happens.
        """
        sizes = [size for size in sizes if size <= len(units)]
        edits = [_edit(kind, units[:size]) for size in (0, *sizes)]
        with progress_bar(None, len(edits), kind, self.progress, "run") as bar:
            runs = readings.of(edits, bar.update)
        steps, done = [Step(0, (), (), runs[0])], 0
        for size, reading in zip(sizes, runs[1:], strict=True):
            new = units[done:size]
            words = tuple(str(one) if isinstance(one, Place) else self.asked.token(one) for one in new)
            places = tuple(one.position if isinstance(one, Place) else int(one) for one in new)
            steps.append(Step(size, words, places, reading))
            done = size
        check = Check(
            kind, self.criterion.event, tuple(steps), (), sizes[-1] if sizes else 0, len(population)
        )
        first = check.first(self.criterion.event)
        check = changed(check, control_size=first or check.control_size)
        if not sizes or (first is None and not thorough):
            return check
        chosen = units[: check.control_size]
        drawn = self._drawn(f"{kind} {check.control_size}", chosen, population)
        with progress_bar(None, self.draws, f"{kind}, random", self.progress, "run") as bar:
            control = readings.of([_edit(kind, one) for one in drawn], bar.update)
        return changed(check, control=tuple(control))

    def _drawn(self, purpose: str, chosen: Sequence[Any], population: Sequence[Any]) -> list[list[Any]]:
        """As many other units as were chosen, of each stratum as many; where there are too few others, any units."""
        rng = np.random.default_rng([self.seed, *purpose.encode()])
        pools: dict[Any, tuple[list[Any], int]] = {}
        for stratum, count in Counter(map(self._stratum, chosen)).items():
            own = [unit for unit in population if self._stratum(unit) == stratum]
            others = [unit for unit in own if unit not in chosen]
            pools[stratum] = (others if len(others) >= count else own, count)
        return [
            [pool[at] for pool, count in pools.values() for at in rng.permutation(len(pool))[:count]]
            for _ in range(self.draws)
        ]

    def _stratum(self, unit: Any) -> tuple[bool, bool]:
        """Tokens are of one kind; places are heads or MLPs, at the decision or before it."""
        if not isinstance(unit, Place):
            return False, False
        return unit.head is None, unit.position == self.asked.length - 1

    def variant(self, blamed: Blame, rules: str, replacement: str, own: Sequence[int]) -> Variant:
        """The verdict under other rules or with another replacement, and how far the blamed tokens are the same."""
        statement, checks = self.checks(blamed, replacement, thorough=False)
        positions = blamed.supporters(self.asked.maskable, self.top_k, 1)
        shared = len(set(positions) & set(own)) / len(own) if own and positions else float("nan")
        verdict = self.criterion.verdict(*checks)
        return Variant(
            rules, statement, verdict, self.criterion.pattern(*checks[:2]), tuple(positions), shared
        )


def _edit(kind: Kind, units: Sequence[Any]) -> Edit:
    """So many units edited; in order, so that the same set is run once."""
    chosen = tuple(sorted(units, key=str))
    if kind == "hide":
        return Edit(hidden=chosen)
    return Edit(amplified=chosen) if kind == "amplify" else Edit(silenced=chosen)
