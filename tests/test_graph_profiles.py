"""Profiles of the prediction token, their composition, clusters, components; differences of two graphs."""

import numpy as np
import pytest

from lrp_lens.attribution_graphs.arrays import (
    cluster_profiles,
    composition,
    graph_difference,
    peak_transition,
    principal_components,
    profiles,
    relevance_profile,
    transition_steps,
)
from lrp_lens.errors import InputError
from lrp_lens.views import View
from tests.frozen_network import FrozenNetwork

GRAPH = FrozenNetwork(positions=6, layers=3).graph()


def test_the_profile_is_the_target_nodes_relevance() -> None:
    profile = relevance_profile(GRAPH)
    assert profile.values.tolist() == GRAPH.node_relevance[:, 5].tolist()
    assert profile.labels["layer"] == ("embed", "L0 mid", "L0", "L1 mid", "L1", "L2 mid", "L2")
    assert relevance_profile(GRAPH, position=-4).values.tolist() == GRAPH.node_relevance[:, 2].tolist()
    scaled = relevance_profile(GRAPH, normalise="max")
    assert np.abs(scaled.values).max() == 1.0 and scaled.units == "fraction of max |R|"
    by_metric = relevance_profile(GRAPH, normalise="metric")
    np.testing.assert_allclose(by_metric.values * abs(GRAPH.metric_value), profile.values, rtol=1e-14)
    assert relevance_profile(GRAPH.prune(mass=0.5)).values.tolist() == profile.values.tolist()


@pytest.mark.parametrize("mass", [None, 0.6])
@pytest.mark.parametrize("mid", [True, False])
@pytest.mark.parametrize("position", [None, 3, 0])
def test_the_composition_closes_and_is_its_literal_split(
    position: int | None, mid: bool, mass: float | None
) -> None:
    network = FrozenNetwork(positions=6, layers=3, mid=mid)
    whole = network.graph()
    graph = whole if mass is None else whole.prune(mass=mass)
    split = composition(graph, position=position)
    at = 5 if position is None else position
    scale = np.abs(graph.node_relevance).max()
    np.testing.assert_allclose(split.values.sum(axis=1), graph.node_relevance[1:, at], atol=1e-13 * scale)
    names = split.labels["component"]
    assert names == (
        "residual", "MLP", "own attention", "BOS", "other context", "bias (sink)", "softmax (sink)", "pruned",
        "remainder",
    )  # fmt: skip
    wanted = np.zeros_like(split.values)
    for edge in range(len(graph.relevance)):
        t, j, i = int(graph.transition[edge]), int(graph.target[edge]), int(graph.source[edge])
        if j == at and i == at:
            wanted[t, 0] += graph.part_values[edge, 0]
            wanted[t, 1] += graph.part_values[edge, 1]
            wanted[t, 2] += graph.part_values[edge, 2:].sum()
        elif j == at:
            wanted[t, 3 if graph.special[i] else 4] += graph.relevance[edge]
    for t in range(len(wanted)):
        wanted[t, 5:7] = graph.sinks[t, :, at]
        wanted[t, 7] = whole.node_relevance[t + 1, at] - wanted[t, :7].sum()
    np.testing.assert_allclose(split.values[:, :8], wanted[:, :8], atol=1e-13 * scale)
    assert np.abs(split.values[:, 8]).max() < 1e-13 * scale


def test_a_missing_sink_shows_as_remainder() -> None:
    network = FrozenNetwork()
    split = composition(network.graph(sinks=0.5 * network.graph().sinks))
    assert np.abs(split.select(component="remainder").values).max() > 1e-3
    np.testing.assert_allclose(split.values.sum(axis=1), network.graph().node_relevance[1:, 5], atol=1e-12)


def test_edges_without_parts_have_a_self_edge() -> None:
    network = FrozenNetwork()
    graph = network.graph()
    blind = network.graph(parts=("all paths",), part_values=graph.relevance[:, None])
    assert composition(blind).labels["component"][:3] == ("self", "BOS", "other context")
    known, own = composition(graph), composition(blind).select(component="self").values
    np.testing.assert_allclose(known.values[:, :3].sum(axis=1), own, atol=1e-13)


def test_a_profile_needs_one_position() -> None:
    several = FrozenNetwork(targets=(1, 3)).graph()
    with pytest.raises(InputError, match=r"this metric reads \[1, 3\]. Say position="):
        relevance_profile(several)
    assert len(relevance_profile(several, position=1)) == 5
    with pytest.raises(InputError, match="lies in the 6 tokens of the graph; received 6"):
        composition(several, position=6)
    with pytest.raises(InputError, match="divided by its max, which is 0 here"):
        relevance_profile(FrozenNetwork().graph(node_relevance=np.zeros((5, 6))), normalise="max")


def families(count: int = 6) -> View:
    """Two families of profiles: falling and rising ones, apart from a little noise."""
    rng = np.random.default_rng(0)
    rise = np.linspace(0, 1, 5)
    rows = [rise if i % 3 else 1 - rise for i in range(count)]
    values = np.stack(rows) + 0.01 * rng.normal(size=(count, 5))
    labels = {"batch": tuple(f"case {i}" for i in range(count)), "layer": tuple("abcde")}
    return View(values, ("batch", "layer"), labels, "relevance profiles")


def test_profiles_of_several_graphs() -> None:
    graphs = {f"seed {seed}": FrozenNetwork(seed=seed).graph() for seed in range(3)}
    matrix = profiles(graphs)
    assert matrix.dims == ("batch", "layer") and matrix.labels["batch"] == ("seed 0", "seed 1", "seed 2")
    for row, graph in zip(matrix.values, graphs.values(), strict=True):
        assert row.tolist() == relevance_profile(graph, normalise="max").values.tolist()
    assert profiles(list(graphs.values())).labels["batch"] == ("0", "1", "2")
    with pytest.raises(InputError, match="received 2 different sets"):
        profiles([FrozenNetwork().graph(), FrozenNetwork(mid=False).graph()])
    with pytest.raises(InputError, match="received none"):
        profiles([])


def test_clusters_find_the_families_and_are_numbered_by_size() -> None:
    matrix = families()
    found = cluster_profiles(matrix, 2)
    assert found.table["cluster"].tolist() == [1, 0, 0, 1, 0, 0]
    assert found.sizes.tolist() == [4, 2]
    for number in range(2):
        members = matrix.values[found.table["cluster"] == number]
        np.testing.assert_allclose(found.centres.values[number], members.mean(axis=0), rtol=1e-9)
        distance = np.linalg.norm(members - members.mean(axis=0), axis=1)
        np.testing.assert_allclose(
            found.table["distance"][found.table["cluster"] == number], distance, rtol=1e-7
        )
    assert found.inertia == pytest.approx((found.table["distance"] ** 2).sum())
    spread = ((matrix.values - matrix.values.mean(axis=0)) ** 2).sum()
    assert found.explained == pytest.approx(1 - found.inertia / spread) and found.explained > 0.99
    assert cluster_profiles(matrix, 2, seed=7).table.equals(found.table)
    shuffled = View(matrix.values[:, ::-1].copy(), matrix.dims, matrix.labels)
    assert cluster_profiles(shuffled, 1).explained == pytest.approx(0.0, abs=1e-9)


def test_principal_components_are_the_singular_vectors() -> None:
    matrix = families()
    found = principal_components(matrix, 3)
    centred = matrix.values - matrix.values.mean(axis=0)
    _, singular, right = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(found.explained_variance, (singular**2 / (singular**2).sum())[:3], rtol=1e-9)
    np.testing.assert_allclose(np.abs(found.directions.values @ right[:3].T), np.eye(3), atol=1e-6)
    np.testing.assert_allclose(
        found.scores[["PC1", "PC2", "PC3"]], centred @ found.directions.values.T, atol=1e-9
    )
    assert (found.directions.values.max(axis=1) == np.abs(found.directions.values).max(axis=1)).all()
    assert found.explained_variance[0] > 0.98 and found.scores["example"].tolist() == list(
        matrix.labels["batch"]
    )


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: cluster_profiles(m, 7), "one per different profile, 6 here; received 7"),
        (lambda m: cluster_profiles(m, 0), "received 0"),
        (lambda m: principal_components(m, 6), "have at most 5 components; received 6"),
        (lambda m: principal_components(View(np.ones((3, 4)), ("batch", "layer"))), "all of these are equal"),
        (lambda m: cluster_profiles(m.select(batch=0)), r"Make them with profiles\(\)"),
        (
            lambda m: cluster_profiles(View(np.full((3, 4), np.nan), ("batch", "layer"))),
            "no missing values; received 12",
        ),
        (lambda m: transition_steps(View(np.ones((3, 4)), ("layer", "position"))), "received .*position"),
    ],
)
def test_bad_profiles_are_refused(call: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call(families())


def test_the_peak_transition() -> None:
    matrix = View(np.array([[0.0, 1, 5, 4], [3.0, -3, -3, 0]]), ("batch", "layer"), {"layer": tuple("abcd")})
    assert transition_steps(matrix).values.tolist() == [[1, 4, -1], [-6, 0, 3]]
    assert peak_transition(matrix) == ["b → c", "a → b"]
    assert peak_transition(matrix.select(batch=0)) == ["b → c"]


def test_the_difference_of_two_graphs() -> None:
    first, second = (
        FrozenNetwork(seed=1).graph().prune(mass=0.8),
        FrozenNetwork(seed=2).graph().prune(mass=0.8),
    )
    found = graph_difference(first, second)
    np.testing.assert_allclose(found.nodes.values, second.node_relevance - first.node_relevance, rtol=0)
    assert found.metric == second.metric_value - first.metric_value

    def edges(graph: object) -> dict[tuple[str, int, int], float]:
        table = graph.edges
        return dict(
            zip(
                zip(table["transition"], table["source_position"], table["target_position"], strict=True),
                table["relevance"],
                strict=True,
            )
        )

    one, two = edges(first), edges(second)
    assert len(found.edges) == len(one.keys() | two.keys()) and set(found.edges["kept"]) == {
        "both",
        "first",
        "second",
    }
    assert found.edges["move"].is_monotonic_decreasing and found.edges["move"].nunique() == 2
    for _, kind in found.edges.groupby("move"):
        assert kind["difference"].abs().is_monotonic_decreasing
    for row in found.edges.itertuples():
        key = (row.transition, row.source_position, row.target_position)
        assert (row.first, row.second) == (one.get(key, 0.0), two.get(key, 0.0))
        assert row.difference == row.second - row.first
        assert row.kept == ("both" if key in one and key in two else "first" if key in one else "second")
    assert found.unexplained["pruned_first"].tolist() == first.pruned_mass.tolist()
    layers = found.per_layer()
    assert layers["mean"][2] == np.abs(found.nodes.values[2]).mean()
    assert layers["position"].tolist() == np.abs(found.nodes.values).argmax(axis=1).tolist()
    swapped = graph_difference(second, first)
    np.testing.assert_allclose(swapped.nodes.values, -found.nodes.values)
    same = graph_difference(first, first)
    assert not same.nodes.values.any() and not same.edges["difference"].any()


def test_other_tokens_are_shown_and_other_shapes_refused() -> None:
    network = FrozenNetwork()
    other = network.graph(token_strings=("<bos>", " Mary", " or", " John", " went", " to"))
    assert graph_difference(network.graph(), other).nodes.labels["position"][2] == " and/ or"
    with pytest.raises(InputError, match="same number of tokens; received 6 and 7"):
        graph_difference(network.graph(), FrozenNetwork(positions=7).graph())
    with pytest.raises(
        InputError, match="same boundaries; received embed, L0 mid, L0, L1 mid, L1 and embed, L0, L1"
    ):
        graph_difference(network.graph(), FrozenNetwork(mid=False).graph())
