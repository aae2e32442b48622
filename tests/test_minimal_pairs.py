"""benchmarks/minimal_pairs: where the evidence is, and what a row and its tables say, without a language model."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks._blimp import PARADIGMS, spans
from benchmarks.evidence.cases import answered
from benchmarks.evidence.tasks import Prompt
from benchmarks.minimal_pairs.prompts import prompts
from benchmarks.minimal_pairs.rows import question, relevance, row, rows
from benchmarks.minimal_pairs.tables import every_table
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.errors import InputError
from lrp_lens.methods import METHODS
from lrp_lens.rules import PRESETS

NOUN, CLAUSE, GENDER, NUMBER = PARADIGMS


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return load_demo_model(device="cpu")


@pytest.mark.parametrize(
    ("paradigm", "prefix", "evidence", "distractor"),
    [
        (NOUN, "The newspaper articles about art", "The newspaper articles", "art"),
        (NOUN, "A cousin of a lot of dancers", "A cousin", "dancers"),
        (CLAUSE, "That boy that knew all guests", "That boy", "guests"),
        (CLAUSE, "A lot of schools that hid Adam", "A lot of schools", "Adam"),
        (CLAUSE, "Boys who left Tara", "Boys", "Tara"),
        (GENDER, "Katherine can't help", "Katherine", ""),
        (NUMBER, "A lot of men could notice", "A lot of men", ""),
        (NUMBER, "These newspaper articles hid", "These newspaper articles", ""),
    ],
)
def test_the_evidence_is_the_subject(paradigm: str, prefix: str, evidence: str, distractor: str) -> None:
    found = ["".join(prefix[slice(*one)] for one in own) for own in spans(paradigm, prefix)]
    assert found == [evidence, distractor]


@pytest.mark.parametrize(
    ("paradigm", "prefix"), [(NOUN, "The movies"), (GENDER, "The boys"), (CLAUSE, "Boys")]
)
def test_a_prefix_without_anything_behind_its_subject_is_refused(paradigm: str, prefix: str) -> None:
    with pytest.raises(InputError, match="subject of a prefix"):
        spans(paradigm, prefix)


def characters(text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
    """A tokenizer of words of at most five letters, and of pieces of longer ones."""
    pieces = [word[at : at + 5] for word in text.split() for at in range(0, len(word), 5)]
    return {"input_ids": [hash(one) for one in pieces]}


def test_pairs_come_in_the_order_of_a_seed_and_are_one_token_each(tmp_path: Path) -> None:
    (tmp_path / "blimp").mkdir()
    lines = [
        {"one_prefix_prefix": f"The boy of {name}", "one_prefix_word_good": "has", "one_prefix_word_bad": bad}
        | {"pairID": str(number)}
        for number, (name, bad) in enumerate([("a", "have"), ("b", "havens"), ("c", "had"), ("d", "have")])
    ]
    text = "\n".join(map(json.dumps, lines))
    (tmp_path / "blimp" / f"{NOUN}.jsonl").write_text(text, encoding="utf-8")
    found = list(prompts(NOUN, characters, tmp_path))
    order = [str(at) for at in np.random.default_rng(0).permutation(4) if at != 1]
    assert [one.task.split()[1] for one in found] == order != sorted(order)
    assert {one.wrong for one in found} == {" have", " had"} and found == list(
        prompts(NOUN, characters, tmp_path)
    )
    with pytest.raises(InputError, match=r"blimp/anaphor_gender_agreement\.jsonl"):
        next(prompts(GENDER, characters, tmp_path))


def asked(model: Any, count: int) -> list[Any]:
    """Failures of the demo model, with the words that its corpus marks."""
    made = []
    for case in demo_cases("key_value_ten_facts")[:count]:
        words = str(case.prompt).split()
        starts = np.cumsum([0, *(len(one) + 1 for one in words)])
        marked = {
            name: tuple((int(starts[at - 1]), int(starts[at] - 1)) for span in own for at in range(*span))
            for name, own in case.segments.items()
        }
        made.append(
            Prompt(
                "t",
                str(case.prompt),
                "",
                case.contrast,
                case.target,
                marked["evidence"],
                marked["distractor"],
            )
        )
    return answered(model, made)


def test_a_row_counts_the_evidence_among_the_first(model: torch.nn.Module) -> None:
    (one,) = asked(model, 1)
    positions = question(model, one).maskable
    evidence = [at for span in one.segments["evidence"] for at in range(*span)]
    distractors = [at for span in one.segments["distractor"] for at in range(*span)]
    (neither, *_) = (at for at in positions if at not in (*evidence, *distractors))
    scores = np.zeros(one.length)
    scores[evidence[0]], scores[neither], scores[evidence[1]], scores[distractors[0]] = 5, 4, 3, -1
    scores[0] = 99  # <bos> is never counted
    assert 0 not in positions
    found = row(one, positions, {"RELP": scores, "attention": scores, "GIM": -scores})
    assert (found["RELP@1"], found["RELP@2"], found["RELP@3"]) == (1, 0.5, 2 / 3)
    assert (found["RELP distractor@1"], found["GIM distractor@1"], found["GIM@1"]) == (1, 0, 0)
    assert found["attention distractor@1"] == 0  # without a sign its largest stands for both
    assert found["evidence chance"] == len(evidence) / len(positions)
    assert (
        found["distractor chance"] == len(distractors) / len(positions)
        and found["gap"] == -one.difference > 0
    )


def test_a_batch_scores_as_each_alone(model: torch.nn.Module) -> None:
    """And methods agree: relevance of a batch is that of the method, asked about the same question."""
    failures = asked(model, 2)
    together = relevance(model, failures)
    assert list(together) == list(PRESETS)
    for at, one in enumerate(failures):
        for name in together:
            alone = METHODS[name].token_scores(question(model, one))
            np.testing.assert_allclose(together[name][at], alone, atol=1e-5)
    made = pd.DataFrame(rows(model, failures, costly=1))
    assert len(made) == 2 and made["ablation regression@1"].notna().sum() == 1
    assert made["CP_LRP@1"].notna().all() and made["leave-one-out@3"].between(0, 1).all()


def test_tables_say_what_rows_say() -> None:
    key = {"model": "m", "asked": 9, "tokens": 4, "evidence chance": 0.5, "distractor chance": 0.25}
    found = pd.DataFrame(
        [
            key | {"paradigm": "p", "gap": 2.0, "RELP@1": 1.0, "ablation regression@1": 1.0},
            key | {"paradigm": "p", "gap": 0.5, "RELP@1": 0.0},
            key | {"paradigm": "q", "gap": 0.5, "RELP@1": 1.0, "evidence chance": 0.2},
            key | {"model": "n", "paradigm": "q", "gap": 0.5, "RELP@1": 0.0, "ablation regression@1": 0.0},
        ]
    )
    for name in ("RELP", "ablation regression"):
        for column in (f"{name}@2", f"{name}@3", f"{name} distractor@1"):
            found[column] = found[f"{name}@1"]
    parts = {one.partition("\n")[0]: one for one in every_table(found).split("## ")[1:]}
    assert "| m | p | 9 | 2 | 1 |" in parts["Failures"] and "| m | q | 9 | 1 | 0 |" in parts["Failures"]
    every = parts["Precision@k on all failures, m"]
    assert "| RELP | 0.67 [" in every and "of 3" in every and "ablation" not in every
    assert "| chance | 0.40 [" in every
    assert "| RELP | 0.00 [" in parts["Precision@k on all failures, n"]  # each model by itself
    few = parts["Precision@k on the failures that every baseline was measured on, m"]
    assert "| ablation regression | 1.00" in few and "of 1" in few
    assert "| p | 2 | 0.50 | 1.00 | 0.50 |" in parts["Precision@1 by paradigm, m"]
