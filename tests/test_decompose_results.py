"""Decomposition: readouts that are not linear, the logit lens, positions, batches, views, what is refused."""

import contextlib
import re
from dataclasses import fields
from html import escape
from pathlib import Path
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
    RelevanceCache,
    SequenceLogitDiff,
    decompose,
    run_with_relevance,
)
from lrp_lens.decomposition import Decomposition
from lrp_lens.decomposition.validation import require_index
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
    [MeanContrast(3), Logit(5, pos=2), SequenceLogitDiff([4, 5, 6], [7, 8], of="logit"), None],
    ids=str,
)
def test_positions_of_the_metric(metric: Any) -> None:
    with zoo.float64_throughout():
        parts = decompose(
            zoo.bridge("gptj"), prompts(7)[0], metric, rules=CP_LRP
        )  # GPT-J has an unembedding bias
    read = {"Logit": [2], "SequenceLogitDiff": [6, 7, 8, 9]}.get(type(metric).__name__, [6])
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


def test_a_decomposition_plots_itself() -> None:
    model = zoo.bridge("gpt2", torch.float32)
    parts, batch = decompose(model, prompts(7)[0], METRIC), decompose(model, prompts(7, 4), METRIC)
    named = plot_decomposition(parts.table(), show=5, towards=parts.towards)
    assert parts.towards is not None and named == parts.plot(show=5)
    assert named.layout.title.text != plot_decomposition(parts.table(), show=5).layout.title.text
    assert named.layout.xaxis.title.text == "logits, running total"
    assert named.layout.xaxis2.title.text == "logits, a scale of its own"
    lines = parts.plot_cumulative()
    for line, norm in zip(lines.data, ("frozen", "recomputed"), strict=True):
        assert close(line.y, parts.cumulative(norm).values) and norm in line.name
    assert close(lines.data[0].y[-1], parts.metric, 1e-5)
    heads = parts.plot_sources().data[0]
    assert close(np.nansum(heads.z), parts.by_source().values[..., ~parts.special[0]].sum(), 1e-5)
    assert close(batch.plot(example=1, show=99).data[0].x[-1], batch.metric[1], 1e-5)
    assert close(batch.plot_cumulative(example=-1).data[0].y, batch.frozen[1])
    assert np.nanmax(np.abs(batch.plot_sources(example=1).data[0].z)) > 0
    curved = decompose(model, prompts(7)[0], LogProb(3))
    assert len(curved.plot_cumulative().data) == 1  # a readout that is not linear has no logit lens
    for call, words in (
        (batch.plot, "a batch of 2. Pass example=0"),
        (batch.plot_cumulative, "a batch of 2"),
        (batch.plot_sources, "a batch of 2"),
        (lambda: batch.plot(example=2), "0 to 1; received 2"),
        (lambda: parts.plot(example=1), "0 to 0; received 1"),
    ):
        with pytest.raises(InputError, match=words):
            call()


def test_a_saved_decomposition_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "parts.safetensors"
    one = decompose(zoo.bridge("gpt2", torch.float32), prompts(7, 4), METRIC)
    two = decompose(zoo.bridge("gpt2", torch.float32), prompts(7)[0], LogProb(3))  # with a residual
    three = decompose(zoo.bridge("gpt2", torch.float32), prompts(7)[0], lambda logits: logits[:, -1, 3])
    for parts in (one, two, three):
        parts.save(path)
        loaded = Decomposition.load(path)
        for field in fields(Decomposition):
            own, read = getattr(parts, field.name), getattr(loaded, field.name)
            np.testing.assert_equal(read, own, err_msg=field.name)
            assert type(read) is type(own), field.name
        assert repr(loaded) == repr(parts) and loaded.table().equals(parts.table())
    with pytest.raises(InputError, match="saved Decomposition is a file; nothing is at"):
        Decomposition.load(tmp_path / "none")
    (tmp_path / "text").write_text("no tensors")
    with pytest.raises(InputError, match="is a safetensors file"):
        Decomposition.load(tmp_path / "text")
    one.heads().save(path)
    with pytest.raises(InputError, match=r"of the kind 'View/1'\. Pass a file written by Decomposition"):
        Decomposition.load(path)


def test_an_index_is_a_whole_number() -> None:
    for index in (1.0, True, "L1"):
        with pytest.raises(InputError, match=f"layer is a whole number.*received {index!r}"):
            require_index("layer", index)
    require_index("layer", np.int64(1))
    with pytest.raises(InputError, match="head is a whole number"):  # bool is an int to the annotations
        decompose(zoo.bridge("gpt2", torch.float32), prompts(5)[0], METRIC).by_source(head=True)


def test_stages_are_shown_in_order_and_not_summed() -> None:
    parts = decompose(zoo.bridge("gpt2", torch.float32), prompts(7)[0], METRIC)
    view = parts.cumulative()
    lines = [line for line in repr(view).splitlines() if line.startswith("  ")]
    assert [line.rsplit(maxsplit=1)[0].strip() for line in lines] == list(parts.stages)
    said = [float(line.split()[-1]) for line in lines]
    assert said == pytest.approx(view.values.tolist(), rel=5e-4)  # four digits are shown
    assert "sum" not in repr(view) and "sum " in repr(parts.heads())
    html = view._repr_html_()
    places = [html.index(f"<td>{stage}</td>") for stage in parts.stages]
    assert places == sorted(places) and "sum" not in html


def test_the_notebook_table_is_shaded() -> None:
    parts = decompose(zoo.bridge("gpt2", torch.float32), prompts(7)[0], METRIC)
    html, table = parts._repr_html_(), parts.table()
    shades = np.array(re.findall(r"rgba\(([\d,]+),([\d.]+)\)", html)).reshape(len(table), 3, 2)
    for column, part in enumerate(("direct", "indirect", "total")):
        values = table[part].to_numpy()
        expected = 0.75 * np.abs(values) / np.abs(values).max()
        assert close(shades[:, column, 1].astype(float), expected, 0.006)
        assert ((shades[:, column, 0] == "67,147,195") == (values >= 0)).all()


def test_a_ledger_plots_itself(tmp_path: Path) -> None:
    model = zoo.bridge("gpt2", torch.float32)
    _, cache = run_with_relevance(model, prompts(7)[0], METRIC)
    figure = cache.ledger().plot()
    assert cache.towards is not None and escape(cache.towards[0]) in figure.layout.title.text
    assert close(figure.data[0].x[-1], cache.ledger().metric, 1e-5)
    cache.save(tmp_path / "relevance.safetensors")
    loaded = RelevanceCache.load(tmp_path / "relevance.safetensors")
    assert loaded.ledger().plot() == figure
    _, batch = run_with_relevance(model, prompts(7, 4), METRIC)
    ledger = batch.ledger()
    assert close(ledger.plot(example=1).data[0].x[-1], ledger.metric[1], 1e-5)
    for example in (None, 2):
        with pytest.raises(InputError, match=f"0 to 1; received example={example}"):
            ledger.plot(example=example)


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
