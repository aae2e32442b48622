"""attribution_graph: closed form = the paper's definition, on every architecture, preset, host; accounts; refusals."""

import pickle
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lrp_lens
from lrp_lens import (
    ATTN_LRP,
    CP_LRP,
    GRADIENT,
    PRESETS,
    AttentionWeights,
    Epsilon,
    FrozenPattern,
    InputError,
    Logit,
    LogitDiff,
    LogProb,
    Metric,
    MetricError,
    Plain,
    RuleError,
    RuleSet,
    SiteError,
)
from lrp_lens.attribution_graphs.closed_form import stream, tangents
from lrp_lens.attribution_graphs.closed_form.account import LayerAccount
from lrp_lens.attribution_graphs.closed_form.batch_packed import batch_packed
from lrp_lens.attribution_graphs.closed_form.rows import AttentionEdges
from lrp_lens.attribution_graphs.closed_form.state_pass import StatePass
from lrp_lens.attribution_graphs.closed_form.stream import Pruning, prune_transition
from lrp_lens.hosts import attention_scores as scores
from lrp_lens.hosts import tokens as prompts
from lrp_lens.hosts.scope import attached, parameters_frozen
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.run.recording import Recorder
from lrp_lens.run.relevance import ask
from tests import zoo

METRIC = LogitDiff(3, 7)
# Where a test names no rules: some that reach queries and keys, and take a part for themselves.
attribution_graph = partial(lrp_lens.attribution_graph, rules=ATTN_LRP)
run_with_relevance = partial(lrp_lens.run_with_relevance, rules=ATTN_LRP)
EVERYTHING: dict[str, Any] = dict(mass=1.0, node_threshold=0.0, max_edges=None)
TIGHT, WITH_FLOAT32_CASTS = 1e-10, 1e-5
NO_PATTERN_EDITS = ("gptj", "opt")


@pytest.fixture(params=zoo.HOSTS)
def build(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    return zoo.BUILD[request.param]


def place(graph: Any, number: int) -> tuple[int, bool]:
    """(block, mid) of a boundary, as batch_packed counts."""
    one = graph.boundaries[number]
    if one.layer is None:
        return 0, False
    return (one.layer, True) if one.mid else (one.layer + 1, False)


def kept(graph: Any, transition: int) -> np.ndarray:
    """The kept edges of a transition, [target, source]."""
    matrix = np.zeros((len(graph.token_strings),) * 2)
    chosen = graph.transition == transition
    matrix[graph.target[chosen], graph.source[chosen]] = graph.relevance[chosen]
    return matrix


def disagreement(graph: Any) -> float:
    """Largest difference to the definition, relative to the largest edge."""
    scale = np.abs(graph.relevance).max()
    worst = 0.0
    for transition in range(len(graph.boundaries) - 1):
        run = graph.made_by.run
        slow = batch_packed(run, place(graph, transition), place(graph, transition + 1), copies=4)
        assert not slow.triu(1).any()  # nothing from the future
        worst = max(worst, float(np.abs(kept(graph, transition) - slow.double().numpy()).max()) / scale)
    return worst


def remainder(graph: Any) -> float:
    """What the account of the nodes lacks, relative to the largest node."""
    return float(graph.balance()["remainder"].abs().max() / np.abs(graph.node_relevance).max())


def check(model: Any, rules: RuleSet, tolerance: float) -> None:
    tokens = zoo.prompt_tokens(1, 9)
    for split in ("mid", None):
        graph = attribution_graph(model, tokens, METRIC, rules=rules, split=split, **EVERYTHING)
        assert disagreement(graph) < tolerance, (rules.name, split)
        assert remainder(graph) < tolerance, (rules.name, split)
        assert graph.made_by.column_error < tolerance
        parts = np.abs(graph.part_values.sum(1) - graph.relevance).max()
        assert parts < tolerance * np.abs(graph.relevance).max()


# ------------------------------------------------------------------------------- closed form = definition
@pytest.mark.parametrize(("host", "name", "rules"), zoo.under_rules(zoo.models("hooked", "bridge"), PRESETS))
def test_closed_form_is_the_definition(host: str, name: str, rules: str) -> None:
    with zoo.float64_throughout():
        model = zoo.shared(host, name)
        if rules == "GIM" and host == "bridge" and name in NO_PATTERN_EDITS:
            with pytest.raises(SiteError, match="must reach the logits"):
                attribution_graph(model, zoo.prompt_tokens(1, 9), METRIC, rules=rules)
        else:
            check(model, PRESETS[rules], TIGHT)


@pytest.mark.parametrize(("host", "name", "rules"), zoo.under_rules(zoo.models("native"), PRESETS))
def test_closed_form_is_the_definition_on_native_configurations(host: str, name: str, rules: str) -> None:
    check(zoo.shared(host, name), PRESETS[rules], TIGHT)


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "qwen3", "gpt_oss", "bloom"])
def test_bridges_as_users_run_them(name: str) -> None:
    """With Hugging Face's casts to float32."""
    check(zoo.bridge(name), ATTN_LRP, WITH_FLOAT32_CASTS)


OTHER_RULES = {
    "values only": RuleSet("values only", norm=ATTN_LRP.norm, attention=AttentionWeights(0, 0, 0.7)),
    "uneven": ATTN_LRP.replace(attention=AttentionWeights(0.1, 0.6, 0.3)),
    "pattern detached": GRADIENT.replace(attention=FrozenPattern()),
    "one layer plain": ATTN_LRP.override(layers=[1], norm=Plain(), attention=Plain()),
    "ε at every output": ATTN_LRP.replace(linear=Epsilon(0.05)),
}


@pytest.mark.parametrize("rules", OTHER_RULES)
def test_custom_rules(build: Callable[[str], Any], rules: str) -> None:
    with zoo.float64_throughout():
        for name in ("gpt2", "llama"):
            check(build(name), OTHER_RULES[rules], TIGHT)


def folded(model: Any) -> None:
    model.process_weights_(fold_ln=True, center_writing_weights=True, center_unembed=True)


VARIANTS: dict[str, tuple[str, str, Callable[[Any], object]]] = {
    "folded norms": ("hooked", "gpt2", folded),
    "split inputs": ("hooked", "gpt2", lambda model: model.set_use_split_qkv_input(True)),
    "ungrouped queries": ("hooked", "llama", lambda model: model.set_ungroup_grouped_query_attention(True)),
    "compatibility mode": ("bridge", "gpt2", lambda model: model.enable_compatibility_mode()),
}


@pytest.mark.parametrize("what", VARIANTS)
def test_other_forms_of_a_model(what: str) -> None:
    host, name, change = VARIANTS[what]
    if host not in zoo.BUILD:
        pytest.skip("no HookedTransformer")
    with zoo.float64_throughout():
        model = zoo.BUILD[host](name)
        change(model)
        model.eval()
        check(model, ATTN_LRP, TIGHT)
        check(model, GRADIENT, TIGHT)


@pytest.mark.parametrize(
    "metric", [Logit(5), LogProb(3), LogitDiff(3, [7, 8], pos=4), None, lambda z: z[:, 2, 5]]
)
def test_any_metric_and_position(build: Callable[[str], Any], metric: Any) -> None:
    model = build("gpt2")
    graph = attribution_graph(model, zoo.prompt_tokens(1, 9), metric, **EVERYTHING)
    _, rel = run_with_relevance(model, zoo.prompt_tokens(1, 9), metric)
    assert graph.metric_value == pytest.approx(float(rel.metric_value[0]), rel=1e-12)
    assert disagreement(graph) < TIGHT
    positions = {LogitDiff: (4,)}.get(
        type(metric), (2,) if callable(metric) and not isinstance(metric, Metric) else (8,)
    )
    assert graph.target_positions == positions
    read = graph.subgraph()
    assert set(np.flatnonzero(read.in_graph[-1])) >= set(positions)


@pytest.mark.parametrize("name", ["gpt2", "neox", "gemma3", "mixtral"])
def test_nodes_are_the_relevance_of_the_stream(build: Callable[[str], Any], name: str) -> None:
    model, tokens = build(name), zoo.prompt_tokens(1, 9)
    graph = attribution_graph(model, tokens, METRIC)
    _, rel = run_with_relevance(model, tokens, METRIC)
    found = graph.node_relevance
    expected = rel.layers(mid=any(one.mid for one in graph.boundaries)).values
    assert np.abs(found - expected).max() < 1e-12 * np.abs(expected).max()


# ------------------------------------------------------------------------------- the definition itself
def one_at_a_time(model: Any, rules: RuleSet, source: str, target: str, gradient: Tensor) -> np.ndarray:
    """A[j, i] from one whole forward pass and one backward pass for each target."""
    tokens = zoo.prompt_tokens(1, 9)
    run = StatePass(model, *ask(model, tokens, METRIC), rules)
    recorder = Recorder(run.sites, run.batch)
    plan = rules.plan(model)
    hooks = [(hook.port.point, hook.function) for hook in plan if hook.stage == "replace"]
    hooks.append((run.sites.embedding.point, recorder.leaf))
    hooks += [
        (run.sites.record_of[name].port.point, recorder.hook(run.sites.record_of[name]))
        for name in (source, target)
    ]
    hooks += [(hook.port.point, hook.function) for hook in plan if hook.stage != "replace"]
    with parameters_frozen(model), attached(model, hooks):
        model(tokens)
    start, end = recorder.kept[source][-1], recorder.kept[target][-1]
    rows = []
    for position in range(tokens.shape[1]):
        value = (end[0, position] * gradient[0, position]).sum()
        (found,) = torch.autograd.grad(value, start, retain_graph=True)
        rows.append((found * start.detach())[0].sum(-1))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("name", ["gpt2", "neox", "mistral", "gemma2"])
@pytest.mark.parametrize("rules", [ATTN_LRP, CP_LRP, GRADIENT], ids=lambda rules: rules.name)
def test_the_definition_is_one_backward_pass_for_each_target(
    build: Callable[[str], Any], name: str, rules: RuleSet
) -> None:
    model = build(name)
    graph = attribution_graph(model, zoo.prompt_tokens(1, 9), METRIC, rules=rules, split=None, **EVERYTHING)
    run = graph.made_by.run
    for first, last in ((0, 1), (1, 2), (0, 2)):
        source, target = graph.boundaries[first].name, graph.boundaries[last].name
        expected = one_at_a_time(model, rules, source, target, run.gradients[target])
        found = graph.matrix(first, last)
        tolerance = TIGHT if name == "gpt2" else 10 * WITH_FLOAT32_CASTS
        assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()
        assert np.abs(expected).max() > 1e-6


def test_copies_that_share_a_pass_do_not_matter(build: Callable[[str], Any]) -> None:
    for name in ("bloom", "mistral", "gptj"):
        graph = attribution_graph(build(name), zoo.prompt_tokens(1, 9), METRIC, split=None)
        one, many = (batch_packed(graph.made_by.run, (0, False), (2, False), copies=n) for n in (1, 9))
        assert (one - many).abs().max() < 1e-6 * one.abs().max()


def test_windows_are_respected(build: Callable[[str], Any]) -> None:
    graph = attribution_graph(build("mistral"), zoo.prompt_tokens(1, 9), METRIC, split=None, **EVERYTHING)
    distance = np.subtract.outer(np.arange(9), np.arange(9))
    for transition in range(2):
        matrix = kept(graph, transition)
        assert not matrix[distance >= 4].any() and matrix[8, 5]


# ------------------------------------------------------------------------------- negative controls
def test_a_wrong_bias_is_noticed(build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tangents, "_bias_image", lambda *args: None)
    with zoo.float64_throughout(), pytest.raises((AssertionError, SiteError)):
        check(build("gpt2"), ATTN_LRP, TIGHT)


@pytest.mark.parametrize("field", ["softcap", "window", "sink", "slopes", "rotary", "key_norm"])
def test_an_unknown_attention_is_refused(
    build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    """Leave something out of the recomputed pattern: z no longer agrees, and nothing is returned."""
    from dataclasses import replace

    from lrp_lens.attribution_graphs.closed_form import state_pass

    names = dict(
        softcap="gemma2", window="mistral", sink="gpt_oss", slopes="bloom", rotary="llama", key_norm="qwen3"
    )
    original = state_pass.score_geometry
    monkeypatch.setattr(state_pass, "score_geometry", lambda *args: replace(original(*args), **{field: None}))
    with pytest.raises(SiteError, match="differs from the model's"):
        attribution_graph(build(names[field]), zoo.prompt_tokens(1, 9), METRIC)


def test_edges_that_miss_what_was_received_are_refused(
    build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrong softmax derivative: sums over targets no longer are what q and k received."""
    monkeypatch.setattr(Plain, "at_scores", lambda self, rows, gradient: rows.pattern * gradient)
    with pytest.raises(SiteError, match="sum to what its q, k and v received"):
        attribution_graph(build("gpt2"), zoo.prompt_tokens(1, 9), METRIC)


# ------------------------------------------------------------------------------- interventions
@pytest.mark.skipif(
    not zoo.HAS_HOOKED_TRANSFORMER, reason="edits patterns and scales where the host uses them"
)
@pytest.mark.parametrize("name", ["gpt2", "llama", "neox", "gemma2"])
def test_edges_predict_interventions_under_frozen_nonlinearities(name: str) -> None:
    """Scale one source state by 1 + t: ⟨target, g⟩ moves by t times the edge, exactly, if patterns, norms and
    activation ratios keep their values."""
    with zoo.float64_throughout():
        model, tokens = zoo.hooked(name), zoo.prompt_tokens(1, 9)
        graph = attribution_graph(model, tokens, METRIC, rules=CP_LRP, split=None, **EVERYTHING)
        with torch.no_grad():
            _, cache = model.run_with_cache(tokens)
        frozen = [
            (point, _restore(cache[point])) for point in cache if point.endswith(("pattern", "hook_scale"))
        ]
        for layer in range(2):
            frozen += _frozen_activation(cache, layer)
            gradient = graph.made_by.run.gradients[graph.boundaries[layer + 1].name][0]
            matrix, found = graph.matrix(layer, layer + 1), np.zeros((9, 9))
            end = f"blocks.{layer}.hook_resid_post"
            for i in range(9):
                moved: dict[str, Tensor] = {}
                hooks = [(f"blocks.{layer}.hook_resid_pre", _scaled(i, 1.5)), *frozen]
                hooks.append((end, lambda tensor, hook, moved=moved: moved.update(end=tensor.clone())))
                with torch.no_grad():
                    model.run_with_hooks(tokens, fwd_hooks=hooks)
                found[:, i] = ((moved["end"] - cache[end])[0] * gradient).sum(-1) / 0.5
            assert np.abs(found - matrix).max() < 1e-6 * np.abs(matrix).max()


def _restore(value: Tensor) -> Callable[..., Tensor]:
    return lambda tensor, hook: value


def _scaled(position: int, factor: float) -> Callable[..., Tensor]:
    def hook(tensor: Tensor, hook: Any) -> Tensor:
        tensor = tensor.clone()
        tensor[:, position] *= factor
        return tensor

    return hook


def _frozen_activation(cache: Any, layer: int) -> list[tuple[str, Any]]:
    """The activation as pre · (ratio of the clean run); a gated product with its gate as it was."""
    prefix = f"blocks.{layer}.mlp.hook_"
    gated = f"{prefix}pre_linear" in cache
    read = f"{prefix}pre_linear" if gated else f"{prefix}pre"
    seen: dict[str, Tensor] = {}
    ratio = cache[f"{prefix}post"] / cache[read]
    return [
        (read, lambda tensor, hook: seen.update(value=tensor)),
        (f"{prefix}post", lambda tensor, hook: seen["value"] * ratio),
    ]


# ------------------------------------------------------------------------------- pruning in the stream
@pytest.mark.parametrize("block", [1, 4, 7, None])
@pytest.mark.parametrize("mass", [0.5, 0.85, 1.0])
def test_pruning_in_blocks_is_pruning_at_once(
    build: Callable[[str], Any], block: int | None, mass: float
) -> None:
    model, tokens = build("gpt2"), zoo.prompt_tokens(1, 24)
    everything = attribution_graph(model, tokens, METRIC, **EVERYTHING)
    graph = attribution_graph(model, tokens, METRIC, mass=mass, node_threshold=0.0, block=block)
    for transition in range(len(graph.boundaries) - 1):
        whole = kept(everything, transition)
        order = np.sort(np.abs(whole).ravel())[::-1]
        needed = np.searchsorted(np.cumsum(order), mass * order.sum() * (1 - 1e-12)) + 1
        chosen = np.abs(whole) >= order[min(needed, (order > 0).sum()) - 1]
        found = kept(graph, transition)
        assert np.abs(found - np.where(chosen, whole, 0)).max() < 1e-9 * order[0]
        assert graph.total_mass[transition] == pytest.approx(order.sum(), rel=1e-9)
        assert graph.pruned_mass[transition] == pytest.approx(
            np.abs(whole[~chosen]).sum(), rel=1e-6, abs=1e-12
        )
    assert remainder(graph) < TIGHT


@pytest.mark.parametrize("block", [5, None])
def test_thresholds_and_most_edges(build: Callable[[str], Any], block: int | None) -> None:
    model, tokens = build("gpt2"), zoo.prompt_tokens(1, 24)
    options: dict[str, Any] = dict(node_threshold=0.02, edge_threshold=0.005, mass=1.0, block=block)
    graph = attribution_graph(model, tokens, METRIC, **options)
    size = abs(graph.metric_value)
    assert (np.abs(graph.relevance) > 0.005 * size).all() and len(graph.relevance)
    strong = np.abs(graph.node_relevance) > 0.02 * size
    assert strong[graph.transition, graph.source].all() and strong[graph.transition + 1, graph.target].all()
    everything = attribution_graph(model, tokens, METRIC, **EVERYTHING)
    pruned = everything.prune(node_threshold=0.02, edge_threshold=0.005)
    assert np.array_equal(graph.relevance.round(9), pruned.relevance.round(9))
    few = attribution_graph(model, tokens, METRIC, **options | dict(max_edges=6))
    for transition in range(len(few.boundaries) - 1):
        mine = np.sort(np.abs(kept(few, transition)[kept(few, transition) != 0]))
        best = np.sort(np.abs(kept(graph, transition)[kept(graph, transition) != 0]))[-6:]
        assert np.allclose(mine, best, rtol=1e-9)
    assert remainder(graph) < TIGHT and remainder(few) < TIGHT


# ------------------------------------------------------------------------------- layers, batches, methods
def test_layers_further_apart_are_packed(build: Callable[[str], Any]) -> None:
    model, tokens = build("gpt2"), zoo.prompt_tokens(1, 9)
    graph = attribution_graph(model, tokens, METRIC, layers=[0, 2], **EVERYTHING)
    assert graph.parts == ("all paths",) and [one.label for one in graph.boundaries] == ["embed", "L1"]
    full = attribution_graph(model, tokens, METRIC, split=None, **EVERYTHING)
    assert np.abs(kept(graph, 0) - full.matrix(0, 2)).max() < TIGHT * np.abs(full.matrix(0, 2)).max()
    assert remainder(graph) < TIGHT
    some = attribution_graph(model, tokens, METRIC, layers=range(1, 3), **EVERYTHING)
    assert [one.label for one in some.boundaries] == ["L0", "L1 mid", "L1"]
    last = attribution_graph(model, tokens, METRIC, **EVERYTHING)
    assert np.array_equal(kept(some, 0), kept(last, 2))


def test_batch_packed_graphs_are_the_same(build: Callable[[str], Any]) -> None:
    model, tokens = build("llama"), zoo.prompt_tokens(1, 9)
    fast, slow = (
        attribution_graph(model, tokens, METRIC, method=method, mass=1.0)
        for method in ("closed_form", "batch_packed")
    )
    for transition in range(len(fast.boundaries) - 1):
        difference = np.abs(kept(fast, transition) - kept(slow, transition)).max()
        assert difference < WITH_FLOAT32_CASTS * np.abs(fast.relevance).max()
    assert remainder(slow) < WITH_FLOAT32_CASTS


def test_distant_states_with_mid_nodes(build: Callable[[str], Any]) -> None:
    """From after one attention to after the next, and how it is made of its steps when all are diagonal or one."""
    graph = attribution_graph(build("gpt2"), zoo.prompt_tokens(1, 9), METRIC, rules=CP_LRP, **EVERYTHING)
    through = graph.matrix(("resid_mid", 0), ("resid_mid", 1))
    step, diagonal = graph.matrix(1, ("resid_mid", 1)), graph.matrix(("resid_mid", 0), 1)
    assert np.count_nonzero(diagonal - np.diag(np.diag(diagonal))) == 0
    columns = through.sum(0)
    assert np.abs(columns - graph.node_relevance[1]).max() < TIGHT * np.abs(columns).max()
    assert np.abs(step.sum(0) - graph.node_relevance[2]).max() < TIGHT * np.abs(columns).max()


def test_several_prompts_give_several_graphs(build: Callable[[str], Any]) -> None:
    model = build("gpt2")
    prompts = [zoo.prompt_tokens(1, length, seed=length)[0] for length in (9, 5)]
    metric = LogitDiff([3, 4], [7, 8])
    graphs = attribution_graph(model, prompts, metric)
    for graph, prompt, (target, contrast) in zip(graphs, prompts, ((3, 7), (4, 8)), strict=True):
        single = attribution_graph(model, prompt, LogitDiff(target, contrast))
        assert np.array_equal(graph.relevance, single.relevance)
        assert graph.metric_value == single.metric_value and len(graph.token_strings) == len(prompt)


def test_bfloat16(build: Callable[[str], Any]) -> None:
    model = build("llama").to(torch.bfloat16)
    graph = attribution_graph(model, zoo.prompt_tokens(1, 9), METRIC, **EVERYTHING)
    assert np.isfinite(graph.relevance).all() and graph.made_by.column_error < 1e-2
    assert remainder(graph) < 5e-2


# ------------------------------------------------------------------------------- refinement
REFINABLE = ["gpt2", "llama", "neox", "gemma2", "gptj"]


@pytest.mark.parametrize("name", REFINABLE)
def test_nodes_refine_into_parts_that_sum_to_them(build: Callable[[str], Any], name: str) -> None:
    with zoo.float64_throughout():
        model = build(name)
        graph = attribution_graph(model, zoo.prompt_tokens(1, 9), METRIC, **EVERYTHING)
        for number, boundary in enumerate(graph.boundaries):
            for into in ("heads", "neurons", "dimensions"):
                if (boundary.layer is None and into != "dimensions") or (boundary.mid and into == "neurons"):
                    with pytest.raises(InputError, match=r"no block|No MLP"):
                        graph.refine((boundary.label, 6), into=into)
                    continue
                view = graph.refine((boundary.label, 6), into=into)
                relevance = graph.node_relevance[number, 6]
                assert abs(view.values.sum() - relevance) < TIGHT * max(1, np.abs(view.values).max())
                assert (
                    view.shape[0]
                    == {
                        "heads": 6 + (boundary.mid is False),
                        "neurons": model.cfg.d_mlp + 2,
                        "dimensions": 32,
                    }[into]
                )


@pytest.mark.parametrize("name", REFINABLE)
def test_edges_refine_into_parts_that_sum_to_them(build: Callable[[str], Any], name: str) -> None:
    with zoo.float64_throughout():
        graph = attribution_graph(build(name), zoo.prompt_tokens(1, 9), METRIC, **EVERYTHING)
        first, last = graph.boundaries[2].label, graph.boundaries[3 if len(graph.boundaries) > 3 else 2].label
        source = graph.boundaries[2 if len(graph.boundaries) > 3 else 1].label
        del first
        for into in ("heads", "dimensions"):
            edge = ((source, 2), (last, 8))
            view = graph.refine(edge, into=into)
            assert (
                abs(view.values.sum() - graph.matrix(source, last)[8, 2]) < TIGHT * np.abs(view.values).max()
            )
        own = len(graph.boundaries) - 2
        ends = graph.boundaries[own].label, graph.boundaries[own + 1].label
        view = graph.refine(((ends[0], 8), (ends[1], 8)), into="neurons")
        assert abs(view.values.sum() - graph.matrix(*ends)[8, 8]) < TIGHT * np.abs(view.values).max()
        with pytest.raises(InputError, match="a position to itself"):
            graph.refine(((source, 2), (last, 8)), into="neurons")


def test_heads_of_an_edge_are_the_parts_kept(build: Callable[[str], Any]) -> None:
    graph = attribution_graph(build("gpt2"), zoo.prompt_tokens(1, 9), METRIC, **EVERYTHING)
    edge = (("embed", 3), ("L0 mid", 7))
    found = dict(zip(graph.refine(edge).labels["component"], graph.refine(edge).values, strict=True))
    for label, value in graph.parts_of(edge).items():
        assert found[label] == pytest.approx(value, rel=1e-12, abs=1e-15)


def test_neurons_are_the_ones_that_carry_it(build: Callable[[str], Any]) -> None:
    """A neuron's share is its activation times the gradient there, from the node's own gradient alone."""
    model, tokens = build("gpt2"), zoo.prompt_tokens(1, 9)
    graph = attribution_graph(model, tokens, METRIC)
    _, rel = run_with_relevance(model, tokens, METRIC)
    view = graph.refine(("L1", 8), into="neurons")
    neurons = rel["post", 1][0, 8].numpy()
    assert np.abs(view.values[1:-1] - neurons).max() < TIGHT * np.abs(neurons).max()


def test_a_mixture_shows_no_neurons(build: Callable[[str], Any]) -> None:
    graph = attribution_graph(build("mixtral"), zoo.prompt_tokens(1, 9), METRIC)
    with pytest.raises(InputError, match="no neurons in layer 1"):
        graph.refine(("L1", 8), into="neurons")


# ------------------------------------------------------------------------------- what is refused
REFUSED: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "empty prompt": (InputError, "at least one token", dict(prompt=[])),
    "unknown id": (InputError, "lie in", dict(prompt=[1, 999])),
    "target": (MetricError, "lies in", dict(metric=LogitDiff(3, 999))),
    "position": (MetricError, "position lies in", dict(metric=LogitDiff(3, 7, pos=20))),
    "rules": (RuleError, "is a RuleSet", dict(rules="magic")),
    "split": (InputError, "split is", dict(split="half")),
    "method": (InputError, "method is", dict(method="slow")),
    "mass": (InputError, "share from 0 to 1", dict(mass=85)),
    "node threshold": (InputError, "node_threshold", dict(node_threshold=-1.0)),
    "edge threshold": (InputError, "edge_threshold", dict(edge_threshold=float("nan"))),
    "most": (InputError, "max_edges", dict(max_edges=0)),
    "block": (InputError, "block is", dict(block=0)),
    "one layer": (InputError, "two or more boundaries", dict(layers=[1])),
    "descending": (InputError, "ascending", dict(layers=[2, 0])),
    "no sequence": (InputError, "two or more", dict(layers=5)),
    "words": (InputError, "share from 0 to 1", dict(mass="0.8")),
    "beyond": (InputError, "from 0", dict(layers=[0, 9])),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused(build: Callable[[str], Any], what: str) -> None:
    error, words, change = REFUSED[what]
    model = build("gpt2")
    arguments: dict[str, Any] = dict(prompt=zoo.prompt_tokens(1, 9), metric=METRIC) | change
    with pytest.raises(error, match=words):
        attribution_graph(model, **arguments)


def test_train_mode_and_inference_mode_are_refused(build: Callable[[str], Any]) -> None:
    model = build("gpt2")
    with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
        attribution_graph(model, zoo.prompt_tokens(1, 9), METRIC)
    model.train()
    with pytest.raises(InputError, match="train mode"):
        attribution_graph(model, zoo.prompt_tokens(1, 9), METRIC)
    model.eval()


def test_nothing_is_left_behind(build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("gpt2")

    def state() -> Any:
        hooks = {name: len(point.fwd_hooks) for name, point in model.hook_dict.items()}
        blocks = [len(block._forward_pre_hooks) for block in model.blocks]
        return hooks, blocks, [one.requires_grad for one in model.parameters()]

    before = state()
    graph = attribution_graph(model, zoo.prompt_tokens(1, 9), METRIC)
    graph.matrix(0, 2)
    graph.refine(("L1", 8))
    assert state() == before
    monkeypatch.setattr(AttentionEdges, "rows", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        attribution_graph(model, zoo.prompt_tokens(1, 9), METRIC)
    assert state() == before


# ------------------------------------------------------------------------------- memory, interruption
class Largest(TorchDispatchMode):
    """The number of entries of the largest tensor made."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else (result,):
            if isinstance(one, Tensor) and one.dtype.is_floating_point:
                self.numbers = max(self.numbers, one.numel())
        return result


def test_rows_are_streamed(build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Edges alone make nothing of the size of a pattern: [head, row, key] of one block is the largest."""
    monkeypatch.setattr(stream, "_KEPT_NUMBERS", 0)
    monkeypatch.setattr(stream, "_CLASS_BITS", 56)  # few classes: their sums are not what is measured here
    monkeypatch.setattr(stream, "_CLASSES", 2**8)
    model, tokens = build("gpt2"), zoo.prompt_tokens(1, 96)
    run = StatePass(model, *ask(model, tokens, METRIC), ATTN_LRP)
    run.layer(1)
    tensors = run.layer(0)
    attention, received = run.attention(tensors)
    transition = LayerAccount(run, tensors, attention, received).transitions(True)[0][2]
    counter = Largest()
    with counter:
        prune_transition(transition, Pruning(0.0, 0.0, 0.5, None), received=received, block=8)
    assert 4 * 8 * 96 <= counter.numbers < 4 * 96 * 96


def test_an_interrupted_graph_goes_on(
    build: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = build("gpt2"), zoo.prompt_tokens(1, 9)
    expected = attribution_graph(model, tokens, METRIC)
    original, ran = StatePass.layer, []

    def interrupted(self: Any, layer: int, *args: Any, **options: Any) -> Any:
        ran.append(layer)
        if layer == 0 and len(ran) == 2:
            raise KeyboardInterrupt
        return original(self, layer, *args, **options)

    monkeypatch.setattr(StatePass, "layer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attribution_graph(model, tokens, METRIC, checkpoint=tmp_path / "graph")
    graph = attribution_graph(model, tokens, METRIC, checkpoint=tmp_path / "graph")
    assert ran == [1, 0, 0]  # the finished layer was not run again
    again = attribution_graph(model, tokens, METRIC, checkpoint=tmp_path / "graph")
    for one in (graph, again):
        for name in ("relevance", "part_values", "node_relevance", "sinks", "pruned", "pruned_mass"):
            assert np.array_equal(getattr(one, name), getattr(expected, name)), name
        assert np.array_equal(one.matrix(0, 2), expected.matrix(0, 2))
        assert one.made_by.column_error == expected.made_by.column_error


def test_checkpoints_of_other_graphs_are_refused(build: Callable[[str], Any], tmp_path: Path) -> None:
    model, tokens = build("gpt2"), zoo.prompt_tokens(1, 9)
    attribution_graph(model, tokens, METRIC, checkpoint=tmp_path)
    for name, change in dict(
        metric=dict(metric=Logit(4)),
        rules=dict(rules=CP_LRP),
        mass=dict(mass=0.5),
        prompt=dict(prompt=tokens + 1),
        model=dict(model=one_weight_changed(build("gpt2"))),
    ).items():
        arguments: dict[str, Any] = dict(model=model, prompt=tokens, metric=METRIC) | change
        with pytest.raises(InputError, match=f"written for other {name}\\."):
            attribution_graph(checkpoint=tmp_path, **arguments)
    with pytest.raises(InputError, match="is a file"):
        attribution_graph(model, tokens, METRIC, checkpoint=tmp_path / "layer_1.safetensors")
    with pytest.raises(InputError, match="holds one graph"):
        attribution_graph(model, [tokens[0], tokens[0]], METRIC, checkpoint=tmp_path)


def one_weight_changed(model: Any) -> Any:
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    return model


def test_a_bar_counts_rows(build: Callable[[str], Any], capsys: pytest.CaptureFixture[str]) -> None:
    attribution_graph(build("gpt2"), zoo.prompt_tokens(1, 9), METRIC, progress=True)
    assert "18 of 18" in capsys.readouterr().err
    attribution_graph(build("gpt2"), zoo.prompt_tokens(1, 9), METRIC)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("heads", [4, 6, 12, 16, 71])
def test_slopes_are_those_of_hugging_face(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    alibi = build_alibi_tensor(torch.ones(1, 3), heads, torch.float64)
    assert torch.allclose(scores._slopes(heads), alibi[:, 0, 1] - alibi[:, 0, 0], rtol=1e-6)


@pytest.mark.parametrize("what", ["matrix", "distant matrix", "refine"])
def test_a_changed_model_is_noticed(build: Callable[[str], Any], what: str) -> None:
    model = build("gpt2")
    graph = attribution_graph(model, zoo.prompt_tokens(1, 9), METRIC)
    ask = {
        "matrix": lambda: graph.matrix(0, ("resid_mid", 0)),
        "distant matrix": lambda: graph.matrix(0, 2),
        "refine": lambda: graph.refine(("L0", 8)),
    }[what]
    ask()
    next(one for name, one in model.named_parameters() if one.ndim == 2 and "0" in name).data.mul_(1.5)
    with pytest.raises(SiteError, match="make a graph anew"):
        ask()


SPANS = {
    "two blocks": ((0, 3), (2, 8)),
    "a block and a half": ((("resid_mid", 0), 8), (2, 8)),
    "half a block into the next": ((("resid_mid", 0), 8), (("resid_mid", 1), 8)),
}


@pytest.mark.parametrize("what", SPANS)
@pytest.mark.parametrize("into", ["heads", "neurons", "dimensions"])
def test_edges_that_span_more_than_neighbours_are_not_refined(
    build: Callable[[str], Any], what: str, into: str
) -> None:
    graph = attribution_graph(build("gpt2"), zoo.prompt_tokens(1, 9), METRIC)
    with pytest.raises(InputError, match="spans more"):
        graph.refine(SPANS[what], into=into)
    with pytest.raises(InputError, match="leads forwards"):
        graph.refine(SPANS[what][::-1], into=into)
    skipping = attribution_graph(build("gpt2"), zoo.prompt_tokens(1, 9), METRIC, layers=[0, 2])
    with pytest.raises(InputError, match="spans more"):
        skipping.refine(0, into=into)
    assert not graph.refinements and not skipping.refinements


def test_hooks_that_change_the_stream_are_noticed(build: Callable[[str], Any]) -> None:
    model = build("gpt2")
    model.add_hook("blocks.0.hook_attn_out", lambda tensor, hook: tensor + torch.arange(32) ** 2 / 500)
    with pytest.raises(SiteError, match="change activations"):
        attribution_graph(model, zoo.prompt_tokens(1, 9), METRIC)
    model.reset_hooks()
    attribution_graph(model, zoo.prompt_tokens(1, 9), METRIC)


def test_a_graph_asks_its_pass_as_the_pass_was_asked(build: Callable[[str], Any]) -> None:
    model = build("gpt2")
    graph = attribution_graph(model, zoo.prompt_tokens(1, 9), METRIC)
    for boundary in (2, ("resid_mid", 0)):
        with torch.inference_mode(), pytest.raises(InputError, match="inference_mode"):
            graph.matrix(0, boundary)
        model.train()
        with pytest.raises(InputError, match="train mode"):
            graph.matrix(0, boundary)
        model.eval()


def test_graphs_travel_without_their_pass(build: Callable[[str], Any]) -> None:
    graph = attribution_graph(build("gpt2"), zoo.prompt_tokens(1, 9), METRIC)
    for copy in (pickle.loads(pickle.dumps(graph)), graph.detached()):
        assert copy.made_by is None and np.array_equal(copy.relevance, graph.relevance)
        with pytest.raises(InputError, match=r"file|pass"):
            copy.matrix(0, 2)
    assert graph.made_by is not None


@pytest.mark.usefixtures("unchecked")
def test_layers_as_arrays_and_a_metric_of_zero(build: Callable[[str], Any]) -> None:
    model, tokens = build("gpt2"), zoo.prompt_tokens(1, 9)
    graph = attribution_graph(model, tokens, METRIC, layers=np.array([0, 1]))
    assert [one.label for one in graph.boundaries] == ["embed", "L0 mid", "L0"]
    zero = attribution_graph(model, tokens, lambda logits: logits[:, -1, 5] - logits[:, -1, 5].detach())
    assert "the metric is 0" in zero.notes[-1] and "the metric is 0" not in str(graph.notes)


def test_a_graph_tokenises_and_runs_the_model_once(
    build: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forward pass of the relevance pass is the one that the edges are made of; low memory runs blocks again."""
    model, counts, own = build("gpt2"), Counter[str](), prompts.tokenize

    def counted(*args: Any, **options: Any) -> Any:
        counts["tokenize"] += not isinstance(args[1], TokenBatch)
        return own(*args, **options)

    for room in [one for name, one in sys.modules.items() if name.startswith("lrp_lens.")]:
        if getattr(room, "tokenize", None) is own:
            monkeypatch.setattr(room, "tokenize", counted)
    embedding = next(part for name, part in model.named_modules() if name == "embed")
    handle = embedding.register_forward_hook(lambda *_: counts.update(["forward"]))
    try:
        attribution_graph(model, zoo.prompt_tokens(1, 6), METRIC)
    finally:
        handle.remove()
    assert counts == {"tokenize": 1, "forward": 1}
