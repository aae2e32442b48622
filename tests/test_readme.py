"""What README shows is run: its Python, its tables as far as seconds allow, what is said of them, its support table."""

import doctest
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lrp_lens
from benchmarks import patching_agreement
from lrp_lens import attribution_graphs as graphs
from lrp_lens import circuits, plots
from lrp_lens.hosts.transformer_bridge import ARCHITECTURES
from lrp_lens.masking import BASELINES
from tests import zoo
from tests.test_tutorials import cells
from tools.alike import differs
from tools.demo_model.evaluation import accuracies, load_for_evaluation
from tools.demo_model.suites import HARD_SUITES, TRAINING_SUITES
from tools.notebooks import TUTORIALS
from tools.picture import PICTURE, ROOT, five_minutes, picture

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COUNT = 500  # prompts a suite, as README says
ROUNDING = 0.004  # two prompts of 500 may fall the other way on another processor


def rows(text: str) -> dict[str, list[str]]:
    """First cell → cells, for the rows of markdown tables."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    return {line[0]: line for line in cells if len(line) > 2}


def test_five_minutes_run() -> None:
    names = five_minutes()
    assert torch.equal(names["same_logits"], names["logits"])
    assert isinstance(names["rel"], lrp_lens.RelevanceCache)
    assert f"({PICTURE.relative_to(ROOT)})" in README
    stored = PICTURE.read_text(encoding="utf-8")
    assert differs(stored, picture(names)) == "" and len(stored) < 30_000
    layers = names["rel"].layers()
    assert layers["L1", "mary"] > 2 > abs(layers.select(layer="L1", position=-1).sum())  # "up to layer 1 …"
    assert layers.select(layer="L2", position=-1).sum() > layers["L2", "mary"]  # "in layer 2 …"
    for text in re.findall(r"`rel\.([a-z]+\(\)\[[^`]*\])`", README):
        assert isinstance(eval(f"rel.{text}", names), float)


@pytest.mark.full
def test_accuracies_are_what_the_script_prints() -> None:
    shown, suites = rows(README), (*TRAINING_SUITES, *HARD_SUITES)
    assert all(suite.name in shown for suite in suites)
    measured = accuracies(load_for_evaluation(), COUNT, suites[::4])  # a quarter of the 20 seconds it takes
    for name, accuracy in measured.items():
        assert abs(float(shown[name][3]) - accuracy) <= ROUNDING, name


def test_every_architecture_of_the_support_table_is_in_the_zoo() -> None:
    held = {type(zoo.hugging_face(name, torch.float32)).__name__ for name in zoo.ARCHITECTURES}
    assert held == ARCHITECTURES


def test_every_public_name_in_the_text_exists() -> None:
    for name in re.findall(r"`([A-Z][A-Za-z_]+|[a-z_]+)\(", README):
        assert name in lrp_lens.__all__ or hasattr(lrp_lens.RelevanceCache, name) or name in OTHERS, name
    for name in re.findall(r"`graph\.([a-z_]+)", README):
        assert hasattr(lrp_lens.AttributionGraph, name), name
    (row,) = re.findall(r"^\| measure it .*", section("Attribution graphs"), flags=re.MULTILINE)
    assert {*re.findall(r"`([a-z_]+)`", row)} <= {*graphs.__all__}


OTHERS = {"to_dataframe", "save", "with_floor"}  # methods of a View and of a Comparison


def test_every_plot_in_the_text_exists() -> None:
    named = set(re.findall(r"\b(plot_[a-z]+|[a-z_]+_html)\b", README)) - {"write_html"}
    assert len(named) >= 10 and named <= set(plots.__all__)


# ------------------------------------------------------------------------- faithfulness and patching, measured
def section(title: str) -> str:
    (text,) = re.findall(rf"^## {title}\n(.*?)^## ", README, flags=re.DOTALL | re.MULTILINE)
    return str(text)


def mean(cell: str) -> float:
    """The number before ±."""
    return float(cell.partition(" ±")[0])


def tables(text: str) -> list[dict[str, list[str]]]:
    """Every table of a section: first cell → cells."""
    return [rows(block) for block in text.split("\n\n") if block.startswith("|")]


def test_the_graph_shown_is_the_graph_made() -> None:
    text = section("Attribution graphs")
    example = doctest.DocTestParser().get_doctest(text, {}, "README", None, 0)
    assert len(example.examples) == 6
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    assert runner.run(example, out=report.append).failed == 0, "".join(report)
    assert "<!-- edges benchmark -->" in text or "python -m benchmarks edges" in text


def test_what_is_said_of_faithfulness_follows_from_its_tables() -> None:
    text = section("Faithfulness")
    table, replacements = tables(text)
    column = {name: place for place, name in enumerate(table["method"])}
    assert {name: cells[column["ΔA ↑"]] for name, cells in table.items() if name in replacements} == {
        name: cells[1] for name, cells in replacements.items() if name in table
    }
    assert set(table) - {"method", "---"} == {*lrp_lens.PRESETS, *BASELINES}
    relevance = [name for name in lrp_lens.PRESETS if name != "GRADIENT"]
    others = {*BASELINES} - {"leave-one-out"}
    top1 = {name: mean(table[name][column["top-1 ↑"]]) for name in (*relevance, *BASELINES)}
    found = sorted(top1[name] for name in relevance)
    assert f"{100 * found[0]:.0f} to {100 * found[-1]:.0f} %" in text
    assert f"at random in {100 * top1['random']:.0f} %" in text
    assert found[0] > max(top1[name] for name in BASELINES)
    for measure, sign in (("ΔA ↑", 1), ("suff. ↓", -1)):
        value = {name: sign * mean(table[name][column[measure]]) for name in (*relevance, *others)}
        assert value["ablation regression"] > max(value[name] for name in relevance)
    for place in (1, 2, 3):
        ranked = sorted(lrp_lens.PRESETS, key=lambda name: mean(replacements[name][place]))
        assert (ranked[-1], ranked[0]) == ("GIM", "GRADIENT")


@pytest.mark.full
def test_agreement_with_patching_is_what_is_measured() -> None:
    """One site of the table, and of the table of ranks, on the same 64 pairs."""
    pearsons, ranks = tables(section("Patching, side by side"))
    names = ["GRADIENT", "RELP", "ATTN_LRP", "CP_LRP", "AtP*", "integrated gradients"]
    assert pearsons["site"][1:] == names
    clean, corrupted, answers, foils = patching_agreement.pairs(64)
    found = lrp_lens.compare(
        lrp_lens.load_demo_model(device="cpu"),
        clean,
        corrupted,
        lrp_lens.LogitDiff(answers, foils),
        sites=["resid_pre"],
        methods=["GRADIENT", "RELP", "ATTN_LRP", "CP_LRP", "ATP_STAR", "IG"],
        samples=0,
        engine="batched",
    )
    above, every = (one.table().set_index("method") for one in (found, found.with_floor(0)))
    for shown, measured in zip(pearsons["resid_pre"][1:], above["pearson"], strict=True):
        assert abs(float(shown) - measured) < 0.006
    shown = ranks["resid_pre"][1:]
    assert shown.pop(0) == f"{above.loc['RELP'].n_ranked} of {above.loc['RELP'].n_cells}"
    for statistic in ("spearman", "sign_agreement"):
        for table in (above, every):
            numbers = [float(text) for text in re.findall(r"[\d.]+", shown.pop(0))]
            np.testing.assert_allclose(numbers, table.loc[["RELP", "GRADIENT"], statistic], atol=0.02)


# --------------------------------------------------------------------------------------------------- circuits
def test_what_is_said_of_circuits_follows_from_their_table() -> None:
    text = section("Component edges and circuits")
    (table,) = tables(text)
    shown = {name: cells for name, cells in table.items() if name not in ("method", "---")}
    five = {name: float(cells[2]) for name, cells in shown.items()}
    assert sorted(five, key=lambda name: -five[name])[:2] == ["EAP-IG", "RELP"]
    bounds = {name: [float(n) for n in re.findall(r"[\d.]+", cells[3])] for name, cells in shown.items()}
    assert all(bounds["CP_LRP"][2] < bounds[name][1] for name in shown if name not in ("CP_LRP", "random"))
    assert all(bounds["random"][2] < bounds[name][1] for name in shown if name != "random")
    for name in re.findall(r"^    (?:\w+ = )?([a-z_]+)\(", text, flags=re.MULTILINE):
        assert name in circuits.__all__, name
    assert "<!-- circuits benchmark -->" in text or "python -m benchmarks circuits" in text


@pytest.mark.full
def test_table_of_circuits_is_what_the_tutorial_prints() -> None:
    """Three of its rows, made by the tutorial's own cells."""
    (tutorial,) = [path for path in TUTORIALS if path.name.startswith("8_")]
    code = cells(tutorial, "code")
    names: dict[str, Any] = {}
    for text in code[:3]:  # the model, the pairs, the scores
        exec(text, names)
    names["scores"] = {name: names["scores"][name] for name in ("EAP-IG", "RELP", "CP_LRP")}
    (run,) = [text for text in code if "circuit_curve(model" in text]
    exec(run, names)
    curve = names["curve"]
    areas, points = curve.areas().set_index("method"), curve.to_dataframe()
    points = points[points["ranking"].isin(["absolute", "random"]) & (points["fraction"] == 0.05)]
    (table,) = tables(section("Component edges and circuits"))
    for name in areas.index:
        share, cpr, cmd = (
            [float(number) for number in re.findall(r"[\d.]+", cell)] for cell in table[name][2:]
        )
        measured = points.set_index("method").loc[name, "faithfulness"]
        np.testing.assert_allclose(share, [measured], atol=0.006, err_msg=name)
        np.testing.assert_allclose(cpr + cmd, areas.loc[name].to_numpy(float), atol=0.002, err_msg=name)


@pytest.mark.full
def test_the_edge_named_is_cut_and_restored_as_said() -> None:
    (tutorial,) = [path for path in TUTORIALS if path.name.startswith("8_")]
    code = cells(tutorial, "code")
    names: dict[str, Any] = {}
    for text in (*code[:3], *[text for text in code if "necessary, sufficient =" in text]):
        exec(text, names)
    cut, restored = re.findall(
        r"(\d+) %", section("Component edges and circuits").rpartition("cutting it")[2]
    )
    assert abs(100 * names["necessary"] - int(cut)) < 1 and abs(100 * names["sufficient"] - int(restored)) < 1
