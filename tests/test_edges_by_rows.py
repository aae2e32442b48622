"""Edges of a prompt whose attention is cut into blocks of rows: those in full, and no tensor of all rows and keys."""

from typing import Any

import numpy as np
import pytest
import torch

from lrp_lens import ATTN_LRP, LogitDiff, SequenceLogitDiff, SiteError, attribution_graph
from lrp_lens.attribution_graphs.closed_form import state_pass
from lrp_lens.hosts import resolve
from lrp_lens.hosts.by_rows import refusal
from lrp_lens.ops.by_rows import Attention, Program
from tests import zoo
from tests.row_programs import only_by_operations, programs_that_run
from tests.test_attention_rows import EVERY_KIND, Squares

EVERYTHING: dict[str, Any] = dict(mass=1.0, node_threshold=0.0, max_edges=None)
METRIC = LogitDiff(3, 7)


def require_equal(one: Any, other: Any) -> None:
    scale = np.abs(one.relevance).max()
    assert scale > 1e-4
    for name in ("source", "target", "transition"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    for name in ("relevance", "part_values", "node_relevance", "sinks"):
        np.testing.assert_allclose(
            getattr(one, name), getattr(other, name), rtol=0, atol=1e-9 * scale, err_msg=name
        )


def cut(monkeypatch: pytest.MonkeyPatch, rows: int | None) -> list[Program]:
    ran = programs_that_run(monkeypatch)
    monkeypatch.setattr(state_pass, "rows_of_a_block", lambda *given: rows)
    only_by_operations(monkeypatch)
    return ran


@EVERY_KIND
def test_edges_are_those_in_full(host: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Near edges in closed form, far ones by their definition, and refinements."""
    with zoo.float64_throughout():
        model, tokens = zoo.shared(host, name), zoo.prompt_tokens(1, 11)
        full = attribution_graph(model, tokens, METRIC, rules=ATTN_LRP, **EVERYTHING)
        refusal(model, resolve(model))
        with monkeypatch.context() as patch:
            ran = cut(patch, 4)
            low = attribution_graph(model, tokens, METRIC, rules=ATTN_LRP, **EVERYTHING)
            assert len(ran) == 2 * zoo.N_LAYERS and all(len(list(one.blocks())) == 3 for one in ran)
            require_equal(full, low)
            far = low.matrix(0, -1)
            last = len(low.boundaries) - 1
            parts = [
                one.made_by.refine(source=(last - 1, 10), target=(last, 10), into="dimensions")
                for one in (full, low)
            ]
        scale = np.abs(far).max()
        np.testing.assert_allclose(far, full.matrix(0, -1), rtol=0, atol=1e-9 * scale)
        np.testing.assert_allclose(parts[0].values, parts[1].values, rtol=1e-7, atol=1e-9 * scale)


def test_answers_of_two_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one example, near edges and far ones, where the copies of both rows run together."""
    with zoo.float64_throughout():
        model, tokens = zoo.shared(zoo.HOSTS[-1], "llama"), zoo.prompt_tokens(1, 9)
        metric = SequenceLogitDiff((5, 8), (7, 9, 11))
        full = attribution_graph(model, tokens, metric, **EVERYTHING)
        expected = full.matrix(0, -1)
        ran = cut(monkeypatch, 4)
        low = attribution_graph(model, tokens, metric, **EVERYTHING)
        require_equal(full, low)
        found = low.matrix(0, -1)
        assert ran
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_rules_that_do_not_act_on_the_blocks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control."""
    with zoo.float64_throughout():
        model, tokens = zoo.shared(zoo.HOSTS[-1], "gemma2"), zoo.prompt_tokens(1, 9)  # its soft-cap has one
        full = attribution_graph(model, tokens, METRIC, rules=ATTN_LRP, **EVERYTHING)
        cut(monkeypatch, 4)
        monkeypatch.setattr(Attention, "through", lambda self, at, one: one)
        with pytest.raises((AssertionError, SiteError)):
            require_equal(full, attribution_graph(model, tokens, METRIC, rules=ATTN_LRP, **EVERYTHING))


@pytest.mark.full
@pytest.mark.parametrize("host", zoo.HOSTS)
def test_no_tensor_of_all_heads_rows_and_keys_is_made(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the edges themselves, which short prompts hold: here formed in blocks, too."""
    length = 37  # no width of the model
    model, tokens = zoo.shared(host, "gpt2", torch.float32), zoo.prompt_tokens(1, length)
    refusal(model, resolve(model))
    for rows in (10, None):
        with monkeypatch.context() as patch:
            cut(patch, rows)
            with Squares(length) as squares:
                attribution_graph(model, tokens, METRIC, rules=ATTN_LRP, block=10)
        assert bool(squares.found) is (rows is None)
