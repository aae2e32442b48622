"""What analyses return shows itself in a notebook and draws itself: every class that a public function returns."""

import importlib
import inspect
import typing
from typing import Any

import numpy as np
import pytest

import lrp_lens
from lrp_lens import InputError, LogitDiff, View
from lrp_lens.attribution_graphs.arrays import cluster_profiles, graph_difference, principal_components
from lrp_lens.circuits import run_circuits
from lrp_lens.patching import patch_subsets

ROOMS = (
    "circuits", "patching", "masking", "failures", "failures.decision", "failures.logs", "failures.triage",
    "failures.verification", "methods", "decomposition", "attribution_graphs", "attribution_graphs.arrays", "run",
    "rules", "cases",
)  # fmt: skip
NO_RESULTS = {
    "AtPStar": "an input of the twins", "PatchingPass": "an input of the twins", "Case": "a question",
    "CaseLog": "a reader of files", "ComponentGraph": "the shape of circuits", "Hook": "part of a rule",
    "Method": "an input", "RuleSet": "an input, printed as it is typed", "TokenBatch": "an input",
    "TriageRow": "a line of a table", "Verdict": "part of a decision",
}  # fmt: skip
NO_FIGURE = {
    "Coverage": "words", "Decision": "words", "Estimate": "a handful of sizes", "Generation": "its table is shaded",
    "Html": "drawn", "SubsetEffects": "draws behind a bound", "Triage": "`lrp-lens report` draws it",
    "Verification": "`save('page.html')` draws it",
}  # fmt: skip
METRIC = LogitDiff("mary", "john")
TEXTS = [f"then mary and john went to the {place} . john gave the key to" for place in ("park", "garden")]
OTHERS = [text.replace("john gave", "mary gave") for text in TEXTS]


def returned() -> set[type]:
    """The classes of the package that its public functions return."""
    known = {name: getattr(lrp_lens, name) for name in lrp_lens.__all__}
    found: set[type] = set()

    def enter(hint: Any) -> None:
        if isinstance(hint, type) and hint.__module__.startswith("lrp_lens"):
            found.add(hint)
        for inner in typing.get_args(hint):
            enter(inner)

    for room in [lrp_lens, *(importlib.import_module(f"lrp_lens.{name}") for name in ROOMS)]:
        for name in getattr(room, "__all__", ()):
            if inspect.isfunction(function := getattr(room, name)):
                enter(typing.get_type_hints(function, localns=known).get("return"))
    return found


def test_what_analyses_return_shows_and_draws_itself() -> None:
    results = {one.__name__: one for one in returned()}
    assert {*NO_RESULTS, *NO_FIGURE} <= results.keys() and len(results) > 30
    for name, kind in results.items():
        assert hasattr(kind, "_repr_html_") == (name not in NO_RESULTS), name
        assert hasattr(kind, "plot") == (name not in {*NO_RESULTS, *NO_FIGURE}), name


def test_circuits_and_their_values_show_and_draw_themselves() -> None:
    model = lrp_lens.load_demo_model(device="cpu")
    circuit = lrp_lens.component_edges(model, TEXTS, OTHERS, METRIC, rules="RELP").top(9)
    values = run_circuits(model, [circuit, circuit.complement()], TEXTS, OTHERS, METRIC)
    assert values.to_dataframe()["edges"].tolist() == values.sizes.tolist()
    bars = values.plot().data[0]
    assert sorted(bars.x if bars.orientation == "h" else bars.y) == pytest.approx(sorted(values.recovered))
    heat = next(one for one in circuit.plot().data if one.type == "heatmap" and one.hoverinfo != "skip")
    assert np.nansum(heat.z) == len(circuit) == 9
    assert "<table" in values._repr_html_() and circuit.edges[0][0] in circuit._repr_html_()
    hostile = type(circuit)(circuit.graph, circuit.mask, "<b>mine</b>")
    assert "&lt;b&gt;mine" in hostile._repr_html_() and "<b>mine" not in hostile._repr_html_()


def test_graphs_side_by_side_and_profiles_show_and_draw_themselves() -> None:
    model = lrp_lens.load_demo_model(device="cpu")
    graphs = [lrp_lens.attribution_graph(model, TEXTS[0], METRIC, rules=one) for one in ("RELP", "CP_LRP")]
    change = graph_difference(*graphs)
    assert change.plot() == change.nodes.plot() and "<table" in change._repr_html_()
    assert f"{len(change.edges)} edges" in repr(change)
    profiles = View(np.array([[0.0, 1, 2], [0, 1, 2.5], [2, 1, 0]]), ("batch", "layer"))
    groups, axes = cluster_profiles(profiles, 2), principal_components(profiles, 1)
    assert [one.y.tolist() for one in groups.plot().data] == groups.centres.values.tolist()
    assert axes.plot().data[0].y.tolist() == axes.directions.values[0].tolist()
    assert "[2, 1] profiles" in repr(groups) and "3 profiles" in repr(axes)
    assert "<table" in groups._repr_html_() and "PC1" in axes._repr_html_()


def test_passes_records_and_draws_show_and_draw_themselves() -> None:
    model = lrp_lens.load_demo_model(device="cpu")
    _, rel = lrp_lens.run_with_relevance(model, TEXTS[0], METRIC)
    assert rel.plot(palette="lrp") == rel.tokens().plot(palette="lrp")
    record, bad = lrp_lens.relevance_over(model, [TEXTS[0], [1, 10**6]], METRIC, views=("tokens", "heads"))
    assert record.plot() == record.views["tokens"].plot() and record.plot("heads").data[0].type == "heatmap"
    assert METRIC.target[0] in record._repr_html_() and type(bad.error).__name__ in bad._repr_html_()
    with pytest.raises(InputError, match="holds the views tokens, heads; received 'neurons'"):
        record.plot("neurons")
    with pytest.raises(InputError, match="holds the views none; received ''"):
        bad.plot()
    draws = patch_subsets(model, TEXTS, OTHERS, METRIC, site="mlp_out", draws=3)
    assert draws.to_dataframe()["effect"].tolist() == draws.effects.tolist()
    assert "3 draws of 60 cells" in repr(draws) and "3 draws of 60 cells" in draws._repr_html_()
    assert "16 tokens" in lrp_lens.estimate(model, 16)._repr_html_()
