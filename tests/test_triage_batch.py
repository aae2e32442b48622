"""triage_batch: every case a row, whatever it holds; what a row says is what its parts say."""

import json
import re
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from lrp_lens.cases import Case
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.errors import InputError
from lrp_lens.failures.explain import explain
from lrp_lens.failures.triage import TriageRow, batch
from lrp_lens.failures.triage.batch import triage_batch
from lrp_lens.failures.triage.options import TriageOptions
from lrp_lens.failures.verification.verify import verify
from lrp_lens.rules import ATTN_LRP

QUICK = TriageOptions(
    stability=False, repairs=False, draws=5, max_new_tokens=6, budget=200, checker_seconds=0.5
)
WRONG = replace(demo_cases("key_value_ten_facts")[0], id="wrong")
OPEN = Case(prompt=WRONG.prompt, id="open", correct=None)


@pytest.fixture(scope="module")
def model() -> Any:
    return load_demo_model(device="cpu")


@pytest.fixture(scope="module")
def explained(model: Any) -> TriageRow:
    (row,) = triage_batch(model, [WRONG], QUICK)
    return row


def one(model: Any, case: Case, **options: Any) -> TriageRow:
    (row,) = triage_batch(model, [case], replace(QUICK, **options))
    return row


def test_a_row_says_what_explain_and_verify_say(model: Any, explained: TriageRow) -> None:
    explanation = explain(model, case=WRONG, rules=ATTN_LRP)
    verified = verify(
        model, explanation, rules=ATTN_LRP, draws=5, thorough=False, stability=False, repairs=False
    )
    assert (explained.fate, explained.reason, explained.way) == ("explained", "", "given")
    assert explained.metric_value == explanation.metric_value and explained.rules == "ATTN_LRP"
    assert (explained.verdict, explained.pattern) == (verified.verdict.value, verified.pattern.value)
    assert (explained.confidence, explained.flipped) == (verified.confidence, verified.hide.first("flip"))
    magnitude = abs(explanation.tokens.values)
    assert explained.bos_share == pytest.approx(magnitude[0] / magnitude.sum())
    shares, spans = json.loads(explained.segment_shares), WRONG.segments["evidence"]
    named = sum(magnitude[start:stop].sum() for start, stop in spans)
    assert shares["evidence"] == pytest.approx(named / magnitude[1:].sum())
    signed = json.loads(explained.segment_relevance)["evidence"]
    assert signed == pytest.approx(sum(explanation.tokens.values[start:stop].sum() for start, stop in spans))
    assert abs(signed) < named  # some of its tokens speak against the others


def test_the_graph_comes_back_and_explains_the_same_number(explained: TriageRow) -> None:
    graph = explained.attribution_graph()
    assert graph is not None and graph.metric_value == pytest.approx(explained.metric_value, rel=1e-4)
    assert len(graph.relevance) > 10 and len(graph.token_strings) == explained.n_tokens


def test_rows_in_a_batch_are_the_rows_alone(model: Any, explained: TriageRow) -> None:
    rows = triage_batch(model, [OPEN, WRONG], QUICK)
    assert [row.number for row in rows] == [0, 1]
    assert replace(rows[1], number=0).without_time() == explained.without_time()


def test_json_is_strict(explained: TriageRow) -> None:
    for text in (explained.case, explained.decision, explained.explanation, explained.verification):
        assert json.loads(text, parse_constant=lambda name: pytest.fail(name))


def broken(logits: torch.Tensor, hook: Any) -> torch.Tensor:
    return logits * float("nan")


def hangs(completion: str) -> bool:
    time.sleep(30)
    return True


def raises(completion: str) -> bool:
    return bool(1 / 0)


@pytest.mark.parametrize(
    ("case", "options", "fate", "reason"),
    [
        (replace(WRONG, prompt="then mary " * 400), {}, "error", "decision: .*(long|context|positions)"),
        (replace(WRONG, target="zzzz"), {}, "error", "decision: .*zzzz"),
        (replace(WRONG, correct=True), {}, "not a failure", "the log says"),
        (
            replace(WRONG, target=WRONG.contrast, contrast=WRONG.target),
            {"min_gap": -100},
            "excluded",
            "ahead",
        ),
        (WRONG, {"min_gap": 100}, "excluded", "not above 100"),
        (OPEN, {"task": lambda case: lambda text: True}, "not a failure", "accepts the completion"),
        (OPEN, {"task": "choice"}, "error", "decision: .*which of its choices is right"),
        (OPEN, {"task": lambda case: 1 / 0}, "error", "decision: ZeroDivisionError"),
    ],
    ids="too_long unknown_token right swapped gap accepted no_choice task_raises".split(),
)
def test_each_fault_is_an_entry_with_its_reason(
    model: Any, case: Case, options: dict[str, Any], fate: str, reason: str
) -> None:
    rows = triage_batch(model, [case, replace(WRONG, correct=True)], replace(QUICK, **options))
    assert rows[0].fate == fate and re.search(reason, rows[0].reason), rows[0].reason
    assert rows[1].fate == "not a failure"  # the next case begins


def test_tokens_outside_the_vocabulary() -> None:
    """A tokenizer that was given tokens for which the model has no embedding."""
    model = load_demo_model(device="cpu")
    model.tokenizer.add_tokens(["zyx"])
    cases = [
        replace(OPEN, prompt=f"zyx {WRONG.prompt}"),
        replace(WRONG, contrast="zyx"),
        replace(WRONG, correct=True),
    ]
    rows = triage_batch(model, cases, QUICK)
    for row, said in zip(
        rows, ("the vocabulary; received 434", "the tokenizer gives 'zyx' 434"), strict=False
    ):
        assert row.fate == "error" and row.reason.startswith("decision: Token ids lie in"), row.reason
        assert said in row.reason
    assert rows[2].fate == "not a failure"


@pytest.mark.parametrize(
    ("checker", "said"), [(raises, "raised ZeroDivisionError"), (hangs, "more than 0.5 s")]
)
def test_a_checker_that_fails_is_told_and_the_runner_up_taken(model: Any, checker: Any, said: str) -> None:
    row = one(model, OPEN, task=lambda case: checker, min_gap=-100, graph=False)
    assert row.way == "runner-up" and said in row.decision and row.checked is False


def test_logits_that_are_no_numbers(model: Any) -> None:
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", broken)]):
        row = one(model, WRONG)
    assert row.fate == "error" and "decision: " in row.reason and "finite" in row.reason


def test_what_was_found_before_a_fault_is_kept(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: Any, **options: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(batch, "verify", fails)
    row = one(model, WRONG, graph=False)
    assert (row.fate, row.reason) == ("error", "verification: RuntimeError: no room")
    assert row.explanation and row.metric_value and not row.verdict


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"task": "regexp"}, "Did you mean 'regex'"),
        ({"task": "humaneval"}, "allow_code_execution=True"),
        ({"draws": 0}, "draws is a whole number"),
        ({"min_gap": float("nan")}, "min_gap is a number"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_options_are_checked_before_any_work(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        TriageOptions(**options)
