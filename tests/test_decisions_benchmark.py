"""The rows and tables of benchmarks/decisions, on the demo model and on rows made by hand."""

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from benchmarks.decisions import run
from benchmarks.decisions.rows import Settings, flips, row
from benchmarks.decisions.tables import every_table
from benchmarks.evidence.store import Store
from lrp_lens.cases import Case
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.errors import InputError
from lrp_lens.failures.decision import Contains
from lrp_lens.failures.verification import verify

SETTINGS = Settings(max_new_tokens=2, budget=64, draws=4)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return load_demo_model(device="cpu")


def test_a_failure_a_right_answer_and_an_error_are_a_row_each(model: torch.nn.Module) -> None:
    wrong = demo_cases("override_four_facts")[0]
    asked = Case(prompt=wrong.prompt, id="a", suite="s")
    found = row(model, asked, Contains(wrong.contrast), SETTINGS)
    assert found["failure"] and found["checked"] and found["way"] == "pivot"
    assert (found["target"], found["contrast"]) == (wrong.target, wrong.contrast)
    seen = verify(model, wrong, draws=4, stability=False, repairs=False, thorough=False)
    assert (found["verdict"], found["tokens"]) == (seen.verdict.value, len(seen.token_strings))
    assert found["gap"] == pytest.approx(seen.hide.steps[0].reading.gap, abs=1e-4)
    assert found["flip_1"] == float(seen.hide.at(1).flip) and 0 <= found["random_5"] <= 1  # type: ignore[union-attr]
    assert found["search_seconds"] > 0 < found["verify_seconds"] and found["forwarded"] > 0
    assert flips(model, wrong, SETTINGS) == flips(model, wrong, SETTINGS)
    right = row(model, asked, Contains(wrong.target), SETTINGS)
    assert not right["failure"] and "no failure" in right["reason"] and "verdict" not in right
    long = row(model, Case(prompt="the " * 600, id="b"), Contains("x"), SETTINGS)
    assert not long["failure"] and "fit" in long["reason"]


def test_prompts_are_the_datas_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.dumps({"question": f"{n} + 1?", "answer": f"so\n#### {n + 1:,}"}) for n in (1, 1999)]
    (tmp_path / "gsm8k.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(run, "has_harness", lambda: False)
    (one, first), (two, second) = run.prompts("GSM8K", tmp_path)
    assert one.prompt == [{"role": "user", "content": "1 + 1?"}] and (one.id, two.id) == ("0", "1")
    assert first.score("It is 2.") == 1 and second.score("It is 2,000.") == 1 and second.score("2") == 0
    with pytest.raises(InputError, match=r"ifeval\.jsonl"):
        next(run.prompts("IFEval", tmp_path))


def test_what_is_there_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def fake(model: Any, case: Case, checker: Any, settings: Settings) -> dict[str, Any]:
        measured.append(case.id)
        return {"case": case.id, "failure": case.id != "1"}

    cases = [(Case(prompt="a", id=str(number)), Contains("x")) for number in range(6)]
    monkeypatch.setattr(run, "row", fake)
    monkeypatch.setattr(run, "prompts", lambda task, data: iter(cases))
    options = argparse.Namespace(max_new_tokens=2, budget=8, draws=1, failures=2, limit=9, data=tmp_path)
    store = Store(tmp_path)
    run.measure(None, "m", "GSM8K", options, store)
    assert measured == ["0", "1", "2"]  # two failures are enough
    options.failures = 3
    run.measure(None, "m", "GSM8K", options, store)
    assert measured == ["0", "1", "2", "3"] and len(store.every("decisions")) == 4
    options.draws = 2
    with pytest.raises(ValueError, match="was made with"):
        run.measure(None, "m", "GSM8K", options, store)


def test_tables_count_what_the_rows_say() -> None:
    pivot = {
        "task": "T",
        "failure": True,
        "way": "pivot",
        "checked": True,
        "search_seconds": 2.0,
        "forwarded": 30,
    }
    rows = pd.DataFrame(
        [
            pivot | {"gap": 2.0, "verdict": "input", "flip_1": 1.0, "random_1": 0.25},
            pivot | {"gap": 0.5, "verdict": "graph", "flip_1": 0.0, "random_1": 0.25},
            pivot | {"gap": 3.0, "way": "runner-up", "checked": False, "search_seconds": 9.0},
            pivot | {"gap": float("nan"), "way": "none", "checked": False},
            {"task": "T", "failure": False},
        ]
    )
    told = every_table(rows)
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in told.splitlines() if "| T |" in line
    ]
    assert lines[0][:3] == ["T", "5", "4"]
    assert [one.split(" ")[0] for one in lines[0][3:]] == ["0.25", "0.50", "0.75"]
    assert lines[1] == ["T", "2.0", "6.9", "9.0", "30"]
    assert lines[2] == ["T", "1", "1", "0", "2"]
    assert lines[3][:2] == ["T", "1"] and [one.split(" ")[0] for one in lines[3][2:]] == [
        "0.50",
        "0.25",
        "+0.25",
    ]
    assert "of 2" in lines[3][2]
    assert "| T | 1 | 0 |" in every_table(pd.DataFrame([{"task": "T", "failure": False}]))
