"""The ways to a decision that need no search: given, multiple choice, accepted answer, second model, runner-up.

Each returns what it found or why it found nothing, with the tokens that it ran.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lrp_lens.cases import Case
from lrp_lens.errors import LrpLensError
from lrp_lens.failures.decided import decision_of
from lrp_lens.failures.decision.spoken import Spoken
from lrp_lens.hosts.generation import last_logits, teach
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.hosts.vocabulary import span_ids, string_ids, token_strings
from lrp_lens.metrics import SequenceLogitDiff
from lrp_lens.run.pairs import plain_run
from lrp_lens.run.relevance import ask


@dataclass(frozen=True)
class Found:
    """What one way found."""

    forwarded: int = 0
    """Tokens that were run."""
    case: Case | None = None
    """The decided case; None if there is no decision."""
    gap: float = math.nan
    """Logit of the target minus logit of the contrast."""
    sequence_gap: float | None = None
    """The difference of the answers' log-probabilities, where they have several tokens."""
    reason: str = ""
    """Why nothing was found, or what has to be known of it."""


def by_tokens(model: Any, case: Case) -> Found:
    """The gap of a case whose target and contrast are known."""
    decision = decision_of(model, case)
    if decision.target is None or decision.contrast is None:
        return Found(reason="the case does not say both target and contrast")
    if decision.target == decision.contrast:
        return Found(reason="target and contrast are the same token")
    logits = last_logits(model, decision.batch)
    gap = float(logits[decision.target] - logits[decision.contrast])
    return Found(decision.batch.lengths[0], case, gap, reason="; ".join(decision.notes))


def by_choice(model: Any, case: Case) -> Found:
    """1. The chosen option against the right one."""
    if case.chosen is None or case.right is None:
        return Found(reason="the log does not say which option was chosen and which is right")
    if case.chosen == case.right:
        return Found(reason="the model chose the right option")
    texts = case.choices[case.chosen], case.choices[case.right]
    asked = replace(case, target=texts[0], contrast=texts[1], completion="", position=None)
    try:
        found = by_tokens(model, asked)
    except LrpLensError as error:  # one option begins the other, or is no text of the vocabulary
        return Found(reason=str(error))
    if found.case is None or max(len(string_ids(model, one)) for one in texts) == 1:
        return found
    batch, bound = ask(model, tokenize(model, case.prompt), SequenceLogitDiff(*texts))
    logits, _ = plain_run(model, batch, (), bound)
    value = float(bound.read(logits))
    return Found(found.forwarded + sum(batch.lengths), asked, found.gap, value, found.reason)


def by_answer(spoken: Spoken, accepted: Sequence[str]) -> Found:
    """3. The first token at which the completion and an accepted answer part; of several, the last such place."""
    best: tuple[int, int, float] | None = None
    begun, forwarded = spoken.told(spoken.ids[:1])[:1].isspace(), 0
    for answer in accepted:
        for text in dict.fromkeys((answer, f" {answer.lstrip()}" if begun else answer)):
            try:
                ids = list(span_ids(spoken.model, text))
            except LrpLensError:
                continue
            at = next((at for at, pair in enumerate(zip(ids, spoken.ids)) if pair[0] != pair[1]), len(ids))  # noqa: B905
            if at < len(ids):
                other = ids[at] if at < len(spoken.ids) else None
            else:  # the answer was said, and more
                other = min(spoken.ends, default=None) if at < len(spoken.ids) else None
            if other is None or not spoken.writable(other) or other == spoken.ids[at]:
                continue
            gap = spoken.gap(at, other)
            forwarded += 1
            if best is None or (-at, gap) < (-best[0], best[2]):
                best = at, other, gap
    if best is None:
        return Found(forwarded, reason="no accepted answer parts from the completion at a token")
    return Found(forwarded, spoken.decided(*best), best[2])


def by_model(spoken: Spoken, other: Any, top_k: int) -> tuple[list[tuple[int, int, float]], int, str]:
    """4. A second model's choices where it first would say something else: (position, token, gap), its best first.

    Returns:
        The candidates, the tokens that were run, and why there is none.
    """
    said = [one for one in spoken.ids if one not in spoken.ends]
    ids = string_ids(other, spoken.told(said)) if said else []
    if not said or token_strings(other, ids) != token_strings(spoken.model, said):
        return [], 0, "the second model cuts the completion into other tokens"
    trunk = teach(other, tokenize(other, spoken.case.prompt), ids, top_k)
    for at, logits in enumerate(trunk.said.top_logits):
        if float(logits.max()) <= float(logits[0]):
            continue
        order = logits.argsort(descending=True).tolist()
        better = [int(trunk.said.top_ids[at][one]) for one in order if one]
        texts = token_strings(other, better)
        own = [string_ids(spoken.model, one) for one in texts]
        known = [
            one[0] for one in own if len(one) == 1 and one[0] != spoken.ids[at] and spoken.writable(one[0])
        ]
        found = [(at, token, spoken.gap(at, token)) for token in dict.fromkeys(known)]
        return (
            found,
            trunk.past.forwarded + len(found),
            "" if found else "its choices are no tokens of the model",
        )
    return [], trunk.past.forwarded, "the second model says the same"


def by_runner_up(spoken: Spoken, lost_at: int | None) -> Found:
    """5. The model's next choice: at the position that is known, at the losing token, or at the first one."""
    known = spoken.known_position()
    at = next(one for one in (known, lost_at, 0) if one is not None)
    said = spoken.trunk.said
    for token, logit in list(zip(said.top_ids[at].tolist(), said.top_logits[at].tolist(), strict=True))[1:]:
        if not spoken.special(token) and spoken.writable(token):
            gap = float(said.top_logits[at][0]) - logit
            where = (
                "the case's position"
                if known is not None
                else "the losing token"
                if lost_at is not None
                else ""
            )
            told = f"the contrast is only the runner-up, at {where or 'the first token'}"
            return Found(0, spoken.decided(at, token, gap), gap, reason=told)
    return Found(reason="no other token of the model's first choices can be written as text")
