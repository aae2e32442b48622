"""Measures per boundary against literal loops over nodes and edges."""

import math

import numpy as np
import pandas as pd
import pytest

from lrp_lens.attribution_graphs.arrays import AttributionGraph, graph_measures
from lrp_lens.errors import InputError
from lrp_lens.views.statistics.concentration import entropy, gini, needed, top_share
from tests.frozen_network import FrozenNetwork


def literal_gini(values: list[float]) -> float:
    """Mean absolute difference / twice the mean."""
    m, total = len(values), sum(values)
    if not total:
        return math.nan
    return sum(abs(a - b) for a in values for b in values) / (2 * m * total)


def divide(a: float, b: float) -> float:
    return a / b if b else math.nan


def literal(graph: AttributionGraph, b: int, exclude: bool, local: int = 1) -> dict[str, float]:
    """One row of graph_measures, written as its docstring."""
    n = len(graph.token_strings)
    bad = {p for p in range(n) if exclude and graph.special[p]}
    edges = [
        (int(t), int(j), int(i), float(a))
        for t, j, i, a in zip(graph.transition, graph.target, graph.source, graph.relevance, strict=True)
        if j not in bad and i not in bad
    ]
    touched = {(t, i) for t, _, i, _ in edges} | {(t + 1, j) for t, j, _, _ in edges}
    touched |= {node for node in graph.targets if node[1] not in bad}
    here = sorted(p for c, p in touched if c == b)
    below = [p for c, p in touched if c == b - 1]
    into = [(j, i, abs(a)) for t, j, i, a in edges if t == b - 1]
    out = [(j, i, abs(a)) for t, j, i, a in edges if t == b]
    size = {p: abs(float(graph.node_relevance[b, p])) for p in here}
    total, mass = sum(size.values()), sum(a for _, _, a in into)
    degree = [sum(j == p for j, _, _ in into) + sum(i == p for _, i, _ in out) for p in here]
    mean = divide(sum(degree), len(here))
    spread = math.sqrt(sum((one - mean) ** 2 for one in degree) / len(here)) if here else math.nan
    hubs, held = 0, 0.0
    for one in sorted(size.values(), reverse=True):
        if held >= 0.9 * total:
            break
        hubs, held = hubs + 1, held + one
    ginis = [literal_gini([a for j, _, a in into if j == p]) for p in {j for j, _, _ in into}]
    early = sum(v for p, v in size.items() if p < n / 2)
    return {
        "nodes": len(here),
        "edges": len(into),
        "edges_per_node": divide(len(into), len(here)),
        "fan_in": divide(len(into), len({j for j, _, _ in into})),
        "fan_out": divide(len(out), len({i for _, i, _ in out})),
        "max_fan_in": max([sum(j == p for j, _, _ in into) for p in range(n)]),
        "max_fan_out": max([sum(i == p for _, i, _ in out) for p in range(n)]),
        "sparsity": 1 - len(here) / n,
        "connectivity": divide(len(into), sum(i <= j for i in below for j in here)),
        "relevance": sum(float(graph.node_relevance[b, p]) for p in here),
        "mean_relevance": divide(total, len(here)),
        "gini_relevance": literal_gini(list(size.values())) if here else math.nan,
        "mean_edge_relevance": divide(sum(a for _, _, a in out), len(out)),
        "gini_edge_relevance": literal_gini([a for _, _, a in out]) if out else math.nan,
        "gini_edges_of_node": divide(sum(ginis), len(ginis)),
        "verticality": divide(sum(a for j, i, a in into if i == j), mass),
        "hubs_by_mass": hubs,
        "hubs_by_degree": sum(one > mean + spread for one in degree),
        "centre_of_mass": divide(sum(p * v for p, v in size.items()), total),
        "look_back": divide(sum((j - i) * a for j, i, a in into), mass),
        "local_ratio": divide(sum(a for j, i, a in into if abs(j - i) <= local), mass),
        "entropy": -sum(v / total * math.log2(v / total) for v in size.values() if v) if total else math.nan,
        "top_mass": divide(sum(sorted(size.values(), reverse=True)[: math.ceil(0.1 * len(here))]), total),
        "early_late": divide(early, total - early),
    }


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("mid", [True, False])
@pytest.mark.parametrize("mass", [0.6, 0.9, None])
def test_measures_are_their_formulas(mass: float | None, mid: bool, exclude: bool) -> None:
    graph = FrozenNetwork(positions=13, layers=3, mid=mid, seed=5).graph()
    graph = graph if mass is None else graph.prune(mass=mass).subgraph()
    table = graph_measures(graph, exclude_special=exclude)
    assert table["boundary"].tolist() == [one.label for one in graph.boundaries]
    for b in range(len(graph.boundaries)):
        wanted = literal(graph, b, exclude)
        assert set(wanted) == set(table.columns) - {"boundary", "layer", "mid"}
        for name, value in wanted.items():
            assert table[name][b] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), (b, name)


def test_mid_boundaries_split_what_attention_and_mlp_do() -> None:
    table = graph_measures(FrozenNetwork(positions=8, layers=2).graph()).set_index("boundary")
    assert table.loc[["L0", "L1"], "verticality"].tolist() == [1.0, 1.0]
    assert (table.loc[["L0 mid", "L1 mid"], "verticality"] < 1).all()
    assert table.loc["L0", "look_back"] == 0 < table.loc["L0 mid", "look_back"]
    assert pd.isna(table.loc["embed", "verticality"]) and pd.isna(table.loc["L1", "mean_edge_relevance"])
    assert table["mid"].tolist() == [False, True, False, True, False]


def test_special_tokens_can_be_left_out() -> None:
    graph = FrozenNetwork(positions=8, layers=2).graph()
    with_bos, without = graph_measures(graph), graph_measures(graph, exclude_special=True)
    assert (without["nodes"] <= with_bos["nodes"]).all() and without["nodes"][0] == with_bos["nodes"][0] - 1


def test_an_empty_graph_has_measures() -> None:
    table = graph_measures(FrozenNetwork().graph().prune(edge_threshold=1e9))
    assert table["nodes"].tolist() == [0, 0, 0, 0, 1] and table["edges"].sum() == 0
    assert table["gini_relevance"].isna()[:4].all()


def test_statistics_at_their_ends() -> None:
    groups = np.array([0, 0, 0, 1, 1, 1, 1, 2, 4])
    values = np.array([2.0, -2, 2, 0, 0, 0, 5, 0, 1])
    result = gini(values, groups, 5)
    assert result[:2] == pytest.approx([0.0, 0.75], abs=1e-15)
    assert np.isnan(result[2:4]).all() and result[4] == 0
    assert entropy(np.ones((1, 8))).tolist() == [3.0]
    assert top_share(np.array([[3.0, -1.0, 0.0], [3.0, -1.0, 0.0]]), np.array([1, 0])).tolist() == [0.75, 0.0]
    assert np.isnan(top_share(np.zeros((1, 2)), np.array([1]))).all()
    assert needed(np.array([[4.0, 3.0, 2.0, 1.0], [0.0] * 4]), 0.7).tolist() == [2, 0]
    assert needed(np.array([[4.0, 3.0, 2.0, 1.0]]), 0.71).tolist() == [3]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hub_mass": 0.0}, "hub_mass is a share above 0, at most 1; received 0.0"),
        ({"top_fraction": 1.5}, "top_fraction is a share above 0"),
        ({"local_window": -1}, "local_window is a distance in tokens, 0 or more; received -1"),
    ],
)
def test_bad_options(options: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        graph_measures(FrozenNetwork().graph(), **options)
