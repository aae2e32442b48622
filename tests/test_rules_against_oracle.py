"""Every preset × architecture × host against the literal relevance recursion, with negative controls."""

from typing import Any

import pytest
import torch

from lrp_lens import (
    PRESETS,
    AttentionWeights,
    FrozenPattern,
    LogitDiff,
    Plain,
    RuleSet,
    SiteError,
    run_with_relevance,
)
from lrp_lens.hosts import resolve
from lrp_lens.hosts.sites import ActivationSite, AttentionSite, ExpertsSite, LogitSite
from tests import oracles, zoo

TARGET, CONTRAST = 3, 7
# Hugging Face computes norms, softmax, rotary angles and routers in float32; HookedTransformer its routers and
# Gemma's 1 + w.  `zoo.float64_throughout` takes the casts out of both hosts.
TIGHT, WITH_FLOAT32_CASTS = 1e-10, 1e-5
NO_PATTERN_EDITS = ("gptj", "opt")  # TransformerBridge drops edits of scores and pattern there
BLOOM_CONSTANT = (
    1e-8  # HookedTransformer's and Hugging Face's tanh GELU of BLOOM differ in the digits of one constant
)


def metric_matrix(length: int, d_vocab: int) -> torch.Tensor:
    matrix = torch.zeros(length, d_vocab, dtype=torch.float64)
    matrix[-1, TARGET], matrix[-1, CONTRAST] = 1.0, -1.0
    return matrix


def expected(weights: Any, tokens: torch.Tensor, rules: Any, d_vocab: int) -> Any:
    return oracles.compute_relevance(weights, tokens[0], metric_matrix(tokens.shape[1], d_vocab), rules)


def disagreement(cache: Any, answer: Any) -> float:
    """Largest difference at any shared hook point, relative to the largest relevance there is."""
    scale = max(value.abs().max().item() for value in answer.relevance.values())
    shared = [name for name in answer.relevance if name in cache]
    assert "hook_embed" in shared and any(name.endswith("hook_z") for name in shared)
    errors = [
        (cache[name].reshape(answer.relevance[name].shape) - answer.relevance[name]).abs().max().item()
        / scale
        for name in shared
    ]
    return max(errors)


def run(model: Any, tokens: torch.Tensor, rules: RuleSet) -> Any:
    return run_with_relevance(model, tokens, LogitDiff(TARGET, CONTRAST), rules=rules)[1]


@pytest.mark.parametrize("name", zoo.HOOKED_NAMES)
def test_presets_on_hooked_transformer_equal_the_recursion(name: str) -> None:
    tokens = zoo.prompt_tokens(1, 9)
    with zoo.float64_throughout():
        model = zoo.shared("hooked", name)
        weights = oracles.from_hooked_transformer(model)
        for preset in PRESETS:
            answer = expected(weights, tokens, preset, model.cfg.d_vocab)
            cache = run(model, tokens, PRESETS[preset])
            assert disagreement(cache, answer) < TIGHT, preset
            assert abs(float(cache.metric_value[0]) - answer.metric) < TIGHT


@pytest.mark.parametrize("name", zoo.HOOKED_NAMES)
def test_presets_on_hooked_transformer_as_users_run_it(name: str) -> None:
    """Without the test's float64 scope: float32 casts remain in the routers of mixtures and in Gemma's gains."""
    tokens, model = zoo.prompt_tokens(1, 9), zoo.shared("hooked", name)
    weights = oracles.from_hooked_transformer(model)
    tolerance = WITH_FLOAT32_CASTS if name in zoo.FLOAT32_ROUTERS else TIGHT
    for preset in PRESETS:
        answer = expected(weights, tokens, preset, model.cfg.d_vocab)
        assert disagreement(run(model, tokens, PRESETS[preset]), answer) < tolerance, preset


@pytest.mark.parametrize(
    "name", [n for n in zoo.NATIVE_NAMES if n != "solu_ln"] if zoo.HAS_HOOKED_TRANSFORMER else []
)
def test_presets_on_native_configurations_equal_the_recursion(name: str) -> None:
    tokens, model = zoo.prompt_tokens(1, 9), zoo.shared("native", name)
    weights = oracles.from_hooked_transformer(model)
    for preset in PRESETS:
        answer = expected(weights, tokens, preset, model.cfg.d_vocab)
        assert disagreement(run(model, tokens, PRESETS[preset]), answer) < TIGHT, preset


@pytest.mark.parametrize("name", zoo.BRIDGE_NAMES)
@pytest.mark.parametrize("casts", [False, True], ids=["float64_throughout", "with_float32_casts"])
def test_presets_on_transformer_bridge_equal_the_recursion(name: str, casts: bool) -> None:
    tokens = zoo.prompt_tokens(1, 9)
    if casts:
        compare_bridge(name, tokens, WITH_FLOAT32_CASTS)
    else:
        with zoo.float64_throughout():
            compare_bridge(name, tokens, TIGHT)


def compare_bridge(name: str, tokens: torch.Tensor, tolerance: float) -> None:
    hugging_face = zoo.hugging_face(name)
    weights = oracles.from_hugging_face(hugging_face)
    model = zoo.shared("bridge", name)
    for preset in PRESETS:
        if preset == "GIM" and name in NO_PATTERN_EDITS:
            with pytest.raises(SiteError, match="must reach the logits"):
                run(model, tokens, PRESETS[preset])
            continue
        answer = expected(weights, tokens, preset, model.cfg.d_vocab)
        assert disagreement(run(model, tokens, PRESETS[preset]), answer) < tolerance, preset


# ------------------------------------------------------------------------------- negative controls
# operation of a RuleSet → the oracle's field(s) that it stands for
DROPPED = {
    "norm": ("freeze_norms", "freeze_qk_norms"),
    "activation": ("activation_identity",),
    "product": ("gated_product",),
    "attention": ("attention",),
    "softmax": ("softmax_temperature",),
    "softcap": ("soft_cap_identity",),
    "experts": ("experts",),
}


def changes_anything(operation: str, rules: RuleSet, model: Any) -> bool:
    """Whether dropping a rule can change relevance on this model: the operation exists, and the rule is no no-op."""
    sites, rule = resolve(model), getattr(rules, operation)
    if isinstance(rule, Plain):
        return False
    activations = list(sites.of(ActivationSite))
    frozen_gate = getattr(rules.product, "gate", 1) == 0
    frozen_pattern = not getattr(rules.attention, "reaches_pattern", True)
    if operation == "activation":
        functions = {site.function for site in activations}
        if functions == {"relu"}:  # the identity rule on ReLU is its derivative
            return False
        gated = [site.up is not None for site in activations] or [True]  # mixtures are gated
        return not (
            frozen_gate and all(gated)
        )  # relevance never enters a frozen gate, so its activation is moot
    if operation == "product":
        return any(site.up is not None for site in activations) or bool(list(sites.of(ExpertsSite)))
    if operation == "experts":
        return bool(list(sites.of(ExpertsSite)))
    if operation == "softcap":
        scores = any(site.softcap for site in sites.of(AttentionSite)) and not frozen_pattern
        return scores or any(site.softcap for site in sites.of(LogitSite))
    return True


@pytest.mark.parametrize("name", zoo.BRIDGE_NAMES)
def test_dropping_any_rule_is_noticed(name: str) -> None:
    """The comparison above fails by at least 1e-3 if one rule of a preset is missing, where it is no no-op."""
    tokens, model = zoo.prompt_tokens(1, 9), zoo.shared("bridge", name)
    weights = oracles.from_hugging_face(zoo.hugging_face(name))
    noticed = 0
    for preset, rules in PRESETS.items():
        if preset == "GRADIENT" or (preset == "GIM" and name in NO_PATTERN_EDITS):
            continue
        answer = expected(weights, tokens, preset, model.cfg.d_vocab)
        for operation in DROPPED:
            if changes_anything(operation, rules, model):
                cache = run(model, tokens, rules.replace(**{operation: Plain()}))
                assert disagreement(cache, answer) > 1e-3, (preset, operation)
                noticed += 1
    assert noticed >= 5


@pytest.mark.parametrize("name", ["opt", "llama", "gemma2", "mixtral"])
def test_dropped_rules_equal_the_recursion_without_them(name: str) -> None:
    """Each single rule is right by itself, not only the presets' combinations."""
    tokens, model = zoo.prompt_tokens(1, 9), zoo.shared("bridge", name)
    weights = oracles.from_hugging_face(zoo.hugging_face(name))
    rules, literal = PRESETS["ATTN_LRP"], oracles.PRESETS["ATTN_LRP"]
    for operation, names in DROPPED.items():
        without = literal
        for field in names:
            without = without.without(field)
        cache = run(model, tokens, rules.replace(**{operation: Plain()}))
        answer = expected(weights, tokens, without, model.cfg.d_vocab)
        assert disagreement(cache, answer) < WITH_FLOAT32_CASTS, operation


def test_a_frozen_pattern_is_the_ah_rule() -> None:
    model, tokens = zoo.bridge("llama"), zoo.prompt_tokens(1, 9)
    by_weights = run(model, tokens, PRESETS["RELP"].replace(attention=AttentionWeights(0, 0, 1)))
    by_pattern = run(model, tokens, PRESETS["RELP"].replace(attention=FrozenPattern()))
    for name in by_weights:
        torch.testing.assert_close(by_weights[name], by_pattern[name], rtol=0, atol=1e-12)


def test_identity_rule_on_relu_is_a_no_op() -> None:
    model, tokens = zoo.bridge("opt"), zoo.prompt_tokens(1, 9)
    rules = PRESETS["ATTN_LRP"]
    with_rule, without = run(model, tokens, rules), run(model, tokens, rules.replace(activation=Plain()))
    for name in with_rule:
        torch.testing.assert_close(with_rule[name], without[name], rtol=0, atol=1e-12)
