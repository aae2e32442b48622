"""Files and other formats: round trips, nothing lost, nothing unpickled, the published schema's facts."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lrp_lens.attribution_graphs.arrays import AttributionGraph
from lrp_lens.attribution_graphs.arrays.interchange import neuronpedia, storage
from lrp_lens.errors import InputError
from tests.frozen_network import FrozenNetwork

ARRAYS = (
    "special", "node_relevance", "transition", "target", "source", "relevance", "part_values", "sinks", "pruned",
    "pruned_mass", "total_mass",
)  # fmt: skip
WORDS = (
    "boundaries", "token_strings", "parts", "sink_kinds", "metric_value", "metric_text", "rules_text", "towards",
    "target_positions", "notes",
)  # fmt: skip


def pruned() -> AttributionGraph:
    graph = FrozenNetwork(positions=12, layers=2).graph().prune(mass=0.95)
    graph.refine(("L0", 11), into="dimensions")
    graph.refine(0, into="heads")
    return graph


def test_the_bytes_of_a_graph_are_those_of_its_file(tmp_path: Path) -> None:
    graph = pruned()
    graph.save(tmp_path / "graph.safetensors")
    data = graph.to_bytes()
    assert data == (tmp_path / "graph.safetensors").read_bytes()
    assert AttributionGraph.from_bytes(data).to_bytes() == data
    for wrong in (b"", data[:-1], data[:-1] + bytes([data[-1] ^ 1])):
        with pytest.raises(InputError, match="A saved AttributionGraph"):
            AttributionGraph.from_bytes(wrong)


@pytest.mark.parametrize("name", ["graph.safetensors", "graph.npz"])
@pytest.mark.parametrize("towards", [None, (" Mary", " John")])
def test_a_saved_graph_comes_back(tmp_path: Path, name: str, towards: tuple[str, str] | None) -> None:
    graph = pruned()
    object.__setattr__(graph, "towards", towards)
    graph.save(tmp_path / name)
    back = AttributionGraph.load(tmp_path / name)
    for field in ARRAYS:
        one, two = getattr(graph, field), getattr(back, field)
        assert one.dtype == two.dtype and np.array_equal(one, two), field
    for field in WORDS:
        assert getattr(graph, field) == getattr(back, field), field
    assert back.made_by is None
    assert list(back.refinements) == list(graph.refinements) and len(back.refinements) == 2
    for key, view in graph.refinements.items():
        other = back.refinements[key]
        assert np.array_equal(view.values, other.values) and (view.dims, view.labels) == (
            other.dims,
            other.labels,
        )
    assert repr(back) == repr(graph)


def test_an_empty_graph_and_float32_parts_survive(tmp_path: Path) -> None:
    network = FrozenNetwork()
    graph = network.graph(part_values=network.graph().part_values.astype(np.float32)).prune(
        edge_threshold=1e9
    )
    for name in ("a.npz", "a.safetensors"):
        graph.save(tmp_path / name)
        back = AttributionGraph.load(tmp_path / name)
        assert back.part_values.shape == (0, 4) and back.part_values.dtype == np.float32


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is at"):
        AttributionGraph.load(tmp_path / "none.npz")
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(InputError, match="safetensors or an npz file"):
        AttributionGraph.load(tmp_path / "text.safetensors")
    (tmp_path / "text.npz").write_text("no")
    with pytest.raises(InputError, match="safetensors or an npz file"):
        AttributionGraph.load(tmp_path / "text.npz")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps({"header": 1}))
    with pytest.raises(InputError, match="safetensors or an npz file"):
        AttributionGraph.load(tmp_path / "pickle.npz")
    save_file({"values": np.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"of the kind None\. Pass a file written by AttributionGraph\.save"):
        AttributionGraph.load(tmp_path / "other.safetensors")
    np.savez(tmp_path / "other.npz", values=np.zeros(2))
    with pytest.raises(InputError, match="of the kind None"):
        AttributionGraph.load(tmp_path / "other.npz")


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "KIND", "AttributionGraph/2")
    pruned().save(tmp_path / "new.npz")
    monkeypatch.setattr(storage, "KIND", "AttributionGraph/1")
    with pytest.raises(InputError, match=r"is of the kind 'AttributionGraph/2'. Use the version of lrp_lens"):
        AttributionGraph.load(tmp_path / "new.npz")


def test_networkx_holds_every_node_and_edge() -> None:
    graph = pruned()
    network = graph.to_networkx()
    assert network.number_of_edges() == len(graph.relevance)
    assert network.number_of_nodes() == graph.in_graph.sum()
    labels = [one.label for one in graph.boundaries]
    for edge in range(len(graph.relevance)):
        t = int(graph.transition[edge])
        ends = (labels[t], int(graph.source[edge])), (labels[t + 1], int(graph.target[edge]))
        found = network.edges[ends]
        assert found["relevance"] == graph.relevance[edge] and found["magnitude"] == abs(
            graph.relevance[edge]
        )
        assert sum(found["parts"].values()) == pytest.approx(graph.relevance[edge], rel=1e-12)
        assert found["part"] == graph.edges.loc[edge, "part"]
    for (label, position), data in network.nodes(data=True):
        assert data["relevance"] == graph.node_relevance[labels.index(label), position]
        assert data["token"] == graph.token_strings[position]
    assert [node for node, data in network.nodes(data=True) if data["target"]] == [("L1", 11)]
    assert network.graph["metric_value"] == graph.metric_value


# The facts of Neuronpedia's draft-07 schema (apps/webapp/app/api/graph/graph-schema.json): required keys and types.
REQUIRED = {
    "metadata": {"slug": str, "scan": str, "prompt_tokens": list, "prompt": str},
    "nodes": {
        "node_id": str, "feature": (int, type(None)), "layer": (str, int), "ctx_idx": int, "feature_type": str,
        "jsNodeId": str, "clerp": str,
    },
    "links": {"source": str, "target": str, "weight": (int, float)},
}  # fmt: skip
OPTIONAL = {
    "nodes": {"influence": (int, float, type(None)), "activation": (int, float, type(None))},
    "qParams": {"pinnedIds": list, "supernodes": list, "linkType": str, "clickedId": str, "sg_pos": str},
}


def faults(content: dict[str, object]) -> list[str]:
    """What breaks the schema, in words."""
    found = [f"{key} is missing" for key in ("metadata", "qParams", "nodes", "links") if key not in content]
    for name, keys in REQUIRED.items():
        part = content.get(name, [])
        for one in part if isinstance(part, list) else [part]:
            found += [
                f"{name}.{key}"
                for key, kind in keys.items()
                if key not in one or not isinstance(one[key], kind)
            ]
    for name, keys in OPTIONAL.items():
        part = content.get(name, [])
        for one in part if isinstance(part, list) else [part]:
            found += [
                f"{name}.{key}" for key, kind in keys.items() if key in one and not isinstance(one[key], kind)
            ]
    return found


def test_the_schema_check_itself() -> None:
    good = pruned().to_neuronpedia(slug="a", scan="gpt2-small", probability=0.5)
    assert not faults(good)
    for broken, fault in [
        ({key: good[key] for key in good if key != "links"}, "links is missing"),
        (good | {"metadata": {"slug": "a"}}, "metadata.scan"),
        (good | {"nodes": [good["nodes"][0] | {"ctx_idx": "1"}]}, "nodes.ctx_idx"),
        (good | {"qParams": {"pinnedIds": "x"}}, "qParams.pinnedIds"),
    ]:
        assert fault in faults(broken)


@pytest.mark.parametrize("mid", [True, False])
def test_neuronpedia_json_follows_the_schema(tmp_path: Path, mid: bool) -> None:
    graph = FrozenNetwork(positions=12, layers=2, mid=mid, targets=(4, 11)).graph().prune(mass=0.8)
    path = tmp_path / "graph.json"
    content = graph.to_neuronpedia(slug="my-graph", scan="gpt2-small", probability=0.1234, path=path)
    assert json.loads(path.read_text(encoding="utf-8")) == content and not faults(content)
    nodes = {one["node_id"]: one for one in content["nodes"]}
    assert len(nodes) == len(content["nodes"]) == graph.in_graph.sum() + 1
    assert len({one["jsNodeId"] for one in nodes.values()}) == len(nodes)
    assert all({one["source"], one["target"]} <= nodes.keys() for one in content["links"])
    assert len(content["links"]) == len(graph.relevance) + 2
    (logit,) = [one for one in nodes.values() if one["feature_type"] == "logit"]
    assert "(p=0.123)" in logit["clerp"] and logit["layer"] == "2" and logit["ctx_idx"] == 11
    assert {one["layer"] for one in nodes.values() if one["feature_type"] == "embedding"} == {"E"}
    into_logit = sum(one["weight"] for one in content["links"] if one["target"] == logit["node_id"])
    assert into_logit == pytest.approx(graph.node_relevance[-1].sum(), rel=1e-12)
    assert content["metadata"]["prompt"] == "".join(graph.token_strings)
    weights = sorted(one["weight"] for one in content["links"] if one["target"] != logit["node_id"])
    assert weights == sorted(graph.relevance.tolist())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"slug": ""}, "needs a slug and a scan"),
        ({"probability": 1.5}, "A probability lies in 0 to 1; received 1.5"),
    ],
)
def test_bad_neuronpedia_options(options: dict[str, object], words: str) -> None:
    given = {"slug": "a", "scan": "b", "probability": 0.5} | options
    with pytest.raises(InputError, match=words):
        pruned().to_neuronpedia(**given)
    with pytest.raises(InputError, match="has no target_positions"):
        FrozenNetwork().graph(target_positions=()).to_neuronpedia(slug="a", scan="b", probability=0.5)


@pytest.mark.parametrize(("cap", "words"), [(100, "edges are more. Prune first"), (3000, "this graph needs")])
def test_files_too_large_for_neuronpedia_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cap: int, words: str
) -> None:
    monkeypatch.setattr(neuronpedia, "MAX_BYTES", cap)
    with pytest.raises(InputError, match=words):
        pruned().to_neuronpedia(slug="a", scan="b", probability=0.5, path=tmp_path / "large.json")
    assert not (tmp_path / "large.json").exists()
