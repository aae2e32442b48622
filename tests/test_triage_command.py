"""`lrp-lens triage`: one call, what became of the rows, and one line for what is wrong."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lrp_lens.cli import app
from lrp_lens.cli.options import TASKS
from lrp_lens.demo import demo_cases
from lrp_lens.failures.triage import load_triage
from lrp_lens.failures.triage import options as triage_options
from tests.chat_model import save_chat_model
from tests.test_triage import HOSTILE


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    case = replace(demo_cases("key_value_ten_facts")[0], id="one", suite=HOSTILE)
    question = {name: value for name, value in case.to_dict().items() if name not in ("prompt", "logit_gap")}
    (tmp_path / "log.jsonl").write_text(
        json.dumps(question | {"question": case.prompt, "metadata": {}}) + f"\n{json.dumps(HOSTILE)}\n"
    )
    return tmp_path / "log.jsonl"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["triage", *arguments], prog_name="lrp-lens")


def test_rows_coverage_verdicts_and_the_next_command(log: Path) -> None:
    result = call(
        str(log), "--column", "prompt=question", "--out", "a folder", "--rules", "cp-lrp", "--limit", "1"
    )
    assert result.exit_code == 0, result.output
    for said in ("explained", "1", "Where the failure can be seen", "Next: lrp-lens report 'a folder'"):
        assert said in result.stdout
    found = load_triage("a folder")
    assert [(row.line, row.fate, row.rules) for row in found.rows()] == [
        (1, "explained", "CP_LRP"),
        (2, "bad row", ""),
    ]
    assert "bad row" in result.stdout and "\u202e" not in result.stdout


def test_a_text_becomes_a_message(log: Path, tmp_path: Path) -> None:
    row = {"question": "1+1?", "target": "5", "contrast": "6"}
    log.write_text(json.dumps(row) + "\n" + json.dumps(row | {"segments": {"sum": [[0, 1]]}}) + "\n")
    model = str(save_chat_model(tmp_path / "chat"))
    result = call(str(log), "--column", "prompt=question", "--chat", "--model", model, "--out", "a folder")
    assert result.exit_code == 0, result.output
    found = load_triage("a folder")
    assert [list(case.prompt) for case in found.cases()] == [[{"role": "user", "content": "1+1?"}]]
    _, bad = found.rows()
    assert (bad.fate, bad.line) == ("bad row", 2) and "a chat template moves them" in bad.reason


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gone.jsonl"], "there is no file or folder 'gone.jsonl'"),
        (["log.jsonl", "--task", "regexp"], "Did you mean 'regex'"),
        (["log.jsonl", "--task", "humaneval"], "allow_code_execution=True"),
        (["log.jsonl", "--rules", "lrp"], "rules is a RuleSet, or one of"),
        (["log.jsonl", "--column", "prompt"], "--column is FIELD=COLUMN"),
        (["log.jsonl", "--column", "promt=a"], "Did you mean 'prompt'"),
        (["log.jsonl", "--dtype", "int8"], "--dtype is one of"),
        (["log.jsonl", "--out", "log.jsonl"], "is a file"),
        (["log.jsonl", "--limit", "0"], "--limit"),
        (["log.jsonl", "--workers", "4"], "workers are None (this process), 'ray' or 'ray:N'"),
        ([], "FILE"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_end_in_one_line_before_the_model_is_loaded(
    log: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_model(*arguments: Any) -> None:
        raise AssertionError("the model is not loaded")

    from lrp_lens.cli import triage as command

    monkeypatch.setattr(command, "loaded", no_model)
    result = call(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1 and said in result.stderr, result.stderr


def test_the_tasks_of_the_help() -> None:
    assert triage_options.TASKS == TASKS
