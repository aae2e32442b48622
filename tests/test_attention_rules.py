"""The secant softmax and the conserving attention: the formula in loops, what they conserve, edges, hosts, limits."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_lens import (
    GIM,
    PRESETS,
    RELP,
    RELP_FROZEN_PATTERN,
    VARIANTS,
    AttentionWeights,
    ConservingAttention,
    Plain,
    RuleSet,
    SecantSoftmax,
    SiteError,
    TemperedSoftmax,
    run_with_relevance,
)
from lrp_lens.patching import patching_pass
from lrp_lens.rules import AttentionRows, SoftmaxRows, as_rule_set
from lrp_lens.rules.softmax import plain_softmax
from tests import oracles, zoo
from tests.every_analysis import METRIC, TIGHT, check_every_analysis
from tests.oracles.rules import conserving_values, legendre_nodes, secant_softmax

KINDS = ("gpt2", "llama", "qwen3", "gemma2", "bloom", "gpt_oss")
"""Biases, grouped keys, QK-norm, soft-cap and window, ALiBi, window and sink."""
OTHER_KINDS = ("gemma3", "mistral", "mixtral")
"""QK-norm with windows of some layers, a window, experts: in the second tier."""
EVERY_KIND = pytest.mark.parametrize(
    ("host", "name"),
    [
        pytest.param(
            host,
            name,
            marks=[pytest.mark.full] * (name in OTHER_KINDS or (host == "hooked" and name != "gpt2")),
        )
        for host, name in zoo.models("hooked", "bridge")
        if name in KINDS + OTHER_KINDS
    ],
)
CONSERVING, CONSERVING_SECANT, SECANT_HALF = (
    VARIANTS[name] for name in ("RELP_CONSERVING", "RELP_CONSERVING_SECANT", "RELP_SECANT_QK_HALF")
)

OF_ATTENTION = {RELP_FROZEN_PATTERN.name: RELP_FROZEN_PATTERN} | VARIANTS
"""RELP with other ways through attention."""


def metric_matrix() -> Tensor:
    matrix = torch.zeros(9, zoo.D_VOCAB, dtype=torch.float64)
    matrix[-1, 3], matrix[-1, 7] = 1.0, -1.0
    return matrix


def answer_of(host: str, name: str, rules: Any) -> Any:
    if host == "hooked":
        weights = oracles.from_hooked_transformer(zoo.shared("hooked", name))
    else:
        weights = oracles.from_hugging_face(zoo.hugging_face(name))
    return oracles.compute_relevance(weights, zoo.prompt_tokens(1, 9)[0], metric_matrix(), rules)


def disagreement(cache: Any, answer: Any) -> float:
    """Largest difference at any shared hook point, relative to the largest relevance."""
    shared = [name for name in answer.relevance if name in cache]
    assert "blocks.0.attn.hook_q" in shared and "hook_embed" in shared
    scale = max(value.abs().max() for value in answer.relevance.values())
    errors = [(cache[n].reshape(answer.relevance[n].shape) - answer.relevance[n]).abs().max() for n in shared]
    return float(max(errors) / scale)


def run(model: Any, rules: RuleSet, tokens: Any = None) -> Any:
    return run_with_relevance(
        model, zoo.prompt_tokens(1, 9) if tokens is None else tokens, METRIC, rules=rules
    )


# ------------------------------------------------------------------------------- the formula, in loops
@EVERY_KIND
def test_every_variant_is_its_formula_and_no_other(host: str, name: str) -> None:
    with zoo.float64_throughout():
        model = zoo.shared(host, name)
        plain = model(zoo.prompt_tokens(1, 9))
        answers = {key: answer_of(host, name, key) for key in OF_ATTENTION}
        for key, rules in OF_ATTENTION.items():
            logits, cache = run(model, rules)
            assert torch.equal(logits, plain)
            for other, answer in answers.items():
                error = disagreement(cache, answer)
                assert error < 1e-10 if other == key else error > 1e-3, (key, other)
            assert cache.ledger().relative_remainder < TIGHT, key


@EVERY_KIND
def test_logits_are_bit_identical(host: str, name: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        model = zoo.shared(host, name, dtype)
        plain = model(zoo.prompt_tokens(1, 9))
        for rules in (SECANT_HALF, CONSERVING, CONSERVING_SECANT):
            logits, cache = run(model, rules)
            assert torch.equal(logits, plain), rules.name
            assert all(bool(torch.isfinite(cache[point]).all()) for point in cache), rules.name


# ------------------------------------------------------------------------------- what is conserved
@EVERY_KIND
def test_queries_keys_and_values_receive_what_z_held(host: str, name: str) -> None:
    """In every group of heads and every layer; ALiBi takes its part, as biases do."""
    with zoo.float64_throughout():
        for rules in (CONSERVING, CONSERVING_SECANT):
            _, cache = run(zoo.shared(host, name), rules)
            rows = {row.name for row in cache.ledger().rows if row.kind == "softmax"}
            assert rows == ({"ALiBi"} if name == "bloom" else set())
            for layer in range(zoo.N_LAYERS):
                z, q, k, v = (cache[part, layer].sum(dim=(0, 1, 3)) for part in "zqkv")
                z, q = (one.unflatten(0, (len(v), -1)).sum(1) for one in (z, q))
                error = float((z - q - k - v).abs().max() / z.abs().max())
                assert error > 1e-4 if name == "bloom" else error < TIGHT
        _, lossy = run(zoo.shared(host, name), VARIANTS["RELP_QK_QUARTER"])
        assert any(row.kind == "softmax" and abs(row.amount).max() > 1e-4 for row in lossy.ledger().rows)


@pytest.mark.parametrize("name", zoo.BIAS_FREE_NAMES)
def test_tokens_hold_the_whole_metric_in_a_model_without_biases(name: str) -> None:
    model = zoo.shared("native", name)
    for rules in (RELP_FROZEN_PATTERN, CONSERVING, CONSERVING_SECANT, conserving_of(1), conserving_of(0.5)):
        _, cache = run(model, rules)
        inputs = sum(cache[point].sum() for point in ("hook_embed", "hook_pos_embed") if point in cache)
        assert abs(float(inputs - cache.metric_value[0])) < TIGHT, rules.name
        assert not cache.ledger().rows or all(abs(row.amount).max() < TIGHT for row in cache.ledger().rows)


def conserving_of(part: float) -> RuleSet:
    return RELP.replace(name=f"conserving {part}", attention=ConservingAttention(part))


# ------------------------------------------------------------------------------- every analysis
@EVERY_KIND
@pytest.mark.parametrize(
    "rules",
    [
        (SECANT_HALF, CONSERVING_SECANT),
        pytest.param((CONSERVING, VARIANTS["RELP_SECANT"]), marks=pytest.mark.full),
    ],
    ids=lambda rules: " ".join(one.name for one in rules),
)
def test_every_analysis_is_right(host: str, name: str, rules: tuple[RuleSet, ...]) -> None:
    """Ledger, decomposition, edges of states (closed form = definition) and of components, patching, faithfulness."""
    with zoo.float64_throughout():
        for one in rules:
            check_every_analysis(zoo.shared(host, name), one)


def test_the_pattern_is_recorded_with_its_own_gradient() -> None:
    """So patching a pattern means the same as under RELP, whose pattern has the whole gradient of P · v, too."""
    for host in zoo.HOSTS:
        model, tokens = zoo.shared(host, "llama"), zoo.prompt_tokens(1, 9)
        last = "blocks.1.attn.hook_pattern"
        found, expected = (
            patching_pass(model, tokens, METRIC, rules=rules, parts=["pattern"]).gradients[last]
            for rules in (CONSERVING, RELP)
        )
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        assert found.abs().max() > 0


# ------------------------------------------------------------------------------- hosts and prompts
@pytest.mark.parametrize("name", ["gptj", "opt"])
@pytest.mark.parametrize("rules", [SECANT_HALF, CONSERVING], ids=lambda rules: rules.name)
def test_a_host_that_drops_edits_of_the_pattern_is_refused(name: str, rules: RuleSet) -> None:
    with pytest.raises(SiteError, match=rf"Every edit must reach the logits[\s\S]*{rules.name}"):
        run(zoo.shared("bridge", name), rules)
    run(zoo.shared("bridge", name), VARIANTS["RELP_QK_HALF"])  # acts at q, k and v alone


@pytest.mark.parametrize("host", zoo.HOSTS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(host: str, side: str) -> None:
    model, ids = zoo.shared(host, "gpt2"), zoo.prompt_tokens(1, 9)[0]
    for rules in (SECANT_HALF, CONSERVING_SECANT):
        _, padded = run_with_relevance(model, [ids, ids[:5]], METRIC, rules=rules, padding_side=side)
        _, alone = run_with_relevance(model, ids[None, :5], METRIC, rules=rules)
        found = padded["hook_embed"][1]
        found = found[-5:] if side == "left" else found[:5]
        torch.testing.assert_close(found, alone["hook_embed"][0], rtol=1e-7, atol=1e-9)


# ------------------------------------------------------------------------------- rows by themselves
def rows_of(scores: Tensor, sink: float | None = None) -> tuple[SoftmaxRows, Tensor]:
    """Causal rows of these scores, and a gradient at the pattern."""
    size = scores.shape[-1]
    scores = scores.masked_fill(torch.ones(size, size).triu(1).bool(), -torch.inf)
    column = None if sink is None else torch.tensor([[[sink]]], dtype=scores.dtype)
    both = scores if column is None else torch.cat([scores, column.expand(*scores.shape[:-1], 1)], -1)
    return SoftmaxRows(torch.softmax(both, -1)[..., :size], scores, column), random(*scores.shape, seed=5)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("sink", [None, 0.7])
def test_the_secant_takes_what_a_uniform_pattern_is_worth(sink: float | None) -> None:
    """Σ S ⊙ gS = Σ (P - u) ⊙ g up to the quadrature, with u uniform over visible keys and sink."""
    rows, gradient = rows_of(random(2, 7, 7), sink)
    seen = rows.scores.isfinite()
    uniform = seen.double() / (seen.sum(-1, keepdim=True) + (sink is not None))
    expected = ((rows.pattern - uniform) * gradient).sum(-1)
    if rows.sink is not None:  # its logit takes part: the identity is over all columns
        at_sink = torch.zeros_like(expected)
        for t, weight in legendre_nodes(24):
            p = torch.softmax(t * torch.cat([rows.scores, rows.sink.expand(2, 7, 1)], -1), -1)
            at_sink -= weight * p[..., -1] * (p[..., :-1] * gradient).sum(-1)
        expected = expected - at_sink * rows.sink[..., 0]
    errors = []
    for nodes in (1, 2, 4, 8, 24):
        at_scores = SecantSoftmax(nodes).at_scores(rows, gradient)
        found = torch.where(seen, rows.scores * at_scores, 0).sum(-1)
        errors.append(float((found - expected).abs().max()))
    assert (
        errors[-1] < 1e-10 and errors[2] < 1e-4 < 1e-3 < errors[0] and sorted(errors, reverse=True) == errors
    )
    assert (
        float(
            (torch.where(seen, rows.scores * plain_softmax(rows, gradient), 0).sum(-1) - expected).abs().max()
        )
        > 0.1
    )


def test_one_node_is_the_softmax_at_temperature_two() -> None:
    rows, gradient = rows_of(random(2, 7, 7), 0.7)
    found, expected = (rule.at_scores(rows, gradient) for rule in (SecantSoftmax(1), TemperedSoftmax(2)))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert GIM.softmax == TemperedSoftmax(2)


def attention_rows(scale: float, dtype: torch.dtype = torch.float64) -> AttentionRows:
    rows, _ = rows_of(scale * random(2, 7, 7))
    at_z, value = (random(2, 7, 5, seed=seed).to(dtype) for seed in (1, 2))
    return AttentionRows(rows.pattern.to(dtype), rows.scores.to(dtype), None, at_z, value)


@pytest.mark.parametrize("softmax", [Plain(), SecantSoftmax()], ids=["plain", "secant"])
@pytest.mark.parametrize("part", [0.25, 1])
def test_one_row_is_the_loops(softmax: Any, part: float) -> None:
    rows = attention_rows(2)
    weights, at_scores = ConservingAttention(part).row_gradients(rows, softmax)
    for head in range(2):
        for query in range(7):
            seen = slice(0, query + 1)
            pattern, gradient, scores = (
                one[head, query, seen].tolist() for one in (rows.pattern, rows.at_pattern, rows.scores)
            )
            mean = sum(p * g for p, g in zip(pattern, gradient, strict=True))
            plain = [p * (g - mean) for p, g in zip(pattern, gradient, strict=True)]
            expected = plain if softmax == Plain() else secant_softmax(scores, gradient, 4)
            literal = conserving_values(pattern, gradient, scores, expected, part)
            assert at_scores[head, query, seen].tolist() == pytest.approx(expected, abs=1e-12)
            assert weights[head, query, seen].tolist() == pytest.approx(literal, abs=1e-12)
            held = 2 * part * sum(s * one for s, one in zip(scores, expected, strict=True))
            given = sum(w * g for w, g in zip(literal, gradient, strict=True))
            assert held + given == pytest.approx(mean, abs=1e-12)
    assert not weights.triu(1).any() and not at_scores.triu(1).any()


def test_the_local_correction_is_bounded_by_the_spread_of_the_scores() -> None:
    """|w / P - 1| ≤ 2 s max |S - S̄|, however little a row holds."""
    rows = attention_rows(2)
    small = AttentionRows(rows.pattern, rows.scores, None, 1e-200 * rows.at_z, rows.value)
    for one in (rows, small):
        weights, _ = ConservingAttention(0.25).row_gradients(one, Plain())
        scores = torch.where(rows.scores.isfinite(), rows.scores, 0)
        centred = torch.where(
            rows.scores.isfinite(), scores - (rows.pattern * scores).sum(-1, keepdim=True), 0
        )
        change = torch.where(rows.pattern > 0, weights / rows.pattern - 1, 0).abs()
        assert (change.amax(-1) <= 0.5 * centred.abs().amax(-1) + 1e-9).all() and change.max() > 0.01


@pytest.mark.parametrize("softmax", [Plain(), SecantSoftmax()], ids=["plain", "secant"])
def test_a_row_that_holds_nothing_hands_nothing_on(softmax: Any) -> None:
    """Σ|a| = 0: with a gradient of 0, and where the pattern underflows at the only key that matters."""
    rows = attention_rows(2)
    silent = AttentionRows(rows.pattern, rows.scores, None, torch.zeros_like(rows.at_z), rows.value)
    weights, at_scores = ConservingAttention().row_gradients(silent, softmax)
    assert torch.equal(weights, rows.pattern) and not at_scores.any()
    scores = torch.tensor([[[0.0, -200.0], [0.0, -200.0]]])  # float32: the second key's probability is 0
    value = torch.tensor([[[0.0], [1.0]]])
    under = AttentionRows(torch.softmax(scores, -1), scores, None, torch.ones(1, 2, 1), value)
    assert bool(softmax.at_scores(under, under.at_pattern).any()) == (softmax != Plain())
    weights, at_scores = ConservingAttention().row_gradients(under, softmax)
    assert torch.equal(weights, under.pattern) and not at_scores.any()


@pytest.mark.parametrize("scale", [1e-4, 30, 1e4])
def test_saturated_and_flat_patterns_stay_finite_and_conserve(scale: float) -> None:
    for softmax in (Plain(), SecantSoftmax()):
        for dtype in (torch.float32, torch.float64):
            rows = attention_rows(scale, dtype)
            weights, at_scores = ConservingAttention().row_gradients(rows, softmax)
            assert bool(torch.isfinite(weights).all() and torch.isfinite(at_scores).all())
            passed = 0.5 * torch.where(rows.scores.isfinite(), rows.scores * at_scores, 0).sum(-1)
            held = (rows.pattern * rows.at_pattern).sum(-1)
            error = ((weights * rows.at_pattern).sum(-1) + passed - held).abs()
            size = (weights * rows.at_pattern).abs().sum(-1) + passed.abs() + held.abs()
            assert (error <= 100 * torch.finfo(dtype).eps * size + 1e-30).all()


# ------------------------------------------------------------------------------- names
def test_variants_are_found_by_name_and_not_run_by_default() -> None:
    assert not set(VARIANTS) & set(PRESETS)
    for name, rules in OF_ATTENTION.items():
        assert rules.name == name and as_rule_set(name.lower().replace("_", "-")) is rules
        changed = {one for one in ("attention", "softmax") if getattr(rules, one) != getattr(RELP, one)}
        assert changed and rules.replace(name="RELP", attention=Plain(), softmax=Plain()) == RELP
    assert RELP_FROZEN_PATTERN.attention == AttentionWeights(0, 0, 1)
    assert len({rules.replace(name="x") for rules in OF_ATTENTION.values()}) == len(OF_ATTENTION)
    assert "softmax along the path t · scores (4 nodes)" in str(VARIANTS["RELP_SECANT"])
