"""Completions: any of their tokens explained, and answers of several tokens compared where they part."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lrp_lens import (
    Case,
    InputError,
    LogitDiff,
    MetricError,
    explain,
    faithfulness,
    generate,
    run_with_relevance,
)
from lrp_lens.cli import app
from lrp_lens.cli.inputs import parse_position, read_completion, read_prompt
from lrp_lens.hosts.completions import decide
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.metrics import RunnerUp

MESSAGES = [{"role": "user", "content": "17 + 25?"}]
SAID = "17 + 25 = 32."


def ids_of(model: Any, text: str) -> list[int]:
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


# ------------------------------------------------------------------------------------ positions of a completion
@pytest.mark.parametrize("prompt", [MESSAGES, "17 + 25?"])
def test_a_token_of_a_completion_is_a_prompt_with_what_was_said(chat_model: Any, prompt: Any) -> None:
    """Every view is that of prompt and completion up to the token, as one row of ids, with the token as target."""
    said = ids_of(chat_model, SAID)
    at = said.index(ids_of(chat_model, "32")[0])  # one token
    given = explain(chat_model, prompt, contrast="4", completion=SAID, position="32", seeds=2)
    ids = torch.cat([tokenize(chat_model, prompt).ids[0], torch.tensor(said[:at])])
    literal = run_with_relevance(chat_model, ids, LogitDiff(said[at], "4"))[1]
    assert given.metric_value == pytest.approx(literal.metric_value.item(), abs=1e-5)
    np.testing.assert_allclose(given.tokens.values, literal.tokens().values, atol=1e-6)
    assert given.target.text == "32" and given.contrast.text == "4"
    assert "".join(given.completion) == SAID and given.position == at
    assert given.notes[0] == f"target: token {at} of the completion, '32'"
    assert given.prompt == (prompt if isinstance(prompt, str) else "<s>user\n17 + 25?<e>\n<s>assistant\n")
    named = [] if given.segments is None else list(given.segments.labels["segment"])
    assert named == (
        ["prompt", "completion"] if isinstance(prompt, str) else ["template", "user 1", "completion"]
    )
    assert given.segments is not None
    assert given.segments.values.sum() == pytest.approx(given.tokens.values.sum(), abs=1e-5)
    assert given.segments.values[-1] == pytest.approx(given.tokens.values[-at:].sum(), abs=1e-6)
    assert "completion" in given.shares() and given.shares() in repr(given)
    plain = given.to_json_dict()
    assert plain["position"] == at and plain["completion"][at] == "32" and "segments" in plain["views"]


def test_all_ways_to_name_the_token(chat_model: Any) -> None:
    said = ids_of(chat_model, SAID)
    wanted = len(said) - 2
    ways = (wanted, wanted - len(said), "32", " 32", "32.")
    for position in ways:
        assert decide(chat_model, MESSAGES, completion=SAID, position=position).position == wanted
    assert decide(chat_model, MESSAGES, completion=said, position="32").position == wanted
    first = decide(chat_model, MESSAGES, completion=SAID, position=0)
    assert first.target == said[0] and first.batch.ids.tolist() == tokenize(chat_model, MESSAGES).ids.tolist()
    spread = decide(chat_model, MESSAGES, completion=SAID, position="25")  # two tokens: where it begins
    assert spread.completion[spread.position] == "2" and spread.completion[spread.position + 1] == "5"


def test_what_was_generated_is_a_completion(chat_model: Any) -> None:
    said = generate(chat_model, MESSAGES, 4)
    found = explain(chat_model, MESSAGES, completion=said, position=2, seeds=1)
    assert (
        found.target.rank == 1 and found.target.id == said.ids[2] and found.contrast.id == said.top_ids[2, 1]
    )
    assert found.metric_value == pytest.approx(said.gaps[2, 1], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (dict(completion=SAID), InputError, r"received None. The completion's tokens: 0 '1', 1 '7', 2 ' ', 3 '\+'"),
        (dict(completion=SAID, position=99), InputError, r"lies in \[-\d+, \d+\), .*received 99"),
        (dict(completion=SAID, position="zz"), InputError, "stands there nowhere"),
        (dict(completion=SAID, position="7 + 25 = 32.x"), InputError, "nowhere"),
        (dict(completion=SAID, position=" "), InputError, "several times"),
        (dict(completion=SAID, position="2"), InputError, "nowhere|several"),
        (dict(position=1), InputError, "position=1 alone"),
        (dict(completion="", position=0), MetricError, "tokens of the vocabulary; '' does not"),
        (dict(case=Case(prompt="a", completion="b", position=0), position=0), InputError, "either the case or those"),
        (dict(target="he", contrast="he t"), MetricError, "one begins the other"),
        (dict(target="he 2", contrast="he 2"), InputError, "both are 'he'"),
    ],
)  # fmt: skip
def test_one_clear_error(
    chat_bridge: Any, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    prompt = None if "case" in arguments else MESSAGES
    if arguments.get("position") == "2":
        arguments = arguments | {"completion": "2 and 2"}
    with pytest.raises(error, match=words):
        explain(chat_bridge, prompt, **arguments)


# ------------------------------------------------------------------------------------ answers of several tokens
def test_answers_are_compared_where_they_part(chat_model: Any) -> None:
    given = explain(chat_model, "1+1=", "New York", "New Orleans", seeds=1)
    shared = ids_of(chat_model, "New ")
    ids = torch.cat([tokenize(chat_model, "1+1=").ids[0], torch.tensor(shared)])
    literal = run_with_relevance(chat_model, ids, LogitDiff("Y", "O"))[1]
    assert (given.target.text, given.contrast.text) == ("Y", "O")
    np.testing.assert_allclose(given.tokens.values, literal.tokens().values, atol=1e-6)
    assert "both answers begin with 'New ', which is said already" in given.notes[0]
    assert given.notes[1].startswith("target: 'Y', where an answer of 8 tokens")
    assert given.segments is not None and given.segments.labels["segment"] == ("prompt", "answer")


def test_several_tokens_against_the_best_other_choice(chat_model: Any) -> None:
    given = explain(chat_model, "1+1=", "York", seeds=1)
    assert given.target.text == "Y" and given.contrast.rank <= 2
    assert given.notes[0].startswith("target: 'Y', where an answer of 4 tokens, ['Y', 'o', 'r', 'k'], parts")
    assert given.segments is None
    one = explain(chat_model, "1+1=", "Y", seeds=1)
    np.testing.assert_array_equal(one.tokens.values, given.tokens.values)
    assert not any("parts" in note for note in one.notes)


def test_answers_behind_a_completion(chat_model: Any) -> None:
    """An answer of several tokens in the place of the completion's own."""
    given = explain(chat_model, MESSAGES, "32", "42", completion=SAID, position="32", seeds=1)
    assert (given.target.text, given.contrast.text) == ("32", "4")
    assert given.notes[0].startswith("contrast: '4', where an answer of 2 tokens")


# ------------------------------------------------------------------------------------ cases
def test_cases_with_completions(chat_model: Any) -> None:
    case = Case(prompt=MESSAGES, completion=SAID, position="32", contrast="4")
    given = explain(chat_model, case, seeds=1)
    direct = explain(chat_model, MESSAGES, contrast="4", completion=SAID, position="32", seeds=1)
    np.testing.assert_array_equal(given.tokens.values, direct.tokens.values)
    table = faithfulness(chat_model, [case], ["random"]).cases
    assert table["metric"].tolist() == pytest.approx([direct.metric_value], abs=1e-4)
    open_contrast = Case(prompt=MESSAGES, completion=SAID, position="32")
    best = explain(chat_model, open_contrast, seeds=1)
    assert faithfulness(chat_model, [open_contrast], ["random"]).cases["metric"].tolist() == pytest.approx(
        [best.metric_value], abs=1e-4
    )
    parted = Case(prompt="1+1=", target="New York", contrast="New Orleans")
    assert faithfulness(chat_model, [parted], ["random"]).cases["metric"].tolist() == pytest.approx(
        [explain(chat_model, parted, seeds=1).metric_value], abs=1e-4
    )


def test_the_target_of_a_runner_up() -> None:
    logits = torch.tensor([[[1.0, 7.0, 5.0]]])
    for target, wanted in ((None, (1, 2)), (1, (1, 2)), (2, (2, 1)), (0, (0, 1))):
        metric = RunnerUp(target=target)
        chosen = metric.concrete(logits)
        assert (chosen.target[0], chosen.contrast[0][0]) == wanted
        assert (
            metric(logits).item()
            == chosen(logits).item()
            == logits[0, 0, wanted[0]] - logits[0, 0, wanted[1]]
        )


# ------------------------------------------------------------------------------------ the command
@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    return lambda *arguments, stdin=None: CliRunner().invoke(
        app, ["explain", *arguments], input=stdin, prog_name="lrp-lens"
    )


def test_the_command_explains_a_token_of_a_completion(run: Any, chat_directory: Path) -> None:
    Path("chat.json").write_text(json.dumps(MESSAGES), encoding="utf-8")
    Path("said.txt").write_text(f"{SAID}\n", encoding="utf-8")
    found = []
    for arguments in (
        ("--messages", "chat.json", "--completion", SAID, "--position", "'32'"),
        ("--chat", "--prompt", "17 + 25?", "--completion-file", "said.txt", "--position", "-2"),
    ):
        result = run("--model", str(chat_directory), *arguments, "--json", "x.json", "--device", "cpu")
        assert result.exit_code == 0, result.output
        assert f"completion: {SAID}" in result.stdout and "By message: template" in result.stdout
        found.append(json.loads(Path("x.json").read_text(encoding="utf-8")))
        page = Path("lrp-lens-report.html").read_text(encoding="utf-8")
        assert "17 + 25 = <mark>32</mark>." in page and "By message" in page
    for one in found:
        one.pop("seconds")
    assert found[0] == found[1] and found[0]["target"]["text"] == "32"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", "a", "--completion", "b"], "--position together"),
        (["--prompt", "a", "--position", "1"], "--position together"),
        (["--completion", "b", "--position", "1"], "--completion needs a prompt"),
        (["--prompt", "a", "--completion", "b", "--completion-file", "c"], "only one of --completion"),
        (["--prompt", "a", "--completion", "", "--position", "0"], "The completion is empty"),
        (
            ["--prompt", "a", "--completion-file", "none.txt", "--position", "0"],
            "read the completion from 'none.txt'",
        ),
        (["--messages", "none.json"], "read the messages from 'none.json'"),
        (["--messages", "bad.json"], "--messages are JSON"),
        (["--messages", "empty.json"], "at least one message"),
        (["--messages", "good.json", "--chat"], "--messages are taken as they are"),
        (["--messages", "good.json", "--prompt", "a"], "only one of --prompt"),
    ],
)
def test_wrong_arguments(run: Any, arguments: list[str], words: str) -> None:
    for name, text in (("bad", "{"), ("empty", "[]"), ("good", json.dumps(MESSAGES))):
        Path(f"{name}.json").write_text(text, encoding="utf-8")
    result = run(*arguments)
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1, result.stderr


def test_reading_arguments(tmp_path: Path) -> None:
    assert [parse_position(one) for one in (None, "3", "-1", "x", "'3'", '"-1"')] == [
        None,
        3,
        -1,
        "x",
        "3",
        "-1",
    ]
    (tmp_path / "m.json").write_text(json.dumps(MESSAGES), encoding="utf-8")
    assert read_prompt(None, None, None, None, str(tmp_path / "m.json")) == MESSAGES
    assert read_completion(None, None) is None and read_completion("a ", None) == "a "
    with pytest.raises(InputError, match="only one of"):
        read_completion("a", "b")
