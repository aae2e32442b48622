"""Cases: what they hold, what they refuse, and that undecided ones are refused by name."""

import json
import math
from typing import Any

import pytest

from lrp_lens import Case, InputError, explain, faithfulness, load_demo_model
from lrp_lens.cases import Passage, TextSpan, require_decided
from lrp_lens.metrics import LogitDiff

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say it: 7, 12, 7."}]
FULL = Case(
    prompt=CHAT,
    id="sums/3",
    completion="It is 19.",
    accepted=("26", "twenty-six"),
    choices=(" 26", " 19", " 7"),
    chosen=1,
    right=0,
    suite="sums",
    correct=None,
    passages={
        "numbers": (Passage(regex="[0-9]+"), Passage(message=1, characters=(0, 3))),
        "rule": (Passage(message=0),),
    },
    metadata={"doc": {"question": "7 + 12 + 7", "nested": [1, None, "x"]}, "score": 0.5},
)  # fmt: skip


def test_a_full_case_round_trips_through_json() -> None:
    again = Case.from_dict(json.loads(json.dumps(FULL.to_dict())))
    assert again == FULL and hash(again) == hash(FULL)
    assert math.isnan(again.logit_gap)  # not measured, and equal nevertheless
    assert isinstance(again.accepted, tuple) and isinstance(again.choices, tuple)
    assert again != Case.from_dict(FULL.to_dict() | {"id": "sums/4"})


def test_passages_stand_where_they_are_said_to() -> None:
    spans = FULL.text_spans()
    assert spans["rule"] == (TextSpan(0, 0, 9),)
    texts = [
        CHAT[span.message]["content"][span.start : span.stop] for span in spans["numbers"] if span.message
    ]
    assert texts == ["Say", "7", "12", "7"]
    plain = Case(prompt="a b a", passages={"a": "a", "none": "z", "all": [{"characters": [0, 5]}]})
    assert plain.text_spans() == {
        "a": (TextSpan(None, 0, 1), TextSpan(None, 4, 5)), "none": (), "all": (TextSpan(None, 0, 5),),
    }  # fmt: skip
    assert Case(prompt="ab", passages={"empty": "x*"}).text_spans() == {"empty": ()}
    assert Passage(message=-1, regex="it").find(CHAT) == (TextSpan(1, 4, 6),)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("passage", "words"),
    [
        ({}, "says where it stands, got nothing"),
        ({"characters": [0, 1], "regex": "a"}, "got both"),
        ({"characters": [2, 2]}, r"0 <= start < stop, got \[2, 2\]"),
        ({"characters": [True, 2]}, "0 <= start < stop"),
        ({"characters": 3}, "0 <= start < stop"),
        ({"message": "user"}, "is its index, got 'user'"),
        ({"regex": "("}, r"a regular expression, got '\('"),
        ({"regex": 3}, "a regular expression, got 3"),
        ({"words": 3}, "a passage is .*got {'words': 3}"),
        (3, "a passage is .*got 3"),
    ],
)
def test_impossible_passages(passage: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Case(prompt="a b", passages={"part": passage})
    with pytest.raises(InputError, match=words):
        Case.from_dict({"prompt": "a b", "passages": {"part": [passage]}})


@pytest.mark.parametrize(
    ("prompt", "passage", "words"),
    [
        ("a b", {"characters": [1, 4]}, r"text of 3 characters, got characters \[1, 4\]"),
        ("a b", {"message": 0}, "a text without messages, got message 0"),
        (CHAT, {"message": 2}, "has 2 messages, got message 2"),
        (CHAT, {"message": -3}, "has 2 messages, got message -3"),
        (CHAT, {"characters": [0, 1]}, "say which"),
    ],
)
def test_passages_that_the_prompt_does_not_have(prompt: Any, passage: Any, words: str) -> None:
    case = Case(prompt=prompt, passages={"part": passage})
    with pytest.raises(InputError, match=words):
        case.text_spans()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id": 3}, "the id of a case is text"),
        ({"accepted": "19"}, "accepted of a case are a list of texts, got '19'"),
        ({"accepted": [19]}, "accepted of a case are a list of texts"),
        ({"choices": ["a", "a"]}, "between different options"),
        ({"choices": ["a"]}, "between different options"),
        ({"chosen": 0}, "one of the 0 choices, got 0"),
        ({"choices": ["a", "b"], "right": 2}, "right is the index of one of the 2 choices, got 2"),
        ({"choices": ["a", "b"], "right": -1}, "right is the index"),
        ({"choices": ["a", "b"], "chosen": True}, "chosen is the index"),
        ({"correct": "no"}, "correct is True, False, or None"),
        ({"metadata": [1]}, "metadata of a case have names"),
        ({"metadata": {1: 2}}, "metadata of a case have names"),
        ({"passages": ["a"]}, "passages of a case have names"),
        ({"target": "a"}, "two different tokens|missing here"),
        ({"target": "a", "contrast": "b", "completion": "a b"}, "come together"),
        ({"position": 0}, "come together"),
    ],
)
def test_impossible_fields(changes: dict[str, Any], words: str) -> None:
    fields = {"prompt": "a b"} | changes
    with pytest.raises(InputError, match=words):
        Case(**fields)
    with pytest.raises(InputError, match=words):
        Case.from_dict(fields)


def test_undecided_cases_are_refused_with_the_way_to_a_decision() -> None:
    decided = [
        Case(prompt="a", target="b", contrast="c"),
        Case(prompt="a", completion="b c", position=0),
        Case(prompt="a", completion="b c", position=0, target="b", contrast="d"),
    ]
    assert all(require_decided(case) is case for case in decided)
    undecided = [Case(prompt="a"), Case(prompt="a", completion="b c", accepted=("d",)), FULL]
    for case in undecided:
        assert not case.decided
        with pytest.raises(InputError, match="`find_decision` finds them"):
            require_decided(case)
    with pytest.raises(InputError, match="case 'sums/3' names neither"):
        require_decided(FULL)


def test_every_analysis_of_cases_refuses_an_undecided_one() -> None:
    model = load_demo_model(device="cpu")
    case = Case(
        prompt="then mary and john went home . john gave the key to", completion="john", accepted=("mary",)
    )
    for ask in (
        lambda: explain(model, case),
        lambda: explain(model, case=case),
        lambda: faithfulness(model, [case], ["random"]),
    ):
        with pytest.raises(InputError, match="find_decision"):
            ask()
    given = faithfulness(model, [case], ["random"], LogitDiff("john", "mary"), steps=2, limit=1).cases
    assert given["correct"].tolist() == [False]
