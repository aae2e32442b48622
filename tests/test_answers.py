"""Answers of several tokens: the prompt is the prompt, the metric appends its answers, and every analysis knows them.

Two answers are two rows that share the prompt.  The slow definition is always the same: each row by itself, as an
ordinary prompt with a metric on its logits, and the sum over rows.
"""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lrp_lens import (
    PRESETS,
    RELP,
    InputError,
    LogitDiff,
    MetricError,
    SequenceLogit,
    SequenceLogitDiff,
    SequenceLogProb,
    View,
    attribution_graph,
    component_edges,
    decompose,
    run_circuits,
    run_with_relevance,
)
from lrp_lens.attribution_graphs.arrays import AttributionGraph
from lrp_lens.masking.questions import questions
from lrp_lens.methods import integrated_gradients, relevance_method
from lrp_lens.metrics import Metric
from lrp_lens.metrics.metric import Term
from lrp_lens.patching import (
    compare,
    get_act_patch_resid_pre,
    get_attribution_patch_resid_pre,
    get_lrp_patch_attn_head_out_by_pos,
    patching_pass,
)
from lrp_lens.plots import graph_html, token_heatmap_html, token_heatmap_text
from lrp_lens.run.cache import RelevanceCache
from tests import zoo

TARGET, CONTRAST = (3, 4, 5), (6, 7)
PROMPT = zoo.prompt_tokens(1, 6)[0]
ROWS = [torch.cat([PROMPT, torch.tensor(answer[:-1])]) for answer in (TARGET, CONTRAST)]
DIFF = SequenceLogitDiff(TARGET, CONTRAST, of="logit")
HOSTS = ["bridge", *(["hooked"] if zoo.HAS_HOOKED_TRANSFORMER else [])]


def model_of(host: str, architecture: str = "llama") -> Any:
    return (zoo.bridge if host == "bridge" else zoo.hooked)(architecture, torch.float64)


def of_row(answer: tuple[int, ...], sign: float, log_prob: bool = False) -> Callable[[Tensor], Tensor]:
    """The literal metric of one row: the logits from the prompt's last position on."""

    def value(logits: Tensor) -> Tensor:
        logits = logits.log_softmax(-1) if log_prob else logits
        return sign * sum(logits[:, len(PROMPT) - 1 + i, token] for i, token in enumerate(answer))

    return value


def rows_by_themselves(model: Any, log_prob: bool = False, **options: Any) -> list[RelevanceCache]:
    return [
        run_with_relevance(model, row, of_row(answer, sign, log_prob), **options)[1]
        for row, answer, sign in zip(ROWS, (TARGET, CONTRAST), (1, -1), strict=True)
    ]


def on_one_axis(target: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """[..., pos] of both rows: the prompt's sum, then each answer's own."""
    n = len(PROMPT)
    return np.concatenate([target[..., :n] + contrast[..., :n], target[..., n:], contrast[..., n:]], axis=-1)


# ------------------------------------------------------------------------------------ value and views
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("of", ["logit", "log_prob"])
def test_the_prompt_is_the_prompt(host: str, of: Any) -> None:
    """Value, and relevance at every hook point, are the sum of two rows run by themselves."""
    model = model_of(host)
    logits, cache = run_with_relevance(model, PROMPT, SequenceLogitDiff(TARGET, CONTRAST, of=of))
    alone = rows_by_themselves(model, log_prob=of == "log_prob")
    assert logits.shape[:2] == (2, len(PROMPT) + 2) and cache.metric_value.shape == (1,)
    assert cache.metric_value.item() == pytest.approx(sum(one.metric_value.item() for one in alone), abs=1e-5)
    for name in ("hook_embed", "blocks.1.hook_resid_pre", "blocks.0.attn.hook_z"):
        wanted = on_one_axis(*(one.sum_to_positions(name).numpy() for one in alone))
        np.testing.assert_allclose(cache.sum_to_positions(name).numpy(), wanted, atol=1e-6)
    tokens = cache.tokens()
    assert tokens.shape == (len(PROMPT) + 3,) and tokens.answer is not None
    assert tokens.answer.tolist() == [""] * 6 + ["target"] * 2 + ["contrast"]
    assert list(tokens.labels["position"][6:]) == ["<3>", "<4>", "<6>"]
    np.testing.assert_allclose(
        cache.heads(by_position=True).values,
        on_one_axis(*(one.heads(by_position=True).values for one in alone)),
        atol=1e-6,
    )
    np.testing.assert_allclose(cache.heads().values, sum(one.heads().values for one in alone), atol=1e-6)
    np.testing.assert_allclose(
        cache.components().values[:2], sum(one.components().values[:2] for one in alone), atol=1e-6
    )


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "bloom", "gpt_oss", "phi"])
@pytest.mark.parametrize("preset", ["ATTN_LRP", "GRADIENT", "RELP"])
def test_the_ledger_closes_over_both_answers(architecture: str, preset: str) -> None:
    with zoo.float64_throughout():
        model = zoo.bridge(architecture, torch.float64)
        for metric in (DIFF, SequenceLogitDiff(TARGET, CONTRAST), SequenceLogProb(TARGET, average=True)):
            _, cache = run_with_relevance(model, PROMPT, metric, rules=PRESETS[preset])
            assert cache.ledger().relative_remainder < 1e-9
            assert abs(cache.ledger().layers()["remainder"]).max() < 1e-7
            total = sum(cache.ledger().by_kind().values()) + cache.tokens().values.sum()
            total = total + cache.positions().values.sum()
            assert total.item() == pytest.approx(cache.metric_value.item(), abs=1e-7)


def test_what_the_log_softmax_takes_is_the_entropy() -> None:
    model = model_of("bridge")
    logits, cache = run_with_relevance(model, PROMPT, SequenceLogProb(TARGET))
    (row,) = (row for row in cache.ledger().rows if row.kind == "metric")
    read = logits[0, len(PROMPT) - 1 :].double().log_softmax(-1)
    assert row.amount.item() == pytest.approx(float((read.exp() * read).sum()), abs=1e-4)  # minus the entropy


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_its_prompts(side: Any) -> None:
    model = zoo.bridge("llama", torch.float32)
    prompts = [PROMPT, PROMPT[:4], PROMPT[1:]]
    metric = SequenceLogitDiff([TARGET, (8,), (9, 10)], [CONTRAST, (11, 12), (9, 13)])
    _, batch = run_with_relevance(model, prompts, metric, padding_side=side)
    tokens = batch.tokens()
    assert batch.token_ids.shape[0] == 4  # the second and third examples share one row
    for index, prompt in enumerate(prompts):
        _, alone = run_with_relevance(model, prompt, metric.example(index))
        one = alone.tokens()
        width = one.shape[0]
        part = slice(-width, None) if side == "left" else slice(0, width)
        np.testing.assert_allclose(tokens.values[index, part], one.values, atol=1e-5)
        assert tokens.labels["position"][index][part] == one.labels["position"]
        np.testing.assert_allclose(batch.ledger().sinks[index], alone.ledger().sinks[0], atol=1e-4)
        assert tokens.answer is not None
        own = [""] * width if one.answer is None else one.answer.tolist()
        assert tokens.answer[index, part].tolist() == own


def test_answers_of_one_token_are_a_logit_difference() -> None:
    model = model_of("bridge")
    _, one = run_with_relevance(model, PROMPT, LogitDiff(3, 6))
    for of in ("logit", "log_prob"):
        logits, cache = run_with_relevance(model, PROMPT, SequenceLogitDiff([3], [6], of=of))
        assert len(logits) == 1 and cache.tokens().answer is None
        np.testing.assert_allclose(cache.tokens().values, one.tokens().values, atol=1e-6)


def test_words_say_the_answers(word_model: Any) -> None:
    metric = SequenceLogitDiff("john and tom", "mary and")
    _, cache = run_with_relevance(word_model, "mary gave the ball to", metric)
    assert cache.towards == ("john and tom", "mary and")
    assert "log-probabilities" in cache.metric_text and "SequenceLogitDiff(" in cache.metric_text
    frame = cache.tokens().to_dataframe()
    assert frame["answer"].tolist()[-3:] == ["target", "target", "contrast"]
    assert frame["token"].tolist()[-3:] == ["john", "and", "mary"]
    ids = [word_model.to_tokens(text, prepend_bos=False)[0] for text in ("john and tom", "mary and")]
    prompt = word_model.to_tokens("mary gave the ball to")[0]
    total = 0.0
    for sign, answer in zip((1, -1), ids, strict=True):
        with torch.no_grad():
            read = word_model(torch.cat([prompt, answer])[None])[0].log_softmax(-1)
        total += sign * sum(float(read[len(prompt) - 1 + i, one]) for i, one in enumerate(answer))
    assert cache.metric_value.item() == pytest.approx(total, abs=1e-4)


def test_answers_survive_a_file(tmp_path: Any) -> None:
    _, cache = run_with_relevance(model_of("bridge"), PROMPT, DIFF)
    cache.save(tmp_path / "cache.safetensors")
    again = RelevanceCache.load(tmp_path / "cache.safetensors")
    np.testing.assert_array_equal(again.tokens().values, cache.tokens().values)
    assert again.answers == cache.answers and again.token_strings == cache.token_strings
    cache.tokens().save(tmp_path / "view.safetensors")
    view = View.load(tmp_path / "view.safetensors")
    assert view.answer is not None and view.answer.tolist() == list(cache.answers[0])
    assert view.select(position=slice(6, 8)).answer.tolist() == ["target", "target"]


def test_an_answer_fits_the_context() -> None:
    model = model_of("bridge")
    with pytest.raises(InputError, match=f"context of {model.cfg.n_ctx} tokens"):
        run_with_relevance(model, PROMPT, SequenceLogit([3] * model.cfg.n_ctx))


# ------------------------------------------------------------------------------------ decomposition
@pytest.mark.parametrize("host", HOSTS)
def test_decompose_adds_the_rows(host: str, tmp_path: Any) -> None:
    model = model_of(host)
    parts = decompose(model, PROMPT, DIFF)
    alone = [decompose(model, row, metric) for row, metric in zip(ROWS, _row_metrics(), strict=True)]
    assert abs(parts.remainder).max() < 1e-5
    for name in ("direct", "total", "sources"):
        wanted = on_one_axis(*(getattr(one, name) for one in alone))
        np.testing.assert_allclose(getattr(parts, name), wanted, atol=1e-5)
    np.testing.assert_allclose(parts.frozen, sum(one.frozen for one in alone), atol=1e-5)
    np.testing.assert_allclose(parts.recomputed, sum(one.recomputed for one in alone), atol=1e-5)
    assert parts.by_source().answer is not None
    parts.save(tmp_path / "parts.safetensors")
    again = type(parts).load(tmp_path / "parts.safetensors")
    assert again.answers == parts.answers == (("",) * 6 + ("target",) * 2 + ("contrast",),)


@dataclass(frozen=True)
class _Read(Metric):
    """An answer read off its own row, which holds it already, as an ordinary prompt."""

    answer: tuple[int, ...]
    sign: float

    def terms(self) -> Any:
        first = len(PROMPT) - 1
        return (tuple(Term(first + i, one, self.sign) for i, one in enumerate(self.answer)),)


def _row_metrics() -> tuple[Metric, Metric]:
    return _Read(TARGET, 1.0), _Read(CONTRAST, -1.0)


# ------------------------------------------------------------------------------------ graph
ARCHITECTURES = ["llama", "gpt2", "bloom", "gemma2", "mistral", "gpt_oss", "gptj"]


@pytest.mark.parametrize(
    ("host", "architecture", "rules"),
    zoo.under_rules([("bridge", name) for name in ARCHITECTURES], ["ATTN_LRP", "CP_LRP", "RELP"]),
)
def test_a_graph_is_the_sum_of_its_rows(host: str, architecture: str, rules: str) -> None:
    """Each row's graph by itself; what leads into the prompt adds up, each answer's tokens see their own row."""
    options = {"rules": rules, "mass": 1.0, "node_threshold": 0.0}
    with zoo.float64_throughout():
        model = zoo.shared(host, architecture)
        graph = attribution_graph(model, PROMPT, DIFF, **options)
        alone = [
            attribution_graph(model, row, metric, **options)
            for row, metric in zip(ROWS, _row_metrics(), strict=True)
        ]
        for ends in itertools.pairwise(one.label for one in graph.boundaries):
            wanted = _merged([one.matrix(*ends) for one in alone])
            np.testing.assert_allclose(graph.matrix(*ends), wanted, atol=1e-9)
    assert isinstance(graph, AttributionGraph) and graph.answers == ("",) * 6 + ("target",) * 2 + (
        "contrast",
    )
    assert graph.target_positions == (5, 6, 7, 8)
    np.testing.assert_allclose(
        graph.node_relevance, on_one_axis(*(one.node_relevance for one in alone)), atol=1e-9
    )
    np.testing.assert_allclose(graph.sinks, on_one_axis(*(one.sinks for one in alone)), atol=1e-9)
    assert abs(graph.balance()["remainder"]).max() < 1e-9


def _merged(matrices: list[np.ndarray]) -> np.ndarray:
    """[target, source] of both rows on one axis."""
    n = len(PROMPT)
    target, contrast = matrices
    full = np.zeros((n + 3, n + 3))
    full[: n + 2, : n + 2] = target
    full[:n, :n] += contrast[:n, :n]
    full[n + 2, :n], full[n + 2, n + 2] = contrast[n, :n], contrast[n, n]
    return full


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_definition_agrees_across_answers(host: str, architecture: str) -> None:
    """Closed form against batch-packed, neighbouring and distant boundaries; refinements sum to their edges."""
    model = model_of(host, architecture)
    options = {"mass": 1.0, "node_threshold": 0.0}
    graph = attribution_graph(model, PROMPT, DIFF, **options)
    packed = attribution_graph(model, PROMPT, DIFF, method="batch_packed", **options)
    size = np.abs(graph.relevance).max()
    assert [one.label for one in packed.boundaries] == [one.label for one in graph.boundaries]
    for ends in itertools.pairwise(one.label for one in graph.boundaries):
        np.testing.assert_allclose(graph.matrix(*ends), packed.matrix(*ends), atol=1e-5 * size)
    distant = attribution_graph(model, PROMPT, DIFF, layers=[0, 2], **options)
    assert abs(distant.balance()["remainder"]).max() < 1e-4 * size
    for label, position in (("L1 mid", 2), ("L1", 8)):
        view = graph.refine((label, position), "heads")
        relevance = graph.node_relevance[graph.boundary(label), position]
        assert float(view.values.sum()) == pytest.approx(relevance, abs=1e-4 * size)
    edge = graph.refine((("L0", 5), ("L1 mid", 8)), "dimensions")
    assert float(edge.values.sum()) == pytest.approx(graph.matrix("L0", "L1 mid")[8, 5], abs=1e-4 * size)


def test_a_graph_keeps_its_answers_in_a_file(tmp_path: Any) -> None:
    graph = attribution_graph(model_of("bridge"), PROMPT, DIFF)
    for name in ("graph.safetensors", "graph.npz"):
        graph.save(tmp_path / name)
        assert AttributionGraph.load(tmp_path / name).answers == graph.answers


def test_graphs_of_a_batch_with_answers_of_their_own() -> None:
    model = model_of("bridge")
    metric = SequenceLogit([[3, 4], [5]])
    graphs = attribution_graph(model, [PROMPT, PROMPT[:4]], metric)
    for index, prompt in enumerate((PROMPT, PROMPT[:4])):
        one = attribution_graph(model, prompt, metric.example(index))
        np.testing.assert_allclose(graphs[index].node_relevance, one.node_relevance, atol=1e-6)


# ------------------------------------------------------------------------------------ patching
CLEAN, CORRUPTED = zoo.prompt_tokens(2, 6), zoo.prompt_tokens(2, 6).roll(1, 1)


def _answered(prompts: Tensor) -> Tensor:
    """Both rows of every prompt, padded on the right, prompt by prompt."""
    rows = []
    for prompt in prompts:
        rows += [torch.cat([prompt, torch.tensor([3, 4])]), torch.cat([prompt, torch.tensor([6, 0])])]
    return torch.stack(rows)


def _literal(logits: Tensor) -> Tensor:
    """One number per prompt from the logits of its two rows."""
    values = []
    for target, contrast in zip(logits[::2], logits[1::2], strict=True):
        read = sum(target[5 + i, one] for i, one in enumerate(TARGET))
        values.append(read - sum(contrast[5 + i, one] for i, one in enumerate(CONTRAST)))
    return torch.stack(values)


@pytest.mark.parametrize("host", HOSTS)
def test_patching_a_position_patches_every_row(host: str) -> None:
    model = model_of(host)
    clean, corrupted = _answered(CLEAN), _answered(CORRUPTED)
    name = "blocks.1.hook_resid_pre"
    with torch.no_grad():
        _, kept = model.run_with_cache(clean)
    found = get_act_patch_resid_pre(model, CORRUPTED, CLEAN, DIFF)
    assert found.shape == (2, 8)
    source = kept[name]

    def patch(position: int) -> float:
        def hook(tensor: Tensor, hook: Any) -> Tensor:
            tensor = tensor.clone()
            tensor[:, position] = source[:, position]
            return tensor

        with torch.no_grad():
            return float(_literal(model.run_with_hooks(corrupted, fwd_hooks=[(name, hook)])).mean())

    literal = [patch(position) for position in range(8)]
    np.testing.assert_allclose(found[1].numpy(), literal, atol=1e-4)
    backward = patching_pass(model, CORRUPTED, DIFF, rules="GRADIENT")
    twin = get_attribution_patch_resid_pre(model, CORRUPTED, CLEAN, DIFF, backward=backward)
    assert twin.shape == (2, 8)
    step = 1e-4
    with torch.no_grad():
        base = float(_literal(model(corrupted)).mean())

    def slope(position: int) -> float:
        def hook(tensor: Tensor, hook: Any) -> Tensor:
            tensor = tensor.clone()
            tensor[:, position] += step * (source[:, position] - tensor[:, position])
            return tensor

        with torch.no_grad():
            return (
                float(_literal(model.run_with_hooks(corrupted, fwd_hooks=[(name, hook)])).mean()) - base
            ) / step

    # A float32 metric is rounded to 1e-6, and the step divides that by 1e-4.
    np.testing.assert_allclose(twin[1].numpy(), [slope(p) for p in range(8)], atol=2e-2)
    assert get_lrp_patch_attn_head_out_by_pos(model, CORRUPTED, CLEAN, DIFF).shape == (2, 8, 4)
    both = compare(model, CLEAN, CORRUPTED, DIFF, sites=["resid_pre"], methods=["GRADIENT", "IG"], samples=0)
    np.testing.assert_allclose(
        both.exact["metric", "resid_pre"].values.mean(0), found.numpy() - base, atol=1e-4
    )


def test_metrics_with_other_answers_are_compared_apart() -> None:
    metrics = {"one": DIFF, "two": LogitDiff(3, 6)}
    with pytest.raises(InputError, match="append different answers"):
        compare(model_of("bridge"), CLEAN, CORRUPTED, metrics, sites=["resid_pre"], methods=["GRADIENT"])


# ------------------------------------------------------------------------------------ circuits
def test_circuits_run_both_answers() -> None:
    model = model_of("bridge")
    edges = component_edges(model, CLEAN, CORRUPTED, DIFF, rules=RELP)
    assert edges.values.shape[0] == 2 and edges.error < 1e-4
    with torch.no_grad():
        wanted = _literal(model(_answered(CLEAN))).numpy()
    np.testing.assert_allclose(edges.metric, wanted, atol=1e-4)
    found = run_circuits(model, edges.above(0.0, prune=False), CLEAN, CORRUPTED, DIFF)
    np.testing.assert_allclose(found.values[0], wanted, atol=1e-4)
    by_position = component_edges(model, CLEAN, CORRUPTED, DIFF, rules=RELP, positions=True)
    assert by_position.values.shape[-1] == 9
    np.testing.assert_allclose(by_position.summed, edges.summed, atol=1e-4)
    with pytest.raises(InputError, match="appends two answers"):
        run_circuits(model, by_position.top(10), CLEAN, CORRUPTED, DIFF)
    with pytest.raises(InputError, match="appends answers to the prompts"):
        run_circuits(model, edges.top(10), CLEAN, None, DIFF, ablation="mean", reference=CORRUPTED)


# ------------------------------------------------------------------------------------ masking
def test_masking_hides_the_prompt_and_never_the_answer() -> None:
    model = model_of("bridge")
    (question,), _ = questions(model, PROMPT, DIFF, "zero", 0)
    assert set(question.maskable) <= set(range(6)) and question.decision == 5 and question.contrastive
    masks = np.zeros((3, 6), dtype=bool)
    masks[1, 2], masks[2, [1, 4]] = True, True
    with torch.no_grad():
        for mask, value in zip(masks, question.masked(masks).values, strict=True):
            total = 0.0
            for row, answer, sign in zip(ROWS, (TARGET, CONTRAST), (1, -1), strict=True):

                def hide(tensor: Tensor, hook: Any, mask: np.ndarray = mask) -> Tensor:
                    tensor = tensor.clone()
                    tensor[:, :6][:, torch.as_tensor(mask)] = 0
                    return tensor

                logits = model.run_with_hooks(row[None], fwd_hooks=[("hook_embed", hide)])
                total += float(of_row(answer, sign)(logits))
            assert value == pytest.approx(total, abs=1e-4)
    _, cache = run_with_relevance(model, PROMPT, DIFF, rules=RELP)
    np.testing.assert_allclose(
        relevance_method(RELP).token_scores(question), cache.tokens().values[:6], atol=1e-6
    )
    (question,), _ = questions(model, PROMPT, DIFF, "mean", 0)
    everything = np.zeros((1, 6), dtype=bool)
    everything[0, question.maskable] = True
    lost = question.full - question.masked(everything).values[0]
    scores = integrated_gradients(steps=400).token_scores(question)
    assert scores.sum() == pytest.approx(lost, rel=1e-4)


# ------------------------------------------------------------------------------------ shown
def test_heat_maps_part_the_answers_from_the_prompt() -> None:
    _, cache = run_with_relevance(model_of("bridge"), PROMPT, DIFF)
    page, text = token_heatmap_html(cache.tokens()), token_heatmap_text(cache.tokens()).plain
    assert re.findall(r'class="lrp-answer">(\w+)<', page) == ["target", "contrast"]
    assert [word for word in text.split() if word.endswith(":")][:2] == ["target:", "contrast:"]
    _, plain = run_with_relevance(model_of("bridge"), PROMPT, LogitDiff(3, 6))
    assert 'class="lrp-answer"' not in token_heatmap_html(plain.tokens())


def test_a_list_of_texts_is_one_answer_for_each_prompt(word_model: Any) -> None:
    prompts = ["mary gave the ball to", "then john went to the store and"]
    target, contrast = ["john and tom", "tom"], ["mary", "mary and john"]
    _, batch = run_with_relevance(word_model, prompts, SequenceLogitDiff(target, contrast))
    for index, prompt in enumerate(prompts):
        metric = SequenceLogitDiff(target[index], contrast[index])
        _, alone = run_with_relevance(word_model, prompt, metric)
        assert batch.metric_value[index].item() == pytest.approx(alone.metric_value.item(), abs=1e-4)
    assert alone.towards == ("tom", "mary and john")
    with pytest.raises(MetricError, match=r"for a batch of 1|answers for 2 and 1 prompts"):
        run_with_relevance(word_model, prompts[0], SequenceLogProb(target))


def test_graphs_mark_the_answers() -> None:
    graph = attribution_graph(model_of("bridge"), PROMPT, DIFF, mass=1.0, node_threshold=0.0)
    assert "(target)" in repr(graph) and "(target)" in graph_html(graph) and "(contrast)" in graph_html(graph)
    plain = attribution_graph(model_of("bridge"), PROMPT, LogitDiff(3, 6))
    assert "(target)" not in graph_html(plain) + repr(plain)
