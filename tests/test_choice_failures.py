"""benchmarks/choice_failures: its cases, a row of one, and its tables, on the demo model."""

import pandas as pd

from benchmarks.choice_failures import demo_failures, every_table, measured, wrong_choices
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


def test_failures_of_the_demo_model_are_asked_as_such_choices() -> None:
    """Of each suite one, then of each the next: forty are of every suite."""
    found, every = list(demo_failures()), demo_cases()
    suites = list(dict.fromkeys(one.suite for one in every))
    assert [one.suite for one in found[: 2 * len(suites)]] == 2 * suites and len(found) == len(every)
    assert len({one.id for one in found}) == len(found)
    wrong = next(one for one in every if one.suite == suites[1])
    assert (found[1].prompt, found[1].choices) == (wrong.prompt, (wrong.contrast, wrong.target))
    assert (found[1].right, found[1].chosen, found[1].decided) == (0, 1, False)


def test_tables_say_what_rows_say() -> None:
    key = {"model": "m", "task": "t", "tokens": 9, "pattern": "both", "stable": True, "repaired": False}
    rows = pd.DataFrame(
        [
            key | {"model": "demo", "task": "u", "verdict": "graph", "seconds": 3.0},
            key | {"verdict": "input", "seconds": 6.0},
            key | {"verdict": "none", "seconds": 12.0, "stable": False},
        ]
    )
    told = every_table(rows)
    assert "| m | 2 | 9 | 9.0 | 11.4 | 12.0 | 0.3 | 15.0 |" in told
    assert "| demo | 1 | 9 | 3.0 | 3.0 | 3.0 | 0.1 | 5.0 |" in told
    demo, own = told.split("## Verdicts, ")[1:]
    assert "| u | 0 | 1 | 0 | 0 |" in demo and "| t |" not in demo
    assert "| t | 1 | 0 | 1 | 0 |" in own and "| both | 2 |" in own and "| verdict stable | 0.50 [" in own
