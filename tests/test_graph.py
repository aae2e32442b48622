"""AttributionGraph: names of boundaries and nodes, tables that agree with the arrays, arrays that must fit together."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

import lrp_lens.attribution_graphs.arrays
from lrp_lens.attribution_graphs.arrays import AttributionGraph, Boundary, nodes
from lrp_lens.errors import InputError
from tests.frozen_network import FrozenNetwork, tokens_of

NETWORK = FrozenNetwork(positions=6, layers=2)
GRAPH = NETWORK.graph()


@pytest.mark.parametrize(
    ("key", "index"),
    [
        (0, 0), (1, 2), (np.int64(2), 4), (-1, 4), ("embed", 0), ("L0 mid", 1), ("L1", 4), ("mid of 1", 3),
        (("resid_mid", 1), 3), (("resid_post", 0), 2), (("resid_pre", 1), 2), (("resid_pre", 0), 0),
    ],
)  # fmt: skip
def test_boundaries_have_many_names(key: object, index: int) -> None:
    assert GRAPH.boundary(key) == index


@pytest.mark.parametrize("key", [3, -2, "L2", "L0  mid", ("resid_mid", 2), ("resid_out", 0), None, True, 1.0])
def test_unknown_boundaries_are_refused(key: object, unchecked: None) -> None:
    with pytest.raises(
        InputError, match=r"A boundary is 0 .* This graph has embed, L0 mid, L0, L1 mid, L1\."
    ):
        GRAPH.boundary(key)


def test_ints_count_blocks_in_a_graph_of_some_layers() -> None:
    boundaries = (Boundary("a", "embed", None), Boundary("b", "L3 mid", 3, True), Boundary("c", "L7", 7))
    chosen = NETWORK.graph(
        boundaries=boundaries,
        node_relevance=GRAPH.node_relevance[:3],
        sinks=GRAPH.sinks[:2],
        pruned=GRAPH.pruned[:2],
        pruned_mass=GRAPH.pruned_mass[:2],
        total_mass=GRAPH.total_mass[:2],
        **{
            name: getattr(GRAPH, name)[GRAPH.transition < 2]
            for name in ("transition", "target", "source", "relevance", "part_values")
        },
    )
    assert chosen.boundary(8) == 2 and chosen.boundary(-1) == 2
    with pytest.raises(InputError, match="received 4"):
        chosen.boundary(4)


def test_the_edge_table_is_the_arrays_moves_first() -> None:
    table = GRAPH.edges
    assert len(table) == len(GRAPH.relevance)
    assert table["move"].is_monotonic_decreasing and table["move"].nunique() == 2
    for _, kind in table.groupby("move"):
        assert kind["relevance"].abs().is_monotonic_decreasing
    assert sorted(table.index) == list(range(len(table)))
    for edge, row in table.iterrows():
        t, j, i = (int(getattr(GRAPH, name)[edge]) for name in ("transition", "target", "source"))
        assert (row["source"], row["target"]) == (GRAPH.boundaries[t].label, GRAPH.boundaries[t + 1].label)
        assert (row["source_position"], row["target_position"]) == (i, j) and row["move"] == (i != j)
        assert (row["source_token"], row["target_token"]) == (GRAPH.token_strings[i], GRAPH.token_strings[j])
        assert row["relevance"] == GRAPH.relevance[edge]
        assert row["share"] == pytest.approx(
            GRAPH.relevance[edge] / abs(GRAPH.node_relevance[t + 1, j]), rel=1e-14
        )
        strongest = int(np.argmax(np.abs(GRAPH.part_values[edge])))
        assert row["part"] == GRAPH.parts[strongest]
        assert row["part_relevance"] == GRAPH.part_values[edge, strongest]
        assert row["head"] == strongest - 2 if strongest >= 2 else row["head"] is pd.NA
    assert GRAPH.to_dataframe().equals(table)


def test_the_node_table_holds_every_node() -> None:
    table = GRAPH.nodes
    assert len(table) == 30
    assert table["relevance"].tolist() == GRAPH.node_relevance.ravel().tolist()
    at = table.set_index(["boundary", "position"])
    assert at.loc[("L1 mid", 5), "in_edges"] == 6 and at.loc[("L1", 4), "in_edges"] == 0
    assert at.loc[("L1", 5), "in_graph"] and not at.loc[("L1", 4), "in_graph"]
    assert at.loc[("L1", 5), "share"] == pytest.approx(np.sign(GRAPH.metric_value))
    assert table["in_edges"].sum() == table["out_edges"].sum() == len(GRAPH.relevance)
    assert pd.isna(table["layer"][0]) and table["layer"].iloc[-1] == 1


def test_sinks_and_balance_close_the_account() -> None:
    sinks = GRAPH.sinks_table
    assert sinks["relevance"].abs().is_monotonic_decreasing
    assert sinks["relevance"].sum() == pytest.approx(GRAPH.sinks.sum(), rel=1e-12)
    assert set(sinks["kind"]) == {"bias", "softmax"}
    balance = GRAPH.balance()
    total = balance["edges"] + balance["pruned"] + balance["sinks"] + balance["remainder"]
    assert np.allclose(total, balance["relevance"], rtol=0, atol=1e-13)
    assert balance["remainder"].abs().max() < 1e-12
    wrong = NETWORK.graph(sinks=0.9 * GRAPH.sinks).balance()
    assert wrong["remainder"].abs().max() > 1e-3


def test_parts_sum_to_their_edge() -> None:
    strongest = GRAPH.edges.index[0]
    parts = GRAPH.parts_of(strongest)
    assert parts.sum() == pytest.approx(GRAPH.relevance[strongest], rel=1e-12)
    assert parts.abs().is_monotonic_decreasing
    named = GRAPH.parts_of((("L0", 0), ("L1 mid", 5)))
    assert named.sum() == pytest.approx(NETWORK.matrix(2, 3)[5, 0], rel=1e-12)
    assert named.equals(GRAPH.parts_of(((1, 0), (("resid_mid", 1), -1))))


@pytest.mark.parametrize(
    ("edge", "words"),
    [
        (999, "lies below 34"),
        ((("embed", 5), ("L0 mid", 2)), "no edge embed@5 → L0 mid@2; it was pruned"),
        ((("embed", 0), ("L0", 2)), "no edge embed@0 → L0@2"),
        ((("embed", 0), ("L0 mid", 77)), "lies in the 6 tokens"),
    ],
)
def test_unknown_edges_are_refused(edge: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        GRAPH.parts_of(edge)


def test_matrices_come_from_the_pass() -> None:
    assert np.array_equal(GRAPH.prune(mass=0.5).matrix("embed", -1), NETWORK.matrix(0, 4))
    adjacent = GRAPH.matrix(0, "L0 mid")
    alone = NETWORK.graph(made_by=None)
    np.testing.assert_allclose(alone.matrix(0, "L0 mid"), adjacent, rtol=0, atol=0)
    with pytest.raises(InputError, match="embed → L1 are not adjacent, and the graph has no pass to ask"):
        alone.matrix(0, -1)
    with pytest.raises(InputError, match="embed → L0 mid was pruned, and the graph has no pass"):
        alone.prune(mass=0.5).matrix(0, "L0 mid")
    with pytest.raises(
        InputError, match="lead forward, from an earlier boundary to a later one; received L0 → L0"
    ):
        GRAPH.matrix(1, 1)


def test_refinements_are_remembered(unchecked: None) -> None:
    graph = NETWORK.graph()
    view = graph.refine(("L0", 5), into="dimensions")
    assert view.values.sum() == pytest.approx(graph.node_relevance[2, 5], rel=1e-12)
    edge = graph.refine((("L0", 0), ("L1 mid", 5)))
    assert edge.values.sum() == pytest.approx(NETWORK.matrix(2, 3)[5, 0], rel=1e-12)
    number = int(graph.edges.index[0])
    graph.refine(number, into="heads")
    assert list(graph.refinements)[:2] == ["L0@5 into dimensions", "L0@0 → L1 mid@5 into heads"]
    assert len(graph.refinements) == 3
    assert list(graph.prune(mass=0.5).refinements) == list(graph.refinements)
    assert not GRAPH.refinements
    with pytest.raises(InputError, match=r"heads, neurons or dimensions; received 'layers'"):
        graph.refine(("L0", 5), into="layers")
    with pytest.raises(InputError, match=r"Refining L0@5 needs the pass that made the graph"):
        NETWORK.graph(made_by=None).refine(("L0", 5))


def swapped(name: str) -> np.ndarray:
    values = getattr(GRAPH, name).copy()
    values[[0, 1]] = values[[1, 0]]
    return values


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boundaries": GRAPH.boundaries[:1]}, "two boundaries or more"),
        ({"special": np.zeros(5, dtype=bool)}, r"AttributionGraph.special has the shape \(6,\)"),
        ({"part_values": GRAPH.part_values[:, :2]}, "AttributionGraph.part_values has the shape"),
        ({"sinks": GRAPH.sinks[:, :1]}, "AttributionGraph.sinks has the shape"),
        ({"node_relevance": np.full((5, 6), np.nan)}, "node_relevance must be finite"),
        ({"target": GRAPH.target + 3}, "AttributionGraph.target lies in 0 … 5"),
        ({"transition": GRAPH.transition - 1}, "AttributionGraph.transition lies in 0 … 3"),
        ({"target": swapped("target"), "source": swapped("source")}, "sorted by transition, target, source"),
        ({"part_values": 0.9 * GRAPH.part_values}, "parts of an edge sum to its relevance"),
        ({"target_positions": (6,)}, "Target positions lie in 0 … 5; received 6"),
        ({"sink_kinds": ("bias", "bias")}, "labels of sink_kinds are distinct"),
    ],
    ids=lambda one: "+".join(one) if isinstance(one, dict) else "",
)
def test_arrays_that_do_not_fit_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        NETWORK.graph(**changes)


def test_the_reprs_say_what_was_dropped_and_escape_tokens() -> None:
    network = FrozenNetwork(positions=13, layers=2)
    small = network.graph().prune(mass=0.8)
    text, html = repr(small), small._repr_html_()
    assert "5 boundaries × 13 tokens" in text and "of the edges' mass" in text
    assert "note: kept: the strongest edges that hold 80 %" in text
    assert "mass dropped per transition" in html and "embed → L0 mid" in html
    assert tokens_of(13)[11] == " <b>drink</b>" and "<b>drink" not in html and "<bos>" not in html


def test_the_container_compares_by_identity_and_stays_frozen() -> None:
    assert NETWORK.graph() != NETWORK.graph()
    with pytest.raises(AttributeError):
        GRAPH.metric_value = 0.0
    assert isinstance(GRAPH, AttributionGraph)


def test_a_malformed_edge_or_node_is_refused(unchecked: None) -> None:
    for bad in ("L3", ("L3",), ("L3", "7"), (1, 2, 3)):
        with pytest.raises(InputError, match=r"A node is|An edge is"):
            GRAPH.refine(bad)
        with pytest.raises(InputError, match=r"A node is|An edge is"):
            nodes.resolve(GRAPH, bad)


def test_the_room_needs_neither_torch_nor_heavy_libraries() -> None:
    heavy = {"torch", "plotly", "sklearn", "networkx"}
    code = f"import sys, lrp_lens.attribution_graphs.arrays; print(sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_every_exported_name_exists() -> None:
    assert all(
        hasattr(lrp_lens.attribution_graphs.arrays, name)
        for name in lrp_lens.attribution_graphs.arrays.__all__
    )
    assert list(lrp_lens.attribution_graphs.arrays.__all__) == sorted(
        lrp_lens.attribution_graphs.arrays.__all__
    )


def test_parts_table_holds_every_part_once() -> None:
    graph = FrozenNetwork(positions=5, layers=2).graph()
    table = graph.parts_table
    assert len(table) == np.count_nonzero(graph.part_values)
    assert np.allclose(table.groupby(level=0)["relevance"].sum(), graph.relevance)
    assert table["move"].is_monotonic_decreasing
    for _, kind in table.groupby("move"):
        assert (np.diff(np.abs(kind["relevance"])) <= 0).all()
    first = table.iloc[0]
    assert graph.parts_of(int(table.index[0]))[first["part"]] == first["relevance"]
    heads = table["head"].notna()
    assert set(table.loc[heads, "mechanism"]) <= {"OV", "K", "Q"}
    assert set(table.loc[~heads, "mechanism"]) <= {"residual", "MLP"}
    assert table["layer"].equals(graph.edges.loc[table.index, "layer"])
