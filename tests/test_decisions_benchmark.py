"""The rows and tables of benchmarks/decisions, on the demo model and on rows made by hand."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.decisions import run
from benchmarks.decisions.rows import Settings, flips, row
from benchmarks.decisions.tables import every_table, ratio, share
from benchmarks.evidence.store import Store
from lrp_lens.cases import Case
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.errors import InputError
from lrp_lens.failures.decision import Contains, IFEval
from lrp_lens.failures.decision.checker import as_checker
from lrp_lens.failures.verification.verify import verify

SETTINGS = Settings(max_new_tokens=2, budget=64, draws=4)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return load_demo_model(device="cpu")


def test_a_failure_a_right_answer_and_an_error_are_a_row_each(model: torch.nn.Module) -> None:
    wrong = demo_cases("override_four_facts")[0]
    asked = Case(prompt=wrong.prompt, id="a", suite="s")
    found = row(model, asked, Contains(wrong.contrast), SETTINGS)
    assert found["failure"] and found["checked"] and found["way"] == "pivot"
    seen = verify(model, wrong, draws=4, stability=False, repairs=False, thorough=False)
    assert (found["verdict"], found["tokens"]) == (seen.verdict.value, len(seen.token_strings))
    assert found["gap"] == pytest.approx(seen.hide.steps[0].reading.gap, abs=1e-4)
    hidden = seen.hide.at(1)
    assert hidden is not None and found["ATTN_LRP_flip_1"] == float(hidden.flip)
    assert found["ATTN_LRP_drop_1"] == pytest.approx(found["gap"] - hidden.gap, abs=1e-4)
    assert 0 <= found["random_flip_5"] <= 1 and found["RELP_FROZEN_PATTERN_share"] == pytest.approx(
        1, abs=1e-4
    )
    assert (found["completion_tokens"], found["cut"], found["score"]) == (2, True, 1)
    assert found["search_seconds"] > 0 < found["verify_seconds"] and found["forwarded"] > 0
    assert flips(model, wrong, SETTINGS) == flips(model, wrong, SETTINGS)
    other = row(model, asked, Contains("no such word"), SETTINGS)
    assert (
        other["failure"] and other["way"] == "runner-up" and not other["checked"] and "verdict" not in other
    )
    right = row(model, asked, Contains(wrong.target), SETTINGS)
    assert not right["failure"] and "no failure" in right["reason"] and "verdict" not in right
    unknown = row(model, asked, as_checker(lambda text: 1 / 0), SETTINGS)
    assert not unknown["failure"] and "not judged: the checker raised ZeroDivision" in unknown["reason"]
    long = row(model, Case(prompt="the " * 600, id="b"), Contains("x"), SETTINGS)
    assert not long["failure"] and "fit" in long["reason"]


@pytest.mark.skipif(not run.has_harness(), reason="needs lm-evaluation-harness")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}),
        ("change_case:capital_word_frequency", {"capital_frequency": 3, "capital_relation": "at least"}),
    ],
)
def test_constraints_that_need_data_which_is_not_there_are_not_judged(
    model: torch.nn.Module, name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """NLTK's punkt_tab cannot be downloaded everywhere: the case is no failure and no success, and says why."""
    prompt = demo_cases("override_four_facts")[0].prompt
    checker = IFEval({"instruction_id_list": [name], "kwargs": [options], "prompt": prompt})
    monkeypatch.setattr("nltk.data.path", [])
    found = row(model, Case(prompt=prompt, id="a", suite=name), checker, SETTINGS)
    assert not found["failure"] and "way" not in found
    assert "not judged: the checker raised LookupError: Resource 'punkt_tab' not found" in found["reason"]
    table = every_table(pd.DataFrame([found | {"task": "IFEval"}]))
    (line,) = (line for line in table.splitlines() if line.startswith("| IFEval | 1 "))
    assert line.startswith("| IFEval | 1 | 1 | 0 |")  # prompts, not judged, failures


def test_prompts_are_in_the_order_of_a_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = (1, 1999, 5, 7)
    lines = [json.dumps({"question": f"{n} + 1?", "answer": f"so\n#### {n + 1:,}"}) for n in numbers]
    (tmp_path / "gsm8k.jsonl").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setattr(run, "has_harness", lambda: False)
    found = list(run.prompts("GSM8K", tmp_path))
    order = np.random.default_rng(0).permutation(4).tolist()
    assert [case.id for case, _ in found] == [str(at) for at in order] != sorted(case.id for case, _ in found)
    for case, checker in found:
        value = numbers[int(case.id)]
        assert case.prompt == [{"role": "user", "content": f"{value} + 1?"}]
        assert checker.score(f"It is {value + 1:,}.") == 1 and checker.score("It is 3.") == 0
    with pytest.raises(InputError, match=r"ifeval\.jsonl"):
        next(run.prompts("IFEval", tmp_path))


def test_what_is_there_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def fake(model: Any, case: Case, checker: Any, settings: Settings) -> dict[str, Any]:
        measured.append(case.id)
        return {"case": case.id, "failure": case.id != "1", "reason": "# no comment, 'quoted'"}

    cases = [(Case(prompt="a", id=str(number)), Contains("x")) for number in range(6)]
    monkeypatch.setattr(run, "row", fake)
    monkeypatch.setattr(run, "prompts", lambda task, data, seed: iter(cases))
    options = argparse.Namespace(max_new_tokens=2, budget=8, draws=1, failures=2, limit=9, data=tmp_path)
    store = Store(tmp_path)
    assert list(run.measure(None, "m", "GSM8K", options, store)) == [1, 1, 2]
    assert measured == ["0", "1", "2"]  # two failures are enough
    options.failures = 3
    assert list(run.measure(None, "m", "GSM8K", options, store)) == [1, 1, 2, 3]
    assert measured == ["0", "1", "2", "3"]
    rows = store.every("decisions")
    assert rows["failure"].tolist() == [True, False, True, True] and set(rows["reason"]) == {
        "# no comment, 'quoted'"
    }
    options.draws = 2
    with pytest.raises(ValueError, match="was made with"):
        next(run.measure(None, "m", "GSM8K", options, store))


def test_tables_count_what_the_rows_say() -> None:
    pivot = {
        "task": "T",
        "failure": True,
        "way": "pivot",
        "checked": True,
        "carries": True,
        "score": 1.0,
        "cut": True,
        "search_seconds": 2.0,
        "forwarded": 30,
    }
    both = {"ATTN_LRP_flip_1": 1.0, "random_flip_1": 0.25}
    rows = pd.DataFrame(
        [
            pivot | {"gap": 2.0, "verdict": "input"} | both,
            pivot | {"gap": 0.5, "verdict": "graph", "carries": False} | both | {"ATTN_LRP_flip_1": 0.0},
            pivot | {"gap": 3.0, "way": "runner-up", "checked": False, "search_seconds": 90.0, "cut": False},
            pivot | {"gap": float("nan"), "way": "none", "checked": False},
            {"task": "T", "failure": False},
            {"task": "T", "failure": False, "reason": "not judged: the checker raised"},
        ]
    )
    parts = {one.partition("\n")[0]: one for one in every_table(rows).split("## ")[1:]}
    cells = {
        name: [cell.strip() for cell in line.split("|")[1:-1]]
        for name, text in parts.items() for line in text.splitlines() if "| T |" in line
    }  # fmt: skip
    coverage, goals, ways, cost, verdicts, flipped = cells.values()
    assert coverage[:5] == ["T", "6", "1", "4", "3"]
    assert [one.split(" ")[0] for one in coverage[5:]] == ["0.25", "0.50"]
    assert goals == ["T", "slowest search", "≤ 60 s", "90 s", "missed"]
    assert ways == ["T", "1", "1", "0", "1", "1"]
    assert cost == ["T", "2.0", "63.6", "90.0", "0.75", "30"]
    assert verdicts == ["T", "1", "1", "0", "2"]
    assert flipped[:3] == ["T", "ATTN_LRP", "1"] and "of 2" in flipped[3]
    assert [one.split(" ")[0] for one in flipped[3:]] == ["0.50", "0.25", "2.0"]
    goals_of = every_table(rows.assign(task="IFEval", search_seconds=60.0))
    assert "| IFEval | checked contrast | ≥ 0.50 | 0.50 | reached |" in goals_of
    assert "| IFEval | checked contrast, gap > 1 | ≥ 0.20 | 0.25 | reached |" in goals_of
    assert "| IFEval | slowest search | ≤ 60 s | 60 s | reached |" in goals_of
    assert "| T | 1 | 0 | 0 |" in every_table(pd.DataFrame([{"task": "T", "failure": False}]))


def test_intervals_of_few_cases_do_not_look_sure() -> None:
    assert share([1, 1, 1, 1]) == "1.00 [0.40, 1.00] of 4"  # Clopper–Pearson: (0.05 / 2) ** (1 / 4) = 0.398
    assert share([0.5, float("nan"), 0.5]) == "0.50 [0.50, 0.50] of 2" and share([]) == "none"
    assert ratio(np.array([[1.0, 0.0], [1.0, 0.0]])) == "∞ [∞, ∞]"
    assert ratio(np.array([[0.0, 0.0], [0.0, 0.0]])) == "– [0.0, ∞]"
    assert ratio(np.array([[1.0, 0.5]] * 4)) == "2.0 [2.0, 2.0]"
    low, high = ratio(np.array([[1.0, 0.5], [0.0, 0.5]] * 20)).split("[")[1].rstrip("]").split(", ")
    assert 0.5 < float(low) < 1 < float(high) < 1.5
