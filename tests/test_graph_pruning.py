"""Pruning: the smallest prefix that holds the mass, exact accounts afterwards, ancestors of the target."""

import re
from itertools import combinations

import networkx
import numpy as np
import pytest

from lrp_lens.attribution_graphs.arrays import AttributionGraph
from lrp_lens.attribution_graphs.arrays.pruning import keep_mass, mass_before, mass_threshold
from lrp_lens.errors import InputError
from tests.frozen_network import FrozenNetwork

EXACT = 1e-12


def closed(graph: AttributionGraph) -> bool:
    balance = graph.balance()
    return bool(balance["remainder"].abs().max() < EXACT * balance["relevance"].abs().max())


def edge_set(graph: AttributionGraph) -> set[tuple[int, int, int]]:
    return set(zip(graph.transition.tolist(), graph.target.tolist(), graph.source.tolist(), strict=True))


@pytest.mark.parametrize("mass", [0.0, 0.2, 0.5, 0.85, 0.99, 1.0])
def test_keep_mass_is_the_smallest_set_that_holds_the_mass(mass: float) -> None:
    values = (
        np.random.default_rng(3).integers(0, 5, size=9).astype(float)
    )  # integers: ties, zeros, exact sums
    kept = keep_mass(values, mass)
    enough = [
        size for size in range(10) for one in combinations(values, size) if sum(one) >= mass * values.sum()
    ]
    assert kept.sum() == min(enough)
    assert values[kept].sum() >= mass * values.sum()


def test_ties_go_to_the_earlier_entry() -> None:
    values = np.array([[1.0, 2.0], [2.0, 1.0]])
    assert keep_mass(values, 0.3).tolist() == [[False, True], [False, False]]
    assert keep_mass(values, 0.7).tolist() == [[True, True], [True, False]]
    assert mass_before(values).tolist() == [[4.0, 0.0], [2.0, 5.0]]


def test_the_threshold_is_the_weakest_kept() -> None:
    values = np.random.default_rng(0).exponential(size=50)
    assert mass_threshold(values, 0.85) == values[keep_mass(values, 0.85)].min()
    assert mass_threshold(values, 0.0) == np.inf
    assert mass_threshold(np.zeros(3), 0.85) == np.inf
    assert mass_before(np.zeros(0)).shape == (0,)


def test_a_share_refers_to_the_total_given() -> None:
    values = np.array([3.0, 1.0])
    assert keep_mass(values, 0.5).tolist() == [True, False]
    assert keep_mass(values, 0.5, total=8.0).tolist() == [True, True]


@pytest.mark.parametrize(
    "criterion",
    [
        {"mass": 0.85},
        {"edge_threshold": 0.05},
        {"node_threshold": 0.1},
        {"node_threshold": 0.05, "edge_threshold": 0.01, "mass": 0.7},
    ],
    ids=str,
)
@pytest.mark.parametrize("mid", [True, False])
def test_pruning_keeps_the_account_closed(criterion: dict[str, float], mid: bool) -> None:
    graph = FrozenNetwork(positions=7, layers=3, mid=mid).graph()
    small = graph.prune(**criterion)
    assert 0 < len(small.relevance) < len(graph.relevance)
    assert closed(graph) and closed(small)
    kept = np.bincount(small.transition, weights=np.abs(small.relevance), minlength=len(small.total_mass))
    np.testing.assert_allclose(kept + small.pruned_mass, graph.total_mass, rtol=EXACT)
    np.testing.assert_allclose(small.part_values.sum(axis=1), small.relevance, atol=EXACT)
    again = small.prune(**criterion)
    assert edge_set(again) == edge_set(small)


def test_an_account_with_a_lost_edge_does_not_close() -> None:
    network = FrozenNetwork()
    graph = network.graph()
    rest = {
        name: getattr(graph, name)[1:]
        for name in ("transition", "target", "source", "relevance", "part_values")
    }
    assert closed(graph) and not closed(network.graph(**rest))


def test_edges_are_kept_by_each_criterion_alone() -> None:
    graph = FrozenNetwork(positions=7, layers=3).graph()
    metric = abs(graph.metric_value)
    everything = list(zip(graph.transition, graph.target, graph.source, graph.relevance, strict=True))
    node = graph.node_relevance
    strong = {(t, j, i) for t, j, i, a in everything if abs(a) > 0.05 * metric}
    assert edge_set(graph.prune(edge_threshold=0.05)) == strong
    busy = {
        (t, j, i)
        for t, j, i, _ in everything
        if abs(node[t, i]) > 0.1 * metric and abs(node[t + 1, j]) > 0.1 * metric
    }
    assert edge_set(graph.prune(node_threshold=0.1)) == busy


def test_mass_is_pruned_per_transition() -> None:
    graph = FrozenNetwork(positions=7, layers=3).graph()
    expected = set()
    for transition in range(len(graph.total_mass)):
        rows = sorted(
            (-abs(a), t, j, i)
            for t, j, i, a in zip(graph.transition, graph.target, graph.source, graph.relevance, strict=True)
            if t == transition
        )
        held = 0.0
        for size, *edge in rows:
            if held >= 0.6 * graph.total_mass[transition]:
                break
            held -= size
            expected.add(tuple(int(one) for one in edge))
    assert edge_set(graph.prune(mass=0.6)) == expected


def test_a_subgraph_is_the_ancestors_of_the_target() -> None:
    graph = FrozenNetwork(positions=8, layers=3, targets=(2, 6)).graph().prune(mass=0.6)
    small = graph.subgraph()
    network = graph.to_networkx()
    goals = [("L2", 2), ("L2", 6)]
    wanted = set(goals).union(*(networkx.ancestors(network, one) for one in goals))
    labels = [one.label for one in graph.boundaries]
    assert {(labels[b], int(p)) for b, p in np.argwhere(small.in_graph)} == wanted
    assert len(wanted) < network.number_of_nodes()
    assert closed(small)
    assert edge_set(small.subgraph()) == edge_set(small)


def test_a_subgraph_of_another_node() -> None:
    graph = FrozenNetwork(positions=8, layers=3).graph().prune(mass=0.8)
    one = graph.subgraph(("L1", 7))
    assert set(one.target[one.transition == 3].tolist()) == {7}
    assert (one.transition < 4).all() and closed(one)
    assert 0 < len(one.relevance) < len(graph.relevance)


def test_dropped_reports_each_transition() -> None:
    graph = FrozenNetwork().graph()
    assert graph.dropped()["dropped_share"].tolist() == [0.0] * 4
    small = graph.prune(mass=0.7)
    table = small.dropped()
    assert table["transition"].tolist() == ["embed → L0 mid", "L0 mid → L0", "L0 → L1 mid", "L1 mid → L1"]
    assert table["edges_kept"].sum() == len(small.relevance)
    assert (table["dropped_share"] <= 0.3).all() and (table["dropped_share"] > 0).any()
    gone = edge_set(graph) - edge_set(small)
    labels = [one.label for one in graph.boundaries]
    lost = sum(abs(graph.matrix(labels[t], labels[t + 1])[j, i]) for t, j, i in gone)
    assert abs(table["dropped_mass"].sum() - lost) < EXACT * lost
    assert "70 % of each transition's mass" in small.notes[-1]


def test_pruning_everything_leaves_an_empty_closed_graph() -> None:
    graph = FrozenNetwork().graph().prune(edge_threshold=1e9)
    assert len(graph.relevance) == 0 and closed(graph)
    assert graph.edges.empty and len(graph.paths()) == 0 and "0 edges" in repr(graph)
    assert graph.subgraph().in_graph.sum() == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda graph: graph.prune(), "received none. Try prune"),
        (lambda graph: graph.prune(mass=1.5), "share from 0 to 1 of the sum of |edge|; received 1.5"),
        (lambda graph: graph.prune(mass=float("nan")), "received nan"),
        (lambda graph: graph.prune(edge_threshold=-1.0), "edge_threshold is a share of |metric|"),
        (lambda graph: graph.prune(node_threshold=np.inf), "node_threshold is a share of |metric|"),
        (lambda graph: graph.subgraph(("L9", 0)), "This graph has embed, L0 mid, L0, L1 mid, L1"),
        (lambda graph: graph.subgraph(("L1", 6)), "lies in the 6 tokens of the graph; received 6"),
    ],
)
def test_bad_criteria(call: object, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        call(FrozenNetwork().graph())


def test_a_graph_without_targets_cannot_choose_its_own_subgraph() -> None:
    with pytest.raises(InputError, match="has no target_positions"):
        FrozenNetwork().graph(target_positions=()).subgraph()
