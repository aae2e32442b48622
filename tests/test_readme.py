"""What README and docs/ show is run: Python, tables as far as seconds allow, what is said of them, links, commands."""

import ast
import doctest
import importlib
import importlib.util
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens import ActivationCache

import lrp_lens
from benchmarks import patching_agreement
from benchmarks.evidence import tables as evidence_tables
from benchmarks.evidence.decision import MODELS, decide, decision_table
from benchmarks.evidence.front import front, ranks
from benchmarks.evidence.methods import RULES
from benchmarks.evidence.recommendations import recommendation_table
from benchmarks.evidence.run import PARTS
from benchmarks.evidence.store import Store
from lrp_lens import circuits, plots
from lrp_lens.attribution_graphs import arrays as graphs
from lrp_lens.failures import decision
from lrp_lens.hosts.transformer_bridge import ARCHITECTURES
from lrp_lens.masking import BASELINES
from tests import zoo
from tests.test_layering import ORDER
from tests.test_tutorials import cells
from tools.alike import differs
from tools.demo_model.evaluation import accuracies, load_for_evaluation
from tools.demo_model.suites import HARD_SUITES, TRAINING_SUITES
from tools.notebooks import TUTORIALS
from tools.picture import PICTURE, ROOT, five_minutes, picture

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.relative_to(ROOT / "docs").with_suffix("").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").rglob("*.md"))
}
EVERYTHING = "\n".join((README, *PAGES.values()))
RESULTS = ROOT / "benchmarks" / "results" / "evidence"
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
    shown, suites = rows(PAGES["demo_model"]), (*TRAINING_SUITES, *HARD_SUITES)
    assert all(suite.name in shown for suite in suites)
    measured = accuracies(load_for_evaluation(), COUNT, suites[::4])  # a quarter of the 20 seconds it takes
    for name, accuracy in measured.items():
        assert abs(float(shown[name][3]) - accuracy) <= ROUNDING, name


def test_every_architecture_of_the_support_table_is_in_the_zoo() -> None:
    held = {type(zoo.hugging_face(name, torch.float32)).__name__ for name in zoo.ARCHITECTURES}
    assert held == ARCHITECTURES


def test_every_public_name_in_the_text_exists() -> None:
    for name in re.findall(r"`([A-Z][A-Za-z_]+|[a-z_]+)\(", EVERYTHING):
        public = name in {*lrp_lens.__all__, *plots.__all__, *decision.__all__, *OTHERS, "Criterion"}
        assert public or hasattr(lrp_lens.RelevanceCache, name), name
    for owner, kind in OWNERS.items():
        text = PAGES["from_transformerlens"] if kind is ActivationCache else EVERYTHING
        for name in re.findall(rf"`{owner}\.([a-z_]+)", text):
            made = (
                name in ("activations", "gradients", "memory", "memory_text") and owner == "rel"
            )  # attributes of an instance
            assert made or hasattr(kind, name), f"{owner}.{name}"
    for name in re.findall(r"`((?:lrp_lens|transformer_lens)(?:\.\w+)+)", EVERYTHING):
        room, _, last = name.rpartition(".")
        assert importlib.util.find_spec(name) or hasattr(importlib.import_module(room), last), name
    (row,) = re.findall(r"^\| measure it .*", PAGES["attribution_graphs"], flags=re.MULTILINE)
    assert {*re.findall(r"`([a-z_]+)`", row)} <= {*graphs.__all__}


OTHERS = {"to_dataframe", "save", "with_floor", "print"}  # methods of a View and of a Comparison; Python
OWNERS = {"graph": lrp_lens.AttributionGraph, "rel": lrp_lens.RelevanceCache, "cache": ActivationCache}


def test_every_plot_in_the_text_exists() -> None:
    named = set(re.findall(r"\b(plot_[a-z]+|[a-z_]+_html)\b", PAGES["figures"] + README)) - {"write_html"}
    assert len(named) >= 10 and named <= set(plots.__all__)


# ------------------------------------------------------------------------- faithfulness and patching, measured
def mean(cell: str) -> float:
    """The number before ±."""
    return float(cell.partition(" ±")[0])


def of_the_demo_model(title: str) -> str:
    """A section of the page of the demo model."""
    return PAGES["demo_model"].partition(f"### {title}\n")[2].partition("\n##")[0]


def tables(text: str) -> list[dict[str, list[str]]]:
    """Every table of a section: first cell → cells."""
    return [rows(block) for block in text.split("\n\n") if block.startswith("|")]


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if ">>> " in text])
def test_examples_print_what_is_shown(page: str) -> None:
    example = doctest.DocTestParser().get_doctest(PAGES[page], {}, page, None, 0)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert runner.run(example, out=report.append).failed == 0, "".join(report)


def test_the_graph_shown_is_the_graph_made() -> None:
    text = PAGES["attribution_graphs"]
    assert len(doctest.DocTestParser().get_examples(text)) == 6  # run above
    assert "<!-- edges benchmark -->" in text or "python -m benchmarks edges" in text


def test_what_is_said_of_faithfulness_follows_from_its_tables() -> None:
    text = of_the_demo_model("Hiding words")
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
    pearsons, ranks = tables(of_the_demo_model("Agreement with activation patching"))
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
            np.testing.assert_allclose(numbers, table.loc[["RELP", "GRADIENT"], statistic], atol=0.006)


# --------------------------------------------------------------------------------------------------- circuits
def test_what_is_said_of_circuits_follows_from_their_table() -> None:
    text = PAGES["circuits"]
    (table,) = tables(of_the_demo_model("Circuits"))
    shown = {name: cells for name, cells in table.items() if name not in ("method", "---")}
    five = {name: float(cells[2]) for name, cells in shown.items()}
    assert sorted(five, key=lambda name: -five[name])[:2] == ["EAP-IG", "RELP"]
    bounds = {name: [float(n) for n in re.findall(r"[\d.]+", cells[3])] for name, cells in shown.items()}
    assert all(bounds["CP_LRP"][2] < bounds[name][1] for name in shown if name not in ("CP_LRP", "random"))
    assert all(bounds["random"][2] < bounds[name][1] for name in shown if name != "random")
    for name in re.findall(r"^(?:\w+ = )?([a-z_]+)\(", text, flags=re.MULTILINE):
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
    (table,) = tables(of_the_demo_model("Circuits"))
    for name in areas.index:
        share, cpr, cmd = (
            [float(number) for number in re.findall(r"[\d.]+", cell)] for cell in table[name][2:]
        )
        measured = points.set_index("method").loc[name, "recovered"]
        np.testing.assert_allclose(share, [measured], atol=0.0051, err_msg=name)
        np.testing.assert_allclose(cpr + cmd, areas.loc[name].to_numpy(float), atol=0.00051, err_msg=name)


@pytest.mark.full
def test_the_edge_named_is_cut_and_restored_as_said() -> None:
    (tutorial,) = [path for path in TUTORIALS if path.name.startswith("8_")]
    code = cells(tutorial, "code")
    names: dict[str, Any] = {}
    for text in (*code[:3], *[text for text in code if "necessary, sufficient =" in text]):
        exec(text, names)
    cut, restored = re.findall(
        r"(\d+) %", of_the_demo_model("Circuits").rpartition("cutting it")[2].partition("\n")[0]
    )
    assert abs(100 * names["necessary"] - int(cut)) < 1 and abs(100 * names["sufficient"] - int(restored)) < 1


# ------------------------------------------------------------------------------------------------ the manual itself
def test_readme_is_a_front_page() -> None:
    assert len(README.splitlines()) <= 150
    picture, example, install = (README.index(words) for words in ("![", "```python", "## Install"))
    assert max(picture, example) < install


def test_links_lead_to_files_that_exist() -> None:
    for page, text in {"README": README, **{f"docs/{page}": text for page, text in PAGES.items()}}.items():
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            if not target.startswith("https://"):
                assert (ROOT / page).parent.joinpath(target).is_file(), f"{page}: {target}"


def test_every_page_is_in_the_menu_and_can_be_found_from_readme() -> None:
    menu = re.findall(
        r"^ +- .*?([\w/]+)\.md$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(menu) == len(set(menu)) and {*menu} == {*PAGES, "index", "CHANGELOG"}
    linked = set(re.findall(r"\(docs/(\w+)\.md", README))
    assert linked == {page for page in PAGES if "/" not in page}


def test_python_of_the_pages_is_python_and_imports_what_there_is() -> None:
    blocks = [code for text in PAGES.values() for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]
    assert len(blocks) >= 4
    for code in blocks:
        tree = ast.parse(code)
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)):
            for name in node.names:
                assert hasattr(importlib.import_module(str(node.module)), name.name), code


def test_commands_of_the_text_exist() -> None:
    targets = set(
        re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    )
    commands = re.findall(r"(?:^    |`)make ([a-z0-9-]+)", EVERYTHING, re.MULTILINE)
    assert len(commands) >= 6 and {*commands} <= targets
    modules = re.findall(r"python -m ([\w.]+)(?: ([\w-]+))?", EVERYTHING)
    assert len(modules) >= 6
    for module, first in modules:
        assert importlib.util.find_spec(module), module
        if module == "benchmarks" and first:
            assert importlib.util.find_spec(f"benchmarks.{first}"), first
    shown = set(re.findall(r"^\| `([a-z_]+)` \|", PAGES["benchmarks"], re.MULTILINE))
    files = [*(ROOT / "benchmarks").glob("[!_]*.py"), *(ROOT / "benchmarks").glob("*/__init__.py")]
    assert shown == {path.parent.name if path.stem == "__init__" else path.stem for path in files}


def test_every_public_name_has_its_place_in_the_reference() -> None:
    pages = [text for page, text in PAGES.items() if page.startswith("api/") and page != "api/index"]
    found = [re.findall(r"^::: lrp_lens\.([\w.]+)$", text, re.MULTILINE) for text in pages]
    described = {names[0] for names in found}
    assert {room.partition(".")[0] for room in described} == {*ORDER} - NOT_FOR_USERS
    listed = re.findall(r"^\| \[`lrp_lens\.([\w.]+)`\]", PAGES["api/index"], re.MULTILINE)
    assert len(listed) == len(set(listed)) and {*listed} == described
    places = [(name, ROOT / "lrp_lens" / name.replace(".", "/")) for names in found for name in names]
    modules = [name for name, path in places if path.is_dir() or path.with_suffix(".py").is_file()]
    rooms = [importlib.import_module(f"lrp_lens.{name}") for name in modules]
    alone = {
        f"lrp_lens.{name}" for name, _ in places if name not in modules
    }  # functions with an entry of their own
    for name in lrp_lens.__all__:
        value = getattr(lrp_lens, name)
        of_a_room = value in rooms or any(getattr(room, name, None) is value for room in rooms)
        full = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', name)}"
        assert of_a_room or name in ROOMS or full in alone, name


NOT_FOR_USERS = {
    "checks",
    "extras",
    "progress",
    "characters",
    "files",
    "markup",
    "cli",
}  # the command is described in docs/explain.md
ROOMS = {"attribution_graphs"}  # its two halves have a page each


def test_what_is_said_of_rules_is_what_was_measured() -> None:
    """README's texts between marks, and the committed tables, are made of the committed rows."""
    store = Store(RESULTS)
    said = front(store)
    for mark, text in said.items():
        assert f"<!-- {mark} -->{text}<!-- end of {mark} -->" in README, mark
    assert f"| {lrp_lens.DEFAULT_RULES.name} |" in said["evidence"].splitlines()[3]
    measured = (RESULTS / "tables.md").read_text(encoding="utf-8")
    rows = {part: store.every(part) for part in PARTS}
    tokens, decision = rows["tokens"], decide(rows["tokens"], store.every("rules"))
    assert decision.chosen == lrp_lens.DEFAULT_RULES.name
    for table in (
        recommendation_table(rows, decision),
        decision_table(decision, tokens),
        evidence_tables.token_differences(tokens, "ATTN_LRP", RULES),
        evidence_tables.task_table(tokens),
        evidence_tables.component_table(rows["components"], "spearman"),
        evidence_tables.share_table(rows["shares"]),
    ):
        assert table in measured
    by_task = tokens.groupby(["model", "task", "method"])["delta_a"].mean().unstack()
    failing = by_task.loc["gemma3-270m", "indirect objects"]
    assert (
        f"{failing['ATTN_LRP']:.2f}, random {failing['random']:.2f}; 10 prompts".replace("-", "−") in README
    )
    gemma = by_task.loc["gemma3-270m"]
    assert ((gemma["RELP"] < gemma["random"]) & (gemma["RELP"] < 0)).sum() == 4
    assert "did worse than random on four of ten tasks" in README
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    ahead = (by_task["RELP_FROZEN_PATTERN"] > by_task["ATTN_LRP"]).sum()
    assert f"in {ahead} of {len(by_task)} pairs of model and task" in page
    apart = decision_table(decision, tokens).rpartition("\n\n")[2].splitlines()
    failures = {line.split(" | ")[0].strip("| "): line.split(" | ")[2] for line in apart[2:]}
    assert "[-" in failures["RELP_CONSERVING"] and "+" in failures["RELP_CONSERVING"].partition("[")[2]
    assert "contains 0 (the tables have both apart)" in page


def test_ranks_say_where_gradients_are_ahead_on_every_model() -> None:
    def of(first: dict[tuple[str, str], str]) -> str:
        return ranks(
            pd.DataFrame(
                {
                    "model": model,
                    "site": site,
                    "method": method,
                    "spearman": float(method == first[model, site]),
                }
                for model, site in first
                for method in ("GRADIENT", "RELP", "no rule set")
            )
        )

    every = {(model, site): "GRADIENT" for model in MODELS for site in ("mlp_out", "attn_head_q_all_pos")}
    assert "at MLP outputs and queries, on every model" in of(every)
    every["smollm2", "mlp_out"] = "RELP"
    assert "every rule set at queries, on every model" in of(every)
    every["gemma3-270m", "attn_head_q_all_pos"] = "RELP"
    assert "plain gradients are ahead of every rule set at no site of every model." in of(every)


def test_what_is_said_of_the_length_of_prompts() -> None:
    files = [pd.read_csv(path, comment="#") for path in RESULTS.glob("tokens--*--held-out*.csv")]
    longest = max(one["tokens"].max() for one in files)
    assert f"English prompts of at most {longest} tokens that can be hidden" in README
