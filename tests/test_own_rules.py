"""Rules of one's own: every analysis is right under them, or refuses and names rule, question and analysis."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lrp_lens import (
    ATTN_LRP,
    CP_LRP,
    RELP,
    AttentionWeights,
    FrozenNorm,
    InputError,
    RuleError,
    SiteError,
    attribution_graph,
    component_edges,
    coverage,
    decompose,
    faithfulness,
    run_with_relevance,
)
from lrp_lens.hosts import resolve
from lrp_lens.hosts.sites import AttentionSite, NormSite
from lrp_lens.methods import as_method
from lrp_lens.patching import get_lrp_patch_mlp_out, patching_pass
from lrp_lens.rules import AttentionRule, Hook, NormRule, SoftmaxRule, as_rule_set, scaled
from lrp_lens.rules.softmax import plain_softmax
from lrp_lens.run.cache import RelevanceCache
from tests import oracles, zoo
from tests.every_analysis import EVERYTHING, METRIC, TIGHT, check_every_analysis
from tests.oracles import component_edges as edge_oracle

HOSTS = ["bridge", *(["hooked"] if zoo.HAS_HOOKED_TRANSFORMER else [])]
DOC = Path(__file__).parent.parent / "docs" / "write_your_own_rule.md"


# ------------------------------------------------------------------------------- a norm rule, twice
class Mute(FrozenNorm):
    """Half of the LN-rule's gradient by hooks, and no answers."""

    def hooks(self, site: NormSite) -> tuple[Hook, ...]:
        port = site.normalized or site.output
        assert port is not None
        return (*super().hooks(site), *scaled(port, 0.5, stage="replace"))


@dataclass(frozen=True)
class Halved(NormRule):
    """The same, by its answers alone."""

    def conserves(self, site: NormSite) -> bool:
        return False

    def transpose(self, site: NormSite, x: Tensor, gradient: Tensor) -> Tensor:
        return FrozenNorm().transpose(site, x, gradient) / 2

    def derivative(self, site: NormSite, x: Tensor, direction: Tensor) -> Tensor:
        return FrozenNorm().derivative(site, x, direction) / 2

    def kept(self, site: NormSite, x: Tensor) -> Tensor:
        return torch.full_like(x[..., :1], 0.5)


MUTE, HALVED = RELP.replace(norm=Mute(), name="MUTE"), RELP.replace(norm=Halved(), name="HALVED")


def halve(monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the LN-rule's coefficient, halved."""
    from tests.oracles import attention, recursion

    def through(normalized: Tensor, scale: Tensor, c: Tensor, *, centred: bool, freeze: bool) -> Tensor:
        c = c / (2 * scale)
        return c - c.mean(-1, keepdim=True) if centred else c

    monkeypatch.setattr(recursion, "through_norm", through)
    monkeypatch.setattr(attention, "through_norm", through)


# ------------------------------------------------------------------------------- every analysis
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "gemma2", "olmo2"])
def test_every_analysis_is_right_under_a_rule_of_ones_own(
    host: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = zoo.prompt_tokens(1, 9)
    with zoo.float64_throughout():
        model = getattr(zoo, host)(name)
        check_every_analysis(model, HALVED)
        _, cache = run_with_relevance(model, tokens, METRIC, rules=HALVED)
        _, mute = run_with_relevance(model, tokens, METRIC, rules=MUTE)
        weights = oracles.from_hugging_face(zoo.hugging_face(name))
    halve(monkeypatch)
    matrix = torch.zeros(9, 97, dtype=torch.float64)
    matrix[-1, 3], matrix[-1, 7] = 1, -1
    answer = oracles.compute_relevance(weights, tokens[0], matrix, "RELP")
    largest = max(value.abs().max() for value in answer.relevance.values())
    for key, expected in answer.relevance.items():
        for found in (cache, mute):
            if key in found:
                difference = (found[key].reshape(expected.shape) - expected).abs().max()
                assert difference < 1e-8 * largest, key


@pytest.mark.skipif(not zoo.HAS_HOOKED_TRANSFORMER, reason="needs HookedTransformer")
def test_component_edges_under_a_rule_of_ones_own_one_at_a_time() -> None:
    model, tokens = zoo.hooked("gpt2"), zoo.prompt_tokens(1, 9)
    expected = edge_oracle.edges(model, tokens, None, METRIC, MUTE)
    edges = component_edges(model, tokens, metric=METRIC, rules=HALVED)
    for (writer, reader), value in expected.items():
        assert edges.edge(writer, reader) == pytest.approx(value.sum().item(), abs=1e-9)


@pytest.mark.parametrize("host", HOSTS)
def test_what_a_rule_does_not_answer_is_refused_by_name(
    host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Hooks alone run; an analysis that asks more refuses before any work."""
    model, tokens = getattr(zoo, host)("gpt2"), zoo.prompt_tokens(1, 9)
    _, cache = run_with_relevance(model, tokens, METRIC, rules=MUTE)
    whole = attribution_graph(model, tokens, METRIC, rules=HALVED, **EVERYTHING)
    packed = attribution_graph(model, tokens, METRIC, rules=MUTE, method="batch_packed", **EVERYTHING)
    np.testing.assert_allclose(packed.matrix(0, 1), whole.matrix(0, 1), atol=1e-9)
    parts = decompose(model, tokens, METRIC, rules=MUTE)
    assert parts.direct.sum() == pytest.approx(parts.metric[0], abs=1e-9)
    cache.save(tmp_path / "cache.safetensors")  # without the ledger, which it cannot close
    again = RelevanceCache.load(tmp_path / "cache.safetensors")
    assert torch.equal(again["hook_embed"], cache["hook_embed"])

    def no_work(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a refusal comes before any work")

    for room in ("run.whole", "run.blocks", "run.plain"):
        monkeypatch.setattr(f"lrp_lens.{room}.forward", no_work)
    calls: dict[str, tuple[Callable[[], object], str]] = {
        "the ledger": (cache.ledger, "conserves"),
        "attribution_graph": (lambda: attribution_graph(model, tokens, METRIC, rules=MUTE), "conserves"),
        "component_edges": (lambda: component_edges(model, tokens, metric=METRIC, rules=MUTE), "transpose"),
    }
    for analysis, (call, question) in calls.items():
        with pytest.raises(
            RuleError, match=rf"Mute\) cannot say .*which {analysis} asks at L0 ln1"
        ) as caught:
            call()
        error = caught.value
        assert (error.rule, error.question, error.analysis) == (MUTE.norm, question, analysis)


def test_a_class_that_acts_otherwise_does_not_inherit_answers() -> None:
    class Renamed(FrozenNorm):
        def __str__(self) -> str:
            return "renamed"

    class Again(Mute):
        def conserves(self, site: NormSite) -> bool:
            return False

    questions = ("conserves", "transpose", "derivative", "kept")
    assert all(Renamed().answers(one) for one in questions)
    assert not any(Mute().answers(one) for one in questions)
    assert [one for one in questions if Again().answers(one)] == ["conserves"]
    assert Mute().cuts(None) == frozenset()

    class Half(AttentionWeights):
        def hooks(self, site: AttentionSite) -> tuple[Hook, ...]:
            return scaled(site.v, 0.5)

    assert Half(0, 0, 1).reaches_pattern and not Half(0, 0, 1).answers("row_gradients")
    with pytest.raises(RuleError, match="cannot say which hooks make it act") as caught:
        RELP.replace(attention=type("Silent", (AttentionRule,), {})()).hooks(zoo.bridge("gpt2"))
    assert caught.value.question == "hooks"


@pytest.mark.parametrize("host", HOSTS)
def test_wrong_answers_are_noticed(host: str) -> None:
    model, tokens = getattr(zoo, host)("gpt2"), zoo.prompt_tokens(1, 9)

    lie = FrozenNorm()

    class Liar(Halved):
        def hooks(self, site: NormSite) -> tuple[Hook, ...] | None:
            return Halved().hooks(site)

        conserves, transpose, derivative, kept = (
            lambda self, *a: lie.conserves(*a),
            lambda self, *a: lie.transpose(*a),
            lambda self, *a: lie.derivative(*a),
            lambda self, *a: lie.kept(*a),
        )

    rules = RELP.replace(norm=Liar(), name="LIAR")
    with pytest.raises(RuleError, match=r"Liar\) answers `transpose` otherwise than its hooks act"):
        component_edges(model, tokens, metric=METRIC, rules=rules)
    with pytest.raises(SiteError, match=r"rule of your own answer otherwise[\s\S]*LIAR"):
        attribution_graph(model, tokens, METRIC, rules=rules)
    assert run_with_relevance(model, tokens, METRIC, rules=rules)[1].ledger().relative_remainder > 0.1


@pytest.mark.parametrize("host", HOSTS)
def test_hooks_outside_their_site_are_refused(host: str) -> None:
    model = getattr(zoo, host)("gpt2")
    far = resolve(model).embedding

    class Far(FrozenNorm):
        def hooks(self, site: NormSite) -> tuple[Hook, ...]:
            return scaled(far, 0.5)

    class Late(FrozenNorm):
        def hooks(self, site: NormSite) -> tuple[Hook, ...]:
            return scaled(site.output, 0.5) if site.output else scaled(far, 0.5)

    for rule in (Far(), Late()):
        with pytest.raises(RuleError, match="A rule acts inside its site") as caught:
            RELP.replace(norm=rule).hooks(model)
        assert caught.value.rule is rule


# ------------------------------------------------------------------------------- the documented example
def test_the_documented_rule_runs_and_is_its_formula(monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", DOC.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {"__name__": "own_rule"}
    exec(compile(code, str(DOC), "exec"), names)
    assert names["ledger"].relative_remainder < 1e-5
    assert names["parts"].direct.sum() == pytest.approx(names["parts"].metric[0], abs=1e-4)
    assert (
        names["graph"].balance()["remainder"].abs().max() < 1e-4 * np.abs(names["graph"].node_relevance).max()
    )
    assert "RELP_TRAPEZOID" in str(names["trust"]) and names["patches"].shape == (4, 15)
    assert "RELP_TRAPEZOID" in names["edges"].method
    rule = names["TrapezoidSoftmax"]()
    from tests.oracles import attention

    def at_both_ends(logits: Tensor, sinks: Tensor | None, c: Tensor, rules: Any) -> tuple[Tensor, Tensor]:
        """Half of J(S) and half of J(0)."""
        total, at_sink = torch.zeros_like(c), torch.zeros_like(c[..., 0])
        for same in (False, True):
            ends = torch.where(logits.isfinite(), 0.0, logits) if same else logits
            p, s = attention.softmax_with_sink(
                ends, 0 * sinks if same and sinks is not None else sinks, temperature=1
            )
            mean = (p * c).sum(-1)
            total, at_sink = total + p * (c - mean[..., None]) / 2, at_sink - s * mean / 2
        return total, at_sink

    monkeypatch.setattr(attention, "_through_attention_softmax", at_both_ends)
    matrix, tokens = torch.zeros(9, 97, dtype=torch.float64), zoo.prompt_tokens(1, 9)
    matrix[-1, 3], matrix[-1, 7] = 1, -1
    for name in ("gpt2", "gpt_oss", "gemma2"):
        with zoo.float64_throughout():
            model = zoo.bridge(name)
            rules = RELP.replace(softmax=rule, name="RELP_TRAPEZOID")
            _, cache = run_with_relevance(model, tokens, METRIC, rules=rules)
            if name != "gemma2":
                check_every_analysis(model, rules)
            weights = oracles.from_hugging_face(zoo.hugging_face(name))
        answer = oracles.compute_relevance(weights, tokens[0], matrix, "RELP")
        largest = max(value.abs().max() for value in answer.relevance.values())
        for key in ("hook_embed", "blocks.0.attn.hook_q", "blocks.1.attn.hook_k"):
            difference = (cache[key].reshape(answer.relevance[key].shape) - answer.relevance[key]).abs().max()
            assert difference < TIGHT * largest, (name, key)


def test_padding_and_low_precision_under_a_rule_of_ones_own() -> None:
    @dataclass(frozen=True)
    class Same(SoftmaxRule):
        def conserves(self, site: AttentionSite) -> bool:
            return False

        def at_scores(self, rows: Any, gradient: Tensor) -> Tensor:
            return plain_softmax(rows, gradient)

    rules = RELP.replace(softmax=Same(), name="SAME")
    for host in HOSTS:
        model = getattr(zoo, host)("gpt2")
        ids = zoo.prompt_tokens(1, 9)[0]
        for side in ("left", "right"):
            found, expected = (
                run_with_relevance(model, [ids, ids[:5]], METRIC, rules=one, padding_side=side)[1][
                    "hook_embed"
                ]
                for one in (rules, RELP)
            )
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-7)
        half = getattr(zoo, host)("gpt2", torch.bfloat16)
        for one in (rules, HALVED):
            logits, cache = run_with_relevance(half, ids, METRIC, rules=one)
            assert torch.equal(logits, half(ids[None])) and bool(torch.isfinite(cache["hook_embed"]).all())


# ------------------------------------------------------------------------------- rule sets by name
def test_every_entry_takes_names_of_rule_sets() -> None:
    model, tokens = zoo.bridge("gpt2"), zoo.prompt_tokens(1, 9)
    for spelling in ("ATTN_LRP", "attn-lrp", "AttnLRP", "attn lrp"):
        assert as_rule_set(spelling) is ATTN_LRP
    assert as_rule_set(CP_LRP) is CP_LRP
    entries: dict[str, Callable[[Any], Any]] = {
        "run": lambda rules: run_with_relevance(model, tokens, METRIC, rules=rules)[1].tokens().values,
        "decompose": lambda rules: decompose(model, tokens, METRIC, rules=rules).total,
        "graph": lambda rules: attribution_graph(model, tokens, METRIC, rules=rules).node_relevance,
        "edges": lambda rules: component_edges(model, tokens, metric=METRIC, rules=rules).values,
        "patching": lambda rules: patching_pass(model, tokens, METRIC, rules=rules).gradients[
            "blocks.0.hook_mlp_out"
        ],
        "twin": lambda rules: get_lrp_patch_mlp_out(
            model, tokens, tokens.flip(1), METRIC, rules=rules
        ).numpy(),
        "coverage": lambda rules: np.array(str(coverage(model, rules))),
    }
    for name, entry in entries.items():
        np.testing.assert_array_equal(entry("relp"), entry(RELP), err_msg=name)
        with pytest.raises(RuleError, match=r"rules is a RuleSet, or one of .*'REPL'\. Did you mean 'RELP'"):
            entry("REPL")
    found = faithfulness(model, [tokens[0]], methods=["cp-lrp"], metric=METRIC, steps=1, progress=False)
    assert "CP_LRP" in str(found)
    with pytest.raises(InputError, match=r"received 'cplpr'\. Did you mean 'CP_LRP'"):
        faithfulness(model, [tokens[0]], methods=["cplpr"], metric=METRIC)
    assert as_method("attn-lrp").name == "ATTN_LRP"
    with pytest.raises(InputError, match=r"received 'ATPSTR'\. Did you mean 'ATP_STAR'"):
        as_method("ATPSTR")
    for rules in (None, 3, "", "magic"):
        with pytest.raises(RuleError, match="rules is a RuleSet, or one of ATTN_LRP"):
            as_rule_set(rules)
