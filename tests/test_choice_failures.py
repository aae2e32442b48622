"""benchmarks/choice_failures: its cases, a row of one, and its tables, on the demo model."""

import pandas as pd

from benchmarks.choice_failures import every_table, measured, wrong_choices
from benchmarks.evidence.tasks import Prompt
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.failures.triage.batch import triage_batch
from lrp_lens.failures.triage.options import TriageOptions


def test_failures_of_each_task_come_in_turn_and_are_triaged_as_choices() -> None:
    model, tasks = load_demo_model(device="cpu"), dict[str, list[Prompt]]()
    for name, suite, count in (("a", "key_value_ten_facts", 2), ("b", "override_four_facts", 1)):
        tasks[name] = [
            Prompt(name, str(case.prompt), "", case.contrast, case.target, ())
            for case in demo_cases(suite)[:count]
        ]
        right = demo_cases(suite, correct=True)[0]
        tasks[name].insert(0, Prompt(name, str(right.prompt), "", right.target, right.contrast, ()))
    found = list(wrong_choices(model, tasks))
    assert [one.id for one in found] == ["a 1", "b 1", "a 2"]
    wrong = demo_cases("key_value_ten_facts")[0]
    assert (found[0].choices, found[0].right, found[0].chosen) == ((wrong.contrast, wrong.target), 0, 1)
    options = TriageOptions(draws=4, stability=False, graph=False)
    (row,) = triage_batch(model, found[:1], options)
    assert (row.way, row.target, row.contrast) == ("choice", wrong.target, wrong.contrast)
    told = measured(found[0], row, 1.5)
    assert told["verdict"] == row.verdict and told["tokens"] == row.n_tokens and told["seconds"] == 1.5
    assert str(wrong.prompt) not in str(told)


def test_tables_say_what_rows_say() -> None:
    key = {"task": "t", "tokens": 9, "pattern": "both", "stable": True, "repaired": False}
    rows = pd.DataFrame(
        [
            key | {"verdict": "input", "seconds": 6.0},
            key | {"verdict": "none", "seconds": 12.0, "stable": False},
        ]
    )
    told = every_table(rows)
    assert "| 2 | 9 | 9.0 | 11.4 | 12.0 | 15.0 |" in told
    assert "| t | 1 | 0 | 1 | 0 |" in told and "| both | 2 |" in told
    assert "| verdict stable | 0.50 [" in told
