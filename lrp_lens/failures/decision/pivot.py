"""The pivot: where another token, said instead, makes the completion right.

1. Candidates are the completion's positions × the model's next choices there, up to the token with which the
   completion is lost, where the checker can tell (`Checker.already`): nothing behind it can help.
2. Those that may carry the answer come first: at the losing token, or the beginning of a text that a right completion
   needs (`Checker.wanted`).  Then, or where all is decided at the end from the end, by their logit gap; candidates
   above `min_gap` and below it take turns, so that a case without a usable pivot still says whether it has one.
3. Each is rolled out greedily, a batch at a time, on the completion's keys and values; a rollout ends where the checker
   says that it is settled.  A batch begins only if the budget is enough for its longest course.
4. The search stops at a pivot above `min_gap`.  Of several, one that carries the answer comes before a lucky one,
   whatever their gaps: the token stands where the accepted completion has what makes it right (`Checker.spans`), or,
   where the checker does not say, the verdicts differ as soon as the word is said.
5. Without an accepted rollout the one whose graded score rises most is taken.

The first deviating token with a contrast from the model's own top k: contrastive attribution at the point of
divergence, arXiv 2604.17761.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from lrp_lens.failures.decision.checker import Checker, Verdict, asked, judge, settled
from lrp_lens.failures.decision.spoken import Spoken
from lrp_lens.hosts.generation import Fork, roll_out
from lrp_lens.hosts.rollout import Until


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
    """Rollouts that run together."""
    seconds: float | int
    """Time limit of one call of the checker."""


@dataclass
class Search:
    """What a search found."""

    pivots: list[Pivot] = field(default_factory=list)
    """Best first."""
    forwarded: int = 0
    """Tokens that were run for rollouts."""
    tried: int = 0
    """How many candidates were rolled out."""
    candidates: int = 0
    """Of how many."""
    reason: str = ""
    """Why there is no pivot, or why the search ended before its time."""


def find_pivots(
    spoken: Spoken, checker: Checker, failed: Verdict, lost_at: int | None, limits: Limits
) -> Search:
    """Search for the pivot of a completion that the checker does not accept."""
    wrong = spoken.told(spoken.ids)
    wanted, failure = asked(lambda: checker.wanted(wrong), limits.seconds)
    if failure:
        return Search(reason=failure)
    queue = ordered(spoken, wanted or (), lost_at, limits.min_gap, checker.at_end)
    search, risen = Search(candidates=len(queue)), list[Pivot]()
    while queue and not any(one.gap > limits.min_gap for one in search.pivots):
        chosen = affordable(queue, spoken.limit, limits.batch, limits.budget - search.forwarded)
        if not chosen:
            search.reason = f"the budget of {limits.budget} tokens was spent"
            break
        queue = queue[len(chosen) :]
        for pivot in tried(spoken, checker, chosen, wrong, lost_at, limits, search):
            (search.pivots if pivot.score >= 1 else risen).append(pivot)
        if search.reason:
            break
        if search.pivots:  # only a usable one can be better
            queue = [one for one in queue if one.gap > limits.min_gap]
    if not search.pivots:
        risen = [one for one in risen if one.score > failed.score]
        search.pivots = sorted(
            risen, key=lambda one: (-one.score, not one.carries, one.gap <= limits.min_gap)
        )[:1]
    search.pivots.sort(key=lambda one: (not one.carries, one.gap <= limits.min_gap, one.gap))
    if not search.pivots and not search.reason:
        search.reason = f"the checker accepts none of {search.tried} rollouts"
    return search


def ordered(
    spoken: Spoken, wanted: Sequence[str], lost_at: int | None, min_gap: float, at_end: bool
) -> list[Candidate]:
    """Steps 1 and 2: all candidates, in the order in which they are tried."""
    only, said = spoken.known_position(), spoken.trunk.said
    last = len(said.ids) - 1 if lost_at is None else lost_at
    places = range(last + 1) if only is None else [only] * (only <= last)
    found = []
    for at in places:
        logits = said.top_logits[at].tolist()
        for token, logit in list(zip(said.top_ids[at].tolist(), logits, strict=True))[1:]:
            if not spoken.special(token) and spoken.writable(token):
                likely = at == lost_at or _begins(spoken.piece(token), wanted)
                found.append(Candidate(at, token, logits[0] - logit, likely))
    found.sort(key=lambda one: ((-one.at if at_end else 0), one.gap, one.at, one.token))
    tiers = [[one for one in found if one.likely], [one for one in found if not one.likely]]
    return [one for tier in tiers for one in _in_turn(tier, min_gap)]


def _begins(piece: str, wanted: Sequence[str]) -> bool:
    """Whether a token may begin one of the texts, in any case."""
    text = piece.strip().casefold()
    return bool(text) and any(
        one.casefold().startswith(text) or text.startswith(one.casefold()) for one in wanted
    )


def _in_turn(found: Sequence[Candidate], min_gap: float) -> Iterator[Candidate]:
    """Candidates above the gap and others, one of each in turn."""
    above = [one for one in found if one.gap > min_gap]
    below = [one for one in found if one.gap <= min_gap]
    for pair in zip_longest(above, below):
        yield from (one for one in pair if one is not None)


def affordable(queue: Sequence[Candidate], limit: int, batch: int, budget: int) -> list[Candidate]:
    """The next candidates, as many as the batch holds and the budget is enough for, whatever they turn into."""
    chosen: list[Candidate] = []
    for one in queue[:batch]:
        budget -= limit - one.at - 1  # every token behind it but the last is run, and the token itself
        if budget < 0:
            break
        chosen.append(one)
    return chosen


def tried(
    spoken: Spoken,
    checker: Checker,
    chosen: Sequence[Candidate],
    wrong: str,
    lost_at: int | None,
    limits: Limits,
    search: Search,
) -> Iterator[Pivot]:
    """Step 3: roll candidates out; each with its score.  A checker that fails is the search's reason."""
    failures: list[str] = []

    def enough(ids: Sequence[int]) -> bool:
        said, failure = settled(checker, spoken.told(ids), limits.seconds)
        failures.extend([failure] * bool(failure))
        return said is not None or bool(failures)

    until = Until(spoken.limit, spoken.ends, enough)
    rollouts, forwarded = roll_out(spoken.trunk, [Fork(one.at, one.token) for one in chosen], until)
    search.forwarded += forwarded
    search.tried += len(chosen)
    for one, rollout in zip(chosen, rollouts, strict=True):
        text = spoken.told(rollout.ids)
        verdict = judge(checker, text, limits.seconds)
        failure = next(iter(failures), verdict.failure)
        if failure:
            search.reason = failure
            return
        carries = one.at == lost_at or (
            verdict.accepted and _carries(spoken, checker, one.at, rollout.ids, wrong, limits.seconds)
        )
        yield Pivot(one.at, one.token, spoken.piece(one.token), one.gap, carries, verdict.score, text)


def _carries(
    spoken: Spoken, checker: Checker, at: int, ids: Sequence[int], wrong: str, seconds: float | int
) -> bool:
    """Step 4: whether an accepted completion is right because of its token `at`."""
    text = spoken.told(ids)
    start, stop = len(spoken.told(ids[:at])), len(spoken.told(ids[: at + 1]))
    start += len(text[start:stop]) - len(text[start:stop].lstrip())
    spans, failure = asked(lambda: checker.spans(text, wrong), seconds)
    if failure:
        return False
    if spans is not None:
        return any(first < stop and start < last for first, last in spans)
    told = [_word_ends(text, start, stop), _word_ends(wrong, start, len(spoken.told(spoken.ids[: at + 1])))]
    right, other = (judge(checker, one, seconds) for one in told)
    return right.accepted and not other.accepted


def _word_ends(text: str, start: int, stop: int) -> str:
    """The text up to the end of the word that holds [start, stop)."""
    space = re.compile(r"\s").search(text, max(stop, start + 1))
    return text[: space.start() if space else len(text)]
