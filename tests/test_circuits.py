"""Circuits: every edge outside replaced, against a run that replaces them one by one; selection, curves, files."""

import json
import math

import numpy as np
import pytest
import torch

from lrp_lens import GRADIENT, RELP, LogitDiff
from lrp_lens.circuits import (
    Circuit,
    CircuitCurve,
    ComponentEdges,
    ComponentGraph,
    circuit_curve,
    component_edges,
    component_graph,
    importances,
    load_importances,
    run_circuits,
    save_importances,
    select,
)
from lrp_lens.circuits.curve import cmd, cpr
from lrp_lens.circuits.growing import FRACTIONS
from lrp_lens.errors import InputError, SiteError
from tests import zoo
from tests.oracles import component_edges as oracle

METRIC = LogitDiff(3, 4)
EXACT, FLOAT32_INSIDE = 1e-9, 1e-5


def tokens(seed: int = 3, batch: int = 2) -> torch.Tensor:
    return zoo.prompt_tokens(batch, 7, seed)


def random_circuit(
    graph: ComponentGraph, seed: int, share: float = 0.5, length: int | None = None
) -> Circuit:
    generator = np.random.default_rng(seed)
    shape = graph.free.shape if length is None else (*graph.free.shape, length)
    free = graph.free if length is None else graph.free[..., None]
    return Circuit(graph, free & (generator.random(shape) < share), f"random {seed}")


@pytest.fixture(scope="module")
def gpt2() -> object:
    return zoo.bridge("gpt2")


@pytest.fixture(scope="module")
def scored(gpt2: object) -> ComponentEdges:
    return component_edges(gpt2, tokens(), tokens(5), METRIC, rules=GRADIENT)


# ---------------------------------------------------------------------------------- runs
@pytest.mark.parametrize(("host", "name"), zoo.models())
def test_all_edges_give_the_clean_run_and_none_the_corrupted(host: str, name: str) -> None:
    model = zoo.shared(host, name)
    with torch.no_grad():
        clean, corrupted = (METRIC(model(ids)).numpy() for ids in (tokens(), tokens(5)))
    tolerance = FLOAT32_INSIDE if host == "bridge" else EXACT
    some = random_circuit(component_graph(model), 0)
    rest = some.graph.free.copy()
    rest[0] = False
    noising, denoising = (
        run_circuits(
            model,
            [some, Circuit(some.graph, rest), Circuit.full(some.graph), Circuit.empty(some.graph)],
            tokens(),
            tokens(5),
            METRIC,
            direction=direction,
        )
        for direction in ("noising", "denoising")
    )
    # with the embedding's edges replaced, and no other, the run is the other one at every single reader
    np.testing.assert_allclose(noising.values[1], corrupted, atol=tolerance)
    for found in (noising, denoising):
        for full, empty in ((found.full, found.empty), found.values[2:]):
            np.testing.assert_allclose(full, clean, atol=tolerance)
            np.testing.assert_allclose(empty, corrupted, atol=tolerance)
    # what noising keeps is what denoising of all other edges, from the other side, replaces
    other = run_circuits(model, some.complement(), tokens(5), tokens(), METRIC, direction="denoising")
    np.testing.assert_allclose(other.values[0], noising.values[0], atol=tolerance)
    assert np.abs(noising.values[0] - clean).max() > 1e-4


@pytest.mark.parametrize("name", [name for name in zoo.HOOKED_NAMES if name not in ("neox", "gptj", "phi")])
def test_against_edges_replaced_one_by_one(name: str) -> None:
    model = zoo.shared("hooked", name)
    graph = component_graph(model)
    for circuit in (random_circuit(graph, 1, 0.7), random_circuit(graph, 2, 0.5, 7)):
        rows = np.argwhere(circuit.mask)
        kept = {(str(graph.writers[r[0]]), str(graph.readers[r[1]]), *map(int, r[2:])) for r in rows}
        with torch.no_grad():
            expected = METRIC(oracle.run_circuit(model, tokens(), tokens(5), kept)).numpy()
        found = run_circuits(model, circuit, tokens(), tokens(5), METRIC)
        np.testing.assert_allclose(found.values[0], expected, atol=EXACT)
        kept.discard(next(iter(kept)))  # the test sees one edge
    with torch.no_grad():
        fewer = METRIC(oracle.run_circuit(model, tokens(), tokens(5), set())).numpy()
    assert np.abs(fewer - expected).max() > 1e-4


@pytest.mark.parametrize("name", zoo.HOOKED_NAMES)
def test_hosts_agree_on_circuits(name: str) -> None:
    values = []
    for model in (zoo.shared("hooked", name), zoo.shared("bridge", name)):
        circuit = random_circuit(component_graph(model), 4)
        values.append(run_circuits(model, circuit, tokens(), tokens(5), METRIC).values)
    np.testing.assert_allclose(values[0], values[1], atol=FLOAT32_INSIDE * max(1, np.abs(values[0]).max()))


@pytest.mark.skipif(
    zoo.HAS_HOOKED_TRANSFORMER, reason="transformer_lens.tools.analysis.faithfulness is of 4.3"
)
@pytest.mark.parametrize("name", ["gpt2", "neox"])
def test_circuits_by_position_are_transformer_lens_faithfulness(name: str) -> None:
    from transformer_lens.tools.analysis import attribution_patching as theirs

    model = zoo.bridge(name, torch.float32)
    clean, corrupted = tokens()[:1], tokens(5)[:1]
    config = theirs.EdgeAttributionConfig(granularity="edge")
    metric = lambda logits: METRIC(logits)[0]  # noqa: E731
    ranked = theirs.attribution_patch(model, clean, corrupted, metric, config).top_edges(150)
    expected = theirs.faithfulness(model, clean, corrupted, metric, ranked)
    edges = component_edges(
        model, clean, corrupted, METRIC, rules=GRADIENT, direction="denoising", positions=True
    )
    circuit = edges.top(150, prune=False)
    found = run_circuits(model, circuit, clean, corrupted, METRIC)
    assert found.recovered[0] == pytest.approx(expected.recovered, abs=1e-4)
    assert found.full[0] == pytest.approx(expected.full_metric, abs=1e-4)
    assert len(circuit) == expected.circuit_size


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "neox"])
def test_mean_and_zero_ablation_by_hand(name: str) -> None:
    """One writer out: its output replaced in the stream of everything behind it."""
    model = zoo.bridge(name)
    graph = component_graph(model)
    nodes = [str(w) for w in graph.writers if w.kind in ("embed", "head", "mlp") and str(w) != "L1 MLP"]
    circuit = Circuit.from_nodes(graph, nodes)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens(7, 5))
        mean = cache["blocks.1.hook_mlp_out"].mean(0, keepdim=True)
        bias = getattr(model.blocks[1].mlp, "b_out", None) if name != "gemma2" else None
        constant = torch.zeros_like(mean) if bias is None else bias.detach().expand_as(mean)
        for ablation, value, reference in (("zero", constant, None), ("mean", mean, tokens(7, 5))):
            logits = model.run_with_hooks(
                tokens(),
                fwd_hooks=[
                    ("blocks.1.hook_mlp_out", lambda t, hook, value=value: value.expand_as(t).clone())
                ],
            )
            found = run_circuits(
                model, circuit, tokens(), None, METRIC, ablation=ablation, reference=reference
            )
            np.testing.assert_allclose(found.values[0], METRIC(logits).numpy(), atol=FLOAT32_INSIDE)
            np.testing.assert_allclose(found.full, METRIC(model(tokens())).numpy(), atol=FLOAT32_INSIDE)
            assert np.abs(found.values[0] - found.full).max() > 1e-3


def test_many_circuits_are_as_one(gpt2: object) -> None:
    graph = component_graph(gpt2)
    circuits = [random_circuit(graph, seed) for seed in range(5)] + [random_circuit(graph, 9, 0.5, 7)]
    together = run_circuits(gpt2, circuits, tokens(), tokens(5), METRIC)
    for max_rows in (1, 4):
        apart = run_circuits(gpt2, circuits, tokens(), tokens(5), METRIC, max_rows=max_rows)
        np.testing.assert_allclose(apart.values, together.values, atol=1e-12)
    alone = run_circuits(gpt2, circuits[3], tokens()[1:], tokens(5)[1:], METRIC)
    np.testing.assert_allclose(alone.values[0], together.values[3, 1:], atol=1e-12)
    assert together.names[0] == "random 0" and "random 5" not in repr(together)
    expected = (together.values.mean(1) - together.empty.mean()) / (
        together.full.mean() - together.empty.mean()
    )
    np.testing.assert_allclose(together.recovered, expected)


def test_padded_prompts_and_callables(gpt2: object) -> None:
    clean, corrupted = [tokens()[0], tokens()[1, :4]], [tokens(5)[0], tokens(5)[1, :4]]
    circuit = random_circuit(component_graph(gpt2), 3)
    for side in ("left", "right"):
        both = run_circuits(gpt2, circuit, clean, corrupted, METRIC, padding_side=side)
        for index in range(2):
            one = run_circuits(gpt2, circuit, clean[index], corrupted[index], METRIC)
            np.testing.assert_allclose(both.values[0, index], one.values[0, 0], atol=1e-9)
    by_hand = lambda logits: logits[:, -1, 3] - logits[:, -1, 4]  # noqa: E731
    one = run_circuits(gpt2, circuit, tokens(), tokens(5), by_hand)
    other = run_circuits(gpt2, circuit, tokens(), tokens(5), METRIC)
    np.testing.assert_allclose(one.values, other.values, atol=1e-12)


def test_nothing_is_left_behind(gpt2: object, scored: ComponentEdges) -> None:
    before = gpt2(tokens())
    calls = []

    def interrupted(logits: torch.Tensor) -> torch.Tensor:
        calls.append(len(logits))
        if len(calls) > 2:
            raise KeyboardInterrupt
        return logits[:, -1, 3]

    with pytest.raises(KeyboardInterrupt):
        run_circuits(gpt2, scored.top(20), tokens(), tokens(5), interrupted, max_rows=1)

    def broken(tensor: torch.Tensor, hook: object) -> None:
        raise RuntimeError("user's hook")

    with (
        gpt2.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", broken)]),
        pytest.raises(RuntimeError, match="user's"),
    ):
        run_circuits(gpt2, scored.top(20), tokens(), tokens(5), METRIC)
    assert all(not point.fwd_hooks for point in gpt2.hook_dict.values())
    assert torch.equal(gpt2(tokens()), before)


def test_a_dropped_edit_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import lrp_lens.circuits.ablation as module

    model = zoo.bridge("gpt2")
    monkeypatch.setattr(
        module.AblatedRun, "_edit_heads", lambda self, layer, part, readers: lambda tensor, hook: None
    )
    circuit = random_circuit(component_graph(model), 0)
    with pytest.raises(SiteError, match="Every edit must reach the logits; with the embedding's edges"):
        run_circuits(model, circuit, tokens(), tokens(5), METRIC)


# ---------------------------------------------------------------------------------- selection
GRAPH = ComponentGraph(
    n_layers=2, n_heads=2, n_key_value_heads=1, positions=True, biases=frozenset({(0, "b_O")})
)


def made(scores: np.ndarray, graph: ComponentGraph = GRAPH) -> ComponentEdges:
    scores = np.where(graph.connected if scores.ndim == 2 else graph.connected[..., None], scores, 0)
    nothing = np.zeros((1, len(graph.readers)))
    return ComponentEdges(graph, scores[None], nothing, np.ones(1), None, "made up", "m", "r", (("a",),))


def numbers(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=GRAPH.free.shape)


def paths_by_search(graph: ComponentGraph, mask: np.ndarray) -> np.ndarray:
    """Edges on some path embed → … → logits, found by walking every path."""
    keep = np.zeros_like(mask)

    def walk(writer: int, path: list[tuple[int, int]]) -> None:
        for reader in np.flatnonzero(mask[writer]):
            longer = [*path, (writer, int(reader))]
            if reader == len(graph.readers) - 1:
                keep[tuple(np.array(longer).T)] = True
            for following in np.flatnonzero(graph.feeds[reader]):
                walk(int(following), longer)

    walk(0, [])
    return keep


@pytest.mark.parametrize("seed", range(8))
def test_pruning_keeps_what_is_on_a_path(seed: int) -> None:
    circuit = random_circuit(GRAPH, seed, 0.25)
    np.testing.assert_array_equal(circuit.pruned().mask, paths_by_search(GRAPH, circuit.mask))


def test_pruned_edges_do_nothing(gpt2: object) -> None:
    circuits = [random_circuit(component_graph(gpt2), seed, 0.15) for seed in range(6)]
    pruned = [circuit.pruned() for circuit in circuits]
    assert any(len(one) < len(other) for one, other in zip(pruned, circuits, strict=True))
    values = run_circuits(gpt2, circuits + pruned, tokens(), tokens(5), METRIC).values
    np.testing.assert_allclose(values[:6], values[6:], atol=1e-9)


def test_top_edges() -> None:
    edges = made(numbers())
    for n in (0, 1, 7, GRAPH.n_edges):
        circuit = edges.top(n, prune=False)
        assert len(circuit) == n
        if 0 < n < GRAPH.n_edges:
            kept, left = np.abs(edges.scores[circuit.mask]), np.abs(edges.scores[GRAPH.free & ~circuit.mask])
            assert kept.min() >= left.max()
    signed = edges.top(9, absolute=False, prune=False)
    assert edges.scores[signed.mask].min() >= edges.scores[GRAPH.free & ~signed.mask].max()
    assert len(edges.top(9)) <= 9 and edges.top(9).pruned().edges == edges.top(9).edges
    threshold = float(np.sort(np.abs(edges.scores[GRAPH.free]))[-9])
    assert edges.above(threshold, prune=False).edges == edges.top(9, prune=False).edges
    by_position = made(np.random.default_rng(1).normal(size=(*GRAPH.free.shape, 3)))
    assert by_position.top(11, prune=False).mask.sum() == 11 and by_position.top(11).by_position


def greedy_by_hand(edges: ComponentEdges, n: int) -> set[tuple[int, int]]:
    """Look at every edge into the circuit, take the strongest, n times."""
    graph, kept = edges.graph, set()
    inside = {len(graph.readers) - 1}
    for _ in range(n):
        best = max(
            (
                (abs(edges.scores[w, r]), w, r)
                for w, r in np.argwhere(graph.free)
                if r in inside and (w, r) not in kept
            ),
            default=None,
        )
        if best is None:
            break
        kept.add((best[1], best[2]))
        inside |= set(np.flatnonzero(graph.feeds[:, best[1]]))
    return kept


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("n", [1, 5, 12, GRAPH.n_edges])
def test_greedy_edges(seed: int, n: int) -> None:
    edges = made(numbers(seed))
    circuit = edges.greedy(n, prune=False)
    assert {tuple(pair) for pair in np.argwhere(circuit.mask)} == greedy_by_hand(edges, n)


def test_top_nodes() -> None:
    edges = made(numbers())
    circuit = edges.top_nodes(3)
    best = [str(GRAPH.writers[i]) for i in np.argsort(-select.node_ranking(edges, True))[:3]]
    assert set(circuit.nodes) <= set(best)
    assert circuit.edges == Circuit.from_nodes(GRAPH, best).edges
    assert len(edges.top_nodes(6)) < GRAPH.n_edges == len(edges.top_nodes(7))


def test_circuits_read_and_keep(tmp_path: object) -> None:
    circuit = Circuit.from_edges(
        GRAPH, [("embed", "L0 MLP"), ("L0 MLP", "L1KV0 v"), ("L1H1", "logits")], "by hand"
    )
    assert len(circuit.pruned()) == 3 and len(circuit) + len(circuit.complement()) == GRAPH.n_edges
    assert "by hand: 3 of 36 edges" in repr(circuit) and circuit.to_dataframe().shape == (3, 2)
    circuit.save(tmp_path / "c.safetensors")
    again = Circuit.load(tmp_path / "c.safetensors")
    assert (again.edges, again.graph, again.name) == (circuit.edges, GRAPH, "by hand")
    with pytest.raises(InputError, match="of the kind 'Circuit/1'"):
        ComponentEdges.load(tmp_path / "c.safetensors")


# ---------------------------------------------------------------------------------- curves
def test_curve(gpt2: object, scored: ComponentEdges) -> None:
    relp = component_edges(gpt2, tokens(), tokens(5), METRIC, rules=RELP)
    curve = circuit_curve(
        gpt2, {"EAP": scored, "RelP": relp}, tokens(), tokens(5), METRIC, random_controls=3, n_resamples=50
    )
    assert isinstance(curve, CircuitCurve)
    assert curve.methods == ("EAP", "EAP", "RelP", "RelP", "random")
    assert curve.values.shape == (5, 10, 2) and tuple(curve.fractions) == FRACTIONS
    total = scored.graph.n_edges
    circuits = [scored.top(int(share * total), absolute=False) for share in FRACTIONS]
    found = run_circuits(gpt2, circuits, tokens(), tokens(5), METRIC)
    np.testing.assert_allclose(curve.values[1], found.values, atol=1e-9)
    np.testing.assert_allclose(curve.recovered[1], found.recovered, atol=1e-9)
    np.testing.assert_allclose(curve.recovered[:, -1], 1, atol=1e-9)
    areas = curve.areas().set_index("method")
    k, f = np.array(FRACTIONS), curve.recovered
    trapezoids = lambda y: sum((k[i + 1] - k[i]) * (y[i] + y[i + 1]) / 2 for i in range(9))  # noqa: E731
    assert areas.loc["EAP", "cpr"] == pytest.approx(trapezoids(f[1]))
    assert areas.loc["EAP", "cmd"] == pytest.approx(trapezoids(abs(1 - f[0])))
    assert areas.loc["RelP", "cpr"] == pytest.approx(trapezoids(f[3]))
    assert (areas["cpr_low"] <= areas["cpr_high"]).all()
    frame = curve.to_dataframe()
    assert len(frame) == 50 and set(frame["ranking"]) == {"absolute", "signed", "random"}
    assert "EAP" in repr(curve) and "<table" in curve._repr_html_()
    signed = curve.plot("signed", methods=["RelP", "random"])
    assert {line.name for line in signed.data if line.name} == {"RelP", "random"}
    assert "signed ranking" in signed.layout.xaxis.title.text and curve.plot() != signed
    heat = relp.plot(1, palette="lrp").data[1]
    np.testing.assert_array_equal(np.array(heat.z, float), relp.view(1).values)
    assert np.array(relp.plot().data[1].z).shape == relp.view().shape
    again = circuit_curve(
        gpt2, {"EAP": scored, "RelP": relp}, tokens(), tokens(5), METRIC, random_controls=3, n_resamples=50
    )
    np.testing.assert_array_equal(again.interval(), curve.interval())


def test_bootstrap_intervals_are_over_prompts() -> None:
    """Resampled by hand, prompt by prompt."""
    generator = np.random.default_rng(0)
    values, resamples = generator.normal(size=(1, 2, 4)), generator.integers(0, 4, (30, 4))
    full, empty = generator.normal(3, 1, 4), generator.normal(-3, 1, 4)
    curve = CircuitCurve(
        np.array([0.1, 1.0]),
        ("m",),
        ("absolute",),
        values,
        np.ones((1, 2), int),
        full,
        empty,
        np.array([np.bincount(one, minlength=4) / 4 for one in resamples]),
        0.9,
        "edge",
        "",
    )
    by_hand = [
        [(values[0, i, s].mean() - empty[s].mean()) / (full[s].mean() - empty[s].mean()) for i in range(2)]
        for s in resamples
    ]
    np.testing.assert_allclose(curve.interval()[:, 0], np.quantile(by_hand, [0.05, 0.95], axis=0))
    point = (values.mean(2) - empty.mean()) / (full.mean() - empty.mean())
    np.testing.assert_allclose(curve.recovered, point)


def test_node_and_greedy_curves(gpt2: object, scored: ComponentEdges) -> None:
    nodes = circuit_curve(gpt2, scored, tokens(), tokens(5), METRIC, level="node", fractions=(0.3, 0.6, 1.0))
    best = [scored.top_nodes(int(share * 11)) for share in (0.3, 0.6, 1.0)]
    expected = run_circuits(gpt2, best, tokens(), tokens(5), METRIC).values
    np.testing.assert_allclose(nodes.values[0], expected, atol=1e-9)
    greedy = circuit_curve(gpt2, scored, tokens(), tokens(5), METRIC, selection="greedy", random_controls=0)
    assert greedy.methods == ("EAP, clean - corrupted, noising",) * 2
    one = circuit_curve(gpt2, scored, tokens()[:1], tokens(5)[:1], METRIC, fractions=(0.5, 1.0))
    assert np.isnan(one.interval()).all() and math.isfinite(one.areas()["cpr"][0])


def test_areas_as_mib_defines_them() -> None:
    k = np.array(FRACTIONS)
    assert cpr(k, np.ones(10)) == pytest.approx(0.999)
    assert cmd(k, np.ones(10)) == 0 and cmd(k, np.full(10, 1.5)) == pytest.approx(0.4995)
    assert cpr(k, k) == pytest.approx((1 - 1e-6) / 2) and cmd(k, 2 - k) == pytest.approx(cmd(k, k))


# ---------------------------------------------------------------------------------- files of eap and MIB
def test_importances_round_trip(tmp_path: object) -> None:
    for name in ("gpt2", "neox", "llama"):
        model = zoo.bridge(name)
        edges = component_edges(model, tokens(), tokens(5), METRIC, rules=GRADIENT)
        circuit = edges.top(30)
        save_importances(edges, tmp_path / "importances.json", circuit)
        again, kept = load_importances(tmp_path / "importances.json", model)
        free = edges.graph.free
        np.testing.assert_allclose(again.scores[free], edges.scores[free], atol=1e-15)
        assert kept.edges == circuit.edges
        assert again.top(30).edges == circuit.edges
        run = run_circuits(model, [kept, circuit], tokens(), tokens(5), METRIC)
        np.testing.assert_allclose(run.values[0], run.values[1])


def test_importances_have_the_names_and_the_number_of_edges_of_eap(tmp_path: object) -> None:
    content = importances(made(numbers()))
    assert set(content) == {"cfg", "nodes", "edges"}
    assert set(content["cfg"]) == {"n_layers", "n_heads", "parallel_attn_mlp", "d_model"}
    assert set(content["nodes"]) == {"input", "logits", "m0", "m1", "a0.h0", "a0.h1", "a1.h0", "a1.h1"}
    # per layer: q, k and v of two heads and the MLP, from what stands before; and the logits
    assert len(content["edges"]) == 6 * 1 + 3 + 6 * 4 + 6 + 7
    assert {"input->a0.h1<k>", "a0.h1->m0", "m0->a1.h0<v>", "a1.h1->logits", "input->m0"} <= set(
        content["edges"]
    )
    assert set(content["edges"]["input->m0"]) == {"score", "in_graph"}
    scores = made(numbers()).scores
    at = lambda w, r: scores[GRAPH.writer(w), GRAPH.reader(r)]  # noqa: E731
    assert content["edges"]["input->m0"]["score"] == pytest.approx(
        at("embed", "L0 MLP") + at("pos_embed", "L0 MLP")
    )
    assert content["edges"]["m0->a1.h1<k>"]["score"] == pytest.approx(at("L0 MLP", "L1KV0 k") / 2)
    path = tmp_path / "i.json"
    path.write_text(json.dumps(content))
    edges, circuit = load_importances(path)
    assert edges.graph.n_key_value_heads == 2 and len(circuit) == len(content["edges"])
    assert edges.edge("L0 MLP", "L1H1 k") == content["edges"]["m0->a1.h1<k>"]["score"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no json", "Importances have 'cfg'"),
        ("{}", "KeyError 'cfg'"),
        (
            '{"cfg": {"n_layers": 1, "n_heads": 1}, "edges": {"m0->a0.h0<q>": {"score": 1, "in_graph": true}}}',
            "is none of",
        ),
        ('{"cfg": {"n_layers": 3, "n_heads": 4}, "edges": {}}', "the file has 3 layers of 4 heads"),
    ],
)  # fmt: skip
def test_files_that_are_no_importances(tmp_path: object, gpt2: object, content: str, message: str) -> None:
    path = tmp_path / "importances.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_importances(path, gpt2 if "3" in content else None)
    with pytest.raises(InputError, match="there is none at"):
        load_importances(tmp_path / "nowhere.json")


# ---------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(circuits=[]), "at least one circuit to run; received none"),
        (
            dict(circuits=[Circuit.full(GRAPH)]),
            "whose graph it is of; received a circuit of 2 layers of 2 heads",
        ),
        (
            dict(corrupted=None),
            "ablation='corrupted' replaces edges by those of the corrupted prompts; received none",
        ),
        (dict(corrupted=tokens(5)[:, :4]), "same number of tokens; received 7 and 4"),
        (dict(corrupted=tokens(5)[:1]), "received 2 clean and 1 corrupted"),
        (dict(ablation="noise"), "ablation is one of 'corrupted', 'mean', 'zero'; received 'noise'"),
        (dict(ablation="mean"), "received ablation='mean' without reference prompts"),
        (dict(reference=tokens()), "received ablation='corrupted' with reference prompts"),
        (dict(ablation="mean", reference=tokens()[:, :4]), "so all prompts have one length"),
        (dict(ablation="zero", direction="denoising"), "Denoising restores clean outputs"),
        (dict(direction="up"), "direction is 'denoising' or 'noising'; received 'up'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_runs(gpt2: object, scored: ComponentEdges, options: dict, message: str) -> None:
    asked = dict(circuits=scored.top(5), clean=tokens(), corrupted=tokens(5), metric=METRIC) | options
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        run_circuits(gpt2, asked.pop("circuits"), asked.pop("clean"), asked.pop("corrupted"), **asked)


def test_bad_circuits_and_selections(gpt2: object, scored: ComponentEdges) -> None:
    edges = made(numbers())
    with pytest.raises(InputError, match="A circuit has 0 to 36 edges here; received n = 37"):
        edges.top(37)
    with pytest.raises(InputError, match="received n = -1"):
        edges.greedy(-1)
    with pytest.raises(InputError, match="A circuit has 0 to 7 nodes here; received n = 8"):
        edges.top_nodes(8)
    with pytest.raises(InputError, match="A threshold is a number; received nan"):
        edges.above(math.nan)
    broken = made(np.where(GRAPH.free, np.nan, 0.0))
    for choose in (lambda: broken.top(3), lambda: broken.greedy(3), lambda: broken.top_nodes(3)):
        with pytest.raises(InputError, match="some scores are NaN or infinite"):
            choose()
    with pytest.raises(InputError, match="JSON has no NaN"):
        importances(broken)
    with pytest.raises(InputError, match="L0 MLP → L0H0 q is none"):
        Circuit.from_edges(GRAPH, [("L0 MLP", "L0H0 q")])
    with pytest.raises(InputError, match="Biases and position embeddings belong to every circuit"):
        Circuit.from_edges(GRAPH, [("pos_embed", "logits")])
    with pytest.raises(
        InputError, match=r"A circuit of this graph is a bool array \[9 writers, 11 readers\]"
    ):
        Circuit(GRAPH, np.zeros((2, 3), bool))
    with pytest.raises(InputError, match="there is no 'L7H0'"):
        Circuit.from_nodes(GRAPH, ["L7H0"])
    with pytest.raises(InputError, match="greedy search goes over edges"):
        made(np.ones((*GRAPH.free.shape, 2))).greedy(2)
    with pytest.raises(InputError, match="Query heads divide evenly"):
        ComponentGraph(1, 4, 3)
    for options, message in (
        (dict(level="neuron"), "level is 'edge' or 'node'; received 'neuron'"),
        (dict(selection="best"), "received 'best' for edges"),
        (dict(selection="greedy", level="node"), "received 'greedy' for nodes"),
        (dict(fractions=(0.5, 0.2)), "at least two increasing shares"),
        (dict(fractions=(0.0, 0.2)), "at least two increasing shares"),
        (dict(confidence=95.0), "confidence lies in"),
    ):
        with pytest.raises(InputError, match=message):
            circuit_curve(gpt2, scored, tokens(), tokens(5), METRIC, **options)
    with pytest.raises(InputError, match="choose another name"):
        circuit_curve(gpt2, {"random": scored}, tokens(), tokens(5), METRIC)
    with pytest.raises(InputError, match="train mode"):
        run_circuits(zoo.bridge("gpt2").train(), scored.top(5), tokens(), tokens(5), METRIC)
    longer = random_circuit(scored.graph, 0, 0.5, 9)
    with pytest.raises(InputError, match="has the positions of the prompts, 7; received one of 9"):
        run_circuits(gpt2, longer, tokens(), tokens(5), METRIC)
