"""The default rule set is one constant, every analysis follows it, and every result names its rules."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

import lrp_lens
from lrp_lens import (
    CP_LRP,
    DEFAULT_RULES,
    PRESETS,
    RELP,
    RELP_FROZEN_PATTERN,
    FrozenPattern,
    LogitDiff,
    Plain,
    RelevanceCache,
    RuleError,
    RuleSet,
    attribution_graph,
    component_edges,
    decompose,
    explain,
    graph_html,
    load_demo_model,
    run_with_relevance,
    suggest_rules,
)
from lrp_lens.cli.options import RULES
from lrp_lens.cli.terminal import print_explanation
from lrp_lens.hosts import resolve
from lrp_lens.patching.compare import CANDIDATES, DEFAULT_METHODS
from lrp_lens.report.explanation import explanation_html
from lrp_lens.rules import conserving

PROMPT = "then mary and john went to the park . john gave the key to"
METRIC = LogitDiff("mary", "john")
PACKAGE = Path(lrp_lens.__file__).parent
NAMED_FOR_THEIR_RULES = {"methods", "patching"}
"""Rooms whose methods mean one rule set: attribution patching is GRADIENT, relevance patching RELP."""


def defaults(source: str) -> Iterator[str]:
    """What parameters and fields named `rules` are by default."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            given = node.args
            places = [*given.posonlyargs, *given.args]
            pairs = [*zip(reversed(places), reversed(given.defaults), strict=False)]
            pairs += zip(given.kwonlyargs, given.kw_defaults, strict=True)
            yield from (
                ast.unparse(value) for one, value in pairs if one.arg == "rules" and value is not None
            )
        elif isinstance(node, ast.AnnAssign) and node.value and ast.unparse(node.target) == "rules":
            yield ast.unparse(node.value)


def test_one_constant_decides() -> None:
    found = {
        path.relative_to(PACKAGE): [*defaults(path.read_text("utf-8"))] for path in PACKAGE.rglob("*.py")
    }
    verified = ("failures", "verification")  # its criterion was chosen under the rules that it names
    found.pop(
        Path("failures/triage/row.py")
    )  # the name of the rules in a row, "" where nothing was explained
    named = {
        path: words
        for path, words in found.items()
        if path.parts[0] not in NAMED_FOR_THEIR_RULES and path.parts[:2] != verified
    }
    assert sum("DEFAULT_RULES" in words for words in named.values()) >= 5
    assert {word for words in named.values() for word in words} <= {"DEFAULT_RULES", "None"}
    assert [*defaults("def f(a, rules=RELP, *, b=1): ...\nrules: str = 'relp'")] == ["RELP", "'relp'"]


def test_every_public_analysis_follows_and_shows_it() -> None:
    doors = ("run_with_relevance", "decompose", "attribution_graph", "component_edges", "explain")
    for name in doors:
        signature = inspect.signature(getattr(lrp_lens, name))
        assert signature.parameters["rules"].default is DEFAULT_RULES
        assert f"RuleSet | str = {DEFAULT_RULES.name}," in str(signature)
    assert DEFAULT_RULES is PRESETS[DEFAULT_RULES.name] and DEFAULT_RULES.name in DEFAULT_METHODS
    assert inspect.signature(suggest_rules).parameters["candidates"].default is CANDIDATES
    assert {rules.name for rules in CANDIDATES} < {*DEFAULT_METHODS} and DEFAULT_RULES in CANDIDATES
    assert len(set(CANDIDATES)) == len(CANDIDATES)


def test_the_help_of_the_command_tells_it() -> None:
    names = [name.lower().replace("_", "-") for name in PRESETS]
    assert RULES[0] == DEFAULT_RULES.name.lower().replace("_", "-") and sorted(RULES) == sorted(names)


def test_no_rule_set_is_chosen_for_the_user() -> None:
    with pytest.raises(RuleError, match=r"rules is a RuleSet, or one of .*received 'auto'"):
        run_with_relevance(load_demo_model(device="cpu"), PROMPT, METRIC, rules="auto")


@pytest.mark.parametrize("rules", [None, CP_LRP.replace(name="OWN_RULES")], ids=["default", "own"])
def test_every_result_names_its_rules(rules: RuleSet | None, tmp_path: Path) -> None:
    model, given = load_demo_model(device="cpu"), {} if rules is None else {"rules": rules}
    name = DEFAULT_RULES.name if rules is None else rules.name
    _, cache = run_with_relevance(model, PROMPT, METRIC, **given)
    cache.save(tmp_path / "cache")
    tokens, parts = cache.tokens(), decompose(model, PROMPT, METRIC, **given)
    graph = attribution_graph(model, PROMPT, METRIC, **given)
    edges = component_edges(model, PROMPT, metric=METRIC, **given)
    told = explain(model, PROMPT, "mary", "john", **given)
    console = Console(record=True, width=200)
    print_explanation(told, console)
    views = [tokens, cache.layers(), cache.heads(), cache.components(), tokens.by("word"), tokens.normalise()]
    views += [cache.heads().sum("head"), cache.segments({"first": (0, 4)}), parts.cumulative(), edges.view()]
    results = [cache, RelevanceCache.load(tmp_path / "cache"), *views, parts, graph, edges, told]
    for result in results:
        assert name in repr(result) and name in result._repr_html_(), type(result)
    assert name in str(cache.ledger()) and name in graph_html(graph) and told.to_json_dict()["rules"] == name
    assert name in console.export_text().partition("Prompt")[0]
    assert name in explanation_html(told).partition('class="prompt"')[0].rpartition("eyebrow")[2]
    others = {*PRESETS} - {name, conserving(resolve(model))}  # a caution names the rule set that conserves
    assert not [one for one in others for result in results if re.search(rf"RuleSet {one}\b", repr(result))]


@pytest.mark.parametrize(
    ("rules", "constant"),
    [
        (CP_LRP, True),
        (RELP_FROZEN_PATTERN, True),
        (RELP.replace(name="by the pattern", attention=FrozenPattern()), True),
        (RELP, False),
        (CP_LRP.override(layers=[1], attention=Plain()), False),
    ],
    ids=lambda one: getattr(one, "name", ""),
)
def test_what_sees_no_queries_and_keys_says_so(rules: RuleSet, constant: bool) -> None:
    """The note stands exactly where nothing flows there."""
    model = load_demo_model(device="cpu")
    edges = component_edges(model, PROMPT, metric=METRIC, rules=rules)
    into = [reader.kind in ("q", "k") for reader in edges.graph.readers]
    assert (not edges.arriving[:, into].any()) == ("no edges into q and k" in repr(edges)) == constant
    graph = attribution_graph(model, PROMPT, METRIC, rules=rules, mass=1.0, node_threshold=0.0)
    looked = [name.endswith((" K", " Q")) for name in graph.parts]
    assert (
        any(looked)
        and (not graph.part_values[:, looked].any()) == ("no K and Q edges" in repr(graph)) == constant
    )
