"""compare_runs: the same cases in several triages, against counts and means taken by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lrp_lens import ATTN_LRP, CP_LRP, AttributionGraph, LogitDiff, attribution_graph, load_demo_model
from lrp_lens.attribution_graphs.arrays import composition
from lrp_lens.cli import app
from lrp_lens.errors import InputError
from lrp_lens.failures import run_graphs
from lrp_lens.failures.runs import RunComparison, compare_runs
from lrp_lens.failures.triage.row import TriageRow, written
from tests.browser import DESKTOP, PHONE, browser, cut_off, opened, sticks_out
from tests.triage_rows import write_folder

EVIL = "<img src=x onerror=window.broken=1>\u202e"
PROMPT = "mary and john went to the park . john gave the key to"
NOTHING = {"explanation": "", "segment_shares": "", "segment_relevance": ""}


def row(number: int, verdict: str, gap: float, profile: list[float], **changes: object) -> TriageRow:
    """A row of two segments, whose last token has this profile."""
    stream = np.stack([np.full(len(profile), 9.0), np.array(profile)], axis=1)
    layers = {"values": stream.ravel().tolist(), "shape": list(stream.shape)}
    layers["labels"] = {"layer": ["embed", *[f"L{i}" for i in range(len(profile) - 1)]]}
    made = TriageRow(
        id=f"case {number}",
        number=number,
        fate="explained",
        verdict=verdict,
        pattern="neither",
        metric_value=gap,
        segment_shares=written({"question": gap / 10, "rest": 1 - gap / 10}),
        segment_relevance=written({"question": -gap, "rest": 2 * gap}),
        case=written({"prompt": f"prompt {number}"}),
        explanation=written({"views": {"layers": layers}}),
    )
    return replace(made, **changes)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    small = [
        row(0, "input", 1.0, [0, 1, 2]),
        row(1, "graph", 2.0, [1, 0, -4]),
        row(2, "none", 3.0, [2, 2, 1]),
    ]
    large = [
        row(0, "input", 2.0, [0, 2, 2]),
        row(1, "input", 4.0, [1, 1, 1]),
        replace(row(2, "", 0.5, [1]), fate="excluded", reason="gap", metric_value=None, gap=0.5, **NOTHING),
        row(3, "input", 9.0, [1, 1, 1]),
        TriageRow(id="log:7", number=4, fate="bad row", reason="no prompt"),
    ]
    for name, rows in (("small", small), ("large", large)):
        write_folder(tmp_path / name, rows)
    return tmp_path / "small", tmp_path / "large"


@pytest.fixture
def found(folders: tuple[Path, Path]) -> RunComparison:
    return compare_runs(*folders)


def test_only_common_cases_are_compared(found: RunComparison) -> None:
    assert found.runs == ("small", "large") and found.n_cases == 3
    assert found.notes == ("large: 1 of its cases are not in every run",)
    assert list(found.cases["outcome"]) == ["input", "graph", "none", "input", "input", "excluded"]
    said = repr(found)
    assert "3 cases in 2 runs" in said and "small: mean gap +2.00; input 1, graph 1, none 1" in said


def test_gaps_are_means_and_paired_differences(found: RunComparison) -> None:
    table = found.gaps()
    assert table["mean"].tolist() == pytest.approx([2.0, 6.5 / 3]) and table["n"].tolist() == [3, 3]
    assert math.isnan(table["difference"][0]) and table["difference"][1] == pytest.approx((1 + 2 - 2.5) / 3)
    assert table["difference_low"][1] < table["difference"][1] < table["difference_high"][1]


def test_segment_shares(found: RunComparison) -> None:
    table = found.segment_shares().set_index(["run", "segment"])
    assert table.loc[("small", "question"), "mean"] == pytest.approx(0.2)
    assert (
        table.loc[("large", "rest"), "mean"] == pytest.approx(0.7) and table.loc[("large", "rest"), "n"] == 2
    )


def test_transitions(found: RunComparison) -> None:
    table = found.transitions()
    assert table.loc["graph", "input"] == table.loc["none", "excluded"] == table.loc["input", "input"] == 1
    assert table.to_numpy().sum() == 3 and (table.index.name, table.columns.name) == ("small", "large")
    back = found.transitions("large", "small")
    assert back.loc["input", "graph"] == 1
    assert list(table.index) == list(table.columns) == ["input", "graph", "none", "excluded"]
    same = found.transitions("small", "small")
    assert np.array_equal(same.to_numpy(), np.eye(3))
    with pytest.raises(InputError, match="The runs here are small, large; received 'medium'"):
        found.transitions("medium")


@pytest.fixture(scope="module")
def graphs() -> dict[str, AttributionGraph]:
    """Two rule sets' graphs of one prompt, and one of another length."""
    model, metric = load_demo_model(device="cpu"), LogitDiff("mary", "john")
    prompts = {"a": PROMPT, "b": PROMPT, "longer": f"then {PROMPT}"}
    return {
        name: attribution_graph(
            model, prompt, metric, rules=CP_LRP if name == "b" else ATTN_LRP, max_edges=50
        )
        for name, prompt in prompts.items()
    }


def graph_folders(tmp_path: Path, graphs: dict[str, AttributionGraph], **kept: tuple[str, ...]) -> list[Path]:
    """A folder for each run, in which case i has the i-th of the named graphs."""
    data = {"": b""}
    for name, graph in graphs.items():
        graph.subgraph().save(tmp_path / "graph.safetensors")
        data[name] = (tmp_path / "graph.safetensors").read_bytes()
    return [
        write_folder(
            tmp_path / run,
            [
                row(place, "input", 1.0, [1, 1], graph=data[name], content=f"{place}")
                for place, name in enumerate(names)
            ],
        )
        for run, names in kept.items()
    ]


@pytest.mark.parametrize("together", [1, 256])
def test_graph_changes_are_the_differences_of_the_nodes(
    tmp_path: Path, graphs: dict[str, AttributionGraph], together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_graphs, "_TOGETHER", together)
    found = compare_runs(
        *graph_folders(tmp_path, graphs, one=("a", "a", "a", "", "a"), two=("a", "b", "longer", "b", ""))
    )
    table = found.graph_changes()
    assert table["case"].tolist() == ["case 1", "case 0", "case 2"]  # those without two graphs are left out
    expected = graphs["b"].node_relevance - graphs["a"].node_relevance
    layer, position = divmod(int(np.abs(expected).argmax()), expected.shape[1])
    assert table["change"][0] == pytest.approx(expected[layer, position]) and table["change"][1] == 0
    assert table["token"][0] == graphs["a"].token_strings[position]
    assert table["boundary"][0] == found.graph_difference("case 1").nodes.axis_labels("layer")[layer]
    assert "same number of tokens" in table["reason"][2] and table["reason"][:2].tolist() == ["", ""]
    back = found.graph_changes("two", "one")
    assert back["change"][0] == -table["change"][0]
    assert len(found.graph_difference("case 1").edges) == table["edges"][0] > 0
    for case, words in (("case 3", "'case 3'"), ("case 9", "in every run"), ("case 2", "number of tokens")):
        with pytest.raises(InputError, match=words):
            found.graph_difference(case)


def test_compositions_are_means_over_a_runs_graphs(
    tmp_path: Path, graphs: dict[str, AttributionGraph]
) -> None:
    """Of the graphs that rows keep, which are connected to the answer."""
    runs = {"one": ("a", "a"), "two": ("a", "longer"), "mixed": ("a", "other rules")}
    kept = {name: graph.subgraph() for name, graph in graphs.items()}
    kept["other rules"] = replace(
        kept["a"], sink_kinds=tuple(f"another {one}" for one in kept["a"].sink_kinds)
    )
    found = compare_runs(*graph_folders(tmp_path, kept, **runs))
    alone = {name: composition(graph) for name, graph in kept.items()}
    assert found.composition().labels == alone["a"].labels
    np.testing.assert_allclose(found.composition("one").values, alone["a"].values)
    both = (alone["a"].values + alone["longer"].values) / 2
    np.testing.assert_allclose(found.composition("two").values, both)
    assert found.composition("two").notes == ("mean of 2 cases",)
    mixed = found.composition("mixed")
    np.testing.assert_allclose(mixed.values, alone["a"].values)
    assert mixed.notes == ("mean of 1 case", "1 of other layers or parts are left out")


def test_profiles_clusters_and_directions(found: RunComparison) -> None:
    assert found.profiles["small"].values.tolist() == [[0, 0.5, 1], [0.25, 0, -1], [1, 1, 0.5]]
    together = found.all_profiles()
    assert together.axis_labels("batch")[3:] == ("large: case 0", "large: case 1") and together.shape == (
        5,
        3,
    )
    clusters = found.clusters(2)
    assert clusters.sizes.tolist() == [4, 1]  # the one whose last layer is negative stands alone
    assert clusters.table.set_index("example")["cluster"]["small: case 1"] == 1
    scores = found.principal_components(2)
    assert scores.explained_variance[0] > scores.explained_variance[1] > 0


def test_models_of_different_depth_have_profiles_of_their_own(
    tmp_path: Path, folders: tuple[Path, Path]
) -> None:
    write_folder(tmp_path / "deep", [row(0, "input", 1.0, [1, 1, 1, 2])])
    found = compare_runs(folders[0], tmp_path / "deep", names=("3 layers", "4 layers"))
    assert found.n_cases == 1 and found.plot("profiles").data[1].x.tolist() == pytest.approx(
        [0, 1 / 3, 2 / 3, 1]
    )
    for asked in (lambda: found.clusters(1), lambda: found.plot("steps"), lambda: found.plot("directions")):
        with pytest.raises(InputError, match=r"received \{'3 layers': 3, '4 layers': 4\}"):
            asked()
    with pytest.raises(InputError, match=r"keeps; .* has none of the compared cases"):
        found.composition()
    found.save(tmp_path / "page.html")  # without the figures that there is not enough for


def test_runs_that_cannot_be_compared(tmp_path: Path, folders: tuple[Path, Path]) -> None:
    other = tmp_path / "other"
    write_folder(other, [row(0, "input", 1.0, [1, 1], case=json.dumps({"prompt": "another"}))])
    for given, options, words in (
        ((folders[0],), {}, "received 1"),
        ((folders[0], other), {}, "small, other have 3, 1 cases and none in common"),
        ((folders[0], folders[0]), {}, "no two the same"),
        (folders, {"names": ("a",)}, "for 2 folders"),
        ((folders[0], tmp_path / "none"), {}, "there is none at"),
    ):
        with pytest.raises(InputError, match=words):
            compare_runs(*given, **options)


def test_figures_hold_the_tables_numbers(found: RunComparison, unchecked: None) -> None:
    assert [bar.y[0] for bar in found.plot("gaps").data] == found.gaps()["mean"].tolist()
    assert found.plot("segments").data[1].text == ("question", "rest")
    assert found.plot().data[0].z.sum() == 3
    signed = found.segment_relevance().set_index(["run", "segment"])["mean"]
    assert signed["small", "question"] == -2 and signed["large", "rest"] == 6  # of gaps 1, 2, 3 and of 2, 4
    assert found.plot("relevance").data[0].y.tolist() == [-2, 4]
    pairs = found.plot("pairs").data
    assert list(pairs[0].x) == [1, 2, 3] and list(pairs[0].y) == [2, 4, 0.5] and pairs[0].text[2] == "case 2"
    assert list(pairs[1].x) == list(pairs[1].y) == [0, 4]
    scores = found.principal_components(2).scores
    drawn = found.plot("directions").data
    assert [one.name for one in drawn] == ["small", "large"] and list(drawn[1].x) == scores["PC1"][
        3:
    ].tolist()
    assert sum(len(one.x) for one in found.plot("clusters").data) == 3 * 3  # three groups, three boundaries
    steps = found.plot("steps")
    assert steps.data[0].customdata[0].tolist() == pytest.approx([1 / 12, -1 / 3])  # of (5/12, 1/2, 1/6)
    with pytest.raises(InputError, match="received 'colours'"):
        found.plot("colours")  # type: ignore[arg-type]


def test_the_command_and_the_page(
    folders: tuple[Path, Path], tmp_path: Path, graphs: dict[str, AttributionGraph]
) -> None:
    evil = tmp_path / "evil"
    rows = [
        row(i, "input", 1.0 + i, [1, 2, i], pattern=EVIL, segment_shares=written({EVIL: 1.0}))
        for i in range(3)
    ]
    write_folder(evil, rows)
    page = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["compare-runs", *map(str, folders), str(evil), "--out", str(page)])
    assert done.exit_code == 0 and "3 cases in 3 runs" in done.stdout and "Segments" in done.stdout
    assert "\u202e" not in done.stdout and "\u202e" not in page.read_text(encoding="utf-8")
    one = CliRunner().invoke(app, ["compare-runs", str(folders[0])])
    assert one.exit_code == 2 and "Pass two folders or more" in one.stderr
    graphed = tmp_path / "graphed.html"
    compare_runs(*graph_folders(tmp_path, graphs, one=("a", "a"), two=("b", "longer"))).save(graphed)
    with browser() as running:
        for size in (DESKTOP, PHONE):
            with opened(running, page, size) as (tab, errors):
                assert tab.locator(".figure .main-svg").count() >= 10 and errors == []
                for one in tab.query_selector_all("details"):
                    one.evaluate("(details) => details.open = true")
                assert sticks_out(tab) == [] and cut_off(tab) == []
                assert tab.evaluate("window.broken === undefined")
                said = tab.locator("main").inner_text()
                assert "so many have the outcome that they have in small: 1 in large, 1 in evil." in said
        with opened(running, graphed) as (tab, errors):
            last = tab.locator("main > section").last.inner_text()
            assert "from one to two" in last and "1 case. Graphs of 1 more are not compared" in last
            assert tab.locator("main > section").last.locator("tbody tr, tr").count() >= 1 and errors == []
