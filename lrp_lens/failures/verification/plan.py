"""Which edits are run of one case, and their controls.

1. `hide`: the 1, 2, … K tokens with the most relevance towards the target.  `amplify`: those with the most towards the
   contrast.  `silence`: the 1, 2, 4, 8 heads and MLPs, at their positions, with the most towards the target.  `cut`:
   the 1, 2, 4, 8 attention edges with the most towards the target.
2. The control of each is run at one size, the first at which the event happens, or the largest: as many other tokens;
   as many other heads and as many other MLPs, as many of them at the position of the decision; the same edges of other
   heads in the layer.
3. Whatever two rule sets ask for alike, of one replacement, is run once (`Readings`).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from lrp_lens.errors import RuleError, SiteError
from lrp_lens.failures.verification.asked import Asked
from lrp_lens.failures.verification.blame import Blame
from lrp_lens.failures.verification.check import Check, Kind, Step
from lrp_lens.failures.verification.criterion import CaseVerdict, Criterion
from lrp_lens.failures.verification.edits import AttentionEdge, Edit, Place
from lrp_lens.failures.verification.outcomes import Variant
from lrp_lens.failures.verification.readings import Readings
from lrp_lens.masking.replacement import Replacement
from lrp_lens.progress import progress_bar

PLACES: tuple[int, ...] = (1, 2, 4, 8)
"""How many places are silenced."""
EDGES: tuple[int, ...] = (1, 2, 4, 8)
"""How many attention edges are cut."""


class Checks(NamedTuple):
    """The checks of one case."""

    hide: Check
    amplify: Check
    silence: Check | None = None
    """None where it was not needed."""
    cut: Check | None = None
    """None where it was not needed, or could not be run."""
    statement: str = ""
    """What hidden embeddings became, in words."""
    notes: tuple[str, ...] = ()
    """What could not be run, and why."""

    @property
    def asked(self) -> tuple[Check, Check, Check | None, Check | None]:
        """The four, as a criterion takes them."""
        return self.hide, self.amplify, self.silence, self.cut


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
    edge_sizes: Sequence[int] = EDGES
    """How many attention edges are cut."""
    draws: int = 20
    """Random draws of each control."""
    seed: int = 0
    progress: bool | None = None
    _readings: dict[str, Readings] = field(default_factory=dict, repr=False)
    """Replacement → its runs so far."""

    def checks(self, blamed: Blame, replacement: str, thorough: bool) -> Checks:
        """The checks of what was blamed."""
        made, readings = self._runs(blamed, replacement)
        positions = self.asked.maskable
        steps = range(1, self.top_k + 1)
        supporters, opponents = (blamed.supporters(positions, self.top_k, sign) for sign in (1, -1))
        hide = self._check("hide", readings, supporters, steps, positions, thorough)
        amplify = self._check("amplify", readings, opponents, steps, positions, thorough)
        found = Checks(hide, amplify, statement=made.statement)
        if thorough or self.criterion.verdict(*found.asked) == CaseVerdict.NONE:
            top, every = blamed.top_places(max(self.sizes)), list(blamed.places)
            found = found._replace(silence=self._check("silence", readings, top, self.sizes, every, thorough))
            found = self._with_cut(found, readings, blamed, thorough)
        return found

    def _runs(self, blamed: Blame, replacement: str) -> tuple[Replacement, Readings]:
        """Under one replacement; those of other rules, if they silence the same parts (to the same values)."""
        made, rows = self.asked.replacement(replacement, self.seed)
        silence = blamed.means if replacement == "mean" else {}
        known = self._readings.get(replacement)
        if known is None or known.silence.keys() != silence.keys():
            known = self._readings[replacement] = Readings(self.asked, rows, self.factor, silence, self.seed)
        return made, known

    def _with_cut(self, found: Checks, readings: Readings, blamed: Blame, thorough: bool) -> Checks:
        """With the check of attention edges, or the reason why there is none."""
        try:
            top = blamed.top_edges(max(self.edge_sizes))
            heads = range(int(self.asked.model.cfg.n_heads))
            every = list(dict.fromkeys(replace(edge, head=head) for edge in top for head in heads))
            cut = self._check("cut", readings, top, self.edge_sizes, every, thorough)
        except (RuleError, SiteError) as error:
            return found._replace(notes=(f"no attention edge was cut: {error}",))
        return found._replace(cut=cut)

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
            words = tuple(self.asked.token(one) if isinstance(one, int) else str(one) for one in new)
            places = tuple(one if isinstance(one, int) else one.position for one in new)
            steps.append(Step(size, words, places, reading))
            done = size
        check = Check(
            kind, self.criterion.event, tuple(steps), (), sizes[-1] if sizes else 0, len(population)
        )
        first = check.first(self.criterion.event)
        check = replace(check, control_size=first or check.control_size)
        if not sizes or (first is None and not thorough):
            return check
        chosen = units[: check.control_size]
        drawn = self._drawn(f"{kind} {check.control_size}", chosen, population)
        with progress_bar(None, self.draws, f"{kind}, random", self.progress, "run") as bar:
            control = readings.of([_edit(kind, one) for one in drawn], bar.update)
        return replace(check, control=tuple(control))

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

    def _stratum(self, unit: int | Place | AttentionEdge) -> tuple[Any, ...]:
        """Tokens are of one kind; places are heads or MLPs, at the decision or before it; edges differ by head only."""
        if isinstance(unit, Place):
            return unit.head is None, unit.position == self.asked.length - 1
        return () if isinstance(unit, int) else (unit.layer, unit.target, unit.source)

    def variant(self, blamed: Blame, rules: str, replacement: str, own: Sequence[int]) -> Variant:
        """The verdict under other rules or with another replacement, and how far the blamed tokens are the same."""
        found = self.checks(blamed, replacement, thorough=False)
        positions = blamed.supporters(self.asked.maskable, self.top_k, 1)
        shared = len(set(positions) & set(own)) / len(own) if own and positions else float("nan")
        verdict, pattern = (
            self.criterion.verdict(*found.asked),
            self.criterion.pattern(found.hide, found.amplify),
        )
        return Variant(rules, found.statement, verdict, pattern, tuple(positions), shared)


_FIELDS: dict[Kind, str] = {"hide": "hidden", "amplify": "amplified", "silence": "silenced", "cut": "cut"}


def _edit(kind: Kind, units: Sequence[Any]) -> Edit:
    """So many units edited; in order, so that the same set is run once."""
    chosen = tuple(sorted(units, key=str))
    return Edit(**{_FIELDS[kind]: chosen})
