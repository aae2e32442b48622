"""Rule sets as data: printable, replaceable, overridable; as hooks: ordinary, and bit-exact on every host."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_lens import (
    ATTN_LRP,
    CP_LRP,
    GIM,
    GRADIENT,
    PRESETS,
    RELP,
    RELP_FROZEN_PATTERN,
    VARIANTS,
    AttentionWeights,
    ConservingAttention,
    Epsilon,
    ExpertWeights,
    FrozenNorm,
    FrozenPattern,
    Identity,
    LogitDiff,
    Plain,
    ProductWeights,
    RuleError,
    RuleSet,
    SecantSoftmax,
    SiteError,
    TemperedSoftmax,
    run_with_relevance,
)
from tests import zoo

METRIC = LogitDiff(3, 7)
NO_PATTERN_EDITS = ("gptj", "opt")  # TransformerBridge drops edits of scores and pattern there
HOSTS = zoo.HOSTS


def presets_for(host: str, name: str) -> list[RuleSet]:
    dropped = host == "bridge" and name in NO_PATTERN_EDITS
    return [rules for rules in PRESETS.values() if not (dropped and rules is GIM)]


def embedding_relevance(model: Any, tokens: Tensor, hooks: list[Any]) -> Tensor:
    """Token relevance with nothing but TransformerLens: a leaf at the embedding, the hooks, one backward."""
    kept: list[Tensor] = []

    def leaf(tensor: Tensor, hook: Any) -> Tensor:
        kept.append(tensor.detach().requires_grad_(True))
        return kept[-1]

    value = METRIC(model.run_with_hooks(tokens, fwd_hooks=[("hook_embed", leaf), *hooks]))
    return (kept[-1] * torch.autograd.grad(value.sum(), kept[-1])[0]).detach()


# ------------------------------------------------------------------------------------------ as hooks
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("host", "name"), zoo.models())
def test_logits_are_bit_identical(host: str, name: str, dtype: torch.dtype) -> None:
    model, tokens = zoo.shared(host, name, dtype), zoo.prompt_tokens(2, 9)
    with torch.no_grad():
        plain = model(tokens)
    assert bool(torch.isfinite(plain).all()) and plain.dtype == dtype
    for rules in presets_for(host, name):
        with torch.no_grad(), model.hooks(fwd_hooks=rules.hooks(model)):
            assert torch.equal(model(tokens), plain), rules.name
    logits, cache = run_with_relevance(model, tokens, METRIC, rules=ATTN_LRP)
    assert torch.equal(logits, plain)
    assert all(bool(torch.isfinite(cache[key]).all()) for key in cache)
    assert all(cache[key].dtype == torch.float32 for key in cache)
    assert torch.equal(model(tokens), plain)


@pytest.mark.parametrize(
    ("host", "name"),
    [(host, name) for host in HOSTS for name in ("gpt2", "gemma2", "mixtral", "gpt_oss")],
)
def test_float16_models_have_finite_relevance(host: str, name: str) -> None:
    model, tokens = zoo.BUILD[host](name, torch.float16), zoo.prompt_tokens(2, 9)
    for rules in presets_for(host, name):
        logits, cache = run_with_relevance(model, tokens, METRIC, rules=rules)
        assert torch.equal(logits, model(tokens)), rules.name
        assert all(bool(torch.isfinite(cache[key]).all()) for key in cache), rules.name


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mixtral"])
def test_raw_hooks_give_the_same_relevance(host: str, name: str) -> None:
    model, tokens = zoo.BUILD[host](name), zoo.prompt_tokens(2, 7)
    for rules in PRESETS.values():
        expected = run_with_relevance(model, tokens, METRIC, rules=rules)[1]["hook_embed"]
        found = embedding_relevance(model, tokens, rules.hooks(model))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        hooks = rules.hooks(model)
        assert all(isinstance(name, str) and callable(function) for name, function in hooks)
        again = [embedding_relevance(model, tokens, hooks) for _ in range(2)]
        assert torch.equal(again[0], found) and torch.equal(again[1], found)


@pytest.mark.parametrize("host", HOSTS)
def test_hooks_can_be_used_again_after_an_aborted_pass(host: str) -> None:
    model, tokens = zoo.BUILD[host]("llama"), zoo.prompt_tokens(1, 7)
    hooks = ATTN_LRP.hooks(model)
    expected = embedding_relevance(model, tokens, hooks)

    def boom(tensor: Tensor, hook: Any) -> None:
        raise RuntimeError("stop here")

    for where in ("blocks.0.mlp.hook_pre_linear", "blocks.1.hook_resid_pre", "blocks.0.ln1.hook_normalized"):
        with pytest.raises(RuntimeError, match="stop here"):
            model.run_with_hooks(tokens, fwd_hooks=[*hooks, (where, boom)])
        assert torch.equal(embedding_relevance(model, tokens, hooks), expected)


@pytest.mark.parametrize("host", HOSTS)
def test_run_with_cache_sees_the_same_activations_under_rules(host: str) -> None:
    model, tokens = zoo.BUILD[host]("llama"), zoo.prompt_tokens(1, 7)
    _, plain = model.run_with_cache(tokens)
    with model.hooks(fwd_hooks=ATTN_LRP.hooks(model)):
        _, under_rules = model.run_with_cache(tokens)
    names = [name for name in plain if isinstance(plain[name], Tensor)]
    assert len(names) > 30
    assert all(torch.equal(plain[name], under_rules[name]) for name in names)


@pytest.mark.parametrize("name", NO_PATTERN_EDITS)
@pytest.mark.parametrize(
    "rules",
    [GIM, RELP.replace(attention=FrozenPattern()), GRADIENT.replace(softmax=TemperedSoftmax(2.0))],
    ids=["GIM", "FrozenPattern", "TemperedSoftmax"],
)
def test_edits_that_the_host_drops_are_refused(name: str, rules: RuleSet) -> None:
    model, tokens = zoo.bridge(name), zoo.prompt_tokens(1, 7)
    attached = {key: len(point.fwd_hooks) for key, point in model.hook_dict.items()}
    message = (
        r"Every edit must reach the logits; at blocks\.0\.attn\.hook_(attn_scores|pattern) "
        r"[\s\S]*drops the edit[\s\S]*(ATTN_LRP, CP_LRP, RELP|HookedTransformer)"
    )
    with pytest.raises(SiteError, match=message):
        rules.hooks(model)
    with pytest.raises(SiteError, match=message):
        run_with_relevance(model, tokens, METRIC, rules=rules)
    assert {key: len(point.fwd_hooks) for key, point in model.hook_dict.items()} == attached
    # In one layer only, it is refused as well; where nothing enters the softmax, nothing is dropped.
    with pytest.raises(SiteError, match=r"blocks\.1\.attn"):
        GRADIENT.override(layers=[1], softmax=TemperedSoftmax(2.0)).hooks(model)
    CP_LRP.replace(softmax=TemperedSoftmax(2.0)).hooks(model)


# ------------------------------------------------------------------------------------------- as data
def test_presets_are_what_the_papers_say() -> None:
    uniform, half = AttentionWeights(0.25, 0.25, 0.5), ProductWeights(0.5, 0.5)
    lrp = dict(norm=FrozenNorm(), activation=Identity(), softcap=Identity())
    frozen = dict(
        attention=AttentionWeights(0, 0, 1), product=ProductWeights(0, 1), experts=ExpertWeights(0, 1)
    )
    expected = [
        RuleSet("ATTN_LRP", **lrp, product=half, attention=uniform, experts=ExpertWeights(0.5, 0.5)),
        RuleSet("CP_LRP", **lrp, **frozen),
        RuleSet("RELP", **lrp, product=half, experts=ExpertWeights(0.5, 0.5)),
        RuleSet(
            "RELP_FROZEN_PATTERN",
            **lrp,
            product=half,
            attention=frozen["attention"],
            experts=ExpertWeights(0.5, 0.5),
        ),
        RuleSet("GIM", norm=FrozenNorm(), attention=uniform, softmax=TemperedSoftmax(2.0)),
        RuleSet("GRADIENT"),
    ]
    assert expected == [ATTN_LRP, CP_LRP, RELP, RELP_FROZEN_PATTERN, GIM, GRADIENT]
    assert dict(PRESETS) == {rules.name: rules for rules in expected}


def test_rule_sets_print_readably() -> None:
    assert str(CP_LRP).splitlines() == [
        "RuleSet CP_LRP",
        "  norm       normaliser frozen (LN-rule)",
        "  activation identity rule",
        "  product    gate frozen",
        "  attention  pattern frozen (AH-rule)",
        "  softmax    plain gradient",
        "  softcap    identity rule",
        "  experts    routing frozen",
        "  linear     0-rule",
    ]
    odd = ATTN_LRP.replace(
        attention=AttentionWeights(0.1, 0.2, 0.3),
        product=ProductWeights(0.3, 0.6),
        softmax=TemperedSoftmax(2.0),
        linear=Epsilon(1e-3),
        experts=ExpertWeights(1, 0),
    ).override(layers=[3, 1], norm=Plain())
    text = str(odd)
    for words in (
        "q 0.1, k 0.2, v 0.3",
        "gate 0.3, up 0.6",
        "temperature 2",
        "ε = 0.001",
        "router 1, expert 0",
    ):
        assert words in text
    assert text.splitlines()[-1] == "  override   norm in layers 1, 3: plain gradient"
    assert len(text.splitlines()) == 10


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        *[(rules, name) for name, rules in PRESETS.items()],
        (ATTN_LRP.replace(norm=Plain()), "ATTN_LRP.replace(norm=Plain())"),
        (CP_LRP.replace(name="mine", norm=Plain()), "CP_LRP.replace(name='mine', norm=Plain())"),
        (VARIANTS["RELP_SECANT"], "RELP.replace(name='RELP_SECANT', softmax=SecantSoftmax(nodes=4))"),
        (RuleSet("own"), "GRADIENT.replace(name='own')"),
        (
            RELP.override(layers=range(2, 4), norm=Plain()).override(layers=[0, 2], linear=Epsilon(0.1)),
            "RELP.override(layers=range(2, 4), norm=Plain()).override(layers=[0, 2], linear=Epsilon(epsilon=0.1))",
        ),
        (
            GIM.replace(activation=Identity()).override(layers=[1], norm=Plain(), linear=Epsilon(0.1)),
            "GIM.replace(activation=Identity()).override(layers=range(1, 2), linear=Epsilon(epsilon=0.1))"
            ".override(layers=range(1, 2), norm=Plain())",
        ),
    ],
)
def test_a_rule_set_is_written_as_what_makes_it(rules: RuleSet, text: str) -> None:
    """Also where it matters most: in a signature, which an editor shows as a tooltip."""
    assert repr(rules) == text
    again = eval(text)
    assert all(getattr(again, one.name) == getattr(rules, one.name) for one in dataclasses.fields(rules)[1:])
    assert again.name.partition(" with ")[0] == rules.name.partition(" with ")[0]


def test_rule_sets_are_values() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ATTN_LRP.norm = Plain()  # type: ignore[misc]
    assert ATTN_LRP.replace(norm=Plain(), name="A") == RuleSet(
        **{
            **{f.name: getattr(ATTN_LRP, f.name) for f in dataclasses.fields(RuleSet)},
            "norm": Plain(),
            "name": "A",
        }
    )
    assert ATTN_LRP.norm == FrozenNorm()
    assert len({ATTN_LRP, ATTN_LRP.replace(name="ATTN_LRP"), CP_LRP}) == 2
    assert ATTN_LRP.replace(norm=Plain()).name == "ATTN_LRP with norm: plain gradient"
    assert ATTN_LRP.replace(norm=Plain(), name="mine").name == "mine"


def test_the_newest_override_of_a_layer_wins() -> None:
    rules = (
        RELP.override(layers=range(4), attention=AttentionWeights(0, 0, 1), norm=Plain())
        .override(layers=[1, 2], attention=FrozenPattern())
        .override(layers={2}, attention=Plain())
    )
    found = [rules.rule_for("attention", layer) for layer in range(5)]
    assert found == [AttentionWeights(0, 0, 1), FrozenPattern(), Plain(), AttentionWeights(0, 0, 1), Plain()]
    assert [rules.rule_for("norm", layer) for layer in (0, 3, 4, None)] == [
        Plain(),
        Plain(),
        FrozenNorm(),
        FrozenNorm(),
    ]
    # `replace` changes the rule of the whole set; overrides of single layers still stand.
    assert rules.replace(attention=FrozenPattern()).rule_for("attention", 2) == Plain()
    assert rules.replace(attention=FrozenPattern()).rule_for("attention", 4) == FrozenPattern()


@pytest.mark.parametrize("host", HOSTS)
def test_whole_numbers_are_shares(host: str) -> None:
    model, tokens = zoo.BUILD[host]("llama"), zoo.prompt_tokens(1, 7)
    whole = RELP.replace(attention=AttentionWeights(0, 1, 0), product=ProductWeights(1, 0))
    same = RELP.replace(attention=AttentionWeights(0.0, 1.0, 0.0), product=ProductWeights(1.0, 0.0))
    found, expected = (run_with_relevance(model, tokens, METRIC, rules=rules)[1] for rules in (whole, same))
    assert whole == same and torch.equal(found["hook_embed"], expected["hook_embed"])


CUT = {
    "attention": dict(attention=AttentionWeights(0.0, 0.0, 0.0)),
    "product": dict(product=ProductWeights(0.0, 0.0)),
    "product with a plain activation": dict(product=ProductWeights(0.0, 0.0), activation=Plain()),
    "experts": dict(experts=ExpertWeights(0.0, 0.0)),
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("what", CUT)
def test_shares_of_zero_cut_an_operation_off(host: str, what: str) -> None:
    """Nothing flows into it; what it wrote keeps its relevance, which the ledger shows as a sink."""
    name = "mixtral" if what == "experts" else "llama"
    model, tokens = zoo.BUILD[host](name), zoo.prompt_tokens(1, 7)
    cache = run_with_relevance(model, tokens, METRIC, rules=RELP.replace(**CUT[what]))[1]
    written = "attn_out" if what == "attention" else "mlp_out"
    uncut = run_with_relevance(model, tokens, METRIC, rules=RELP)[1]
    torch.testing.assert_close(cache[written, 1], uncut[written, 1], rtol=1e-9, atol=1e-12)
    assert cache[written, 1].abs().max() > 0
    assert cache.ledger().relative_remainder < 1e-5


@pytest.mark.parametrize("host", HOSTS)
def test_overriding_every_layer_is_replacing(host: str) -> None:
    model, tokens = zoo.BUILD[host]("gemma2"), zoo.prompt_tokens(1, 7)
    changes: dict[str, Any] = dict(
        attention=FrozenPattern(), activation=Plain(), product=ProductWeights(0.3, 0.6), softmax=Plain()
    )
    everywhere = run_with_relevance(model, tokens, METRIC, rules=GIM.replace(**changes))[1]
    layer_by_layer = GIM.override(layers=[0], **changes).override(layers=[1], **changes)
    overridden = run_with_relevance(model, tokens, METRIC, rules=layer_by_layer)[1]
    assert all(torch.equal(everywhere[name], overridden[name]) for name in everywhere)
    one = run_with_relevance(model, tokens, METRIC, rules=GIM.override(layers=[1], **changes))[1]
    other = run_with_relevance(model, tokens, METRIC, rules=GIM)[1]
    for name in ("hook_embed", "blocks.0.hook_resid_pre"):
        assert not torch.allclose(one[name], everywhere[name], rtol=1e-3)
        assert not torch.allclose(one[name], other[name], rtol=1e-3)
    # Above the overridden layer nothing changes; the final norm is outside the blocks.
    assert torch.equal(one["blocks.1.hook_resid_post"], other["blocks.1.hook_resid_post"])


@pytest.mark.parametrize("host", HOSTS)
def test_overrides_beyond_the_model_are_refused(host: str) -> None:
    model = zoo.BUILD[host]("gpt2")
    with pytest.raises(RuleError, match=r"layers of the model, 0 to 1; received \[1, 2\]"):
        ATTN_LRP.override(layers=[1, 2], norm=Plain()).hooks(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ATTN_LRP.replace(foo=Plain()), "has rules for norm, activation, .*received 'foo'"),
        (
            lambda: ATTN_LRP.replace(norm=Identity()),
            r"'norm' is a NormRule \(.*FrozenNorm.*\); received Identity",
        ),
        (lambda: ATTN_LRP.replace(norm=None), r"'norm' is a NormRule \(.*received None"),
        (lambda: RuleSet("x", linear=FrozenNorm()), r"'linear' is .*Epsilon or Plain"),
        (lambda: ATTN_LRP.override(layers=[0], foo=Plain()), "received 'foo'"),
        (
            lambda: ATTN_LRP.override(layers=[0], attention=Identity()),
            r"'attention' is .*AttentionWeights",
        ),
        (lambda: ATTN_LRP.override(layers=[], norm=Plain()), r"at least one layer.*received \[\]"),
        (lambda: ATTN_LRP.override(layers=[-1], norm=Plain()), r"counted from 0; received \[-1\]"),
        (lambda: ATTN_LRP.override(layers=5, norm=Plain()), "layer.*received 5"),
        (lambda: ATTN_LRP.override(layers=["a"], norm=Plain()), "layer.*received"),
        (lambda: ProductWeights(2, 0), r"between 0 and 1; ProductWeights.gate is 2"),
        (lambda: ProductWeights(0.5, float("nan")), "ProductWeights.up is nan"),
        (lambda: ProductWeights("half", 0.5), "ProductWeights.gate is 'half'"),
        (lambda: AttentionWeights(0.5, -0.1, 0.5), "AttentionWeights.key is -0.1"),
        (lambda: ExpertWeights(0.5, 1.5), "ExpertWeights.expert is 1.5"),
        (lambda: TemperedSoftmax(0), "temperature is positive"),
        (lambda: TemperedSoftmax(float("nan")), "temperature is positive"),
        (lambda: SecantSoftmax(0), "1 to 64 nodes; SecantSoftmax received 0"),
        (lambda: SecantSoftmax(2.5), "SecantSoftmax received 2.5"),
        (lambda: SecantSoftmax(True), "SecantSoftmax received True"),
        (lambda: ConservingAttention(1.5), r"between 0 and 1; ConservingAttention.part is 1.5"),
        (lambda: ConservingAttention(0), r"received part=0. Use AttentionWeights\(0, 0, 1\)"),
        (lambda: Epsilon(0), r"needs ε > 0, received 0"),
        (lambda: Epsilon(float("nan")), r"needs ε > 0"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(RuleError, match=message):
        make()


def test_an_epsilon_rule_needs_a_hook_point_at_every_output() -> None:
    """The ε-rule is refused where a mixture has no linear outputs to act on; elsewhere it acts."""
    model = zoo.bridge("mixtral")
    rules = ATTN_LRP.replace(linear=Epsilon(1e-3))
    with pytest.raises(SiteError, match=r"no[\s\S]*L0 experts[\s\S]*ε-rule[\s\S]*Plain\(\)"):
        rules.hooks(model)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("activation", [Identity(), Plain()], ids=["identity", "plain"])
def test_the_epsilon_rule_acts_on_the_inputs_of_an_mlp(host: str, activation: Any) -> None:
    """A huge ε at the MLP's inner linear maps stops all relevance: with and without an identity rule after them."""
    model, tokens = zoo.BUILD[host]("gpt2"), zoo.prompt_tokens(1, 7)
    rules = ATTN_LRP.replace(activation=activation, linear=Epsilon(1e12))
    _, cache = run_with_relevance(
        model, tokens, lambda logits: logits[:, -1, 3] * 1e24, rules=rules, names_filter=lambda name: True
    )
    reached = cache.gradients["blocks.1.mlp.hook_post"].abs().max()
    mid, after = (cache.gradients["resid_mid", 1], cache.gradients["resid_post", 1])
    received = (mid - after).abs().max()  # what the MLP hands on, before which nothing else reads the stream
    assert reached > 0
    assert received < 1e-8 * reached
