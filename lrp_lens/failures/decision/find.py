"""find_decision: for a failure, the token that went wrong and what it is compared with.  In this order:

1. Multiple choice: the chosen option against the right one, from the log itself.
2. A checker is known: the pivot (`pivot`), another token whose rollout the checker accepts.
3. An accepted answer is known: where the completion first parts from it.
4. A second model: what it says where it would first say something else; with a checker, what of it is accepted.
5. Otherwise the runner-up, and the result says so.

A case that has its target and contrast already keeps them.  What each way cost is recorded in tokens that were run, and
a decision whose logit gap is not above `min_gap` keeps that as its reason (paper: Δℓ > 1).

Contrastive attribution at the point of divergence: arXiv 2604.17761.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lrp_lens.cases import Case
from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError
from lrp_lens.failures.decision.checker import Checker, Verdict, as_checker, judge
from lrp_lens.failures.decision.found import Attempt, Decision, Way, judged
from lrp_lens.failures.decision.pivot import Search, find_pivots
from lrp_lens.failures.decision.spoken import Spoken
from lrp_lens.failures.decision.trying import Candidate, Limits, Pivot, Trying
from lrp_lens.failures.decision.ways import Found, by_answer, by_choice, by_model, by_runner_up, by_tokens
from lrp_lens.hosts.forward import require_eval, vocabulary_size


def find_decision(
    model: Any,
    case: Case,
    checker: Any = None,
    contrast_model: Any = None,
    *,
    top_k: int = 10,
    max_new_tokens: int = 96,
    budget: int = 3_072,
    min_gap: float = 1.0,
    batch: int = 32,
    checker_seconds: float = 10.0,
) -> Decision:
    """Find the decision that a failure is about.

    Args:
        model: a HookedTransformer or TransformerBridge in eval mode.
        case: what is known: prompt, completion, accepted answers, choices, position.
        checker: a `Checker`, or a function of the completion that returns a bool or a score from 0 to 1.
        contrast_model: a second model, which knows better; on the same completion's tokens.
        top_k: how many of the model's largest logits are candidates at each position, the one that was said included.
        max_new_tokens: how long the completion is, and each rollout, prompt apart.
        budget: tokens that the search for the pivot may run, never more.
        min_gap: the logit gap above which a decision is usable; -inf for any.
        batch: how many rollouts run together.
        checker_seconds: time limit of one call of the checker.

    Returns:
        The decision; `decision.case` is what `explain` takes, if `decision.way` is not None.

    Raises:
        InputError: an option out of range, train mode, a prompt that leaves no room, logits that are not finite.  What
            a checker raises is an entry in `decision.attempts`.

    Example:
        >>> from lrp_lens import Case, demo_cases, load_demo_model
        >>> wrong = demo_cases()[0]
        >>> case = Case(prompt=wrong.prompt, choices=(wrong.target, wrong.contrast), chosen=0, right=1)
        >>> decision = find_decision(load_demo_model(device="cpu"), case)
        >>> decision.way, decision.gap > 1, decision.usable
        ('choice', True, True)
    """
    _require(model, case, top_k, max_new_tokens, budget, batch, checker_seconds)
    limits = Limits(budget, min_gap, batch, checker_seconds)
    known = None if checker is None else as_checker(checker)
    made = Decision(case=case, min_gap=min_gap)
    if case.target and case.contrast:
        return judged(_after(made, "given", by_tokens(model, case)))
    if case.choices:
        if case.chosen is not None and case.chosen == case.right:
            return replace(made, excluded="the model chose the right option", right=True)
        made = _after(made, "choice", by_choice(model, case))
    if made.way is None:
        made = _from_completion(
            made, Spoken(model, case, top_k, max_new_tokens), known, contrast_model, limits
        )
    return judged(made)


def _from_completion(
    made: Decision, spoken: Spoken, checker: Checker | None, contrast_model: Any, limits: Limits
) -> Decision:
    """Ways 2 to 5, in order, until one of them finds a decision."""
    completion = spoken.told(spoken.ids)
    done = Attempt("completion", spoken.forwarded, True, f"{len(spoken.ids)} tokens")
    made = replace(made, completion=completion, attempts=(*made.attempts, done), notes=spoken.notes)
    lost_at = None
    if checker is not None:
        verdict = judge(checker, completion, limits.seconds)
        if verdict.accepted:
            return replace(made, excluded="the checker accepts the completion: no failure", right=True)
        failure = verdict.failure
        if not failure:
            lost_at, failure = spoken.lost_at(checker, limits.seconds)
        search = Search(reason=failure) if failure else find_pivots(spoken, checker, verdict, lost_at, limits)
        made = _after_search(made, spoken, verdict, search, limits)
        checker = None if failure else checker
    if made.way is None and spoken.case.accepted:
        if completion.strip() in {one.strip() for one in spoken.case.accepted}:
            return replace(made, excluded="the completion is an accepted answer: no failure", right=True)
        made = _after(made, "answer", by_answer(spoken, spoken.case.accepted))
    if made.way is None and contrast_model is not None:
        made = _with_model(made, spoken, checker, contrast_model, limits)
    if made.way is None:
        made = _after(made, "runner-up", by_runner_up(spoken, lost_at))
    return made


def _after(made: Decision, way: Way, found: Found) -> Decision:
    """The decision after one way was gone."""
    tried_now = Attempt(way, found.forwarded, found.case is not None, found.reason)
    made = replace(made, attempts=(*made.attempts, tried_now))
    if found.case is None:
        return made
    notes = (*made.notes, *[found.reason] * bool(found.reason))
    case = replace(found.case, logit_gap=found.gap)
    return replace(made, case=case, way=way, gap=found.gap, sequence_gap=found.sequence_gap, notes=notes)


def _after_search(
    made: Decision, spoken: Spoken, failed: Verdict, search: Search, limits: Limits
) -> Decision:
    """The decision after the search for the pivot."""
    best = search.pivots[0] if search.pivots else None
    told = [search.reason] * bool(search.reason)
    told += [f"{search.tried} of {search.candidates} candidates rolled out"] * bool(search.candidates)
    attempt = Attempt("pivot", search.forwarded, best is not None, "; ".join(told))
    made = replace(made, attempts=(*made.attempts, attempt))
    if best is None:
        return made
    notes = list(made.notes)
    if best.score < 1:
        notes.append(
            f"no rollout was accepted; the checker's score rises from {failed.score:.2f} to {best.score:.2f}"
        )
    elif not best.carries:
        notes.append("the pivot is a lucky one: the token does not carry the answer itself")
    return _at_pivot(made, "pivot", spoken, search.pivots, notes)


def _at_pivot(
    made: Decision, way: Way, spoken: Spoken, pivots: Sequence[Pivot], notes: Sequence[str]
) -> Decision:
    """The decision at the best of some pivots."""
    best = pivots[0]
    return replace(
        made,
        case=spoken.decided(best.position, best.token, best.gap),
        way=way,
        gap=best.gap,
        accepted=best.completion if best.score >= 1 else "",
        pivots=tuple(pivots),
        notes=tuple(notes),
    )


def _with_model(
    made: Decision, spoken: Spoken, checker: Checker | None, other: Any, limits: Limits
) -> Decision:
    """4. What a second model would say; with a checker the first of it that is accepted, if any is."""
    found, forwarded, reason = by_model(spoken, other, len(spoken.trunk.said.top_ids[0]))
    pivots = list[Pivot]()
    if found and checker is not None:
        chosen = [Candidate(at, token, gap, True) for at, token, gap in found][: limits.batch]
        trying = Trying(spoken, checker, None, limits, len(chosen))
        pivots = [one for one in trying.to_the_end(chosen).values() if one.score >= 1]
        forwarded += trying.forwarded
        reason = trying.failure or (
            "" if pivots else "the checker accepts no rollout of it: its first choice is taken"
        )
    if pivots:
        attempt = Attempt("contrast model", forwarded, True)
        made = replace(made, attempts=(*made.attempts, attempt))
        return _at_pivot(made, "contrast model", spoken, pivots, made.notes)
    if not found:
        return _after(made, "contrast model", Found(forwarded, reason=reason))
    at, token, gap = found[0]
    case = spoken.decided(at, token, gap)
    return _after(made, "contrast model", Found(forwarded, case, gap, reason=reason))


def _require(
    model: Any, case: Any, top_k: int, max_new_tokens: int, budget: int, batch: int, seconds: float
) -> None:
    """Raise InputError for what cannot be searched."""
    if not isinstance(case, Case):
        raise InputError(
            f"A decision is found for a Case; received {type(case).__name__}. Write Case(prompt=...) around a prompt."
        )
    require_eval(model)
    count = vocabulary_size(model)
    for name, value, least in (
        ("top_k", top_k, 2), ("max_new_tokens", max_new_tokens, 1), ("budget", budget, 0), ("batch", batch, 1),
    ):  # fmt: skip
        whole = is_whole(value)
        if not whole or value < least or (name == "top_k" and value > count):
            upto = f" to {count}, the vocabulary" if name == "top_k" else ""
            raise InputError(f"{name} is a whole number from {least}{upto}; received {value!r}.")
    if not seconds > 0:
        raise InputError(f"checker_seconds is a time above 0; received {seconds!r}.")
