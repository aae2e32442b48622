"""find_decision: each way, and the search for the pivot, equal to a loop that keeps no keys and runs no batch."""

import functools
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch

from lrp_lens import Case, InputError, LrpLensError, explain, find_decision, tokenize
from lrp_lens.failures.decision import Checker, Contains, Exact, Verdict, judge
from lrp_lens.failures.decision.checker import as_checker
from lrp_lens.hosts.branches import Branches
from lrp_lens.hosts.generation import end_ids
from lrp_lens.hosts.loading import load_model
from lrp_lens.hosts.vocabulary import token_id
from tests import zoo

HOSTS = ["TransformerBridge", *(["HookedTransformer"] if zoo.HAS_HOOKED_TRANSFORMER else [])]
PROMPT = "mary gave a ball"
LIMIT, TOP = 6, 4


@pytest.fixture(scope="module", params=HOSTS)
def model(request: pytest.FixtureRequest, word_directory: Path) -> Any:
    return load_model(word_directory, host=request.param, device="cpu", dtype=torch.float64)


@pytest.fixture(scope="module")
def one_model(word_directory: Path) -> Any:
    """The quicker host, for what does not depend on it."""
    return load_model(word_directory, host=HOSTS[-1], device="cpu", dtype=torch.float64)


@dataclass(frozen=True)
class Words(Checker):
    """Never says one word, and one that is wanted; graded."""

    forbidden: str
    needed: str
    at_end: bool = False  # type: ignore[misc]

    def score(self, completion: str) -> float:
        words = completion.split()
        return 0.5 * (self.forbidden not in words) + 0.5 * (self.needed in words)

    def already(self, prefix: str) -> bool | None:
        return False if self.forbidden in prefix.split() else None

    def spans(self, completion: str, failed: str) -> Any:
        start = completion.find(self.needed)
        return ((start, start + len(self.needed)),) if self.needed not in failed.split() else None

    def wanted(self, failed: str) -> tuple[str, ...]:
        return () if self.needed in failed.split() else (self.needed,)


def length_of(divisor: int, rest: int) -> Callable[[str], bool]:
    return lambda text: len(text) % divisor == rest


def share_of_letters(text: str) -> float:
    """Never 1: no completion is right, some are better."""
    return len(set(text)) / 100


# ---------------------------------------------------------------------------------- the literal search
def literal(model: Any, checker: Any, *, budget: int, min_gap: float, batch: int) -> dict[str, Any]:
    """The search as its description says it, from whole forward passes over one row."""
    known, prompt = as_checker(checker), tokenize(model, PROMPT).ids[0].tolist()
    special = set(model.tokenizer.all_special_ids)
    ends = end_ids(model)

    @functools.cache
    def pass_over(ids: tuple[int, ...]) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([[*prompt, *ids]]))[0, -1]

    def logits(ids: Sequence[int]) -> torch.Tensor:
        return pass_over(tuple(ids))

    def text(ids: Sequence[int]) -> str:
        return model.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def further(ids: Sequence[int], stop: Callable[[Sequence[int]], bool]) -> list[int]:
        said = list(ids)
        while len(said) < LIMIT and not (said and (said[-1] in ends or stop(said))):
            said.append(int(logits(said).argmax()))
        return said

    said = further([], lambda ids: False)
    wrong, lost = text(said), None
    for at in range(len(said)):
        if lost is None and known.already(text(said[: at + 1])) is False:
            lost = at
    found = []
    for at in range(len(said) if lost is None else lost + 1):
        row = logits(said[:at])
        for token in row.argsort(descending=True)[1:TOP].tolist():
            if token in ends or token not in special:
                piece = model.tokenizer.decode([token])
                likely = at == lost or any(
                    one.startswith(piece) or piece.startswith(one) for one in known.wanted(wrong)
                )
                found.append(
                    (not likely, -at if known.at_end else 0, float(row[said[at]] - row[token]), at, token)
                )
    order = []
    for tier in (False, True):
        own = sorted(one for one in found if one[0] is tier)
        turns = zip_longest(
            [one for one in own if one[2] > min_gap], [one for one in own if one[2] <= min_gap]
        )
        order += [one for pair in turns for one in pair if one]
    rank = {one[3:]: place for place, one in enumerate(order)}
    start = float(known.score(wrong))
    # one rollout at a time, each alone, and when: a row a token, and a token a step
    pivots, risen, going, forwarded, began = [], [], [], 0, 0
    while order or going:
        longest = sum(LIMIT - len(ids) + left for *_, ids, left in going)
        while order and len(going) < batch:
            _, _, gap, at, token = order[0]
            longest += LIMIT - at - 1
            if forwarded + longest > budget:
                break
            order = order[1:]
            ids = further([*said[:at], token], lambda ids: known.already(text(ids)) is not None)
            going.append([began, gap, at, token, ids, len(ids) - at - 1])
        began += 1
        if not going:
            break
        if all(one[-1] for one in going):
            forwarded += len(going)
            for one in going:
                one[-1] -= 1
        ended, going = [one for one in going if not one[-1]], [one for one in going if one[-1]]
        for when, gap, at, token, ids, _ in ended:
            score = float(known.score(text(ids)))
            (pivots if score >= 1 else risen).append((gap, at, token, score, text(ids), when))
        if pivots:
            order = [one for one in order if one[2] > min_gap]
        if usable := [one for one in pivots if one[0] > min_gap]:
            order = []
            going = [one for one in going if one[0] <= min(other[-1] for other in usable)]
    tried = len(pivots) + len(risen)
    pivots, risen = (
        [one[:-1] for one in sorted(own, key=lambda one: rank[one[1:3]])] for own in (pivots, risen)
    )
    if not pivots:
        better = sorted(
            (one for one in risen if one[3] > start),
            key=lambda one: (-one[3], one[1] != lost, one[0] <= min_gap),
        )
        pivots = better[:1]
    return {"said": wrong, "tried": tried, "forwarded": forwarded, "pivots": pivots}


CHECKERS = {
    "any function": length_of(5, 3),
    "another": length_of(7, 1),
    "graded, never right": share_of_letters,
    "a word": Words("never", "mary"),
    "from the end": Words("never", "went", at_end=True),
    "lost": Words("PLACEHOLDER", "mary"),
}


SETTINGS: list[dict[str, Any]] = [
    dict(batch=1, budget=10**6, min_gap=1.0),
    dict(batch=5, budget=10**6, min_gap=-math.inf),
    dict(batch=16, budget=50, min_gap=0.4),
    dict(batch=3, budget=40, min_gap=math.inf),
]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(
            name, place, marks=[pytest.mark.full] * ((at + place) % 3 != 0 and (name, place) != ("lost", 3))
        )
        for at, name in enumerate(CHECKERS)
        for place in range(4)
    ],
)
def test_it_is_the_literal_search(model: Any, name: str, settings: int) -> None:
    options, min_gap = SETTINGS[settings], SETTINGS[settings]["min_gap"]
    checker = CHECKERS[name]
    if name == "lost":  # the fifth word that it says
        said = literal(model, lambda text: False, budget=0, min_gap=1.0, batch=1)["said"].split()
        checker = Words(next(one for one in said[3:] if one not in said[:3]), "mary")
    wanted = literal(model, checker, **options)
    decision = find_decision(model, Case(prompt=PROMPT), checker, top_k=TOP, max_new_tokens=LIMIT, **options)
    assert decision.completion == wanted["said"]
    assert judge(as_checker(checker), wanted["said"], 5.0).score < 1, "no failure: choose another checker"
    attempt = next(one for one in decision.attempts if one.way == "pivot")
    assert attempt.forwarded == wanted["forwarded"] <= options["budget"]
    assert f"{wanted['tried']} of" in attempt.reason
    found = {(one.position, one.token, one.score, one.completion) for one in decision.pivots}
    assert found == {one[1:] for one in wanted["pivots"]}
    for one in decision.pivots:
        gap = next(other[0] for other in wanted["pivots"] if other[1:3] == (one.position, one.token))
        assert one.gap == pytest.approx(gap, abs=3e-5)
    if decision.pivots:
        assert decision.way == "pivot" and decision.position == decision.pivots[0].position
        assert token_id(model, decision.contrast) == decision.pivots[0].token
        keys = [(not one.carries, one.gap <= min_gap, one.gap) for one in decision.pivots]
        assert keys == sorted(keys)


def test_the_best_rise_is_taken_where_none_is_accepted(model: Any) -> None:
    decision = find_decision(model, Case(prompt=PROMPT), share_of_letters, top_k=TOP, max_new_tokens=LIMIT)
    assert decision.way == "pivot" and not decision.accepted and len(decision.pivots) == 1
    risen = decision.pivots[0].score
    assert share_of_letters(decision.completion) < risen < 1
    assert f"rises from {share_of_letters(decision.completion):.2f} to {risen:.2f}" in decision.notes[-1]


def test_a_search_that_saw_other_keys_would_be_noticed(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: rollouts that leave one position too early find other completions."""
    join = Branches.join
    monkeypatch.setattr(
        Branches,
        "join",
        # not of the one token that is said again to see whether this way is the model's
        lambda self, starts: join(self, [one - (self.room > 1) for one in starts]),
    )
    options: dict[str, Any] = dict(budget=10**6, min_gap=-math.inf, batch=5)
    differ = 0
    for checker in (CHECKERS["any function"], CHECKERS["another"]):
        wanted = literal(model, checker, **options)
        decision = find_decision(
            model, Case(prompt=PROMPT), checker, top_k=TOP, max_new_tokens=LIMIT, **options
        )
        differ += {one.completion for one in decision.pivots} != {one[4] for one in wanted["pivots"]}
    assert differ


def test_what_carries_the_answer_comes_before_what_is_lucky(model: Any) -> None:
    """A function says nothing of where: the verdicts have to differ as soon as the word is said."""
    said = find_decision(
        model, Case(prompt=PROMPT), lambda text: False, max_new_tokens=LIMIT
    ).completion.split()
    second = said[1]

    def other_second(text: str) -> bool:
        return len(text.split()) > 1 and text.split()[1] != second

    decision = find_decision(
        model, Case(prompt=PROMPT), other_second, max_new_tokens=LIMIT, min_gap=-math.inf, batch=200, top_k=8
    )
    at = {one.position: one.carries for one in decision.pivots}
    assert at[1] and not at.get(0, False) and decision.position == 1
    lucky = [one for one in decision.pivots if not one.carries]
    assert lucky and all(one.position == 0 for one in lucky), "no lucky pivot: choose another prompt"
    # also where the lucky one alone has a gap that is large enough: the case is excluded, and says so
    least = min(one.gap for one in decision.pivots if one.carries)
    bar = max(one.gap for one in lucky) - 1e-3
    assert bar > least, "no lucky pivot has the larger gap: choose another prompt"
    narrow = find_decision(
        model, Case(prompt=PROMPT), other_second, max_new_tokens=LIMIT, min_gap=bar, batch=200, top_k=8
    )
    assert narrow.pivots[0].carries and narrow.position == 1
    assert narrow.usable == (narrow.gap > bar) and any(one.gap > bar for one in narrow.pivots)


# ---------------------------------------------------------------------------------- the ways
def gap_of(model: Any, decision: Any) -> None:
    """`explain` takes the case as it is and measures the same gap."""
    explanation = explain(model, decision.case, seeds=1)
    assert explanation.metric_value == pytest.approx(decision.gap, abs=3e-5)
    assert explanation.contrast.text == decision.contrast


@pytest.mark.parametrize("name", ["any function", "a word"])
def test_explain_takes_the_case(model: Any, name: str) -> None:
    decision = find_decision(
        model, Case(prompt=PROMPT, id="x"), CHECKERS[name], max_new_tokens=LIMIT, top_k=TOP
    )
    assert decision.way == "pivot" and decision.case.id == "x" and decision.case.decided
    assert decision.checked == bool(decision.accepted)
    gap_of(model, decision)
    assert decision.case.logit_gap == decision.gap
    kept = json.loads(json.dumps(decision.to_dict()))
    assert Case.from_dict(kept["case"]) == decision.case and kept["way"] == "pivot"
    assert f"gap {decision.gap:.2f}" in repr(decision)


def test_choices_are_compared_as_the_log_says(model: Any) -> None:
    case = Case(prompt=PROMPT, choices=("mary", "john", "the store"), chosen=0, right=1)
    decision = find_decision(model, case)
    assert decision.way == "choice" and (decision.target, decision.contrast) == ("mary", "john")
    assert decision.sequence_gap is None and decision.position is None and decision.completion == ""
    assert decision.forwarded == len(tokenize(model, PROMPT).ids[0])
    gap_of(model, decision)
    usable = find_decision(model, case, min_gap=-math.inf)
    assert usable.usable and decision.usable == (decision.gap > 1)
    same = find_decision(model, replace(case, chosen=1))
    assert same.way is None and same.excluded == "the model chose the right option"


def test_options_of_several_tokens_are_sequences(model: Any) -> None:
    case = Case(prompt=PROMPT, choices=("mary gave", "mary went to"), chosen=0, right=1)
    decision = find_decision(model, case, min_gap=-math.inf)
    ids = tokenize(model, PROMPT).ids[0].tolist()
    total = 0.0
    for sign, words in ((1, ("mary", "gave")), (-1, ("mary", "went", "to"))):
        row = [token_id(model, word) for word in words]
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *row]]))[0].log_softmax(-1)
        total += sign * sum(float(logits[len(ids) - 1 + at, token]) for at, token in enumerate(row))
    assert decision.sequence_gap == pytest.approx(total, abs=3e-5)
    assert decision.usable == (total > 0) and ("does not prefer" in decision.excluded) == (total <= 0)
    swapped = find_decision(model, replace(case, chosen=1, right=0), min_gap=-math.inf)
    assert swapped.sequence_gap == pytest.approx(-total, abs=3e-5) and swapped.usable != decision.usable
    begins = find_decision(model, replace(case, choices=("mary", "mary went")), max_new_tokens=LIMIT)
    assert begins.attempts[0].way == "choice" and "one begins the other" in begins.attempts[0].reason
    assert begins.way == "runner-up"


def test_an_accepted_answer_is_compared_where_it_parts(model: Any) -> None:
    said = find_decision(model, Case(prompt=PROMPT), max_new_tokens=LIMIT).completion
    words = said.split()
    other = next(word for word in ("mary", "john", "key") if word != words[2])
    case = Case(prompt=PROMPT, accepted=("zebra", f"garden {other}", f"{words[0]} {words[1]} {other} ball"))
    decision = find_decision(model, case, max_new_tokens=LIMIT)
    assert decision.way == "answer" and decision.position == 2
    assert (decision.target, decision.contrast) == (words[2], other)
    assert decision.gap > 0 and decision.accepted == "" and decision.checked
    gap_of(model, decision)
    assert find_decision(model, replace(case, accepted=(said,)), max_new_tokens=LIMIT).excluded.startswith(
        "the completion is an accepted answer"
    )
    stops = find_decision(model, replace(case, accepted=(" ".join(words[:3]),)), max_new_tokens=LIMIT)
    assert stops.contrast == "<eos>" and stops.position == 3  # it should have ended there
    gap_of(model, stops)


@pytest.fixture(scope="module")
def other_model(model: Any, word_directory: Path) -> Any:
    """The same model with another head: it would say something else at the third token at the latest."""
    host = "TransformerBridge" if "Bridge" in type(model).__name__ else "HookedTransformer"
    other = load_model(word_directory, host=host, device="cpu", dtype=torch.float64)
    weight = other.unembed.W_U if host == "HookedTransformer" else other.original_model.lm_head.weight
    with torch.no_grad():
        weight.copy_(weight.roll(1, dims=1 if weight.shape[0] != other.cfg.d_vocab else 0))
    return other


def test_a_second_model_says_what_it_would_have_said(model: Any, other_model: Any) -> None:
    case = Case(prompt=PROMPT)
    ids = tokenize(model, PROMPT).ids[0].tolist()
    decision = find_decision(model, case, contrast_model=other_model, max_new_tokens=LIMIT)
    assert decision.way == "contrast model"
    said = [token_id(model, word) for word in decision.completion.split()]
    with torch.no_grad():
        theirs = other_model(torch.tensor([[*ids, *said]]))[0, len(ids) - 1 : -1].argmax(-1).tolist()
    at = next(at for at, pair in enumerate(zip(said, theirs, strict=True)) if pair[0] != pair[1])
    assert decision.position == at and token_id(model, decision.contrast) == theirs[at]
    gap_of(model, decision)
    same = find_decision(model, case, contrast_model=model, max_new_tokens=LIMIT)
    assert same.way == "runner-up" and same.attempts[1].reason == "the second model says the same"
    # a checker chooses among its first choices, of which none is accepted by the search within a budget of 0
    accepted = find_decision(
        model, case, lambda text: text != decision.completion, other_model, max_new_tokens=LIMIT, budget=0
    )
    assert accepted.way == "contrast model" and accepted.accepted and accepted.position == at
    assert "the budget of 0 tokens was spent" in next(
        one.reason for one in accepted.attempts if one.way == "pivot"
    )
    refused = find_decision(model, case, lambda text: False, other_model, max_new_tokens=LIMIT, budget=0)
    assert refused.way == "contrast model" and "first choice is taken" in refused.notes[-1]


def test_the_runner_up_says_that_it_is_one(model: Any) -> None:
    case = Case(prompt=PROMPT)
    decision = find_decision(model, case, max_new_tokens=LIMIT)
    assert (
        decision.way == "runner-up" and decision.position == 0 and "only the runner-up" in decision.notes[-1]
    )
    assert not decision.checked
    gap_of(model, decision)
    ids = tokenize(model, PROMPT).ids
    with torch.no_grad():
        row = model(ids)[0, -1]
    best = [
        one for one in row.argsort(descending=True).tolist() if one not in model.tokenizer.all_special_ids
    ]
    assert [token_id(model, decision.target), token_id(model, decision.contrast)] == best[:2]
    assert decision.gap == pytest.approx(float(row[best[0]] - row[best[1]]), abs=3e-5)
    assert [one.way for one in decision.attempts] == ["completion", "runner-up"]
    assert decision.forwarded == len(ids[0]) + len(decision.completion.split()) - 1
    placed = find_decision(model, Case(prompt=PROMPT, completion=decision.completion, position=3))
    assert (
        placed.way == "runner-up"
        and placed.position == 3
        and placed.attempts[0].forwarded < decision.forwarded + 1
    )


def test_what_is_known_is_kept(model: Any) -> None:
    case = Case(
        prompt=PROMPT, completion="mary went back to john", position="to", target="to", contrast="john"
    )
    decision = find_decision(model, case, min_gap=-math.inf)
    assert (
        decision.way == "given" and decision.usable and decision.case == replace(case, logit_gap=decision.gap)
    )
    gap_of(model, decision)


def test_a_given_completion_takes_one_pass(model: Any) -> None:
    """The log's completion is searched, also where the model would say something else."""
    case = Case(prompt=PROMPT, completion="mary gave john the ball")
    decision = find_decision(model, case, Contains("key"), top_k=8, max_new_tokens=LIMIT, min_gap=-math.inf)
    assert decision.completion == case.completion and decision.case.completion == case.completion
    assert decision.attempts[0].forwarded == len(tokenize(model, PROMPT).ids[0]) + 4
    assert "not this model's greedy one" in decision.notes[0]
    assert decision.way == "pivot" and decision.accepted.split().count("key")
    gap_of(model, decision)


# ---------------------------------------------------------------------------------- what goes wrong
def test_a_completion_that_is_right_is_no_failure(one_model: Any) -> None:
    decision = find_decision(one_model, Case(prompt=PROMPT), lambda text: True, max_new_tokens=LIMIT)
    assert decision.way is None and decision.excluded == "the checker accepts the completion: no failure"
    assert not decision.usable and not decision.case.decided and "none" in repr(decision)


def raises(text: str) -> bool:
    raise KeyError("no such column")


def hangs(text: str) -> bool:
    while True:
        pass


def hangs_in_c(text: str) -> bool:
    import re

    return bool(re.match(r"(a+)+$", "a" * 60 + "!"))


@pytest.mark.parametrize(
    ("checker", "words"),
    [
        (raises, "the checker raised KeyError: 'no such column'"),
        (hangs, "the checker took more than 0.2 s"),
        (hangs_in_c, "the checker took more than 0.2 s"),
        (lambda text: "yes", "the checker returned 'yes', neither a bool nor"),
        (lambda text: math.nan, "the checker returned nan"),
        (lambda text: 3, "the checker returned 3"),
    ],
)
def test_a_checker_that_fails_is_an_entry(one_model: Any, checker: Any, words: str) -> None:
    case = Case(prompt=PROMPT, accepted=("mary gave",))
    decision = find_decision(one_model, case, checker, max_new_tokens=LIMIT, checker_seconds=0.2)
    (entry,) = (one for one in decision.attempts if one.way == "pivot")
    assert words in entry.reason and not entry.found
    assert decision.way == "answer"  # the next way is gone


def test_a_checker_that_fails_later_keeps_what_was_found(one_model: Any) -> None:
    asked = []

    def later(text: str) -> bool:
        asked.append(text)
        if len(asked) > 6:
            raise ValueError("enough")
        return False

    decision = find_decision(one_model, Case(prompt=PROMPT), later, max_new_tokens=LIMIT, batch=3)
    (entry,) = (one for one in decision.attempts if one.way == "pivot")
    assert "the checker raised ValueError: enough" in entry.reason and decision.way == "runner-up"


def test_time_limits_outside_the_main_thread() -> None:
    verdicts: list[Verdict] = []
    thread = threading.Thread(target=lambda: verdicts.append(judge(as_checker(hangs), "", 0.2)), daemon=True)
    start = time.monotonic()
    thread.start()
    thread.join(30)
    assert [one.failure for one in verdicts] == ["the checker took more than 0.2 s"]
    assert time.monotonic() - start < 20
    assert judge(as_checker(lambda text: True), "", 0.2).accepted  # nothing rings later
    time.sleep(0.3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(case=PROMPT), "found for a Case; received str"),
        (dict(top_k=1), "top_k is a whole number from 2 to"),
        (dict(top_k=10**6), "the vocabulary; received 1000000"),
        (dict(max_new_tokens=0), "max_new_tokens is a whole number from 1"),
        (dict(budget=-1), "budget is a whole number from 0"),
        (dict(batch=2.0), "batch is a whole number from 1; received 2.0"),
        (dict(checker_seconds=0), "a time above 0"),
        (dict(checker="yes"), "a Checker or a function"),
        (dict(checker=Exact), "a Checker or a function"),
        (dict(max_new_tokens=100), r"received a prompt of \d+ and max_new_tokens=100"),
        (dict(case=Case(prompt=PROMPT, completion="zebra ball")), "consists of tokens of the vocabulary"),
    ],
)
def test_what_cannot_be_searched(one_model: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(LrpLensError, match=words):
        find_decision(one_model, **{"case": Case(prompt=PROMPT)} | options)


def test_train_mode_is_refused() -> None:
    own = zoo.BUILD["bridge"]("llama")
    own.train()
    with pytest.raises(InputError, match="train mode"):
        find_decision(own, Case(prompt="x"))
