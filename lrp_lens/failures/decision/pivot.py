"""The pivot: where another token, said instead, makes the completion right.

1. Candidates are the completion's positions × the model's next choices there, up to the token with which the
   completion is lost, where the checker can tell (`Checker.already`): nothing behind it can help.
2. Those that may carry the answer come first: at the losing token, or the beginning of a text that a right completion
   needs (`Checker.wanted`).  Then, or where all is decided at the end from the end, by their logit gap; candidates
   above `min_gap` and below it take turns, so that a case without a usable pivot still says whether it has one.
3. They are rolled out in this order, a batch at a time, and where a rollout has ended the next candidate takes its
   place (`trying`).  One begins only if the budget is enough for its longest course beside those that are going.
4. Once there is a pivot above `min_gap` none begins, and those that began later than it are let go of: it does not
   depend on what stands behind it.  Those that began before it or with it go on: of several pivots one that carries
   the answer comes before a lucky one, whatever their gaps.
5. Without an accepted rollout the one whose graded score rises most is taken.

The first deviating token with a contrast from the model's own top k: contrastive attribution at the point of
divergence, arXiv 2604.17761.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from lrp_lens.failures.decision.checker import Checker, Verdict, asked
from lrp_lens.failures.decision.spoken import Spoken
from lrp_lens.failures.decision.trying import Candidate, Limits, Pivot, Trying


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
    order = ordered(spoken, wanted or (), lost_at, limits.min_gap, checker.at_end)
    trying = Trying(spoken, checker, lost_at, limits, len(order))
    search, queue, found = Search(candidates=len(order)), order, dict[Candidate, Pivot]()
    while queue or trying.going:
        chosen = affordable(queue, spoken.limit, trying.free, limits.budget - trying.promised)
        if not chosen and not trying.going:
            search.reason = f"the budget of {limits.budget} tokens was spent"
            break
        queue = queue[len(chosen) :]
        trying.begin(chosen)
        found |= (ended := trying.step())
        if trying.failure:
            search.reason = trying.failure
            break
        accepted = [one for one, pivot in ended.items() if pivot.score >= 1]
        if accepted:  # only a usable one can be better
            queue = [one for one in queue if one.gap > limits.min_gap]
        if usable := [one for one in accepted if one.gap > limits.min_gap]:
            queue = []
            trying.let_go_behind(usable)
    search.tried, search.forwarded = len(found), trying.forwarded
    search.pivots = best_first([found[one] for one in order if one in found], failed.score, limits.min_gap)
    if not search.pivots and not search.reason:
        search.reason = f"the checker accepts none of {search.tried} rollouts"
    return search


def best_first(found: Sequence[Pivot], failed: float, min_gap: float) -> list[Pivot]:
    """Steps 4 and 5: the accepted pivots, best first, or the one whose score rises most, if any rises."""
    if accepted := [one for one in found if one.score >= 1]:
        return sorted(accepted, key=lambda one: (not one.carries, one.gap <= min_gap, one.gap))
    risen = [one for one in found if one.score > failed]
    return sorted(risen, key=lambda one: (-one.score, not one.carries, one.gap <= min_gap))[:1]


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


def affordable(queue: Sequence[Candidate], limit: int, free: int, budget: int) -> list[Candidate]:
    """The next candidates, as many as there is room for and the budget is enough for, whatever they turn into."""
    chosen: list[Candidate] = []
    for one in queue[:free]:
        budget -= limit - one.at - 1  # every token behind it but the last is run, and the token itself
        if budget < 0:
            break
        chosen.append(one)
    return chosen
