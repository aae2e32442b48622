"""Benchmark logs as cases: every format, every fate, and nothing lost between the rows and the table."""

import gzip
import json
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lrp_lens import Case, InputError, Passage, read_cases
from tests.benchmark_logs import (
    LM_EVAL_CHOICE,
    LM_EVAL_GENERATION,
    USER,
    fates,
    helm_log,
    helm_state,
    inspect_log,
    inspect_sample,
    lm_eval_choice,
    lm_eval_generation,
    write_json,
    write_lines,
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("unchecked")  # rows are whatever users have


# ------------------------------------------------------------------------------------ lm-evaluation-harness
def test_multiple_choice_of_lm_eval(tmp_path: Path) -> None:
    options = ["Rome", "Paris", "Bern"]
    wrong = lm_eval_choice(0, "The capital of France is", options, [-1.5, -2.0, -9.0], 1)
    right = lm_eval_choice(1, "The capital of Italy is", options, [-1.5, -4.0, -2.0], 0)
    log = read_cases(write_lines(tmp_path / LM_EVAL_CHOICE, [wrong, right]))
    failure, success = log
    assert (failure.prompt, failure.choices) == ("The capital of France is", (" Rome", " Paris", " Bern"))
    assert (failure.target, failure.contrast, failure.correct) == (" Rome", " Paris", False)
    assert (failure.chosen, failure.right, failure.decided) == (0, 1, True)
    assert (success.target, success.contrast, success.correct) == (
        " Rome",
        " Bern",
        True,
    )  # the strongest wrong one
    assert [case.id for case in (failure, success)] == [
        "capitals/0",
        "capitals/1",
    ] and failure.suite == "capitals"
    assert failure.metadata["doc"] == wrong["doc"] and failure.metadata["log_likelihoods"] == [
        -1.5,
        -2.0,
        -9.0,
    ]
    assert failure.metadata["scores"] == {"acc": 0.0, "acc_norm": 0.0}
    assert fates(log) == [(1, "case"), (2, "case")]


def test_options_that_begin_each_other_stay_undecided(tmp_path: Path) -> None:
    row = lm_eval_choice(0, "He lives in", ["York", "Yorkshire"], [-1.0, -2.0], 1)
    (case,) = read_cases(write_lines(tmp_path / LM_EVAL_CHOICE, [row]))
    assert (case.chosen, case.right, case.decided, case.correct) == (0, 1, False, False)


def test_options_with_prompts_of_their_own_are_no_case(tmp_path: Path) -> None:
    row = lm_eval_choice(0, "x", ["a", "b"], [-1.0, -2.0], 1)
    row["arguments"]["gen_args_1"]["arg_0"] = "y"
    log = read_cases(write_lines(tmp_path / LM_EVAL_CHOICE, [row]))
    assert list(log) == [] and "a prompt of its own" in log.rows[0].reason


def test_options_scored_without_the_prompt_too(tmp_path: Path) -> None:
    row = lm_eval_choice(0, "x", ["a", "b", "a", "b"], [-5.0, -2.0, -1.0, -1.5], 0)  # acc_mutual_info
    for i in (2, 3):
        row["arguments"][f"gen_args_{i}"]["arg_0"] = ""
    (case,) = read_cases(write_lines(tmp_path / LM_EVAL_CHOICE, [row]))
    assert (case.choices, case.chosen, case.right, case.prompt) == ((" a", " b"), 1, 0, "x")


def test_more_than_ten_options_keep_their_order(tmp_path: Path) -> None:
    options = [f"option {i}" for i in range(12)]
    row = lm_eval_choice(0, "x", options, [-float(i) for i in range(12)], 11)
    row["arguments"] = dict(sorted(row["arguments"].items()))  # gen_args_10 before gen_args_2
    (case,) = read_cases(write_lines(tmp_path / LM_EVAL_CHOICE, [row]))
    assert case.choices == tuple(f" {one}" for one in options)


@pytest.mark.parametrize(
    ("wanted", "seen", "correct"),
    [
        (None, ["case", "case", "filter", "filter"], [False, False]),
        ("strict-match", ["case", "case", "filter", "filter"], [False, False]),
        ("flexible-extract", ["filter", "filter", "case", "case"], [True, False]),
        ("other", ["filter"] * 4, []),
    ],
)
def test_a_document_is_one_case_under_several_filters(
    tmp_path: Path, wanted: str | None, seen: list[str], correct: list[bool]
) -> None:
    rows = [
        lm_eval_generation(doc, "2 + 3?", f"It is {doc}", 5, filter, score)
        for filter, scores in (("strict-match", (0.0, 0.0)), ("flexible-extract", (1.0, 0.0)))
        for doc, score in zip((5, 6), scores, strict=True)
    ]
    log = read_cases(write_lines(tmp_path / LM_EVAL_GENERATION, rows), filter=wanted)
    assert [case.correct for case in log] == correct
    assert [row.fate for row in log.rows] == seen
    lost = [row for row in log.rows if row.fate == "filter"]
    assert all("scored {'exact_match': " in row.reason for row in lost)  # what it said is not lost


def test_generation_of_lm_eval(tmp_path: Path) -> None:
    rows = [
        lm_eval_generation(0, "2 + 3?", "It is 6", 5, "none", 0.0),
        lm_eval_generation(1, "Name one.", "a", ["a", "b's"], "none", 1.0),
        lm_eval_generation(2, "No commas.", "x, y", 0, "none", 0.0, {"instruction_id_list": ["c"], "kwargs": [{}]}),
        lm_eval_generation(3, "2 + 3?", "It is 6", 5, "none", 0.0) | {"resps": [["It is 6", "It is 5"]]},
        lm_eval_generation(4, "2 + 3?", "x", 5, "none", 0.4),
    ]  # fmt: skip
    first, listed, checked, several, graded = read_cases(write_lines(tmp_path / LM_EVAL_GENERATION, rows))
    assert (first.id, first.completion, first.accepted, first.decided) == (
        "gsm8k/0",
        "It is 6",
        ("5",),
        False,
    )
    assert first.metadata["generation"]["until"] == ["\n\n"]
    assert listed.accepted == ("a", "b's") and listed.correct is True
    assert checked.accepted == ()  # IFEval's target is a 0 that means nothing
    assert several.metadata["resps"] == [["It is 6", "It is 5"]] and "resps" not in first.metadata
    assert graded.correct is None


def test_other_requests_of_lm_eval(tmp_path: Path) -> None:
    last_word = lm_eval_choice(0, "She opened the", ["door"], [-1.0], 0) | {"acc": 0, "target": " door"}
    rolling = lm_eval_choice(1, "text", ["x"], [-1.0], 0) | {"arguments": {"gen_args_0": {"arg_0": "text"}}}
    chat = lm_eval_generation(2, "x", "Hi", "hi", "none", 0.0)
    chat["arguments"]["gen_args_0"]["arg_0"] = [json.dumps(USER)]
    log = read_cases(write_lines(tmp_path / LM_EVAL_CHOICE, [last_word, rolling, chat]))
    word, messages = log
    assert (word.accepted, word.correct, word.decided) == ((" door",), False, False)
    assert messages.prompt == USER
    assert "likelihood of the text itself" in log.rows[1].reason


# ------------------------------------------------------------------------------------ Inspect
def test_inspect(tmp_path: Path) -> None:
    system = {"role": "system", "content": "Be brief."}
    picked = {"value": "I", "answer": "A"}
    samples = [
        inspect_sample(1, [system, *USER], "Bye."),
        inspect_sample(1, USER, "Hello.", epoch=2, target=["hi", "hello"], scores={"f": {"value": 0.5}}),
        inspect_sample("c", USER, "ANSWER: A", choices=["x", "y"], target="B", scores={"choice": picked}),
        inspect_sample(3, USER, [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "Yo"}]),
    ]
    first, second, choice, parts = read_cases(write_json(tmp_path / "log.json", inspect_log(samples)))
    assert first.prompt == [system, *USER] and first.completion == "Bye." and first.accepted == ("hi",)
    assert (first.id, first.suite, first.correct) == ("say/1", "say", False)
    assert first.metadata["model"] == "mockllm/model" and first.metadata["metadata"] == {"level": 1}
    assert (second.id, second.correct, second.accepted) == ("say/1/epoch 2", None, ("hi", "hello"))
    assert (choice.choices, choice.chosen, choice.right, choice.decided) == (("A", "B"), 0, 1, False)
    assert parts.completion == "Yo"


def test_what_inspect_leaves_without_an_answer(tmp_path: Path) -> None:
    called = [{"id": "1", "function": "f", "arguments": {}}]
    samples = [
        inspect_sample(
            1, USER, "x", output={"model": "m", "choices": []}, error={"message": "Timeout()\nmore"}
        ),
        inspect_sample(
            2, [{"role": "user", "content": "attachment://aa"}], "Yes.", attachments={"aa": "Long text."}
        ),
        inspect_sample(
            3, [{"role": "user", "content": "attachment://bb"}], "Yes.", attachments={"aa": "Long text."}
        ),
        inspect_sample(4, [*USER, {"role": "tool", "content": "3", "tool_call_id": "1"}], "Yes."),
        inspect_sample(5, [{"role": "user", "content": [{"type": "image", "image": "data:"}]}], "Yes."),
        inspect_sample(
            6, USER, "x", output={"choices": [{"message": {"content": "x", "tool_calls": called}}]}
        ),
        {"epoch": 1},
        3,
    ]
    log = read_cases(write_json(tmp_path / "log.json", inspect_log(samples)))
    (resolved,) = log
    assert resolved.prompt == [{"role": "user", "content": "Long text."}]
    assert [row.fate for row in log.rows] == ["no answer", "case", "bad", "bad", "bad", "bad", "bad", "bad"]
    wanted = [
        "an answer: Timeout()",
        "",
        "'attachment://bb'",
        "tools",
        "type 'image'",
        "tools",
        "has an id",
        "got 3",
    ]
    for row, words in zip(log.rows, wanted, strict=True):
        assert row.reason.endswith(words) if words.endswith("Timeout()") else words in row.reason
    log = read_cases(write_json(tmp_path / "head.json", inspect_log([])))
    assert [(row.fate, row.line) for row in log.rows] == [("empty", 0)]


def test_packed_inspect_logs_go_through_inspect_ai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.eval"
    path.write_bytes(b"PK")
    monkeypatch.setitem(__import__("sys").modules, "inspect_ai.log", None)
    with pytest.raises(InputError, match=r"pip install 'lrp-lens\[inspect\]'"):
        read_cases(path)
    (unread,) = read_cases(tmp_path).rows
    assert unread.fate == "bad" and "lrp-lens[inspect]" in unread.reason

    def dumping(value: Any) -> Any:
        return types.SimpleNamespace(model_dump=lambda mode, exclude_none=False: value)

    log = inspect_log([inspect_sample(1, USER, "Bye."), inspect_sample(2, USER, "Hi.")])
    library = types.ModuleType("inspect_ai.log")
    asked = {}
    vars(library).update(
        read_eval_log=lambda path, header_only: types.SimpleNamespace(eval=dumping(log["eval"])),
        read_eval_log_samples=lambda path, **options: asked.update(options) or map(dumping, log["samples"]),
    )
    monkeypatch.setitem(__import__("sys").modules, "inspect_ai.log", library)
    packed = list(read_cases(path))
    assert packed == list(read_cases(write_json(tmp_path / "log.json", log)))
    assert asked == {"all_samples_required": False, "resolve_attachments": True}


# ------------------------------------------------------------------------------------ HELM
def test_helm(tmp_path: Path) -> None:
    asked = "Choose.\nThe sky is? A. red B. blue"
    states = [
        helm_state("id1", asked, " A", {"red": False, "blue": True}),
        helm_state("id2", asked, " purple", {"red": False, "blue": True}),
        helm_state("id3", "Q\nWho?", " Ada.", {"Ada": True}),
        helm_state("id3", "Q\nWHO?", " Bob.", {"Ada": True}),
        helm_state(
            "id4", "Q\nWho?", "", {"Ada": True}, result={"success": False, "error": "429", "completions": []}
        ),
        helm_state("id5", asked, "", {"red": False, "blue": True}, reference_index=0, request_mode="ranking"),
    ]
    states[3]["instance"]["perturbation"] = {"name": "lowercase"}
    chat = helm_state("id6", "x", " Ada.", {"Ada": True})
    chat["request"] |= {"prompt": "", "messages": USER}
    chat["instance"]["input"]["text"] = "hi"
    run = tmp_path / "sky:model=local"
    run.mkdir()
    write_json(run / "scenario_state.json", helm_log([*states, chat]))
    scored = {"instance_id": "id3", "predicted_text": "Ada.", "train_trial_index": 0,
              "stats": {"f1": 0.5, "exact_match": 0.0, "quasi_exact_match": 1.0}}  # fmt: skip
    write_json(run / "display_predictions.json", [scored])
    log = read_cases(run / "scenario_state.json")
    choice, other, name, changed, messages = log
    assert (choice.target, choice.contrast, choice.completion, choice.position) == (" A", " B", " A", 0)
    assert (choice.choices, choice.chosen, choice.right, choice.correct) == ((" A", " B"), 0, 1, False)
    assert choice.id == "sky:model=local/id1" and choice.accepted == ("blue",)
    assert (other.chosen, other.right, other.decided, other.correct) == (None, 1, False, None)
    assert (name.correct, name.accepted, name.completion) == (False, ("Ada",), " Ada.")
    assert changed.id.endswith("id3/lowercase") and changed.correct is None
    (span,) = choice.text_spans()["instance"]
    assert asked[span.start : span.stop] == "The sky is? A. red B. blue"
    assert messages.prompt == USER and messages.text_spans() == {"instance": ((0, 4, 6),)}
    assert [row.fate for row in log.rows] == ["case"] * 4 + ["no answer", "bad", "case"]
    assert "429" in log.rows[4].reason and "original or calibration" in log.rows[5].reason
    folder = read_cases(tmp_path)
    assert [Path(row.file).name for row in folder.rows if row.fate == "no log"] == [
        "display_predictions.json"
    ]
    assert list(folder) == list(log)


def separate(
    name: str, asked: str, scores: dict[str, list[float]], right: str, calibrated: list[float] | None = None
) -> list[dict[str, Any]]:
    """The states of one instance: options with the log-probabilities of their words; calibrated ones between them."""
    states = []
    for index, (option, own) in enumerate(scores.items()):
        words = [f" {one}" for one in option.split()]
        for mode, prompt, values in (
            ("original", asked, own),
            ("calibration", "Answer:", [calibrated[index] / len(words)] * len(words) if calibrated else None),
        ):
            if values is None:
                continue
            echoed = [{"text": word, "logprob": -9.0} for word in prompt.split(" ")]
            echoed += [{"text": word, "logprob": value} for word, value in zip(words, values, strict=True)]
            answers = {one: one == right for one in scores}
            state = helm_state(name, f"{prompt} {option}", "", answers)
            state |= {"reference_index": index, "request_mode": mode, "output_mapping": None}
            state["instance"]["input"]["text"] = asked.splitlines()[-1]
            state["result"]["completions"] = [{"text": f"{prompt} {option}", "tokens": echoed}]
            states.append(state)
    return states


def test_options_that_helm_asked_one_by_one_are_one_case(tmp_path: Path) -> None:
    """Mean log-probability by token; calibrated, the sum minus that without the question."""
    asked, right = "Some context.\nThe sky is", "deep blue"
    scores = {"red": [-1.5], "deep blue": [-2.5, -0.7], "green": [-4.0]}
    plain = separate("id1", asked, scores, right)
    calibrated = separate("id2", asked, scores, right, [-0.2, -3.0, -1.0])
    mended = separate("id3", asked, scores | {"deep blue": [-1.0, -0.7]}, right)
    broken = separate("id4", asked, scores, right)[:2]
    cut = separate("id5", asked, scores, right)
    cut[1]["request"]["prompt"] = "Some context"
    odd = separate("id6", asked, scores, right)
    odd[2]["result"]["completions"][0]["tokens"][-1]["text"] = "?"
    failed = separate("id7", asked, scores, right)
    failed[0]["result"] = {"success": False, "error": "429", "completions": []}
    own = separate("id8", asked, scores, right)
    own[2] = separate("id8", "Another context.", scores, right)[2]
    run = tmp_path / "sky"
    run.mkdir()
    states = [*plain, *calibrated, *mended, *broken, *cut, *odd, *failed, *own]
    log = read_cases(write_json(run / "scenario_state.json", helm_log(states)))
    one, two, three = log
    assert one.prompt == asked and one.choices == (" red", " deep blue", " green")
    assert (one.chosen, one.right, one.correct, one.target, one.contrast) == (
        0,
        1,
        False,
        " red",
        " deep blue",
    )
    assert one.metadata["option_scores"] == pytest.approx([-1.5, -1.6, -4.0]) and one.accepted == (right,)
    assert one.completion == "" and one.decided and one.id == "sky/id1"
    (span,) = one.text_spans()["instance"]
    assert asked[span.start : span.stop] == "The sky is"
    assert two.metadata["option_scores"] == pytest.approx([-1.3, -0.2, -3.0])
    assert (two.chosen, two.right, two.correct, two.target, two.contrast) == (
        1,
        1,
        True,
        " deep blue",
        " red",
    )
    assert (three.chosen, three.correct) == (1, True)
    assert [row.fate for row in log.rows] == [
        *["option", "option", "case"], *["option"] * 5, "case", *["option", "option", "case"],
        *["option", "option"], *["option", "bad", "option"], *["option", "option", "bad"],
        *["no answer", "option", "option"], *["option", "option", "bad"],
    ]  # fmt: skip
    reasons = [row.reason for row in log.rows]
    assert "option 1 of 3 of 'id1' (original)" in reasons[0] and "does not end with its option" in reasons[15]
    assert "do not end with the option" in reasons[19] and "a prompt of its own" in reasons[-1]


# ------------------------------------------------------------------------------------ rows of one's own
OWN = Case(
    prompt=USER, id="x", completion="Yo, there", position="there", accepted=("hi",), suite="s", correct=None,
    passages={"word": (Passage(regex="hi"),)}, metadata={"a": [1, {"b": None}]}, answer_rank=3, logit_gap=1.5,
)  # fmt: skip
PLAIN = Case(
    prompt="a, \"b\"\nc", id="y", target=" 5", contrast=" 6", choices=(" 5", " 6"), chosen=0, right=1,
    segments={"evidence": ((1, 2),)}, correct=False,
)  # fmt: skip


def test_our_own_fields_come_back_from_every_table(tmp_path: Path) -> None:
    rows = [case.to_dict() for case in (OWN, PLAIN)]
    paths = [write_lines(tmp_path / "a.jsonl", rows), write_json(tmp_path / "a.json", rows)]
    with gzip.open(tmp_path / "a.jsonl.gz", "wb") as file:
        file.write(paths[0].read_bytes())
    flat = []
    for row in rows:
        own = {name: json.dumps(one) if isinstance(one, dict | list) else one for name, one in row.items()}
        if isinstance(row["prompt"], list):
            own["messages"] = own.pop("prompt")
        flat.append(own)
    table = pd.DataFrame(flat)
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_csv(tmp_path / "a.tsv", index=False, sep="\t")
    table.to_parquet(tmp_path / "a.parquet")
    paths += [tmp_path / f"a.{kind}" for kind in ("jsonl.gz", "csv", "tsv", "parquet")]
    for path in paths:
        log = read_cases(path)
        assert list(log) == [OWN, PLAIN], (path, log)
    for source in (rows, iter(rows), table, [OWN, PLAIN]):
        assert list(read_cases(source)) == [OWN, PLAIN]


def test_rows_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    found = datasets.Dataset.from_list(
        [
            {
                "question": "Which?",
                "options": {"text": ["red", "blue"], "label": ["A", "B"]},
                "answerKey": "B",
                "n": 1,
            },
            {
                "question": "What?",
                "options": {"text": ["1", "2"], "label": ["A", "B"]},
                "answerKey": "1",
                "n": None,
            },
        ]
    )
    log = read_cases(found, columns={"prompt": "question", "choices": "options", "right": "answerKey"})
    first, second = log
    assert (first.choices, first.right, second.right) == (("red", "blue"), 1, 0)  # a letter, an option's text
    assert first.metadata == {"n": 1} and first.correct is None
    stream = found.to_iterable_dataset()
    assert list(read_cases(stream, columns={"prompt": "question", "choices": "options", "right": "answerKey"})) == [
        first, second,
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"a dictionary of \['test'\]: pass one of them"):
        read_cases(datasets.DatasetDict({"test": found}))


def test_texts_are_messages_where_asked() -> None:
    """Passages of the text become passages of the message; rows of messages stay; a checker gets the text."""
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [
        {"prompt": "Say 12.", "passages": {"number": [{"characters": [4, 6]}, {"regex": "Say"}]}},
        {"messages": said},
    ]
    one, other = read_cases(rows, chat=True, passages={"digit": "1"})
    assert one.prompt == [{"role": "user", "content": "Say 12."}] and list(other.prompt) == said
    spans = {name: [(at.message, at.start, at.stop) for at in own] for name, own in one.text_spans().items()}
    assert spans == {"digit": [(0, 4, 5)], "number": [(0, 0, 3), (0, 4, 6)]}
    plain, _ = read_cases(rows, passages={"digit": "1"})
    assert plain.prompt == "Say 12." and plain.text_spans()["number"][0].message is None


def test_columns_and_functions() -> None:
    rows = [
        {
            "q": "2 + 3?",
            "a": "so #### 5",
            "said": 6,
            "id": 7,
            "correct": np.bool_(False),
            "x": np.float64("nan"),
        }
    ]
    columns = {"prompt": "q", "completion": "said", "accepted": lambda row: row["a"].split("#### ")[1]}
    (case,) = read_cases(rows, columns=columns, passages={"numbers": "[0-9]+"})
    assert (case.completion, case.accepted, case.id, case.correct) == ("6", ("5",), "7", False)
    assert case.metadata == {"a": "so #### 5"} and len(case.text_spans()["numbers"]) == 2
    decided, right = read_cases([
        {"prompt": "x", "choices": [" a", " b"], "chosen": 0.0, "right": "1"},
        {"prompt": "x", "choices": '[" a", " b"]', "chosen": 1, "right": "b"},
    ])  # fmt: skip
    assert (decided.target, decided.contrast, decided.correct) == (" a", " b", False)
    assert right.correct is True and not right.decided


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"question": "a"}, r"needs a prompt .*it has \['question'\]"),
        ({"prompt": ""}, "that is not empty"),
        ({"prompt": 3}, "a text or messages, got 3"),
        ({"prompt": None}, "needs a prompt"),
        ({"messages": [{"role": "user"}]}, "content of message 0 is text"),
        ({"prompt": "a", "chosen": "z", "choices": ["a", "b"]}, "chosen, the index of one of 2 choices"),
        ({"prompt": "a", "accepted": [[1]]}, "accepted is a text"),
        ({"prompt": "a", "correct": "maybe"}, "correct is true or false"),
        ({"prompt": "a", "segments": "["}, "segments is JSON"),
        ({"prompt": "a", "target": "b"}, r"missing here: \['contrast'\]"),
        ({"prompt": "a", "answer_rank": 1.5}, "answer_rank is a whole number"),
        ({"prompt": "a", "passages": {"p": {"characters": [0, 9]}}}, "text of 1 characters"),
        ("a", "named columns, got 'a'"),
        (None, "named columns, got None"),
    ],
)
def test_rows_that_are_no_cases(row: Any, words: str) -> None:
    log = read_cases([{"prompt": "good"}, row, {"prompt": "good too"}])
    assert [case.prompt for case in log] == ["good", "good too"]
    assert fates(log) == [(1, "case"), (2, "bad"), (3, "case")]
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(log.rows[1].reason)
