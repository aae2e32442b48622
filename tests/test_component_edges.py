"""Component edges: against one edge at a time, against the relevance they must sum to, on every architecture."""

import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import lrp_lens
from lrp_lens import (
    ATTN_LRP,
    CP_LRP,
    GIM,
    GRADIENT,
    RELP,
    FrozenPattern,
    LogitDiff,
    LogProb,
    Plain,
)
from lrp_lens.circuits import ComponentEdges, component_graph
from lrp_lens.errors import InputError, MetricError
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.prefix import KeyValues
from lrp_lens.patching import patching_pass
from lrp_lens.views import View
from tests import zoo
from tests.oracles import component_edges as oracle

PRESETS = {rules.name: rules for rules in (ATTN_LRP, CP_LRP, RELP, GRADIENT)}
METRIC = LogitDiff(3, 4)
# Where a test names no rules: some that reach queries and keys, and take a part for themselves.
run_with_relevance = partial(lrp_lens.run_with_relevance, rules=ATTN_LRP)
component_edges = partial(lrp_lens.component_edges, rules=ATTN_LRP)
EXACT, FLOAT32_INSIDE = 1e-9, 1e-5


def tolerance(host: str) -> float:
    """Bridges compute norms in float32."""
    return FLOAT32_INSIDE if host == "bridge" else EXACT


def tokens(seed: int = 3) -> torch.Tensor:
    return zoo.prompt_tokens(2, 7, seed)


def largest(values: np.ndarray) -> float:
    return float(np.abs(values).max())


# ---------------------------------------------------------------------------------- sums
@pytest.mark.parametrize(("host", "name", "preset"), zoo.under_rules(zoo.models(), PRESETS))
def test_edges_sum_to_what_arrives_and_to_what_leaves(host: str, name: str, preset: str) -> None:
    """Into a reader: the relevance at its input.  Out of a writer: its relevance in the ordinary pass."""
    model, rules = zoo.shared(host, name), PRESETS[preset]
    edges = component_edges(model, tokens(), metric=METRIC, rules=rules)
    assert edges.error < tolerance(host) * largest(edges.values)
    _, rel = run_with_relevance(model, tokens(), METRIC, rules=rules)
    out, graph = edges.values.sum(2), edges.graph
    labels = [str(writer) for writer in graph.writers]
    scale = largest(out)
    points = {"embed": Names.EMBED, "pos_embed": Names.POS_EMBED}
    points |= {f"L{layer} MLP": Names.mlp_out(layer) for layer in range(graph.n_layers)}
    for label, point in points.items():
        if label in labels:
            found = out[:, labels.index(label)]
            if label.replace("MLP", "b_out") in labels and "MLP" in label:
                found = found + out[:, labels.index(label.replace("MLP", "b_out"))]
            expected = rel[point].flatten(1).sum(1).numpy()
            np.testing.assert_allclose(found, expected, atol=tolerance(host) * scale, rtol=0)
    heads = rel.heads().values  # [batch, layer, head]
    plain_norms = rules is GRADIENT and name.startswith(("gemma", "olmo2", "olmo3"))
    if not plain_norms:  # a norm after attention ties heads together unless its scale is held constant
        found = np.stack(
            [out[:, [labels.index(f"L{layer}H{head}") for head in range(4)]] for layer in range(2)],
            axis=1,
        )
        np.testing.assert_allclose(found, heads, atol=tolerance(host) * scale, rtol=0)


@pytest.mark.parametrize("name", zoo.HOOKED_NAMES)
def test_hosts_agree(name: str) -> None:
    hooked, bridge = zoo.shared("hooked", name), zoo.shared("bridge", name)
    for rules in (ATTN_LRP, GRADIENT):
        one, other = (
            component_edges(model, tokens(), tokens(5), METRIC, rules=rules) for model in (hooked, bridge)
        )
        assert one.graph == other.graph
        assert largest(one.values - other.values) < FLOAT32_INSIDE * largest(one.values)


# ---------------------------------------------------------------------------------- brute force
ORACLE_NATIVE = tuple(name for name in zoo.NATIVE_NAMES if name not in ("solu_ln", "ln_parallel_gelu"))
ORACLE_HOOKED = tuple(name for name in zoo.HOOKED_NAMES if name not in ("neox", "gptj", "phi"))


ORACLE = [*(("hooked", n) for n in ORACLE_HOOKED), *(("native", n) for n in ORACLE_NATIVE)]


@pytest.mark.parametrize(("host", "name", "preset"), zoo.under_rules(ORACLE, PRESETS))
def test_one_edge_at_a_time(host: str, name: str, preset: str) -> None:
    """Every edge by autograd at an input of its own (parallel blocks have no such input; their sums are tested)."""
    model, rules = zoo.shared(host, name), PRESETS[preset]
    other = tokens(5) if rules in (RELP, GRADIENT) else None
    expected = oracle.edges(model, tokens(), other, METRIC, rules)
    edges = component_edges(model, tokens(), other, METRIC, rules=rules, positions=True)
    labels = [
        (str(edges.graph.writers[w]), str(edges.graph.readers[r]))
        for w, r in np.argwhere(edges.graph.connected)
    ]
    assert set(labels) == set(expected)
    found = np.moveaxis(edges.values[:, edges.graph.connected], 1, 0)
    slow = torch.stack([expected[key] for key in labels]).detach().numpy()
    np.testing.assert_allclose(found, slow, atol=EXACT * largest(slow), rtol=0)
    assert not edges.values[:, ~edges.graph.connected].any()


@pytest.mark.skipif(not zoo.HAS_HOOKED_TRANSFORMER, reason="needs HookedTransformer")
def test_the_oracle_sees_a_wrong_rule() -> None:
    model = zoo.hooked("llama")
    expected = oracle.edges(model, tokens(), None, METRIC, GRADIENT)
    edges = component_edges(
        model, tokens(), metric=METRIC, rules=GRADIENT.override(layers=[1], norm=RELP.norm)
    )
    value = expected["embed", "L1H0 q"].sum(-1).detach().numpy()
    row, column = edges.graph.writer("embed"), edges.graph.reader("L1H0 q")
    assert largest(edges.values[:, row, column] - value) > 1e-3 * largest(value)


@pytest.mark.skipif(not zoo.HAS_HOOKED_TRANSFORMER, reason="needs HookedTransformer")
@pytest.mark.parametrize(
    "rules",
    [
        GIM,
        RELP.replace(norm=Plain()),
        CP_LRP.replace(attention=FrozenPattern()),
        ATTN_LRP.override(layers=[0], norm=Plain()),
    ],
    ids=lambda rules: rules.name[:12],
)
def test_other_rules_one_edge_at_a_time(rules: object) -> None:
    model = zoo.hooked("gpt2")
    expected = oracle.edges(model, tokens(), None, METRIC, rules)
    edges = component_edges(model, tokens(), metric=METRIC, rules=rules)
    for (writer, reader), value in expected.items():
        found = edges.values[:, edges.graph.writer(writer), edges.graph.reader(reader)]
        np.testing.assert_allclose(
            found, value.sum(-1).detach().numpy(), atol=EXACT * largest(edges.values), rtol=0
        )


# ---------------------------------------------------------------------------------- two runs
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_integrated_gradients_sum_to_the_difference_of_the_metrics(name: str) -> None:
    """At the embedding, along the path between both runs (Sundararajan et al. 2017)."""
    model = zoo.bridge(name)
    errors = []
    for steps in (2, 8, 32):
        edges = component_edges(model, tokens(), tokens(5), METRIC, rules=GRADIENT, steps=steps)
        change = edges.metric - edges.corrupted_metric
        errors.append(largest(edges.values[:, 0].sum(1) - change) / largest(change))
    assert errors[2] < 2e-3 and errors[2] < errors[1] / 8  # the midpoint rule's error falls with the square
    assert errors[0] > 0.05  # two points of the path are not enough to pass by accident


def test_steps_average_gradients_along_the_path() -> None:
    """Two steps by hand: a run from each of two embeddings."""
    model = zoo.bridge("gpt2")
    edges = component_edges(model, tokens(), tokens(5), METRIC, rules=RELP, steps=2)
    embeddings = [
        run_with_relevance(model, ids, METRIC, names_filter=[Names.EMBED])[1].activations[Names.EMBED]
        for ids in (tokens(), tokens(5))
    ]
    change = embeddings[0] - embeddings[1]
    expected = 0
    for share in (0.25, 0.75):
        at = embeddings[1] + share * change
        with model.hooks(fwd_hooks=[(Names.EMBED, lambda tensor, hook, at=at: at)]):
            _, cache = run_with_relevance(model, tokens(), METRIC, rules=RELP)
        expected = expected + (change * cache.gradients[Names.EMBED]).flatten(1).sum(1).numpy() / 2
    np.testing.assert_allclose(edges.values[:, 0].sum(1), expected, rtol=1e-9)


def test_node_scores_are_attribution_patching() -> None:
    """Denoising, the direction of transformer_lens and of lrp_lens.patching."""
    model = zoo.bridge("qwen2")
    for rules in (GRADIENT, RELP):
        edges = component_edges(model, tokens(), tokens(5), METRIC, rules=rules, direction="denoising")
        passed = patching_pass(model, tokens(5), METRIC, rules=rules, parts=["z", "mlp_out"])
        from lrp_lens.patching import FACETS

        heads = passed.scores(tokens(), FACETS["attn_head_out_all_pos"]).numpy()
        for layer in range(2):
            for head in range(4):
                found = edges.values[:, edges.graph.writer(f"L{layer}H{head}")].sum(1)
                np.testing.assert_allclose(found, heads[:, layer, head], atol=FLOAT32_INSIDE * largest(heads))


def test_noising_and_denoising_take_gradients_at_the_two_runs() -> None:
    model = zoo.bridge("gpt2")
    one = component_edges(model, tokens(), tokens(5), METRIC, rules=GRADIENT)
    other = component_edges(model, tokens(5), tokens(), METRIC, rules=GRADIENT, direction="denoising")
    np.testing.assert_allclose(one.values, -other.values, atol=1e-12)
    assert one.metric == pytest.approx(other.corrupted_metric)
    both = component_edges(model, tokens(), tokens(5), METRIC, rules=GRADIENT, direction="denoising")
    assert largest(one.values - both.values) > 1e-3


@pytest.mark.skipif(
    zoo.HAS_HOOKED_TRANSFORMER, reason="transformer_lens.tools.analysis.attribution_patch is of 4.3"
)
@pytest.mark.parametrize("name", ["gpt2", "llama_mha", "neox"])
def test_gradient_edges_are_transformer_lens_attribution_patch(name: str) -> None:
    from transformer_lens.tools.analysis import attribution_patching as theirs

    model = zoo.bridge(name, torch.float32)
    clean, corrupted = tokens()[:1], tokens(5)[:1]
    config = theirs.EdgeAttributionConfig(granularity="edge")
    result = theirs.attribution_patch(model, clean, corrupted, lambda logits: METRIC(logits)[0], config)
    edges = component_edges(
        model, clean, corrupted, METRIC, rules=GRADIENT, direction="denoising", positions=True
    )
    kinds = {"q_input": "q", "k_input": "k", "v_input": "v"}
    scale, seen = largest(edges.values), 0
    for (writer, reader), score in result.edge_scores.items():
        source = {"embed": "embed", "attn_head_out": f"L{writer.layer}H{writer.head}"}.get(
            writer.kind, f"L{writer.layer} MLP"
        )
        target = {"mlp_in": f"L{reader.layer} MLP", "logits": "logits"}.get(
            reader.kind, f"L{reader.layer}H{reader.head} {kinds.get(reader.kind)}"
        )
        found = edges.edge(source, target)[reader.position]
        assert found == pytest.approx(score, abs=2e-5 * scale), (source, target)
        seen += 1
    assert seen == edges.graph.n_edges * 7


# ---------------------------------------------------------------------------------- shapes and batches
def test_batches_positions_and_blocks_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.bridge("llama")
    edges = component_edges(model, tokens(), tokens(5), METRIC, rules=RELP)
    for index in range(2):
        one = component_edges(
            model,
            tokens()[index : index + 1],
            tokens(5)[index : index + 1],
            METRIC,
            rules=RELP,
            positions=True,
        )
        np.testing.assert_allclose(one.values[0].sum(-1), edges.values[index], atol=1e-6)
        np.testing.assert_allclose(one.summed, one.values[0].sum(-1))
        assert one.arriving.shape == (1, len(one.graph.readers))
    import lrp_lens.circuits.edge_scores as module

    for size in (1, 40_000):
        monkeypatch.setattr(module, "BLOCK_BYTES", size)
        again = component_edges(model, tokens(), tokens(5), METRIC, rules=RELP)
        np.testing.assert_allclose(again.values, edges.values, atol=1e-12)
        np.testing.assert_allclose(again.arriving, edges.arriving, atol=1e-12)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_prompts_are_as_alone(side: str) -> None:
    model = zoo.bridge("neox")  # the hosts' own llama gives NaN for a row that is padded on the left
    clean = [tokens()[0], tokens()[1, :4]]
    corrupted = [tokens(5)[0], tokens(5)[1, :4]]
    both = component_edges(model, clean, corrupted, METRIC, rules=GRADIENT, padding_side=side, positions=True)
    assert both.error < FLOAT32_INSIDE * largest(both.values)
    for index in range(2):
        one = component_edges(model, clean[index], corrupted[index], METRIC, rules=GRADIENT)
        assert largest(both.values[index].sum(-1) - one.values[0]) < FLOAT32_INSIDE * largest(one.values)


def test_the_default_metric_is_the_clean_runs_own() -> None:
    model = zoo.bridge("gpt2")
    logits = model(tokens())[:, -1]
    best = logits.topk(2, dim=-1).values
    for direction in ("noising", "denoising"):
        edges = component_edges(model, tokens(), tokens(5), rules=GRADIENT, direction=direction)
        np.testing.assert_allclose(edges.metric, (best[:, 0] - best[:, 1]).detach().numpy(), rtol=1e-6)
    one = component_edges(model, tokens())
    np.testing.assert_allclose(one.metric, edges.metric)
    assert one.corrupted_metric is None


def test_callables_and_half_precision() -> None:
    model = zoo.bridge("gpt2")
    edges = component_edges(model, tokens(), metric=lambda logits: logits[:, -1, 3] - logits[:, -1, 4])
    other = component_edges(model, tokens(), metric=METRIC)
    np.testing.assert_allclose(edges.values, other.values, atol=1e-12)
    rough = component_edges(zoo.bridge("gpt2", torch.bfloat16), tokens(), metric=METRIC)
    assert rough.values.dtype == np.float32
    assert np.corrcoef(rough.values.ravel(), other.values.ravel())[0, 1] > 0.99
    assert component_edges(model, tokens(), metric=LogProb(3)).error < 1e-9


def test_nothing_is_left_behind() -> None:
    model = zoo.bridge("gpt2")
    before = model(tokens())
    requires = [parameter.requires_grad for parameter in model.parameters()]

    def broken(logits: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        component_edges(model, tokens(), tokens(5), broken, rules=GRADIENT, steps=3)
    component_edges(model, tokens(), tokens(5), METRIC, rules=GRADIENT, steps=3)
    assert all(not point.fwd_hooks for point in model.hook_dict.values())
    assert requires == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(model(tokens()), before)


# ---------------------------------------------------------------------------------- results
def test_the_graph_of_gpt2_small_has_mibs_number_of_edges() -> None:
    from lrp_lens.circuits import ComponentGraph

    small = ComponentGraph(12, 12, 12, positions=True, biases=frozenset({(0, "b_O")}))
    assert small.n_edges == 32491
    assert ComponentGraph(26, 8, 8).n_edges == 74218  # Gemma 2 2B with k and v per query head
    assert len(small.writers) == 1 + 1 + 1 + 144 + 12
    assert component_graph(zoo.bridge("llama")).n_key_value_heads == 2


def test_results_read_well(tmp_path: object) -> None:
    model = zoo.bridge("gpt2")
    edges = component_edges(model, tokens(), tokens(5), METRIC, rules=GRADIENT)
    frame = edges.to_dataframe()
    assert list(frame.columns) == [
        "writer", "writer_kind", "writer_layer", "reader", "reader_kind", "reader_layer", "score",
    ]  # fmt: skip
    assert len(frame) == edges.graph.connected.sum()
    assert (frame["score"].abs().diff().dropna() <= 1e-12).all()
    top = frame.iloc[0]
    assert edges.edge(top["writer"], top["reader"]) == pytest.approx(top["score"])
    assert "EAP, clean - corrupted, noising" in repr(edges) and top["writer"] in repr(edges)
    assert "<table" in edges._repr_html_() and "→" not in edges._headline()
    view = edges.view(layer=1)
    assert isinstance(view, View) and view.dims == ("writer", "reader")
    assert view.shape[1] == 13 and np.isnan(edges.view().values).any()
    edges.save(tmp_path / "e.safetensors")
    again = ComponentEdges.load(tmp_path / "e.safetensors")
    np.testing.assert_array_equal(again.values, edges.values)
    assert (again.graph, again.method, again.token_strings) == (
        edges.graph,
        edges.method,
        edges.token_strings,
    )
    by_position = component_edges(model, tokens()[:1], metric=METRIC, positions=True)
    rows = by_position.to_dataframe()
    assert rows["score"].sum() == pytest.approx(by_position.summed.sum()) and "token" in rows
    assert "by position" in repr(by_position)


# ---------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(corrupted=tokens()[:, :5]), "same number of tokens; received 7 and 5"),
        (dict(corrupted=tokens()[:1]), "received 2 clean and 1 corrupted ones"),
        (dict(steps=0), "steps is a whole number of points of the path, at least 1; received 0"),
        (dict(steps=2.5), "steps is a whole number"),
        (dict(steps=4), "there is one; received steps=4"),
        (dict(direction="denoising"), "without corrupted prompts. Pass `corrupted`"),
        (dict(direction="sideways"), "direction is 'denoising' or 'noising'; received 'sideways'"),
    ],
)
def test_bad_inputs(options: dict, message: str) -> None:
    from jaxtyping import TypeCheckError

    model = zoo.bridge("gpt2")
    with pytest.raises((InputError, TypeCheckError)) as error:
        component_edges(model, tokens(), **{"metric": METRIC} | options)
    if isinstance(error.value, InputError):
        assert message in str(error.value)
    else:
        assert {"steps", "direction"} & set(options)


def test_refuses_models_and_prompts_that_do_not_fit() -> None:
    model = zoo.bridge("gpt2")
    with pytest.raises(InputError, match="train mode"):
        component_edges(zoo.bridge("gpt2").train(), tokens(), metric=METRIC)
    with pytest.raises(InputError, match="needs a transformer_lens"):
        component_edges(torch.nn.Linear(2, 2), tokens(), metric=METRIC)
    with pytest.raises(InputError):
        component_edges(model, torch.zeros(1, 0, dtype=torch.long), metric=METRIC)
    with pytest.raises(MetricError, match="vocabulary"):
        component_edges(model, tokens(), metric=LogitDiff(3, 4000))
    edges = component_edges(model, tokens(), metric=METRIC)
    with pytest.raises(InputError, match="there is no 'L9H9'"):
        edges.edge("L9H9", "logits")
    with pytest.raises(InputError, match="L1 MLP does not feed L0 MLP"):
        edges.edge("L1 MLP", "L0 MLP")
    with pytest.raises(InputError, match=r"A layer lies in \[0, 2\)"):
        edges.view(layer=2)
    with pytest.raises(InputError, match="nothing is at"):
        ComponentEdges.load("nowhere.safetensors")


def test_a_model_is_resolved_a_handful_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not once for every record and block: that would grow with the layers."""
    from lrp_lens import hosts

    model, calls, entry = zoo.bridge("llama"), [], hosts._entry
    monkeypatch.setattr(hosts, "_entry", lambda model: calls.append(1) or entry(model))
    component_edges(model, tokens(), metric=METRIC, rules=RELP)
    alone = len(calls)
    component_edges(model, tokens(), tokens(5), METRIC, rules=RELP)
    assert alone <= 8 and len(calls) - alone <= 10


def test_groups_of_readers_do_not_change_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    """One product for one block, or for all blocks, whose first readers then stand before fewer writers."""
    import lrp_lens.circuits.edge_scores as module

    model, found = zoo.bridge("gpt2"), {}
    for readers in (1, 10_000):
        monkeypatch.setattr(module, "READERS", readers)
        for positions in (False, True):
            edges = component_edges(model, tokens(), tokens(5), METRIC, rules=RELP, positions=positions)
            assert not edges.values[:, ~edges.graph.connected].any()
            assert edges.error < FLOAT32_INSIDE * largest(edges.values)
            found[readers, positions] = edges.values
    for positions in (False, True):
        np.testing.assert_allclose(found[1, positions], found[10_000, positions], atol=1e-12)
    np.testing.assert_allclose(found[1, True].sum(-1), found[1, False], atol=1e-12)


def test_nothing_is_summed_before_the_first_token_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts that begin alike: the same edges as from all positions, and none before they part."""
    model, room = zoo.shared("bridge", "llama"), sys.modules["lrp_lens.circuits.edge_scores"]
    corrupted = zoo.prompt_tokens(2, 6, 2)
    clean = corrupted.clone()
    clean[0, 3:], clean[1, 4:] = zoo.prompt_tokens(2, 6, 1)[0, 3:], zoo.prompt_tokens(2, 6, 1)[1, 4:]
    blocks, begun = room._blocks, []

    def edges(begin: int | None, positions: bool) -> Any:
        def chosen(n_examples: int, first: int, length: int, graph: Any) -> Any:
            begun.append(first)
            return blocks(n_examples, first if begin is None else begin, length, graph)

        monkeypatch.setattr(room, "_blocks", chosen)
        return component_edges(model, clean, corrupted, LogitDiff(5, 7), rules=RELP, positions=positions)

    for positions in (False, True):
        found, everywhere = edges(None, positions), edges(0, positions)
        np.testing.assert_allclose(found.values, everywhere.values, atol=1e-9)
        np.testing.assert_allclose(found.arriving, everywhere.arriving, atol=1e-9)
        assert np.abs(edges(4, positions).values - everywhere.values).max() > 1e-3  # control: one too late
    assert set(begun) == {3} and not found.values[..., :3].any() and found.values[..., 3:].any()


GOES_ON = [("bridge", "llama"), ("bridge", "opt"), ("hooked", "gemma2"), ("native", "ln_gelu")]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        pytest.param(*one, marks=[] if one in GOES_ON else [pytest.mark.full, pytest.mark.zoo])
        for one in zoo.models()
    ],
)
def test_the_other_run_goes_on_where_the_prompts_part(
    monkeypatch: pytest.MonkeyPatch, host: str, name: str
) -> None:
    """What both prompts begin with is not run again: the same edges as from two whole runs, from fewer tokens."""
    model, room = zoo.shared(host, name), sys.modules["lrp_lens.circuits.edge_scores"]
    corrupted = tokens()
    corrupted[0, 3:5], corrupted[1, 4:6] = (corrupted[0, 3:5] + 1) % 40, (corrupted[1, 4:6] + 3) % 40
    run, lengths = KeyValues.forward, []

    def counted(self: Any, chunk: torch.Tensor, *rest: Any) -> torch.Tensor:
        lengths.append(chunk.shape[1])
        return run(self, chunk, *rest)

    monkeypatch.setattr(KeyValues, "forward", counted)
    for direction in ("noising", "denoising"):
        made = partial(component_edges, model, tokens(), corrupted, METRIC, rules=RELP, direction=direction)
        lengths.clear()
        found = made()
        assert lengths == [7, 4]
        with monkeypatch.context() as patch:
            patch.setattr(room, "continues", lambda pair, first: False)
            whole = made()
        assert lengths == [7, 4]
        scale = largest(whole.values)
        np.testing.assert_allclose(found.values, whole.values, atol=1e-12 * scale, rtol=0)
        np.testing.assert_allclose(found.arriving, whole.arriving, atol=1e-12 * scale, rtol=0)
        np.testing.assert_allclose(found.metric, whole.metric, rtol=1e-12)
        np.testing.assert_allclose(found.corrupted_metric, whole.corrupted_metric, rtol=1e-12)
        with monkeypatch.context() as patch:  # control: one token too late
            patch.setattr(room, "first_difference", lambda pair: 4)
            assert largest(made().values - whole.values) > 1e-4 * scale


@pytest.mark.parametrize("case", ["position before", "all positions", "padding on the left"])
def test_two_whole_runs_where_one_cannot_go_on(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """A metric that reads what both share, or all logits, and padding on the left."""
    model = zoo.shared("bridge", "llama", torch.float32)
    corrupted, metric, clean = tokens(), METRIC, tokens()
    corrupted[:, 4] = (corrupted[:, 4] + 1) % 40
    if case == "position before":
        metric = LogitDiff(3, 4, pos=2)
    elif case == "all positions":
        metric = lambda logits: logits[:, -1, 3] - logits[:, -1, 4]  # noqa: E731
    monkeypatch.setattr(KeyValues, "forward", None)
    if case == "padding on the left":
        lists = [[one[0], one[1, 1:]] for one in (clean, corrupted)]
        edges = component_edges(model, *lists, metric, rules=RELP, padding_side="left")
    else:
        edges = component_edges(model, clean, corrupted, metric, rules=RELP)
    assert edges.error < FLOAT32_INSIDE * max(largest(edges.values), 1e-3)
