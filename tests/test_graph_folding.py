"""Folding is presentation: moves come first, what is folded is said, and nothing is lost from any total."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrp_lens import LogitDiff, attribution_graph, load_demo_model
from lrp_lens.attribution_graphs.arrays import AttributionGraph, Boundary
from lrp_lens.attribution_graphs.arrays.nodes import carrier_name
from tests.frozen_network import FrozenNetwork

PROMPT = "then mary and john went to the park . john gave the key to"


def check_totals(graph: AttributionGraph) -> None:
    """Every folded list and what it says it leaves out add up to the literal one."""
    edges, parts = graph.edges, graph.parts_table
    np.testing.assert_allclose(edges["relevance"].sum(), graph.relevance.sum(), atol=1e-9)
    np.testing.assert_allclose(parts["relevance"].sum(), graph.relevance.sum(), rtol=1e-5, atol=1e-4)
    for table in (edges, parts):
        assert table["move"].astype(bool).is_monotonic_decreasing
        assert (table["move"] == (table["source_position"] != table["target_position"])).all()
    still = edges[~edges["move"].astype(bool)]
    said = re.search(
        r"folded: ([\d,]+) edges? .* ([\d.]+) % of the kept mass, relevance (\S+) in all", repr(graph)
    )
    assert (said is None) == (len(still) == 0)
    if said:
        assert int(said[1].replace(",", "")) == len(still)
        mass = still["relevance"].abs().sum() / (np.abs(graph.relevance).sum() or 1.0)
        assert float(said[2]) == pytest.approx(
            100 * mass, abs=0.051
        )  # one decimal is printed, and three digits
        assert float(said[3]) == pytest.approx(still["relevance"].sum(), rel=1e-3, abs=1e-3)
    count = 10**4  # more than there are
    for by in ("relevance", "mass"):
        folded = graph.paths(count, by=by)
        literal = graph.paths(count, by=by, fold=False)
        assert set(folded["edges"]) == set(literal["edges"]) and len(folded) == len(literal) < count
        for column in ("relevance", "mass"):
            total = np.abs(literal[column]).sum()
            assert folded[column].sum() == pytest.approx(literal[column].sum(), rel=1e-9, abs=1e-9 * total)
        moving = literal[literal["moves"] > 0]
        assert folded["edges"].tolist()[: len(moving)] == moving["edges"].tolist()
        assert folded["text"].str.startswith("stays at").tolist() == (folded["moves"] == 0).tolist()


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    positions=st.integers(1, 4),
    layers=st.integers(1, 2),
    mid=st.booleans(),
    mass=st.floats(0.0, 1.0),
    targets=st.sets(st.integers(-4, -1), min_size=1, max_size=2),
)
def test_folded_and_literal_tables_have_one_total(
    seed: int, positions: int, layers: int, mid: bool, mass: float, targets: set[int]
) -> None:
    ends = tuple(sorted({one % positions for one in targets}))
    network = FrozenNetwork(positions, layers, heads=1, width=2, mid=mid, seed=seed, targets=ends)
    check_totals(network.graph().prune(mass=mass))


@pytest.fixture(scope="module")
def demo_graph() -> AttributionGraph:
    return attribution_graph(
        load_demo_model(), PROMPT, LogitDiff("mary", "john"), rules="ATTN_LRP"
    ).detached()


def test_on_the_demo_model_moves_come_first_and_totals_stay(demo_graph: AttributionGraph) -> None:
    check_totals(demo_graph)
    assert (demo_graph.edges["source_position"] == demo_graph.edges["target_position"]).any()
    first = demo_graph.edges.iloc[0]
    assert (first["source_token"], first["target_token"], first["layer"], first["part"]) == (
        "mary",
        "to",
        3,
        "H3 K",
    )
    path = demo_graph.paths(1).iloc[0]
    assert path["text"] == "'mary'@2 → L3H3 K → 'to'@14" and path["moves"] == 1
    for text in (repr(demo_graph), demo_graph._repr_html_().replace("&#x27;", "'")):
        assert path["text"] in text and "strongest 8 of 10 moves between tokens" in text
        assert "folded: 26 edges that stay at one token" in text


def test_a_repr_lists_no_stay_as_a_move(demo_graph: AttributionGraph) -> None:
    listed = re.findall(r"^  \S+ +(\S+@\d+)  +(\S+@\d+)  ", repr(demo_graph), re.M)
    assert len(listed) == 8 and all(source != target for source, target in listed)


def test_a_graph_of_stays_alone_says_so() -> None:
    graph = FrozenNetwork(positions=1, layers=1).graph()
    assert "moves between tokens" not in repr(graph).replace("their moves between tokens", "")
    assert "stays at '<bos>'@0" in repr(graph) and "folded: 2 edges that stay" in repr(graph)
    assert graph.paths(3)["text"].tolist() == ["stays at '<bos>'@0"]


def test_a_path_from_one_node_folds_only_its_own_stay() -> None:
    graph = FrozenNetwork(positions=4, layers=2).graph()
    for position in range(4):
        found = graph.paths(50, source=("embed", position), node_floor=0.0)
        assert (found["moves"] == 0).tolist() == ([True] if position == 3 else [False] * len(found))


def test_a_carrier_names_the_blocks_that_an_edge_crosses() -> None:
    graph = FrozenNetwork(positions=2, layers=1, heads=1).graph()
    assert {carrier_name(graph, edge) for edge in range(len(graph.relevance))} <= {
        "L0 residual", "L0 MLP", "L0H0 OV",
    }  # fmt: skip
    wide = FrozenNetwork(positions=2, layers=1, heads=1).graph(
        boundaries=(Boundary("a", "embed", None), Boundary("b", "L3", 3), Boundary("c", "L5 mid", 5, True)),
        parts=("all paths",),
        part_values=graph.relevance[:, None],
    )
    named = {int(t): carrier_name(wide, edge) for edge, t in enumerate(wide.transition)}
    assert named == {0: "L0–3 all paths", 1: "L4–5 all paths"}
