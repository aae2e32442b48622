"""Decomposition: readouts that are not linear, the logit lens, positions, batches, views, what is refused."""

import contextlib
from typing import Any

import numpy as np
import pytest
import torch

from lrp_lens import (
    CP_LRP,
    GRADIENT,
    InputError,
    Logit,
    LogitDiff,
    LogProb,
    MeanContrast,
    MetricError,
    SequenceLogitDiff,
    decompose,
    run_with_relevance,
)
from lrp_lens.plots import plot_decomposition
from tests import zoo
from tests.decompositions import METRIC, close, prompts, row


# ------------------------------------------------------------------------------- readouts that are not linear
def test_a_soft_cap_is_linearised_as_its_rule_says_and_the_residual_is_a_row() -> None:
    with zoo.float64_throughout():
        model, tokens = zoo.bridge("gemma2"), prompts(7)[0]
        secant = decompose(model, tokens, METRIC)
        tangent = decompose(model, tokens, METRIC, rules=GRADIENT)
        logits, _ = run_with_relevance(model, tokens, METRIC)
    assert close(row(secant, "logit soft-cap"), 0) and close(secant.remainder, 0)
    cap, capped = model.original_model.config.final_logit_softcapping, logits[0, -1, [3, 7]]
    before = torch.atanh(capped / cap) * cap
    left = (capped - before * (1 - (capped / cap) ** 2)) @ torch.tensor([1.0, -1.0]).to(capped)
    assert abs(left) > 1e-3
    assert close(row(tangent, "logit soft-cap"), left) and close(tangent.remainder, 0)
    assert close(row(tangent, "logit soft-cap", "indirect"), 0)
    assert close(tangent.cumulative().values[-1], tangent.metric)
    with pytest.raises(InputError, match="linear readout"):
        secant.cumulative("recomputed")


@pytest.mark.parametrize(
    "metric", [LogProb(3), lambda logits: logits[:, -1, 3] * logits[:, -2, 7]], ids=["log", "product"]
)
def test_a_nonlinear_metric_leaves_a_row(metric: Any) -> None:
    with zoo.float64_throughout():
        model, tokens = zoo.bridge("opt"), prompts(7)[0]
        parts = decompose(model, tokens, metric)
        logits, _ = run_with_relevance(model, tokens, metric)
    row_of = logits[0, -1]
    gradient = torch.nn.functional.one_hot(torch.tensor(3), row_of.numel()) - row_of.softmax(-1)
    expected = row_of.log_softmax(-1)[3] - row_of @ gradient.to(row_of)
    if not isinstance(metric, LogProb):  # bilinear: Σ logit · ∂ = 2 · metric
        expected = -logits[0, -1, 3] * logits[0, -2, 7]
        assert np.abs(parts.direct).sum((0, 1)).nonzero()[0].tolist() == [5, 6]
        with pytest.raises(InputError, match="use a Metric"):
            parts.by_source()
    assert close(row(parts, "metric nonlinearity"), expected)
    assert close(parts.table()["direct"].sum(), parts.metric) and close(
        parts.cumulative().values[-1], parts.metric
    )


# ------------------------------------------------------------------------------- cumulative
@pytest.mark.parametrize("name", ["gpt2", "llama", "phi"])
def test_recomputed_norms_are_the_logit_lens(name: str) -> None:
    with zoo.float64_throughout():
        model, tokens = zoo.bridge(name), prompts(7)[0]
        parts = decompose(model, tokens, METRIC)
        _, cache = run_with_relevance(
            model, tokens, METRIC, names_filter=lambda name: "hook_resid_post" in name
        )
        lens = [
            model.unembed(model.ln_final(cache.activations["resid_post", layer]))[0, -1].detach()
            for layer in range(2)
        ]
    expected = [float(logits[3] - logits[7]) for logits in lens]
    view = parts.cumulative("recomputed")
    assert close([view.select(layer=f"L{layer}").values for layer in range(2)], expected)
    assert abs(parts.cumulative().select(layer="L0").values - expected[0]) > 1e-3


# ------------------------------------------------------------------------------- positions, batches, metrics
@pytest.mark.parametrize(
    "metric",
    [MeanContrast(3), Logit(5, pos=2), SequenceLogitDiff([4, 5, 6], [7, 8], average=False), None],
    ids=str,
)
def test_positions_of_the_metric(metric: Any) -> None:
    with zoo.float64_throughout():
        parts = decompose(
            zoo.bridge("gptj"), prompts(7)[0], metric, rules=CP_LRP
        )  # GPT-J has an unembedding bias
    read = {"Logit": [2], "SequenceLogitDiff": [4, 5, 6]}.get(type(metric).__name__, [6])
    assert np.abs(parts.direct[0]).sum(0).nonzero()[0].tolist() == read
    assert close(parts.remainder, 0) and close(parts.by_source().values.sum(-1), parts.heads().values)
    assert not parts.by_source(layer=1).values[:, max(read) + 1 :].any()
    assert np.abs(parts.by_position().select(component="b_U").values).sum() > 0


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_equals_its_examples(side: Any) -> None:
    metric = LogitDiff([3, 5], [7, 8])
    with zoo.float64_throughout():
        model, tokens = zoo.bridge("qwen2"), prompts(8, 5)
        batch = decompose(model, tokens, metric, padding_side=side)
        alone = [
            decompose(model, one, LogitDiff(*pair))
            for one, pair in zip(tokens, ((3, 7), (5, 8)), strict=True)
        ]
    table = batch.table()
    for example, single in enumerate(alone):
        own = table[table["example"] == example].drop(columns="example").reset_index(drop=True)
        assert own["component"].tolist() == single.table()["component"].tolist()
        for part in ("direct", "indirect", "total"):
            assert close(own[part], single.table()[part])
        long, alone_long = batch.to_dataframe(), single.to_dataframe()
        long = long[long["example"] == example]
        assert len(long) == len(alone_long) and close(long["total"], alone_long["total"])
        start = 3 if side == "left" and example else 0
        sources = batch.by_source().select(batch=example).values[..., start : start + len(tokens[example])]
        assert close(sources, single.by_source().values)
    assert close(batch.frozen, np.concatenate([one.frozen for one in alone]))


def test_views_and_words() -> None:
    model = zoo.bridge("gpt2", torch.float32)
    parts = decompose(model, prompts(7)[0], METRIC)
    assert parts.by_component("total").dims == ("component",) and parts.heads().dims == ("layer", "head")
    assert close(parts.by_component().values.sum(), parts.metric, 1e-4)
    assert close(parts.by_position("indirect").values.sum(-1), parts.by_component("indirect").values, 1e-6)
    long = parts.to_dataframe()
    assert len(long) == len(parts.components) * 7 and close(long["direct"].sum(), parts.metric, 1e-4)
    assert "sum = metric" in repr(parts) and "remainder" in repr(parts) and "L1 MLP" in parts._repr_html_()
    batch = decompose(model, prompts(7, 4), METRIC)
    assert "example 0 of 2" in repr(batch) and "<table" in batch._repr_html_()
    assert batch.table()["head"].isna().sum() == 2 * sum(c.head is None for c in batch.components)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_the_waterfall_ends_at_the_metric() -> None:
    parts = decompose(zoo.bridge("gpt2", torch.float32), prompts(7)[0], METRIC)
    figure = plot_decomposition(parts.table(), show=5, towards=("<a>", "b"))
    steps, bars = figure.data
    assert len(bars.x) == 5 and len(steps.x) == 7 and steps.measure[-1] == "total"
    assert close(sum(steps.x[:-1]), parts.metric, 1e-4) and close(steps.x[-1], parts.metric, 1e-4)
    assert "others)" in figure.layout.yaxis.ticktext[5] and "&lt;a&gt;" in figure.layout.title.text
    with pytest.raises(InputError, match="columns"):
        plot_decomposition(parts.table().drop(columns="indirect"))
    with pytest.raises(InputError, match="one example"):
        plot_decomposition(decompose(zoo.bridge("gpt2", torch.float32), prompts(7, 4), METRIC).table())


# ------------------------------------------------------------------------------- what is refused
def test_bad_inputs() -> None:
    model = zoo.bridge("gpt2", torch.float32)
    tokens = prompts(5)[0]
    parts = decompose(model, tokens, METRIC)
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(InputError, match="train mode"))
        stack.callback(model.eval)
        decompose(model.train(), tokens, METRIC)
    for call, error, words in (
        (
            lambda: decompose(model, torch.tensor([], dtype=torch.long), METRIC),
            InputError,
            "at least one token",
        ),
        (lambda: decompose(model, tokens, LogitDiff(3, 97)), MetricError, "vocabulary"),
        (lambda: decompose(model, tokens, Logit(3, pos=9)), MetricError, "position"),
        (lambda: decompose(torch.nn.Linear(2, 2), tokens, METRIC), InputError, "HookedTransformer"),
        (lambda: parts.by_source(layer=2), InputError, "layer has 2 entries"),
        (lambda: parts.by_source(head=4), InputError, "head has 4 entries"),
    ):
        with pytest.raises(error, match=words):
            call()


@pytest.mark.filterwarnings("ignore:A hook on attn.hook_pattern returned a modified tensor")
def test_a_pattern_that_was_not_used_is_refused() -> None:
    """TransformerBridge drops edits of GPT-J's pattern: what is seen there is then not what gave z."""
    with zoo.float64_throughout():
        model, tokens = zoo.bridge("gptj"), prompts(5)[0]
        assert decompose(model, tokens, METRIC).sources is not None
        model.blocks[1].attn.hook_pattern.add_hook(lambda tensor, hook: 0.5 * tensor)
        parts = decompose(model, tokens, METRIC)
    assert close(parts.remainder, 0)
    with pytest.raises(InputError, match="attention patterns it used"):
        parts.by_source()
