"""The token that begins every text: once, never twice, and as the caller asks, wherever a prompt is taken."""

import inspect
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import lrp_lens
from lrp_lens import (
    Case,
    InputError,
    LogitDiff,
    attribution_graph,
    component_edges,
    decompose,
    explain,
    faithfulness,
    run_circuits,
    run_with_relevance,
    write_report,
)
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.hosts.vocabulary import TextWarning
from lrp_lens.patching import (
    atp_star,
    compare,
    get_act_patch_resid_pre,
    get_lrp_patch_resid_pre,
    integrated_pass,
    patching_pass,
)

TEXT = "mary gave the ball to"
TEMPLATED = f"<bos> {TEXT}"  # as a chat template writes it
METRIC = LogitDiff("mary", "john")


def test_a_text_that_begins_with_bos_gets_no_second_one(word_model: Any) -> None:
    plain = tokenize(word_model, TEXT)
    with pytest.warns(TextWarning, match="begins with '<bos>' already"):
        templated = tokenize(word_model, TEMPLATED)
    assert templated.ids.tolist() == plain.ids.tolist()
    assert plain.ids[0, 0].item() == word_model.tokenizer.bos_token_id != plain.ids[0, 1].item()


@pytest.mark.parametrize(
    ("text", "prepend_bos", "count"),
    [(TEXT, True, 1), (TEXT, False, 0), (TEXT, None, 1), (TEMPLATED, False, 1), (TEMPLATED, True, 2)],
)
def test_bos_as_asked(word_model: Any, text: str, prepend_bos: bool | None, count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = tokenize(word_model, [text, text], None, prepend_bos).ids[0].tolist()
    assert ids.count(word_model.tokenizer.bos_token_id) == count
    assert len(ids) == 5 + count


@pytest.mark.parametrize("prepend_bos", [None, True, False])
@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_a_text_without_a_token_is_refused(word_model: Any, text: str, prepend_bos: bool | None) -> None:
    with pytest.raises(
        InputError, match="empty string" if not text else "of which this tokenizer makes none"
    ):
        tokenize(word_model, text, None, prepend_bos)


def test_token_ids_are_taken_as_they_are(word_model: Any) -> None:
    ids = tokenize(word_model, TEXT).ids
    for prepend_bos in (None, True, False):
        assert tokenize(word_model, ids, None, prepend_bos).ids.tolist() == ids.tolist()


@pytest.mark.usefixtures("unchecked")
def test_what_is_not_a_yes_or_a_no_is_refused(word_model: Any) -> None:
    with pytest.raises(InputError, match="prepend_bos is True, False or None; received 'no'"):
        run_with_relevance(word_model, TEXT, METRIC, prepend_bos="no")
    bos, word_model.tokenizer.bos_token = word_model.tokenizer.bos_token, None
    try:
        with pytest.raises(InputError, match="needs a tokenizer with a BOS token"):
            run_with_relevance(word_model, TEXT, METRIC, prepend_bos=True)
    finally:
        word_model.tokenizer.bos_token = bos


BOTH = ([TEXT, "john gave the ball to"], ["john gave the ball to", TEXT])
ANALYSES: dict[str, Callable[..., Any]] = {
    "run_with_relevance": lambda model, **o: run_with_relevance(model, TEXT, METRIC, **o)[1].tokens().shape,
    "decompose": lambda model, **o: decompose(model, TEXT, METRIC, **o).by_position().shape,
    "attribution_graph": lambda model, **o: attribution_graph(model, TEXT, METRIC, **o).node_relevance.shape,
    "component_edges": lambda model, **o: (
        component_edges(model, TEXT, None, METRIC, positions=True, **o).values.shape
    ),
    "run_circuits": lambda model, **o: (
        len(
            [
                run_circuits(
                    model,
                    component_edges(model, TEXT, BOTH[1][0], METRIC, **o).top(9),
                    TEXT,
                    BOTH[1][0],
                    METRIC,
                    **o,
                )
            ]
        )
        * (tokenize(model, TEXT, None, **o).lengths[0],)
    ),
    "compare": lambda model, **o: (
        compare(model, *BOTH, METRIC, sites=["mlp_out"], methods=["GRADIENT"], samples=0, **o).length,
    ),
    "get_act_patch": lambda model, **o: (
        get_act_patch_resid_pre(model, TEXT, BOTH[1][0], METRIC, engine="batched", **o).shape
    ),
    "get_lrp_patch": lambda model, **o: get_lrp_patch_resid_pre(model, TEXT, BOTH[1][0], METRIC, **o).shape,
    "patching_pass": lambda model, **o: patching_pass(model, TEXT, METRIC, **o).tokens.shape,
    "integrated_pass": lambda model, **o: (
        integrated_pass(model, TEXT, BOTH[1][0], METRIC, steps=1, **o).tokens.shape
    ),
    "atp_star": lambda model, **o: atp_star(model, TEXT, METRIC, qk_fix=False, **o).tokens.shape,
    "faithfulness": lambda model, **o: _faithful(model, **o),
}


def _faithful(model: Any, **options: Any) -> tuple[int, ...]:
    seen: list[int] = []

    def method(question: Any) -> Any:
        seen.append(len(question.tokens))
        return question.rng("any").standard_normal(len(question.tokens))

    faithfulness(model, [TEXT], [method], metric=METRIC, **options)
    return tuple(seen[:1])


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_takes_prepend_bos(word_model: Any, name: str) -> None:
    assert 6 in ANALYSES[name](word_model)
    assert 5 in ANALYSES[name](word_model, prepend_bos=False)


def test_every_function_that_takes_a_prompt_has_the_option() -> None:
    missing = []
    for name in lrp_lens.__all__:
        function = getattr(lrp_lens, name)
        if inspect.isfunction(function):
            parameters = inspect.signature(function).parameters
            if {"prompt", "clean", "cases"} & set(parameters) and "prepend_bos" not in parameters:
                missing.append(name)
    assert not missing


@pytest.mark.parametrize("text", [" ", "\n", " \t\n"])
def test_white_space_is_a_prompt_where_it_has_tokens(chat_model: Any, tmp_path: Path, text: str) -> None:
    batch = tokenize(chat_model, text)
    assert "".join(batch.strings[0]).endswith(text)
    cache = run_with_relevance(chat_model, text, LogitDiff("5", "6"))[1]
    assert cache.tokens().shape == batch.ids[0].shape
    assert cache.ledger().remainder == pytest.approx(0, abs=1e-4)
    explanation = explain(chat_model, text, target="5", contrast="6")
    assert explanation.prompt == text
    assert write_report(explanation, tmp_path / "report.html").is_file()
    assert Case(prompt=text).prompt == text
