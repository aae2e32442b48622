"""One method, one name: what `compare` and `faithfulness` take, and what either refuses before any work."""

import doctest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lrp_lens import DEFAULT_RULES, PRESETS, VARIANTS, InputError, LogitDiff, SiteError, compare, faithfulness
from lrp_lens.demo import load_demo_model
from lrp_lens.errors import bare_name
from lrp_lens.masking import BASELINES, Question
from lrp_lens.masking.questions import questions
from lrp_lens.methods import METHODS, Method, as_method, attention_of, integrated_gradients
from lrp_lens.methods.registry import as_methods, spelled
from lrp_lens.patching.compare import DEFAULT_METHODS
from lrp_lens.rules import RELP

DOC = (Path(__file__).parent.parent / "docs" / "methods.md").read_text(encoding="utf-8")
CLEAN = ["then mary and john went to the park . john gave the key to"] * 2
CORRUPTED = ["then mary and john went to the park . mary gave the key to"] * 2


@pytest.fixture(scope="module")
def model() -> Any:
    return load_demo_model(device="cpu")


@pytest.fixture
def question(model: Any) -> Question:
    (one,), _ = questions(model, CLEAN[0], LogitDiff("mary", "john"), "mean", 0)
    return one


# ------------------------------------------------------------------------------------ names
def test_a_method_has_one_object_in_any_spelling() -> None:
    said = [name for one in METHODS.values() for name in (one.name, *one.aliases)]
    assert len({bare_name(name) for name in said}) == len(said)  # no two methods under one spelling
    for name, one in METHODS.items():
        assert one.name == name
        for spelling in (name, name.lower(), name.upper(), name.replace(" ", "_"), *one.aliases):
            assert as_method(spelling) is one
    old = {
        "IG": "integrated gradients",
        "IG_RELP": "integrated gradients with RELP",
        "ROLLOUT": "attention rollout",
        "RANDOM": "random",
        "leave one out": "leave-one-out",
        "AttnLRP": "ATTN_LRP",
        "gradient x input": "GRADIENT_X_INPUT",
        "gradient × input": "GRADIENT_X_INPUT",
    }
    assert {name: as_method(name).name for name in old} == old
    assert as_method(RELP).name == "RELP" and as_method(METHODS["random"]) is METHODS["random"]
    with pytest.raises(
        InputError, match=r"received 'AtP\*'"
    ):  # a star is no letter: neither AtP nor AtP* is meant
        as_method("AtP*")


def test_both_analyses_take_the_same_objects() -> None:
    for_sites, for_tokens = as_methods(DEFAULT_METHODS, "sites"), as_methods((*PRESETS, *BASELINES), "tokens")
    both = {one.name for one in for_sites} & {one.name for one in for_tokens}
    named = {"GRADIENT", "RELP", "ATTN_LRP", "CP_LRP", "integrated gradients", "random"}
    assert both == named | {DEFAULT_RULES.name}
    assert all(as_methods([name], "sites")[0] is as_methods([name], "tokens")[0] for name in both)
    assert [one.name for one in for_tokens[-6:]] == list(BASELINES)


def test_what_is_no_method_is_refused() -> None:
    with pytest.raises(InputError, match="scores neither"):
        Method("nothing")
    with pytest.raises(InputError, match=r"received 'IGG'\. Did you mean 'IG'"):
        as_method("IGG")
    for wrong in (3, None, [RELP, "relp"], [], ["IG", "integrated gradients"]):
        with pytest.raises(InputError, match=r"received"):
            as_methods(wrong, "sites")
    assert spelled("nobody", ["random"]) == "nobody"


# ------------------------------------------------------------------------------------ what a method cannot do
def test_what_a_method_lacks_is_refused_before_any_work(question: Question) -> None:
    lacking = {one.name for one in METHODS.values() if one.sites is None}
    assert lacking == {"attention", "ablation regression", "leave-one-out"}
    for name in lacking:
        with pytest.raises(
            InputError, match=rf"compare needs scores of sites; {name} has scores of tokens only"
        ):
            compare(None, None, None, methods=["RELP", name])
    with pytest.raises(InputError, match="compare needs scores of sites; mine has"):
        compare(None, None, None, methods=mine)
    for name in ("ATP_STAR", "ATP_STAR_SIGNED", "ATP_QK_FIX", "IG_RELP"):
        one = as_method(name)
        assert one.tokens is None
        with pytest.raises(
            InputError, match=f"faithfulness needs scores of tokens; {one.name} has scores of sites"
        ):
            faithfulness(None, None, name)
    with pytest.raises(InputError, match="ATP_STAR scores sites, not tokens"):
        METHODS["ATP_STAR"].token_scores(question)


def mine(question: Question) -> list[float]:
    return [1.0] * len(question.tokens)


def test_a_step_count_is_that_of_both(question: Question) -> None:
    assert "5 steps" in METHODS["integrated gradients"].words
    one = integrated_gradients(3)
    assert "3 steps" in one.words and one.cost == "3F + 3B"
    assert METHODS["integrated gradients"].cost == "50F + 50B"
    assert (
        np.abs(one.token_scores(question) - METHODS["integrated gradients"].token_scores(question)).max()
        > 1e-3
    )


# ------------------------------------------------------------------------------------ a method of one's own
def test_the_documented_method_is_the_mean_of_the_two_it_is_made_of() -> None:
    names: dict[str, Any] = {}
    example = doctest.DocTestParser().get_doctest(DOC, names, "methods", None, 0)
    assert doctest.DocTestRunner().run(example, clear_globs=False).failed == 0
    names = example.globs
    scores = {one: names["found"].view("mlp_out", one).values for one in ("averaged", "relp", "Gradient")}
    np.testing.assert_allclose(scores["averaged"], (scores["relp"] + scores["Gradient"]) / 2, atol=1e-6)
    assert np.abs(scores["relp"] - scores["Gradient"]).max() > 1e-2
    assert names["trust"].differences("relp").equals(names["trust"].differences("RELP"))


def test_the_page_lists_every_method() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in DOC.splitlines()
        if line.startswith("| ")
    ]
    shown = {row[0]: row[1:] for row in rows[1:] if not row[0].startswith("a rule set")}
    ruled = {*PRESETS, *VARIANTS} - {"GRADIENT"}
    assert set(shown) == set(METHODS) - ruled
    for name, (also, sites, tokens, cost) in shown.items():
        one = METHODS[name]
        assert tuple(filter(None, [also])) == tuple(one.aliases), name
        assert (sites != "–") == (one.sites is not None) and (tokens != "–") == (one.tokens is not None), name
        assert one.tokens is None or cost == one.cost, name


# ------------------------------------------------------------------------------------ attention of given heads
def test_attention_of_heads_is_read_from_their_patterns(model: Any, question: Question) -> None:
    _, cache = model.run_with_cache(question.tokens[None])
    heads = [(2, 3), (0, 1), (3, 0)]
    rows = [cache["pattern", layer][0, head, question.decision].double() for layer, head in heads]
    one = attention_of(heads)
    np.testing.assert_allclose(one.token_scores(question), torch.stack(rows).mean(0).numpy(), atol=1e-7)
    every = attention_of(
        [(layer, head) for layer in range(model.cfg.n_layers) for head in range(model.cfg.n_heads)]
    )
    whole = METHODS["attention"].token_scores(question)
    np.testing.assert_allclose(every.token_scores(question), whole, atol=1e-6)
    assert np.abs(one.token_scores(question) - whole).max() > 1e-3
    assert (
        one.sites is None
        and one.name == "attention of chosen heads"
        and attention_of(heads, "few").name == "few"
    )


def test_heads_that_are_not_there_are_refused(model: Any) -> None:
    for heads in ([], [(0, -1)]):
        with pytest.raises(InputError, match="pairs"):
            attention_of(heads)
    with pytest.raises(SiteError, match=r"received \[\(9, 0\)\]"):
        faithfulness(model, CLEAN[0], attention_of([(9, 0), (0, 0)]))
