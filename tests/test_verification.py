"""verify: verdicts from interventions, on causes that are known, and on claims that are wrong."""

import json
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.optimize import brentq

from lrp_lens.cases import Case
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.errors import InputError, RuleError
from lrp_lens.failures.decision.checker import Callback
from lrp_lens.failures.explain import explain
from lrp_lens.failures.verification import CaseVerdict, Check, Criterion, Pattern, Reading, Step, Variant
from lrp_lens.failures.verification.asked import Asked
from lrp_lens.failures.verification.blame import Blame, blame
from lrp_lens.failures.verification.plan import Plan
from lrp_lens.failures.verification.readings import Readings
from lrp_lens.failures.verification.repairs import repairs as run_repairs
from lrp_lens.failures.verification.repairs import repeat, sentences
from lrp_lens.failures.verification.verify import verify
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.rules import ATTN_LRP, as_rule_set
from lrp_lens.views.statistics.verdict import judge
from tests import zoo


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return load_demo_model(device="cpu")


def case_of(suite: str, index: int = 0) -> Case:
    return demo_cases(suite)[index]


@pytest.fixture(scope="module")
def found(model: torch.nn.Module):
    return verify(model, case_of("override_four_facts"), draws=8)


# ------------------------------------------------------------------------------------ criterion
def criterion(most_random: float = 0.25, **options: Any) -> Criterion:
    """Of two tokens at most."""
    return Criterion(**{"most_random": most_random, "most_tokens": 2} | options)


def check(kind: str, gaps: list[float], control: list[float], size: int, population: int = 50) -> Check:
    """A check of made-up gaps; whoever is ahead is the first choice."""

    def reading(gap: float) -> Reading:
        return Reading(gap, "right" if gap < 0 else "wrong", gap < 0)

    steps = tuple(Step(k, (f"t{k}",) * (k > 0), (k,) * (k > 0), reading(gap)) for k, gap in enumerate(gaps))
    return Check(kind, "flip", steps, tuple(map(reading, control)), size, population)  # type: ignore[arg-type]


GOOD = check("hide", [2.0, 1.0, -3.0], [1.9, 2.1, 2.0, 1.8, 2.2, -0.1], 2)
BAD = check("hide", [2.0, 1.0, 1.5], [1.9, 2.1, 2.0, 1.8, 2.2], 2)


def test_a_check_passes_only_where_random_draws_do_less() -> None:
    assert GOOD.first("flip") == 2 and BAD.first("flip") is None
    assert criterion(0.2).passes(GOOD) and not criterion(0.1).passes(GOOD)
    assert not criterion(1.0).passes(BAD) and not Criterion().passes(None)
    assert not criterion(0.2, most_tokens=1).passes(GOOD)
    for inside in ("silence", "cut"):  # neither places nor edges are tokens
        assert criterion(0.2, most_tokens=1).passes(replace(GOOD, kind=inside))
    wide = check("hide", [2.0, -1.0], [2.0, -0.9, 3.0, 9.0, -0.2, 2.0, 4.0], 1)
    loose = criterion(0.5)
    assert loose.passes(wide) and not criterion(0.5, supported=True).passes(wide)
    assert not loose.passes(check("hide", [-1.0, -2.0], [2.0] * 6, 1))  # ahead without the edit
    with pytest.raises(InputError, match="the control has 1"):
        criterion().passes(replace(GOOD, control_size=1))


def test_confidence_is_laplaces() -> None:
    assert criterion(0.2).confidence(GOOD) == pytest.approx(1 - 2 / 8)
    assert criterion().confidence(BAD) == 0 == criterion().confidence(None)


@pytest.mark.parametrize(
    ("hide", "amplify", "silence", "verdict", "pattern"),
    [
        (1, 1, 1, CaseVerdict.INPUT, Pattern.BOTH),
        (1, 0, 0, CaseVerdict.INPUT, Pattern.OVERWEIGHTED),
        (0, 1, 1, CaseVerdict.INPUT, Pattern.UNDERWEIGHTED),
        (0, 0, 1, CaseVerdict.GRAPH, Pattern.NEITHER),
        (0, 0, 0, CaseVerdict.NONE, Pattern.NEITHER),
        (0, 0, None, CaseVerdict.NONE, Pattern.NEITHER),
        (0, 0, "cut", CaseVerdict.GRAPH, Pattern.NEITHER),
        (0, 1, "cut", CaseVerdict.INPUT, Pattern.UNDERWEIGHTED),
    ],
)
def test_verdict_and_pattern(
    hide: int, amplify: int, silence: int | str | None, verdict: Any, pattern: Any
) -> None:
    one, two = (GOOD if passes else BAD for passes in (hide, amplify))
    inside = (
        (None, GOOD) if silence == "cut" else (None if silence is None else GOOD if silence else BAD, BAD)
    )
    assert (
        criterion(0.2).verdict(one, two, *inside) == verdict and criterion(0.2).pattern(one, two) == pattern
    )


def test_the_interval_of_random_draws_is_clopper_and_pearsons() -> None:
    share, low, high = GOOD.random_share("flip")

    def tail(p: float, counts: range) -> float:
        return sum(comb(6, k) * p**k * (1 - p) ** (6 - k) for k in counts) - 0.025

    assert share == pytest.approx(1 / 6)
    assert low == pytest.approx(brentq(tail, 1e-9, 0.9, args=(range(1, 7),)))
    assert high == pytest.approx(brentq(tail, 0.01, 1 - 1e-9, args=(range(2),)))
    assert np.isnan(replace(GOOD, control=()).random_share("flip")).all()


def test_the_verdict_of_a_check_is_that_of_masking() -> None:
    same = judge([2.0, -3.0], [[one.gap] for one in GOOD.control], 50)
    assert (GOOD.verdict.outcome, GOOD.verdict.drop, GOOD.verdict.high) == (
        same.outcome,
        same.drop,
        same.high,
    )
    assert GOOD.verdict.reading.startswith(
        "Hiding t1 and t2 changes the gap of +2.00 by −5.00, more than other tokens"
    )
    small = replace(GOOD, population=2)
    assert "only 2 to draw from and the check takes 2" in small.verdict.reading


def test_accepted_answers_are_events() -> None:
    accepted = [Reading(1.0, "a", False, "yes", one) for one in (0.0, 0.4, 0.5)]
    steps = tuple(Step(k, (str(k),), (k,), one) for k, one in enumerate(accepted))
    made = Check("hide", "accepted", steps, (accepted[0],) * 9, 2, 30)
    assert made.first("accepted") == 2 and made.first("flip") is None
    assert Criterion("accepted", most_tokens=2).passes(made)
    assert accepted[2].right and not accepted[1].right and Reading(-1.0, "b", True).right


@pytest.mark.parametrize(
    ("event", "share", "tokens"),
    [("fall", 0.1, 1), ("flip", 1.5, 1), ("flip", True, 1), ("flip", "0.1", 1), ("flip", 0.1, 0)],
)
def test_bad_criteria(event: Any, share: Any, tokens: Any) -> None:
    with pytest.raises((InputError, TypeCheckError)) as error:
        Criterion(event, share, most_tokens=tokens)
    assert isinstance(error.value, TypeCheckError) or "A criterion has an event" in str(error.value)


# ------------------------------------------------------------------------------------ known causes
def test_a_word_that_cues_a_memory(model: torch.nn.Module, found) -> None:
    """The story's country cues the memorised capital; the corpus marks it."""
    case = case_of("override_four_facts")
    (cue,) = case.segments["memory_cue"]
    assert found.hide.positions == (cue[0],) and found.hide.first("flip") == 1
    assert found.verdict == CaseVerdict.INPUT and found.pattern == Pattern.OVERWEIGHTED
    assert found.repair is not None and found.repair.words == "drenia" and found.repair.changed == 1


def test_a_planted_edge_is_found_in_the_graph(model: torch.nn.Module) -> None:
    """A head whose value at one token writes the wrong answer wherever it is read: cutting that edge ends it."""
    right = demo_cases("agreement_fourteen_attractors", correct=True)[0]
    case = replace(right, target=right.contrast, contrast=right.target, correct=False)
    asked = Asked.of(model, case, None, 1, None)
    towards = model.W_O[3, 2] @ (model.W_U[:, asked.target] - model.W_U[:, asked.contrast]).detach()
    with torch.no_grad():
        pattern = model.run_with_cache(asked.batch.ids)[1]["pattern", 3][0, 2, -1]
    source = max(asked.maskable, key=lambda at: pattern[at])

    def write(value: Any, hook: Any = None) -> Any:
        value = value.clone()
        value[:, source, 2] += 60 / pattern[source] * towards / towards.norm()
        return value

    with attached(model, [(model.hook_dict["blocks.3.attn.hook_v"], write)]):
        seen = verify(model, case, stability=False, repairs=False, draws=8)
    assert seen.cut is not None and seen.cut.units[0] == f"L3H2 {source} → {asked.length - 1}"
    assert seen.cut.first("flip") is not None and seen.criterion.passes(seen.cut)
    assert seen.cut.at(1).gap < seen.cut.steps[0].reading.gap / 2  # type: ignore[union-attr]


def test_a_planted_head_is_found_in_the_graph_and_not_in_the_tokens(model: torch.nn.Module) -> None:
    """A head that writes the wrong answer, whatever the tokens are: only silencing it turns the preference."""
    right = demo_cases("agreement_fourteen_attractors", correct=True)[0]
    case = replace(right, target=right.contrast, contrast=right.target, correct=False)
    asked = Asked.of(model, case, None, 1, None)
    wrong = (model.W_U[:, asked.target] - model.W_U[:, asked.contrast]).detach()
    towards = model.W_O[2, 1] @ wrong

    def write(value: Any, hook: Any = None) -> Any:
        value = value.clone()
        value[:, -1, 1] += 60 * towards / towards.norm()
        return value

    with attached(model, [(model.hook_dict["blocks.2.attn.hook_z"], write)]):
        seen = verify(model, case, stability=False, repairs=False, draws=8, thorough=False)
    assert seen.verdict == CaseVerdict.GRAPH and seen.pattern == Pattern.NEITHER
    assert seen.silence is not None and f"L2H1 at {asked.length - 1}" in seen.silence.units
    assert seen.confidence > 0.5
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_wrong_claim_is_not_believed(model: torch.nn.Module) -> None:
    """Capitals that nobody asks for are blamed instead of the words that relevance blames."""
    for index in range(3):
        case = case_of("override_four_facts", index)
        asked = Asked.of(model, case, None, 1, None)
        blamed = blame(asked, ATTN_LRP)
        tokens = np.zeros_like(blamed.tokens)
        start, stop = case.segments["distractor"][1]
        tokens[start:stop] = 1 + np.arange(stop - start)
        for own, believed in ((blamed, True), (replace(blamed, tokens=tokens), False)):
            hide = Plan(asked, draws=8).checks(own, "mean", False).hide
            assert Criterion().passes(hide) is believed, hide


# ------------------------------------------------------------------------------------ verify
def test_an_explanation_is_verified_like_its_case(model: torch.nn.Module, found) -> None:
    explanation = explain(model, case=case_of("override_four_facts"), seeds=1)
    again = verify(model, explanation, draws=8, stability=False)
    assert again.checks == found.checks
    assert [one.prompt for one in again.repairs] == [one.prompt for one in found.repairs]
    with pytest.raises(InputError, match="has none"):
        verify(model, replace(explanation, token_ids=()))


def test_variants_are_the_verification_under_other_settings(model: torch.nn.Module, found) -> None:
    case = case_of("override_four_facts")
    options: dict[str, Any] = {"stability": False, "repairs": False, "thorough": False, "draws": 8}
    rules = verify(model, case, rules="CP_LRP", **options)
    zeros = verify(model, case, replacement="zero", **options)
    assert [(one.verdict, one.pattern) for one in found.variants] == [
        (rules.verdict, rules.pattern),
        (zeros.verdict, zeros.pattern),
    ]
    assert found.variants[1].overlap == 1 and found.variants[1].replacement == "zeros"
    assert found.stable == all(one.verdict == found.verdict for one in found.variants)
    other = Variant("R", "zeros", CaseVerdict.NONE, Pattern.NEITHER, (), float("nan"))
    shaken = replace(found, variants=(other,))
    assert shaken.stable is False and "Unstable: none under R, zeros." in repr(shaken)
    assert replace(found, variants=()).stable is None


def test_what_two_rule_sets_ask_alike_is_run_once(
    model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same edits under one replacement; under another replacement they are others."""
    run, of = list[int](), Readings._read
    monkeypatch.setattr(
        Readings, "_read", lambda self, gaps, *rest: run.append(len(gaps)) or of(self, gaps, *rest)
    )
    asked = Asked.of(model, demo_cases("key_value_ten_facts")[0], None, 1, None)
    plan, blamed = Plan(asked, draws=3), blame(asked, ATTN_LRP)
    first = plan.checks(blamed, "mean", thorough=False)
    once = sum(run)
    assert once > 5 and plan.checks(blamed, "mean", thorough=False) == first and sum(run) == once
    plan.checks(blamed, "zero", thorough=False)
    assert sum(run) > once


def test_what_is_not_needed_is_not_run(model: torch.nn.Module, found) -> None:
    lean = verify(
        model, case_of("override_four_facts"), draws=8, thorough=False, stability=False, repairs=False
    )
    assert lean.silence is None and found.silence is not None
    assert lean.cut is None and found.cut is not None
    assert lean.verdict == found.verdict and lean.hide == found.hide
    assert not lean.amplify.control and found.amplify.control  # it never flips


def test_repairs_were_run(model: torch.nn.Module, found) -> None:
    """Each text again, through the tokenizer: gap and first choice are what is said."""
    case, actions = case_of("override_four_facts"), set()
    for one in found.repairs:
        batch = tokenize(model, one.prompt.removeprefix("<bos>").strip())
        with torch.no_grad():
            logits = model(batch.ids)[0, -1]
        target, contrast = (
            tokenize(model, word, prepend_bos=False).ids[0, 0] for word in (case.target, case.contrast)
        )
        assert one.reading.gap == pytest.approx(float(logits[target] - logits[contrast]), abs=1e-4)
        assert one.reading.win == (logits.argmax() == contrast)
        actions.add(one.action)
    assert actions == {"hide", "repeat", "move"}
    asked = Asked.of(model, case, None, 1, None)
    words = asked.batch.strings[0]
    assert [" ".join(words[slice(*one)]) for one in sentences(asked)][:2] == [
        "in this story the capital of drenia is elwin .",
        "the capital of morvia is jasto .",
    ]
    repeated = next(one for one in found.repairs if one.action == "repeat")
    moved = next(one for one in found.repairs if one.action == "move")
    assert repeated.prompt.count(repeated.words) == 2 and moved.prompt.count(moved.words) == 1
    assert (
        moved.prompt.index(moved.words) > moved.prompt.index("morvia")
        and moved.changed == 2 * repeated.changed
    )
    assert found.repair == min((one for one in found.repairs if one.reading.win), key=lambda one: one.changed)


def test_a_checker_reads_regenerated_answers(model: torch.nn.Module) -> None:
    case = case_of("key_value_ten_facts")
    asked: list[str] = []

    def checker(answer: str) -> bool:
        asked.append(answer)
        return answer.split()[0] == case.contrast

    options: dict[str, Any] = {
        "stability": False,
        "draws": 2,
        "top_k": 2,
        "places": (1,),
        "edges": (2,),
        "max_new_tokens": 2,
    }
    seen = verify(model, case, checker=checker, criterion=Criterion("accepted"), **options)
    for one in seen.checks:
        for reading in (*(step.reading for step in one.steps), *one.control):
            assert reading.answer in asked and reading.answer.split()[0] == reading.first_choice
            assert reading.accepted == reading.win == (reading.answer.split()[0] == case.contrast)
    assert seen.hide.first("accepted") == seen.hide.first("win") == 1
    assert seen.repair is not None and seen.repair.reading.accepted == 1
    same = verify(model, case, checker=Callback(checker), criterion=Criterion("accepted"), **options)
    assert same.hide == seen.hide and same.amplify == seen.amplify  # what find_decision takes
    with pytest.raises((InputError, TypeCheckError), match=r"A checker is|checker"):
        verify(model, case, checker="yes", **options)  # type: ignore[arg-type]
    scored = verify(model, case, checker=lambda answer: 0.25, repairs=False, **options)
    assert scored.hide.steps[0].reading.accepted == 0.25
    for bad in (None, "yes", 2.0, float("nan")):
        with pytest.raises(InputError, match="A checker says True or False"):
            verify(model, case, checker=lambda answer, bad=bad: bad, repairs=False, **options)


def test_what_was_said_before_belongs_to_the_answer(model: torch.nn.Module) -> None:
    case = case_of("override_four_facts")
    prompt, said = case.prompt.rsplit(" of ", 1)
    within = replace(case, prompt=prompt, completion=f"of {said} {case.target}", position=-1, segments={})
    answers: list[str] = []
    seen = verify(
        model,
        within,
        checker=lambda text: not answers.append(text),
        stability=False,
        draws=1,
        top_k=2,
        max_new_tokens=1,
    )
    assert all(text.startswith(f"of {said} ") for text in answers)
    whole = verify(model, case, stability=False, repairs=False, draws=1, top_k=2)
    assert [step.reading.gap for step in seen.hide.steps] == pytest.approx(
        [step.reading.gap for step in whole.hide.steps], abs=1e-4
    )
    assert all(
        one.prompt.endswith(f"of {said}") for one in seen.repairs
    )  # what was said is no part of the prompt


def test_messages_keep_their_template(tmp_path: Path) -> None:
    from lrp_lens import load_model
    from tests.chat_model import save_chat_model

    chat = load_model(str(save_chat_model(tmp_path)), device="cpu")
    messages = [{"role": "user", "content": "Say one. Say two. Say what?"}]
    batch = tokenize(chat, messages)
    with torch.no_grad():
        first = chat(batch.ids)[0, -1].topk(2).indices.tolist()
    asked = Asked(chat, batch, batch.lengths[0], *first)
    texts = ["".join(batch.strings[0][slice(*one)]).replace("Ġ", " ") for one in sentences(asked)]
    assert texts == ["Say one.", " Say two.", " Say what?"]


@pytest.mark.parametrize(
    "host", ["TransformerBridge", *(["HookedTransformer"] if zoo.HAS_HOOKED_TRANSFORMER else [])]
)
def test_sentences_that_move_are_written_as_text_is(
    tmp_path: Path, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A space between sentences, none at the beginning, and the tokens that this text has when it is read."""
    from lrp_lens import load_model
    from tests.chat_model import save_chat_model

    chat = load_model(str(save_chat_model(tmp_path)), host=host, device="cpu")
    for asks, between in (("Say one. Say two.{}Say what?", " "), ("Say one. Say two.{}Say what?", "\n")):
        told = asks.format(between)
        batch = tokenize(chat, [{"role": "user", "content": told}])
        with torch.no_grad():
            first = chat(batch.ids)[0, -1].topk(2).indices.tolist()
        asked = Asked(chat, batch, batch.lengths[0], *first)
        blamed = blame(asked, as_rule_set("GRADIENT"))
        monkeypatch.setattr(Blame, "supporters", lambda self, positions, count, sign: list(positions))
        found = {
            (change.action, change.words): change.ids
            for moved in (False, True) for change in repeat(asked, blamed, moved=moved)
        }  # fmt: skip
        wanted = {
            ("repeat", "Say one."): f"Say one. Say two.{between}Say one. Say what?",
            ("repeat", "Say two."): f"Say one. Say two.{between}Say two. Say what?",
            ("move", "Say one."): f"Say two.{between}Say one. Say what?",
        } | ({} if between == " " else {("move", "Say two."): "Say one.\nSay two. Say what?"})
        assert found.keys() == wanted.keys()
        for action, text in wanted.items():
            read = tokenize(chat, [{"role": "user", "content": text}])
            assert "".join(tokenize(chat, found[action]).strings[0]) == "".join(read.strings[0]), action
            assert found[action] == read.ids[0].tolist(), action


def test_what_a_template_writes_is_never_edited_also_after_explain(tmp_path: Path) -> None:
    from lrp_lens import load_model
    from tests.chat_model import save_chat_model

    chat = load_model(str(save_chat_model(tmp_path)), device="cpu")
    messages = [{"role": "user", "content": "Say one. Say two."}, {"role": "assistant", "content": "One"}]
    with torch.no_grad():
        first = chat(tokenize(chat, messages).ids)[0, -1].topk(2).indices.tolist()
    explanation = explain(chat, messages, *first, seeds=1)
    of_case = Asked(chat, tokenize(chat, messages), explanation.prompt_length, *first)
    of_explanation = Asked.of(chat, explanation, None, 1, None)
    text = "".join(of_explanation.batch.strings[0][at] for at in of_explanation.maskable)
    assert (
        text.replace("Ġ", " ") == "Say one. Say two.On"
    )  # no role, no line break, and not the token of the decision
    assert of_explanation.maskable == of_case.maskable
    assert of_explanation.batch.segments == of_case.batch.segments and of_explanation.batch.segments
    assert (explanation.masking.maskable, explanation.masking.unit) == (7, "word")  # Say one . Say two . On
    seen = verify(chat, explanation, draws=2, stability=False, thorough=False)
    named = {at for one in (seen.hide, seen.amplify) for step in one.steps for at in step.positions}
    assert named and named <= set(of_case.maskable)
    assert all(one.prompt.count("assistant") == 1 for one in seen.repairs)
    assert not [one for one in seen.repairs if "user" in one.words]


def test_an_answer_goes_on_from_the_pass_that_gave_the_gap(model: torch.nn.Module) -> None:
    """The prompt is run once for each edit and each changed text, with a checker as without."""
    case, passes = case_of("key_value_ten_facts"), list[int]()
    point = model.hook_dict["blocks.0.hook_resid_pre"]

    def count(value: Any, hook: Any) -> None:
        passes.extend([value.shape[1]] * len(value))

    asked = Asked.of(model, case, lambda answer: False, 3, None)
    blamed = blame(asked, ATTN_LRP)
    assert blamed.edges()  # the graph is made now, and its passes are not counted
    with attached(model, [(point, count)]):
        checks = Plan(asked, top_k=2, sizes=(1, 2), edge_sizes=(2,), draws=3).checks(blamed, "mean", True)
        edits, answers = passes.count(asked.length), passes.count(1)
        passes.clear()
        repaired = run_repairs(asked, blamed, checks.hide.positions)
    made = [one for one in checks.asked if one is not None]
    readings = [(one.kind, step.size, step.reading) for one in made for step in one.steps if step.size]
    readings += [(one.kind, 0, reading) for one in made for reading in one.control]
    assert len(made) == 4
    assert (
        len(set(readings)) + 1 <= edits <= len(readings) + 1 and answers
    )  # what is drawn again is not run again
    assert sum(width > 1 for width in passes) == len(repaired)
    options: dict[str, Any] = {"max_new_tokens": int(model.cfg.n_ctx), "checker": lambda answer: False}
    with pytest.raises(InputError, match="fit the context"):
        verify(model, case, **options)


def test_an_attention_edge_that_carries_the_mistake(model: torch.nn.Module) -> None:
    """Tutorial 7's: what is in the jar is found by the label that L1H1 wrote onto it, and in no other head."""
    seen = verify(model, case_of("key_value_ten_facts"), stability=False, repairs=False, draws=6)
    assert seen.cut is not None and seen.cut.units == ("L1H1 61 → 62",) and seen.cut.positions == (62,)
    assert seen.cut.first("flip") == 1 and seen.cut.random_share("flip")[0] == 0
    assert all(abs(one.gap - seen.cut.steps[0].reading.gap) < 0.2 for one in seen.cut.control)
    assert "Cutting L1H1 61 → 62 turns the preference (the same edges of other heads: 0%" in repr(seen)
    tokens_show_nothing = replace(seen, hide=BAD, amplify=BAD, silence=BAD)
    assert tokens_show_nothing.verdict == CaseVerdict.GRAPH
    assert tokens_show_nothing.confidence == seen.criterion.confidence(seen.cut) > 0.5
    assert replace(tokens_show_nothing, cut=None).verdict == CaseVerdict.NONE
    frozen = verify(
        model, case_of("key_value_ten_facts"), rules="CP_LRP", stability=False, repairs=False, draws=1
    )
    assert frozen.cut is not None and frozen.cut.first("flip") == 4  # what was copied needs several heads


def test_results_are_plain_and_readable(found) -> None:
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["verdict"] == "input" and plain["schema"] == "lrp_lens.verification/1"
    assert plain["repair"]["words"] == "drenia" and plain["stable"] is True
    rows = found.to_dataframe()
    assert set(rows["check"]) == {"hide", "amplify", "silence", "cut"} and rows["control"].sum() == 32
    said = repr(found)
    assert "Verdict: input" in said and "Hiding 'drenia' at 42 turns the preference (other tokens:" in said
    assert "A check passes by: flip with one token, in at most 40% of random draws." in said
    assert "Repair: hide 'drenia': the first choice is 'elwin'." in said
    strange = replace(found, target=replace(found.target, text="\x1b[31m<b>"))
    assert "\x1b" not in repr(strange)


def test_same_seed_same_result(model: torch.nn.Module) -> None:
    options: dict[str, Any] = {
        "stability": False,
        "repairs": False,
        "draws": 3,
        "top_k": 1,
        "places": (1,),
        "edges": (1,),
    }
    one, two, three = (
        verify(model, case_of("key_value_ten_facts"), seed=seed, **options) for seed in (1, 1, 2)
    )
    assert one.checks == two.checks and one.hide.control != three.hide.control
    assert one.hide.steps == three.hide.steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 0}, "top_k"),
        ({"draws": True}, "draws"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"factor": 1}, "factor above 1"),
        ({"factor": 0.5}, "factor above 1"),
        ({"factor": float("inf")}, "factor above 1"),
        ({"places": (2, 1)}, "increasing"),
        ({"places": ()}, "increasing"),
        ({"places": "12"}, "increasing"),
        ({"edges": (0, 1)}, "edges are increasing"),
        ({"edges": 3}, "edges are increasing"),
        ({"edges": (1, 1)}, "edges are increasing"),
        ({"replacement": "noise"}, "A replacement is one of"),
        ({"other_replacement": "noise"}, "A replacement is one of"),
        ({"seed": -1}, "A seed"),
        ({"progress": 1}, "progress is"),
        ({"criterion": Criterion("accepted")}, "accepted by a checker"),
    ],
)
def test_bad_options(model: torch.nn.Module, options: dict[str, Any], message: str) -> None:
    with pytest.raises((InputError, TypeCheckError)) as error:
        verify(model, case_of("override_four_facts"), **{"draws": 1} | options)
    assert isinstance(error.value, TypeCheckError) or message in str(error.value)


def test_bad_cases(model: torch.nn.Module) -> None:
    case = case_of("override_four_facts")
    with pytest.raises(InputError, match="is ahead already"):
        verify(model, replace(case, target=case.contrast, contrast=case.target))
    with pytest.raises((InputError, TypeCheckError)):
        verify(model, case.prompt)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="it needs a target and a contrast"):
        verify(model, Case(prompt="then mary", completion="and john", position=0))
    with pytest.raises(InputError, match="there are none among"):
        verify(model, replace(case, prompt="mary", segments={}))
    with pytest.raises(RuleError):
        verify(model, case, rules="no such rules")
    with pytest.raises(RuleError):
        verify(model, case, other_rules="no such rules")
