"""The prompts of benchmarks/evidence, and what its tables make of rows, without a language model."""

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.evidence import parts, tables
from benchmarks.evidence.cases import Answered, decided, pairs
from benchmarks.evidence.tasks import TASKS, Prompt, prompts, whole
from lrp_lens import RELP, LogitDiff, load_demo_model
from lrp_lens.circuits import component_edges, stability
from lrp_lens.demo import demo_prompts


def tokenizer(pattern: str = r" ?[A-Za-z]+|[^A-Za-z]") -> Any:
    """A tokenizer of words, each with the space before it; digits stand alone."""
    ids: dict[str, int] = {}

    def call(text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        found = re.findall(r"\d|" + pattern, text)
        return {"input_ids": [ids.setdefault(one, len(ids)) for one in found]}

    class Words:
        chat_template = None
        __call__ = staticmethod(call)

    return Words()


def test_prompts_of_one_text_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text twice, with another alternative: without the rule some would be in both halves."""

    def twice(random: np.random.Generator) -> Iterator[Prompt]:
        for index in range(210):
            for wrong in (" b", " c"):
                yield Prompt("twice", f"{index}", "", " a", wrong, ((0, 1),))

    monkeypatch.setitem(TASKS, "twice", twice)
    halves = prompts("twice", [tokenizer()])
    assert {len({one.text for one in half}) for half in halves.values()} == {105}
    assert {one.wrong for half in halves.values() for one in half} == {" b"}
    monkeypatch.setitem(TASKS, "twice", lambda random: islice(twice(random), 398))
    with pytest.raises(ValueError, match="needs 200 texts that every tokenizer holds; 'twice' has 199"):
        prompts("twice", [tokenizer()])


@pytest.mark.parametrize("task", TASKS)
def test_both_halves_are_other_prompts_and_the_same_every_time(task: str) -> None:
    halves, again = prompts(task, [tokenizer()]), prompts(task, [tokenizer()])
    assert halves == again and min(map(len, halves.values())) >= 100
    development, held_out = ({one.text for one in half} for half in halves.values())
    assert not development & held_out and len(development | held_out) >= 200
    for one in (*halves["development"], *halves["held out"]):
        text, twin = whole(one, tokenizer()), whole(one, tokenizer(), twin=True)
        assert one.right != one.wrong and text != twin
        assert one.evidence and all(0 <= start < stop <= len(one.text) for start, stop in one.evidence)
        if task in ("induction", "reading", "context against memory"):
            assert {one.text[slice(*span)] for span in one.evidence} == {one.right.strip()}


def test_answers_of_several_tokens_are_left_out() -> None:
    with pytest.raises(ValueError, match="needs 200 texts"):
        prompts("capitals", [tokenizer(), tokenizer(r".")])


def answer(difference: float, length: int) -> Answered:
    prompt = Prompt("task", "a", "b", " x", " y", ())
    return Answered(prompt, "a", "b", length, float(difference), {})


def test_right_answers_and_failures_are_apart_and_pairs_have_one_length() -> None:
    found = [answer(*one) for one in ((3, 5), (-2, 5), (0.5, 5), (4, 6), (2, 5), (5, 6), (6, 7))]
    assert [one.difference for one in decided(found, True, 9)] == [3, 4, 2, 5, 6]
    assert [one.difference for one in decided(found, False, 9)] == [-2]
    assert [one.case().target for one in decided(found, False, 9)] == [" y"]
    groups = pairs(found, 4, 2)
    assert [[one.length for one in group] for group in groups] == [[5, 5], [6, 6]]
    assert sum(map(len, pairs(found, 3, 2))) == 2


def test_circuit_table_is_made_of_the_means_over_pairs() -> None:
    key = {"model": "m", "task": "t", "half": "held out"}
    shares = {0.1: (0.0, 2.0), 1.0: (1.0, 1.0)}
    rows = [
        key | {"case": pair, "method": "A", "ranking": ranking, "fraction": fraction}
        | {"circuit": 10 * share[pair], "full": 10.0, "empty": 0.0}
        for ranking in ("signed", "absolute") for fraction, share in shares.items() for pair in (0, 1)
    ]  # fmt: skip
    (line,) = [line for line in tables.circuit_table(pd.DataFrame(rows), 200).splitlines() if "| A |" in line]
    # f is (0 + 2) / 2 = 1 at both sizes: the area is .9, and nothing is missing
    assert re.findall(r"\| (-?[\d.]+) \[", line) == ["0.90", "0.90", "0.00"]


def test_differences_are_paired_by_case() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=12)
    rows = pd.DataFrame(
        {"model": "m", "task": "t", "half": "held out", "case": case, "method": method, "replacement": how}
        | {"delta_a": base[case] + (1 if method == "B" else 0), "correct": True}
        for case in range(12) for method in ("A", "B") for how in ("mean", "resample")
    )  # fmt: skip
    said = tables.token_differences(rows, "A", ["A", "B"])
    assert "| B | +1.00 [+1.00, +1.00] | 12 |" in said and said.endswith("| – | – | – |")  # no failures


def test_a_task_shows_its_mean_over_cases_and_replacements() -> None:
    values = {
        ("A", "mean"): (1.0, 2.0),
        ("A", "resample"): (3.0, 6.0),
        ("B", "mean"): (0.0, 1.0),
        ("C", "mean"): (np.nan,),
    }
    rows = pd.DataFrame(
        {"model": "m", "task": "t", "half": "h", "case": case, "method": method, "replacement": how}
        | {"delta_a": value}
        for (method, how), found in values.items() for case, value in enumerate(found)
    )  # fmt: skip
    assert tables.task_table(rows).splitlines()[-1] == "| m | t | 2 | 3.00 | 0.50 | – |"


def test_edges_of_groups_are_those_of_all_pairs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Groups of several sizes: the mean is over pairs, not over groups, and stability is of all of them."""
    chosen = [one for one in demo_prompts(200) if one.words[0] == "then"][:7]
    clean = [one.text for one in chosen]
    corrupted = [" ".join([*one.words[:9], one.answer, *one.words[10:]]) for one in chosen]
    found = [
        Answered(Prompt("t", text, twin, one.answer, one.foil, ()), text, twin, 15, 3.0, {})
        for one, text, twin in zip(chosen, clean, corrupted, strict=True)
    ]
    assert [len(group) for group in pairs(found, 7, parts.GROUP)] == [4, 3]
    monkeypatch.setattr(parts, "CIRCUIT_METHODS", ("RELP",))
    model = load_demo_model(device="cpu")
    task = parts.Task(model, {}, "held out")
    task.__dict__ |= {"development": found, "found": found[:2]}
    means, rows = task.scored(7)
    metric = LogitDiff([one.answer for one in chosen], [one.foil for one in chosen])
    together = component_edges(model, clean, corrupted, metric, rules=RELP)
    np.testing.assert_allclose(means["RELP"].scores, together.scores, atol=1e-5)
    expected = stability(together)
    got = rows[rows["ranking"] == "absolute"]
    np.testing.assert_allclose(
        got["jaccard"], expected["jaccard"], atol=0.05
    )  # float32: close scores may swap
    assert set(got["pairs"]) == {7}
    circuits = parts.circuits(task, count=7, judged=2)
    assert set(circuits["method"]) == {"RELP", "random"} and set(circuits["case"]) == {0, 1}
    table = tables.stability_table(rows.assign(model="m"))
    assert "edges scored on 7 pairs" in table and "| two random circuits |" in table
    below = got.iloc[int(got["jaccard"].to_numpy().argmin())]
    assert (f"{below.jaccard:.2f} [{below.low:.2f}, {below.high:.2f}] ⚠" in table) == (below.jaccard < 0.8)
    # without pairs there is an empty table, and no error
    task.__dict__ |= {"development": [], "found": []}
    assert not len(parts.components(task, count=4, checkpoint=tmp_path)) and not len(
        parts.circuits(task, count=9, judged=4)
    )


def test_published_values_are_marked_as_not_ours() -> None:
    key = {"model": "m", "task": "t", "half": "held out", "case": 0, "method": "A"}
    rows = [
        key | {"ranking": ranking, "fraction": fraction, "circuit": 1.0, "full": 1.0, "empty": 0.0}
        for ranking in ("signed", "absolute") for fraction in (0.1, 1.0)
    ]  # fmt: skip
    ours, theirs = tables.circuit_table(pd.DataFrame(rows), 20).split("**Not measured here**")
    assert "GPT-2" not in ours and theirs.count("| GPT-2 small: ") == len(tables.PUBLISHED) == 3
