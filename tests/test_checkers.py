"""Checkers: what they accept, what a prefix says already, where the answer stands, and programs that run apart."""

import gzip
import importlib.util
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from lrp_lens.errors import InputError
from lrp_lens.failures.decision import (
    GSM8K,
    Checker,
    Contains,
    Exact,
    HumanEval,
    IFEval,
    MultipleChoice,
    Number,
    Regex,
    judge,
)
from lrp_lens.failures.decision.code import passes
from lrp_lens.failures.decision.constraints import CONSTRAINTS, instructions

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
NO_HARNESS = importlib.util.find_spec("lm_eval") is None
harness = pytest.mark.skipif(NO_HARNESS, reason="lm-evaluation-harness is not installed (extra harness)")


@pytest.mark.parametrize(
    ("checker", "right", "wrong"),
    [
        (Exact("Paris"), ["Paris", " Paris\n"], ["paris", "Paris.", ""]),
        (Exact(["a b", "c"], ignore_case=True), ["A B", "c"], ["a", "ab"]),
        (Contains("yes"), ["oh yes", "yes"], ["Yes", ""]),
        (Contains(["a.c", "d"], every=True), ["d a.c"], ["abc d", "a.c"]),
        (Contains(["X", "Y"], ignore_case=True), ["x", "my"], ["z"]),
        (Regex(r"\b\d{2}\b"), ["it is 42"], ["123", "4"]),
        (Regex(r"[ab]+", full=True), ["ab", " b "], ["abc", ""]),
        (Number(1234), ["1 + 2 = $1,234.", "1234", "1234.0"], ["1234 or 5", "none", "-1234"]),
        (Number(0.5, tolerance=0.01), [".5", "0.505"], ["0.52", "5"]),
        (Number(-3), ["-3", "it is -3."], ["3"]),
        (MultipleChoice(["red", "blue"], 1), ["B", "(B)", "B. blue", "So the answer is B", "blue it is"],
         ["A", "The answer is (A), not B", "red and blue", "Blueish", "", "Because"]),
        (MultipleChoice(["a dog", "a cat"], 0), ["The answer is a dog."], ["The answer is a cat."]),
    ],
)  # fmt: skip
def test_what_is_accepted(checker: Checker, right: list[str], wrong: list[str]) -> None:
    assert all(judge(checker, one, 5.0).accepted for one in right)
    assert not any(judge(checker, one, 5.0).accepted for one in wrong)
    for one in right:
        spans = checker.spans(one, wrong[0])
        assert spans is None or all(0 <= start < stop <= len(one) for start, stop in spans)


SOME = ["", "a", "b", "B", ".", " ", ")", "(", "ab", "x"]


@pytest.mark.parametrize(
    "checker",
    [
        Exact(["ab", "a b x"]),
        Contains(["ab", "x"], every=True),
        Regex("[ab]{2,3}x?", full=True),
        Regex("ab"),
        MultipleChoice(["ab", "x"], 1),
    ],
)
def test_what_a_prefix_says_is_true_of_every_text_that_begins_so(checker: Checker) -> None:
    """All texts of up to three pieces: what is lost is accepted in none, what is settled in all; both happen."""
    said = set()
    for pieces in itertools.product(SOME, repeat=3):
        text = "".join(pieces)
        accepted = checker.score(text) == 1
        for stop in range(len(text) + 1):
            already = checker.already(text[:stop])
            said.add(already)
            assert already is None or already == accepted, (text[:stop], text)
    assert len(said) > 1 or (isinstance(checker, Regex) and not checker.full)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Exact(""), "Exact needs a text"),
        (lambda: Contains([]), "Contains needs a text"),
        (lambda: Regex("("), "is none"),
        (lambda: Number(float("nan")), "a finite value"),
        (lambda: Number(1, tolerance=-1.0), "tolerance of at least 0"),
        (lambda: MultipleChoice(["a"], 0), "2 to 26 options"),
        (lambda: MultipleChoice(["a", "b"], 2), "right=2"),
    ],
)
def test_what_is_no_checker(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


# ---------------------------------------------------------------------------------- IFEval and GSM8K
@pytest.mark.parametrize(
    ("name", "options", "lost", "still"),
    [
        ("punctuation:no_comma", {}, "Well,", "Well. So"),
        ("change_case:english_lowercase", {}, "well I", "well i"),
        ("change_case:english_capital", {}, "WELl", "WELL 1"),
        ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "A rock is", "A rocket and rock"),
        (
            "keywords:letter_frequency",
            {"letter": "a", "let_frequency": 2, "let_relation": "less than"},
            "aa",
            "ab",
        ),
        (
            "keywords:letter_frequency",
            {"letter": "a", "let_frequency": 2, "let_relation": "at least"},
            None,
            "aa",
        ),
        ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "a b c d", "a b c"),
        ("detectable_format:number_bullet_lists", {"num_bullets": 1}, "* a\n* b\n", "* a\n* b"),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "Say that", " say IT. Then"),
        ("startend:quotation", {}, "It", '"It'),
        ("language:response_language", {"language": "de"}, None, "Ja"),
    ],
)
def test_what_a_prefix_says_of_a_constraint(name: str, options: Any, lost: str | None, still: str) -> None:
    (one,) = instructions([name], [options])
    assert not one.constraint.lost(still, one.options)
    assert lost is None or one.constraint.lost(lost, one.options)


def rows(name: str) -> list[dict[str, Any]]:
    path = DATA / name
    if not path.is_file():
        pytest.skip("the benchmark data are not here")
    packed = path.read_bytes()
    text = (gzip.decompress(packed) if path.suffix == ".gz" else packed).decode("utf-8")
    return [json.loads(line) for line in text.strip().split("\n")]


TEXTS = (
    "Dear Sir,\n* one\n* two\n- three\n<<A title>>\nP.S. yes",
    "my answer is yes. i like rocks and stories.",
    '"QUOTED TEXT IS HERE"',
    "[name] and [address] *** second ****** third",
)


@harness
@pytest.mark.full
def test_prefixes_agree_with_the_harness() -> None:
    """A prefix that is lost is one of no text that the harness accepts: its own prefix, and longer ones."""
    checked = 0
    for row in rows("ifeval.jsonl")[:80]:
        checker = IFEval(row)
        for text in (*TEXTS, row["prompt"] + "\nyes"):
            verdict = judge(checker, text, 10.0)
            if verdict.failure:
                assert "LookupError" in verdict.failure and "punkt" in verdict.failure
                continue
            if verdict.accepted:
                checked += 1
                assert all(checker.already(text[:stop]) is None for stop in range(len(text) + 1)), (row, text)
                spans = checker.spans(text, "Nothing, ever")
                assert spans is None or all(0 <= start < stop <= len(text) for start, stop in spans)
    assert checked >= 10


@harness
def test_ifeval_is_graded_by_its_constraints() -> None:
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    assert set(CONSTRAINTS) <= set(INSTRUCTION_DICT)
    row = {
        "instruction_id_list": ["punctuation:no_comma", "detectable_format:title"],
        "kwargs": [{}, {}],
        "prompt": "Write.",
    }
    checker = IFEval(row)
    assert [checker.score(one) for one in ("a, b", "a b", "<<a>> b", "<<a>>, b")] == [0, 0.5, 1, 0.5]
    assert checker.wanted("a b") == ("<<",) and checker.spans("x <<a>> b", "a b") == ((2, 7),)
    assert checker.already("a,") is False and not checker.at_end
    with pytest.raises(InputError, match=r"received \['no:such', 'no:such'\]"):
        IFEval(row | {"instruction_id_list": ["no:such", "no:such"]})


@harness
@pytest.mark.parametrize("filter_name", ["flexible-extract", "strict-match"])
def test_gsm8k_is_scored_as_the_harness_does(filter_name: str) -> None:
    checker = GSM8K("2+2=<<2+2=4>>4\n#### 1,234", filter_name)
    strict = filter_name == "strict-match"
    assert checker.score("so #### 1234") and not checker.score("so #### 123")
    assert checker.score("it is $1,234.") is not strict
    assert checker.wanted("5") == ("1234",) and checker.spans("it is 1234", "5") == ((6, 10),)


@harness
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: GSM8K("no number"), "end in a number"),
        (lambda: GSM8K("#### 1", "first"), "received 'first'"),
        (lambda: IFEval({"prompt": "x"}), "lacking \\['instruction_id_list', 'kwargs'\\]"),
    ],
)
def test_rows_that_are_none(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_without_the_harness_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {"lm_eval", *(one for one in sys.modules if one.startswith("lm_eval."))}:
        monkeypatch.setitem(sys.modules, name, None)
    from lrp_lens.failures.decision.harness import _gsm8k

    _gsm8k.cache_clear()
    for make in (
        lambda: GSM8K("#### 1"),
        lambda: IFEval({"instruction_id_list": [], "kwargs": [], "prompt": ""}),
    ):
        with pytest.raises(
            InputError,
            match=r"with lm_eval.* not installed: run `pip install 'lrp-lens\[harness\]'`, or pass a checker",
        ):
            make()


# ---------------------------------------------------------------------------------- HumanEval
linux = pytest.mark.skipif(sys.platform != "linux", reason="programs run apart on Linux only")
TEST = "def check(one):\n    assert one() == 1\n"


@linux
@pytest.mark.parametrize(
    ("program", "passed"),
    [
        ("x = 1", True),
        ("assert False", False),
        ("syntax error", False),
        ("import os\nos._exit(0)", False),  # it has to get behind its tests
        ("import math, re, typing, collections, hashlib", True),
        ("import socket\nsocket.socket()", False),
        (
            "import socket\ntry:\n    socket.socket()\nexcept PermissionError:\n    pass\nelse:\n    raise OSError",
            True,
        ),
        ("import subprocess\nsubprocess.run(['true'])", False),
        ("import os\nos.fork()", False),
        ("import os\nos.kill(os.getppid(), 0)", False),
        ("x = bytearray(2 ** 30)", False),
        ("import os\nassert 'PATH' not in os.environ and not os.listdir('.')", True),
        ("while True: pass", False),
    ],
)
def test_programs_run_apart(program: str, passed: bool) -> None:
    """Negative controls are among them: the same program without what is forbidden passes."""
    assert passes(program, 1.0 if "while" in program else 20.0, 2**29) is passed


@linux
def test_humaneval_passes_its_own_solutions() -> None:
    for row in rows("humaneval.jsonl.gz")[:3]:
        checker = HumanEval(
            row["prompt"], row["test"], row["entry_point"], allow_code_execution=True, seconds=20.0
        )
        assert checker.score(row["canonical_solution"] + "\nprint('never run')\nraise SystemExit")
        assert not checker.score("    return None\n")


@linux
def test_programs_are_not_run_unless_allowed() -> None:
    with pytest.raises(InputError, match="allow_code_execution=True"):
        HumanEval("def one():\n", TEST, "one")
    with pytest.raises(InputError, match="seconds above 0"):
        HumanEval("def one():\n", TEST, "one", allow_code_execution=True, seconds=0.0)


def test_where_the_network_cannot_be_cut_off_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(InputError, match="this is darwin"):
        HumanEval("def one():\n", TEST, "one", allow_code_execution=True)
