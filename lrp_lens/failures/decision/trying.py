"""Candidates of a search are rolled out, several together, and each is judged as soon as it has ended.

1. A candidate says another token at its position, and goes on greedily (`Rollouts`), up to where the checker says that
   it is settled.  Where one has ended the next can begin, beside those that are going.
2. What a candidate turned into has the checker's score.
3. An accepted one carries the answer where its token stands where the completion has what makes it right
   (`Checker.spans`), or, where the checker does not say, where the verdicts differ as soon as the word is said; else it
   is merely lucky.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lrp_lens.failures.decision.checker import Checker, asked, judge, settled
from lrp_lens.failures.decision.spoken import Spoken
from lrp_lens.hosts.rollout import Rollout, Until
from lrp_lens.hosts.rollouts import Fork, Rollouts


@dataclass(frozen=True)
class Candidate:
    """Another token that the model could say."""

    at: int
    """Position in the completion."""
    token: int
    """Token id."""
    gap: float
    """Logit of the token that was said minus the logit of this one."""
    likely: bool
    """Whether it may carry the answer."""


@dataclass(frozen=True)
class Pivot:
    """A candidate that makes the completion right, or better."""

    position: int
    """Which of the completion's tokens."""
    token: int
    """What is said instead, a token id."""
    text: str
    """Its text."""
    gap: float
    """Logit of the token that was said minus the logit of this one."""
    carries: bool
    """Whether it carries the answer; False for a merely lucky one."""
    score: float
    """The checker's score of the rollout: 1 if it was accepted."""
    completion: str
    """The rollout, up to where the checker had settled."""


@dataclass(frozen=True)
class Limits:
    """What a search may cost, and what it looks for."""

    budget: int
    """Tokens that may be run, over all rollouts."""
    min_gap: float
    """The logit gap above which a pivot is usable."""
    batch: int
    """Rollouts that run together, at most."""
    seconds: float | int
    """Time limit of one call of the checker."""


class Trying:
    """Candidates that are rolled out.

    Args:
        spoken: the completion that they leave.
        checker: of what they turn into.
        lost_at: the token with which the completion is lost, if the checker can tell.
        limits: of the search.
        candidates: how many there are.
    """

    def __init__(
        self, spoken: Spoken, checker: Checker, lost_at: int | None, limits: Limits, candidates: int
    ) -> None:
        self.spoken, self.checker, self.lost_at, self.limits = spoken, checker, lost_at, limits
        self.failure = ""
        """Why the checker failed, if it did."""
        self._wrong = spoken.told(spoken.ids)
        until = Until(spoken.limit, spoken.ends, self._settled)
        self._rollouts = Rollouts(spoken.trunk, until, max(1, min(limits.batch, candidates)))
        self._going: dict[Candidate, Rollout] = {}
        self._began: dict[Candidate, int] = {}

    @property
    def going(self) -> bool:
        """Whether any has not ended."""
        return bool(self._going)

    @property
    def free(self) -> int:
        """How many can begin now."""
        return self._rollouts.free

    @property
    def forwarded(self) -> int:
        """Tokens that were run."""
        return self._rollouts.forwarded

    @property
    def promised(self) -> int:
        """Tokens that were run, and those that the ones that are going run at most."""
        return self._rollouts.forwarded + self._rollouts.owed

    def begin(self, chosen: Sequence[Candidate]) -> None:
        """Begin some, as many as are free or fewer, together."""
        rollouts = self._rollouts.begin([Fork(one.at, one.token) for one in chosen])
        self._going |= zip(chosen, rollouts, strict=True)
        self._began |= dict.fromkeys(chosen, len(self._began))

    def step(self) -> dict[Candidate, Pivot]:
        """One token more of each; those that have ended, judged.  None of them where the checker fails."""
        ended = self._rollouts.step()
        found = {one: rollout for one, rollout in self._going.items() if rollout in ended}
        for one in found:
            del self._going[one]
        pivots = {one: self._judged(one, rollout) for one, rollout in found.items() if not self.failure}
        return {} if self.failure else pivots

    def let_go_behind(self, found: Sequence[Candidate]) -> None:
        """Let go of those that began later than the first of some that have ended."""
        first = min(self._began[one] for one in found)
        for one in [one for one in self._going if self._began[one] > first]:
            self._rollouts.let_go(self._going.pop(one))

    def to_the_end(self, chosen: Sequence[Candidate]) -> dict[Candidate, Pivot]:
        """All of some, no more than the batch holds."""
        self.begin(chosen)
        found = dict[Candidate, Pivot]()
        while self.going and not self.failure:
            found |= self.step()
        return {one: found[one] for one in chosen if one in found}

    def _settled(self, ids: Sequence[int]) -> bool:
        said, failure = settled(self.checker, self.spoken.told(ids), self.limits.seconds)
        self.failure = self.failure or failure
        return said is not None or bool(self.failure)

    def _judged(self, one: Candidate, rollout: Rollout) -> Pivot:
        text = self.spoken.told(rollout.ids)
        verdict = judge(self.checker, text, self.limits.seconds)
        self.failure = self.failure or verdict.failure
        carries = one.at == self.lost_at or (verdict.accepted and self._carries(one.at, rollout.ids))
        return Pivot(one.at, one.token, self.spoken.piece(one.token), one.gap, carries, verdict.score, text)

    def _carries(self, at: int, ids: Sequence[int]) -> bool:
        """Step 3, of an accepted completion and its token `at`."""
        told, wrong, seconds = self.spoken.told, self._wrong, self.limits.seconds
        text, start, stop = told(ids), len(told(ids[:at])), len(told(ids[: at + 1]))
        start += len(text[start:stop]) - len(text[start:stop].lstrip())
        spans, failure = asked(lambda: self.checker.spans(text, wrong), seconds)
        if failure:
            return False
        if spans is not None:
            return any(first < stop and start < last for first, last in spans)
        words = (
            _word_ends(text, start, stop),
            _word_ends(wrong, start, len(told(self.spoken.ids[: at + 1]))),
        )
        right, other = (judge(self.checker, one, seconds) for one in words)
        return right.accepted and not other.accepted


def _word_ends(text: str, start: int, stop: int) -> str:
    """The text up to the end of the word that holds [start, stop)."""
    space = re.compile(r"\s").search(text, max(stop, start + 1))
    return text[: space.start() if space else len(text)]
