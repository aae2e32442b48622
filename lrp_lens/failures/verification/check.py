"""One check: the same edit at the 1, 2, … most blamed units, beside random ones, and what the model says each time.

1. A `Reading` is one run: the logit gap (target − contrast), whether the contrast is now ahead ("flip"), whether it is
   the model's first choice ("win"), and, where a checker is known, whether the regenerated answer is accepted.
2. A `Check` holds a reading for every size, 0 being the unedited run, and those of random draws at one size: the
   first at which the event in question happens, or the largest where it never does.
3. The share of draws at which the event happens has a Clopper–Pearson interval of 95 %; drops of the gap are judged
   as those of masked tokens are (`lrp_lens.views.statistics.verdict`).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal, get_args

import pandas as pd

from lrp_lens.characters import signed
from lrp_lens.views.statistics.verdict import Verdict, judge
from lrp_lens.views.table import table_of

Event = Literal["flip", "win", "accepted"]
"""flip: the contrast is ahead of the target; win: it is the first choice; accepted: the checker takes the answer."""
EVENTS: tuple[Event, ...] = get_args(Event)
Kind = Literal["hide", "amplify", "silence", "cut"]
DEEDS: dict[Kind, tuple[str, str]] = {
    "hide": ("Hiding", "other tokens"),
    "amplify": ("Amplifying", "other tokens"),
    "silence": ("Silencing", "other places"),
    "cut": ("Cutting", "the same edges of other heads"),
}
"""Kind → what is done, and to what the control does it."""
_TOLD: dict[Event, str] = {
    "flip": "turns the preference",
    "win": "makes the contrast the first choice",
    "accepted": "makes the answer right",
}


@dataclass(frozen=True)
class Reading:
    """What the model says in one run."""

    gap: float
    """Logit of the target minus logit of the contrast."""
    first_choice: str
    """The token it ranks first."""
    win: bool
    """Whether that is the contrast."""
    answer: str | None = None
    """What it goes on to say, with what was said before; None where it was not asked."""
    accepted: float | None = None
    """What the checker says of that, 1 for right."""

    @property
    def flip(self) -> bool:
        """Whether the contrast is ahead of the target."""
        return self.gap < 0

    def happens(self, event: Event) -> bool:
        """Whether the event happens in this run; an answer counts as accepted from ½ on."""
        if event == "accepted":
            return self.accepted is not None and self.accepted >= 0.5
        return self.flip if event == "flip" else self.win

    @property
    def right(self) -> bool:
        """Whether the answer is right: accepted where there is a checker, else the contrast is the first choice."""
        return self.win if self.accepted is None else self.happens("accepted")


@dataclass(frozen=True)
class Step:
    """The run in which the first `size` units are edited."""

    size: int
    units: tuple[str, ...]
    """The units that are new at this size, in words, the most blamed first; none at size 0."""
    positions: tuple[int, ...]
    """Where they stand."""
    reading: Reading


@dataclass(frozen=True)
class Check:
    """The runs of one kind of edit, and their control."""

    kind: Kind
    event: Event
    """The event that decided at which size the control was run."""
    steps: tuple[Step, ...]
    """Sizes 0, 1, …; only the unedited run where relevance blames no unit."""
    control: tuple[Reading, ...]
    """Random draws of `control_size` units."""
    control_size: int
    population: int
    """How many units there are to draw from."""

    def at(self, size: int) -> Reading | None:
        """The reading at one size; None where it was not run."""
        return next((step.reading for step in self.steps if step.size == size), None)

    def first(self, event: Event) -> int | None:
        """The smallest size at which the event happens that did not happen without the edit; None if there is none."""
        if self.steps[0].reading.happens(event):
            return None
        return next((step.size for step in self.steps[1:] if step.reading.happens(event)), None)

    def random_share(self, event: Event) -> tuple[float, float, float]:
        """Share of the random draws at which the event happens, and its interval of 95 %; NaN without draws."""
        if not self.control:
            return float("nan"), float("nan"), float("nan")
        from scipy.stats import binomtest

        happened, draws = sum(one.happens(event) for one in self.control), len(self.control)
        found = binomtest(happened, draws).proportion_ci(0.95)
        return happened / draws, float(found.low), float(found.high)

    @property
    def claimed(self) -> Reading | None:
        """The reading of the blamed units at the control's size."""
        return self.at(self.control_size) if self.control_size else None

    @property
    def units(self) -> tuple[str, ...]:
        """The blamed units at the control's size, the most blamed first."""
        return self._first(self.control_size)

    @property
    def positions(self) -> tuple[int, ...]:
        """Where they stand."""
        return tuple(at for step in self.steps if step.size <= self.control_size for at in step.positions)

    def _first(self, size: int) -> tuple[str, ...]:
        return tuple(unit for step in self.steps if step.size <= size for unit in step.units)

    @property
    def verdict(self) -> Verdict:
        """Does the gap fall, and by more than the control's?"""
        doing, others = DEEDS[self.kind]
        gaps = [self.steps[0].reading.gap] + ([self.claimed.gap] if self.claimed is not None else [])
        return judge(
            gaps,
            [[one.gap] for one in self.control],
            self.population,
            deed=f"{doing} {listed(self.units)}",
            size=self.control_size,
            others=others,
        )

    def words(self, event: Event) -> str:
        """The check in one sentence."""
        doing, others = DEEDS[self.kind]
        if not self.units:
            return f"{doing}: relevance blames nothing that could be edited."
        turns, size = _TOLD[event], self.first(event)
        share, low, high = self.random_share(event)
        beside = f" ({others}: {share:.0%} of {len(self.control)} draws [{low:.0%}, {high:.0%}])"
        if size is None:
            done = f"{doing} up to {len(self.units)} of the blamed never {turns}"
        else:
            done = f"{doing} {listed(self._first(size))} {turns}"
        gap = self.steps[0].reading.gap
        after = (
            "" if self.claimed is None else f"; the gap goes from {signed(gap)} to {signed(self.claimed.gap)}"
        )
        return f"{done}{beside if self.control else ''}{after}."

    def to_dataframe(self) -> pd.DataFrame:
        """One row per run: check, size, units, gap, first_choice, flip, win, answer, accepted, control."""
        readings = [(step.size, self._first(step.size), step.reading, False) for step in self.steps]
        readings += [(self.control_size, (), one, True) for one in self.control]
        return table_of(
            {
                "check": [self.kind] * len(readings),
                "size": [one[0] for one in readings],
                "units": [", ".join(one[1]) for one in readings],
                **{
                    name: [getattr(one[2], name) for one in readings]
                    for name in ("gap", "first_choice", "flip", "win", "answer", "accepted")
                },
                "control": [one[3] for one in readings],
            }
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Check":
        """The check that `to_dict` was called on."""
        steps = (
            Step(one["size"], tuple(one["units"]), tuple(one["positions"]), Reading(**one["reading"]))
            for one in values["steps"]
        )
        return cls(
            values["kind"],
            values["event"],
            tuple(steps),
            tuple(Reading(**one) for one in values["control"]),
            values["control_size"],
            values["population"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dictionaries, for JSON."""
        shares = {event: [plain(one) for one in self.random_share(event)] for event in EVENTS}
        return asdict(self) | {
            "first": {event: self.first(event) for event in EVENTS},
            "random_share": shares,
            "verdict": self.verdict.to_dict(),
        }


def plain(value: float | None) -> float | None:
    """A number for JSON: None where there is none."""
    return None if value is None or not isfinite(value) else value


def listed(units: tuple[str, ...], most: int = 5) -> str:
    """Units as a list in words.

    Example:
        >>> listed(("'mary' at 2", "'john' at 4", "L2H1 at 7"))
        "'mary' at 2, 'john' at 4 and L2H1 at 7"
    """
    shown = list(units[:most]) + ([f"{len(units) - most} more"] if len(units) > most else [])
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]])) if shown else "nothing"
