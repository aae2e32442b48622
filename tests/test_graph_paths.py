"""Strongest paths: the search against enumeration, and what a path's relevance means."""

import re
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest

from lrp_lens.attribution_graphs.arrays import AttributionGraph
from lrp_lens.errors import InputError
from tests.frozen_network import FrozenNetwork


def chains(graph: AttributionGraph, node: tuple[int, int], first: int) -> Iterator[tuple[int, ...]]:
    """Every path from the boundary `first` to a node, as edge numbers, source first; one by one."""
    boundary, position = node
    if boundary == first:
        yield ()
        return
    for edge in np.flatnonzero((graph.transition == boundary - 1) & (graph.target == position)):
        for head in chains(graph, (boundary - 1, int(graph.source[edge])), first):
            yield (*head, int(edge))


def value(graph: AttributionGraph, chain: tuple[int, ...], node: tuple[int, int]) -> float:
    product = graph.node_relevance[node]
    for edge in chain:
        product *= (
            graph.relevance[edge] / graph.node_relevance[graph.transition[edge] + 1, graph.target[edge]]
        )
    return float(product)


def mass(graph: AttributionGraph, chain: tuple[int, ...]) -> float:
    product = 1.0
    for edge in chain:
        t, j = int(graph.transition[edge]), int(graph.target[edge])
        siblings = np.abs(graph.relevance[(graph.transition == t) & (graph.target == j)]).sum()
        product *= abs(graph.relevance[edge]) / (
            siblings + abs(graph.pruned[t, j]) + np.abs(graph.sinks[t, :, j]).sum()
        )
    return float(product)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("by", ["relevance", "mass"])
@pytest.mark.parametrize("k", [1, 7, 500])
def test_the_search_finds_the_best_of_all_paths(seed: int, by: str, k: int) -> None:
    graph = FrozenNetwork(positions=4, layers=2, seed=seed).graph().prune(mass=0.95)
    every = list(chains(graph, (4, 3), 0))
    strength = {
        one: abs(value(graph, one, (4, 3))) if by == "relevance" else mass(graph, one) for one in every
    }
    wanted = sorted(strength.values(), reverse=True)[:k]
    found = graph.paths(k, by=by, node_floor=0.0, fold=False)
    assert len(found) == min(k, len(every))
    got = found["relevance"].abs() if by == "relevance" else found["mass"]
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    assert len(set(found["edges"])) == len(found) and set(found["edges"]) <= set(every)
    for row in found.itertuples():
        assert row.relevance == pytest.approx(value(graph, row.edges, (4, 3)), rel=1e-12)
        assert row.mass == pytest.approx(mass(graph, row.edges), rel=1e-12)
        assert row.weakest == min(abs(graph.relevance[edge]) for edge in row.edges)
        assert row.share == pytest.approx(row.relevance / abs(graph.node_relevance[4, 3]), rel=1e-12)
        assert row.positions == (*(int(graph.source[edge]) for edge in row.edges), 3)
        assert row.moves == sum(a != b for a, b in pairwise(row.positions))
    moving = sorted(
        (size for one, size in strength.items() if set(graph.source[list(one)]) != {3}), reverse=True
    )
    folded = graph.paths(k, by=by, node_floor=0.0)
    assert folded["moves"].astype(bool).is_monotonic_decreasing
    size = folded["relevance"].abs() if by == "relevance" else folded["mass"]
    np.testing.assert_allclose(size[folded["moves"] > 0], moving[:k], rtol=1e-12)
    assert (folded["moves"] == 0).sum() == len(every) - len(moving) == 1


def test_a_chosen_source_and_target() -> None:
    graph = FrozenNetwork(positions=5, layers=2).graph()
    every = [one for one in chains(graph, (3, 4), 1) if graph.source[one[0]] == 2]
    found = graph.paths(100, source=("L0 mid", 2), target=("L1 mid", 4), node_floor=0.0)
    assert set(found["edges"]) == set(every) and len(found) == len(every) > 0
    both = graph.paths(1000, source=("resid_mid", 0), target=("L1 mid", 4), node_floor=0.0)
    assert len(both) == len(list(chains(graph, (3, 4), 1))) > len(found)


def test_paths_to_several_targets() -> None:
    graph = FrozenNetwork(positions=4, layers=1, targets=(1, 3)).graph()
    wanted = [abs(value(graph, one, (2, end))) for end in (1, 3) for one in chains(graph, (2, end), 0)]
    found = graph.paths(100, node_floor=0.0, fold=False)
    np.testing.assert_allclose(found["relevance"].abs(), sorted(wanted, reverse=True), rtol=1e-12)


def test_paths_down_to_an_edge_sum_to_that_edge() -> None:
    """Statement 2 of the module: without pruning, all paths from the target down to an edge add up to it."""
    graph = FrozenNetwork(positions=4, layers=2, targets=(1, 3)).graph()
    for edge in range(len(graph.relevance)):
        t, j = int(graph.transition[edge]), int(graph.target[edge])
        total = 0.0
        for end in (1, 3):
            for chain in chains(graph, (4, end), t):
                total += value(graph, chain, (4, end)) if chain[0] == edge else 0.0
        assert total == pytest.approx(graph.relevance[edge], rel=1e-9), (t, j)
    pruned = graph.prune(mass=0.7)  # negative control: with pruning the sums fall short
    last = np.flatnonzero(pruned.transition == 0)
    sums = [
        sum(value(pruned, c, (4, end)) for end in (1, 3) for c in chains(pruned, (4, end), 0) if c[0] == edge)
        for edge in last
    ]
    assert not np.allclose(sums, pruned.relevance[last], rtol=1e-3)


def along(network: FrozenNetwork, positions: tuple[int, ...]) -> float:
    """The relevance that really travels along these positions: gᵀ J … J x, coefficients frozen."""
    state = network.states[0][positions[0]]
    for jacobian, here, there in zip(network.jacobians, positions[:-1], positions[1:], strict=True):
        state = jacobian.sum(axis=0)[there, here] @ state
    return float(network.gradients[-1][positions[-1]] @ state)


@pytest.mark.parametrize(
    ("width", "layers", "exact"),
    [(1, 3, True), (4, 2, True), (4, 3, False)],
    ids=["one number", "one out-edge a node", "wide and branching"],
)
def test_when_path_relevance_is_exact(width: int, layers: int, exact: bool) -> None:
    network = FrozenNetwork(positions=4, layers=layers, width=width)
    rows = list(network.graph().paths(400, node_floor=0.0).itertuples())
    truth = [along(network, row.positions) for row in rows]
    assert np.allclose([row.relevance for row in rows], truth, rtol=1e-9, atol=1e-12) == exact


def test_nodes_without_relevance_are_not_passed_through() -> None:
    network = FrozenNetwork(positions=4, layers=2)
    node = network.graph().node_relevance.copy()
    node[2, 3] = 1e-9  # large edges that cancel: shares of a billion
    graph = network.graph(node_relevance=node)
    assert abs(graph.paths(1, node_floor=0.0)["relevance"][0]) > 1e6 * abs(graph.metric_value)
    safe = graph.paths(50)
    assert all(positions[2] != 3 for positions in safe["positions"])
    assert any(positions[2] == 3 for positions in graph.paths(50, by="mass")["positions"])


def test_the_text_names_moves_between_positions() -> None:
    graph = FrozenNetwork(positions=4, layers=1).graph()
    texts = graph.paths(20, node_floor=0.0).set_index("positions")["text"]
    assert texts[(3, 3, 3)] == "stays at ' John'@3"
    assert re.fullmatch(r"'<bos>'@0 → L0H\d OV → ' John'@3", texts[(0, 3, 3)])
    literal = graph.paths(20, node_floor=0.0, fold=False).set_index("positions")["text"]
    parts = r"(residual|MLP|H\d OV)"
    assert re.fullmatch(rf"'<bos>'@0 → L0H\d OV → ' John'@3 → L0 ?{parts} → ' John'@3", literal[(0, 3, 3)])
    assert re.fullmatch(rf"' John'@3 → L0 ?{parts} → ' John'@3 → L0 ?{parts} → ' John'@3", literal[(3, 3, 3)])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, "k of 1 or more; received 0"),
        ({"by": "size"}, "ranked by"),
        ({"source": -1}, "A path leads forward; received the source L1 and the target L1"),
        ({"node_floor": -0.1}, "node_floor is a share"),
        ({"target": ("L1", 99)}, "lies in the 6 tokens"),
    ],
)
def test_bad_options(options: dict[str, object], words: str, unchecked: None) -> None:
    with pytest.raises(InputError, match=words):
        FrozenNetwork().graph().paths(**options)


def test_a_graph_without_targets_needs_one() -> None:
    graph = FrozenNetwork().graph(target_positions=())
    with pytest.raises(InputError, match="the graph has no target_positions"):
        graph.paths()
    assert len(graph.paths(3, target=("L1", 5), fold=False)) == 3
    assert graph.paths(3, target=("L1", 5))["moves"].astype(bool).tolist() == [True, True, True, False]
