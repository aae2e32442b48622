"""Long prompts from end to end, many calls one after another, and what each feature of attention is worth."""

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lrp_lens import ATTN_LRP, LogitDiff, MetricError, attribution_graph, run_with_relevance
from lrp_lens.hosts import resolve
from lrp_lens.hosts.by_rows import refusal
from lrp_lens.ops.by_rows import Program
from lrp_lens.ops.live_bytes import Counter
from tests import zoo
from tests.row_programs import programs_that_run
from tests.test_attention_rows import ROWS, full_of, low_of
from tests.test_low_memory import EXACT, require_equal

LONG = 4096
METRIC = LogitDiff(3, 7)


def with_long_context(host: str) -> Any:
    """The zoo's Llama, for prompts of thousands of tokens."""
    model_class, config_class, fields = zoo.RECIPES["llama"]
    with pytest.MonkeyPatch.context() as patch:
        longer = {**fields, "max_position_embeddings": LONG}
        patch.setitem(zoo.RECIPES, "llama", (model_class, config_class, longer))
        return zoo.BUILD[host]("llama", torch.float32)


@pytest.mark.full
@pytest.mark.parametrize("host", zoo.HOSTS)
def test_thousands_of_tokens(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are those of a plain pass, the ledger closes, the graph finds the same states, nothing is quadratic."""
    model, tokens = with_long_context(host), zoo.prompt_tokens(1, LONG)
    with torch.no_grad():
        expected = model(tokens)[:, -1]
    ran = programs_that_run(monkeypatch)
    with Counter() as counter:
        logits, found = run_with_relevance(
            model, tokens, METRIC, rules=ATTN_LRP, memory="low", logits="metric", progress=False
        )
    torch.testing.assert_close(logits[:, -1], expected, rtol=0, atol=1e-4)
    assert ran and max(counter.timeline) < LONG * LONG * 4, "less than one head's pattern"
    ledger, scale = found.ledger(), float(np.abs(found.tokens().values).sum())
    assert abs(ledger.remainder) < 1e-4 * scale
    assert np.isfinite(found.layers().values).all() and found.heads().values.shape == (2, zoo.N_HEADS)
    graph = attribution_graph(model, tokens, METRIC, rules=ATTN_LRP, progress=False, max_edges=2000)
    np.testing.assert_allclose(graph.node_relevance[0], found.tokens().values, rtol=0, atol=1e-4 * scale)
    assert abs(graph.balance()["remainder"]).max() < 1e-3 * np.abs(graph.node_relevance).max()


def state_of(model: Any) -> tuple[Any, ...]:
    """Everything of a model and of torch that a call might leave changed."""
    modules = {id(one): one for one in (*model.modules(), *model.hook_dict.values())}.values()
    hooks = [
        (len(one._forward_hooks), len(one._forward_pre_hooks), len(one._backward_hooks)) for one in modules
    ]
    flags = [(one.requires_grad, one.grad is None) for one in model.parameters()]
    return hooks, flags, [one.training for one in modules], torch.is_grad_enabled()


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(one), Tensor) for one in gc.get_objects())


@pytest.mark.full
@pytest.mark.parametrize("host", zoo.HOSTS)
def test_many_calls_leave_nothing(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """200 calls, in full and in low memory, some of them refused: hooks, flags and the number of tensors stay."""
    monkeypatch.setattr("lrp_lens.run.low_memory.rows_of_a_block", lambda *given: ROWS)
    model, tokens = zoo.shared(host, "gpt2", torch.float32), zoo.prompt_tokens(1, 9)

    def call(index: int) -> None:
        memory = ("low", "full")[index % 2]
        if index % 10 == 9:
            with pytest.raises(MetricError):
                run_with_relevance(model, tokens, LogitDiff(3, 10**6), rules=ATTN_LRP, memory=memory)
        elif index % 10 == 7:
            attribution_graph(model, tokens, METRIC, rules=ATTN_LRP, progress=False)
        else:
            run_with_relevance(model, tokens, METRIC, rules=ATTN_LRP, memory=memory)

    for index in range(20):
        call(index)
    state, tensors = state_of(model), live_tensors()
    for index in range(200):
        call(index)
    assert state_of(model) == state
    assert live_tensors() == tensors
    kept = run_with_relevance(model, tokens, METRIC, rules=ATTN_LRP, memory="low")
    assert kept and live_tensors() > tensors, "control: a result that somebody keeps is found"


def of_another_group(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Each head reads the keys of the next one: with grouped queries, partly those of another group."""
    return lambda self, query, key, value: original(self, query, key.roll(1, dims=1), value)


@pytest.mark.parametrize("host", zoo.HOSTS)
def test_keys_of_another_group_are_found(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: grouped queries under the wrong keys.

    Those for window, soft-cap, sink and ALiBi are in tests/test_attention_rows.py.
    """
    monkeypatch.setattr("lrp_lens.run.low_memory.rows_of_a_block", lambda *given: ROWS)
    with zoo.float64_throughout():
        model, tokens = zoo.shared(host, "llama"), zoo.prompt_tokens(1, 9)
        assert int(model.cfg.n_key_value_heads) < zoo.N_HEADS
        full = full_of(model, tokens, ATTN_LRP)
        refusal(model, resolve(model))
        require_equal(full, low_of(model, tokens, ATTN_LRP), EXACT[torch.float64])
        monkeypatch.setattr(Program, "__call__", of_another_group(Program.__call__))
        wrong = low_of(model, tokens, ATTN_LRP)
        with pytest.raises(AssertionError):
            require_equal(full, wrong, EXACT[torch.float64])
