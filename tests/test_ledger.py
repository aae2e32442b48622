"""metric = Σ tokens + Σ positions + Σ named sinks, overall and per layer, for every rule set, model and metric."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lrp_lens
from lrp_lens import (
    ATTN_LRP,
    CP_LRP,
    GIM,
    GRADIENT,
    PRESETS,
    RELP,
    AttentionWeights,
    Epsilon,
    ExpertWeights,
    FrozenNorm,
    FrozenPattern,
    Identity,
    InputError,
    Ledger,
    Logit,
    LogitDiff,
    LogProb,
    MeanContrast,
    Plain,
    ProductWeights,
    RuleSet,
    RunnerUp,
    SequenceLogit,
    SequenceLogitDiff,
    SiteError,
    TemperedSoftmax,
    TopKContrast,
    explain,
    load_demo_model,
)
from lrp_lens.hosts import resolve
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import ExpertsSite, LinearSite, NormSite
from lrp_lens.ops.gates import scale_gradient
from lrp_lens.report import explanation_html
from tests import oracles, zoo

METRIC = LogitDiff(3, [7, 9])
# Where a test names no rules: some that reach queries and keys, and take a part for themselves.
run_with_relevance = partial(lrp_lens.run_with_relevance, rules=ATTN_LRP)
EXACT, WITH_FLOAT32_CASTS = 1e-11, 1e-5
NO_PATTERN_EDITS = ("gptj", "opt")  # TransformerBridge drops edits of scores and pattern there
MODELS = zoo.models()
UNUSUAL = (
    "attention_only_no_norm",
    "ln_parallel_gelu",
    "ln_gated_gelu",
    "rms_pre_gated_silu",
)  # of the native
SOME_MODELS = pytest.mark.parametrize(
    ("host", "name"),
    [
        *(
            model
            for model in MODELS
            if model[0] == "hooked" and model[1] not in ("llama", "llama_mha", "olmo2")
        ),
        *(("native", name) for name in UNUSUAL if name in zoo.NATIVE_NAMES),
        *(model for model in MODELS if model[0] == "bridge"),
    ],
)
EVERY_MODEL = pytest.mark.parametrize(("host", "name"), MODELS)

EPSILON = {
    "epsilon with AttnLRP": ATTN_LRP.replace(linear=Epsilon(1e-2)),
    "epsilon with CP-LRP": CP_LRP.replace(linear=Epsilon(1e-2)),
    "epsilon below": ATTN_LRP.override(layers=[0], linear=Epsilon(1e-2)),
}
CUSTOM = {
    "epsilon alone": GRADIENT.replace(linear=Epsilon(1e-2)),
    "odd products": ATTN_LRP.replace(product=ProductWeights(0.3, 0.6)),
    "odd attention": RELP.replace(attention=AttentionWeights(0.1, 0.7, 0.4)),
    "half a value": RELP.replace(attention=AttentionWeights(0.0, 0.0, 0.5)),
    "odd experts": ATTN_LRP.replace(experts=ExpertWeights(0.2, 0.5)),
    "plain layer 1": RELP.override(
        layers=[1], attention=Plain(), norm=Plain(), activation=Plain(), product=Plain(), experts=Plain()
    ),
    "other layer 0": CP_LRP.override(
        layers=[0], attention=AttentionWeights(0.25, 0.25, 0.5), activation=Plain()
    ),
    "tempered softmax alone": GRADIENT.replace(softmax=TemperedSoftmax(2.0)),
    "frozen pattern": ATTN_LRP.replace(attention=FrozenPattern()),
    "plain soft-caps": ATTN_LRP.replace(softcap=Plain()),
    "identity alone": GRADIENT.replace(activation=Identity()),
    "products alone": GRADIENT.replace(product=ProductWeights(0.5, 0.5)),
    "norms alone": GRADIENT.replace(norm=FrozenNorm()),
}


def needs_pattern(rules: RuleSet) -> bool:
    if isinstance(rules.attention, FrozenPattern):
        return True
    reaches = isinstance(rules.attention, Plain) or rules.attention.reaches_pattern
    return isinstance(rules.softmax, TemperedSoftmax) and reaches


def acts_on(model: Any, host: str, name: str, rules: RuleSet) -> bool:
    """Whether this host has every hook point that the rules need; elsewhere they are refused (test_rulesets)."""
    if host == "bridge" and name in NO_PATTERN_EDITS and needs_pattern(rules):
        return False
    epsilon = isinstance(rules.linear, Epsilon) or any(isinstance(o.rule, Epsilon) for o in rules.overrides)
    return not (epsilon and any(site.output is None for site in resolve(model).of(LinearSite)))


def require_balance(ledger: Ledger, tolerance: float, what: str = "") -> None:
    """Overall, and for what lies above, in and below every layer."""
    assert np.isfinite(ledger.metric).all() and (ledger.magnitude > 0).all(), what
    assert ledger.relative_remainder < tolerance, (what, ledger.relative_remainder)
    assert ledger.warning == "", what
    layers = ledger.layers()
    assert layers["remainder"].abs().max() < tolerance * ledger.magnitude.min(), what
    total = ledger.tokens + ledger.positions + sum(row.amount for row in ledger.rows) + ledger.remainder
    np.testing.assert_allclose(total, ledger.metric, rtol=1e-12, atol=1e-12, err_msg=what)
    np.testing.assert_allclose(
        ledger.stream[:, 0], ledger.tokens + ledger.positions, rtol=tolerance, atol=tolerance, err_msg=what
    )


@EVERY_MODEL
def test_presets_balance(host: str, name: str) -> None:
    tokens = zoo.prompt_tokens(2, 9)
    with zoo.float64_throughout():
        model = zoo.shared(host, name)
        plain = model(tokens)
        for rules in PRESETS.values():
            if acts_on(model, host, name, rules):
                logits, cache = run_with_relevance(model, tokens, METRIC, rules=rules)
                assert torch.equal(logits, plain), rules.name
                require_balance(cache.ledger(), EXACT, rules.name)


@SOME_MODELS
def test_custom_rules_balance(host: str, name: str) -> None:
    tokens, balanced = zoo.prompt_tokens(1, 8), 0
    with zoo.float64_throughout():
        model = zoo.shared(host, name)
        for what, rules in CUSTOM.items():
            if acts_on(model, host, name, rules):
                require_balance(
                    run_with_relevance(model, tokens, METRIC, rules=rules)[1].ledger(), EXACT, what
                )
                balanced += 1
    assert balanced >= 10


@SOME_MODELS
def test_epsilon_rules_balance(host: str, name: str) -> None:
    tokens = zoo.prompt_tokens(1, 8)
    with zoo.float64_throughout():
        model = zoo.shared(host, name)
        if not acts_on(model, host, name, EPSILON["epsilon with AttnLRP"]):
            with pytest.raises(SiteError, match=r"this host has none for the linear at L0 (o|experts)"):
                run_with_relevance(model, tokens, METRIC, rules=EPSILON["epsilon with AttnLRP"])
            return
        for what, rules in EPSILON.items():
            cache = run_with_relevance(model, tokens, METRIC, rules=rules)[1]
            require_balance(cache.ledger(), EXACT, what)
            assert any(row.kind == "epsilon" and abs(row.amount[0]) > 1e-6 for row in cache.ledger().rows)


@pytest.mark.parametrize("name", zoo.BRIDGE_NAMES)
def test_bridges_balance_as_users_run_them(name: str) -> None:
    """With the casts to float32 inside Hugging Face's modules."""
    model, tokens = zoo.shared("bridge", name), zoo.prompt_tokens(2, 9)
    for rules in (ATTN_LRP, GRADIENT):
        require_balance(
            run_with_relevance(model, tokens, METRIC, rules=rules)[1].ledger(), WITH_FLOAT32_CASTS
        )


@pytest.mark.parametrize("name", zoo.HOOKED_NAMES)
def test_hooked_transformers_balance_as_users_run_them(name: str) -> None:
    model, tokens = zoo.shared("hooked", name), zoo.prompt_tokens(2, 9)
    require_balance(run_with_relevance(model, tokens, METRIC, rules=ATTN_LRP)[1].ledger(), 1e-9)


HOSTS = ["bridge", *(["hooked"] if zoo.HAS_HOOKED_TRANSFORMER else [])]
METRICS = {
    "logit": Logit(3),
    "logit at 0": Logit(3, pos=0),
    "contrast per example": LogitDiff([3, 4, 5], [[7], [8, 9], [10]]),
    "mean": MeanContrast(3),
    "top k": TopKContrast(3, k=5),
    "top k with target": TopKContrast(3, k=5, include_target=True),
    "log-probability": LogProb(3),
    "sequence": SequenceLogit([3, 4]),
    "sequences": SequenceLogitDiff([3, 4], [5, 6, 7], of="logit"),
    "log-probabilities of sequences": SequenceLogitDiff([3, 4], [5, 6, 7]),
    "runner-up": RunnerUp(),
    "none": None,
    "callable": lambda logits: logits[:, -2:].logsumexp(-1).square().sum(-1),
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_every_metric_balances_in_a_padded_batch(host: str, name: str, side: Any) -> None:
    prompts = [zoo.prompt_tokens(1, length, seed=length)[0] for length in (9, 4, 6)]
    with zoo.float64_throughout():
        model = zoo.shared(host, name)
        for what, metric in METRICS.items():
            for rules in (ATTN_LRP, GRADIENT):
                cache = run_with_relevance(model, prompts, metric, rules=rules, padding_side=side)[1]
                ledger = cache.ledger()
                require_balance(ledger, EXACT, what)
                np.testing.assert_allclose(ledger.metric, cache.metric_value.numpy(), rtol=1e-12)
                nonlinear = [row for row in ledger.rows if row.kind == "metric"]
                assert bool(nonlinear) == ("log-prob" in what or what == "callable"), what
                assert all((np.abs(row.amount) > 1e-3).any() for row in nonlinear)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_a_metric_that_reads_padding_balances(host: str, name: str) -> None:
    """At padding on the left every key is masked, and hosts fill in numbers: relevance there stays ordinary."""
    prompts = [zoo.prompt_tokens(1, length, seed=length)[0] for length in (9, 4)]
    with zoo.float64_throughout():
        cache = run_with_relevance(
            zoo.shared(host, name), prompts, lambda logits: logits[..., 3].sum(-1), padding_side="left"
        )[1]
    assert cache.ledger().magnitude.max() < 1e6
    require_balance(cache.ledger(), EXACT)


# ------------------------------------------------------------------------------------------- sinks
@pytest.mark.parametrize("name", zoo.BIAS_FREE_NAMES)
def test_cp_lrp_without_biases_has_no_sinks(name: str) -> None:
    _, cache = run_with_relevance(zoo.shared("native", name), zoo.prompt_tokens(2, 9), METRIC, rules=CP_LRP)
    assert cache.ledger().rows == ()
    np.testing.assert_allclose(
        cache.ledger().tokens + cache.ledger().positions, cache.metric_value.numpy(), rtol=1e-11, atol=1e-12
    )


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma2", "mixtral", "olmo3"])
def test_cp_lrp_on_bias_free_architectures_has_no_sinks(host: str, name: str) -> None:
    with zoo.float64_throughout():
        _, cache = run_with_relevance(zoo.shared(host, name), zoo.prompt_tokens(2, 9), METRIC, rules=CP_LRP)
    assert cache.ledger().rows == () and cache.ledger().by_kind() == {}
    require_balance(cache.ledger(), EXACT)


def oracle_sinks(answer: Any, gated_hooked: bool) -> dict[tuple[int | None, str], float]:
    """The oracle's bias sinks by the ledger's names."""
    names = {"b_product": "b_in"} if gated_hooked else {"b_in": "b_gate", "b_up": "b_in"}
    biases = {key: value for key, value in answer.sinks.items() if "b_" in key[1] or key[1].endswith("bias")}
    gated = any(name == "b_product" or name == "b_up" for _, name in biases)
    return {
        (layer, names.get(name, name) if gated else name): value
        for (layer, name), value in biases.items()
        if abs(value) > 1e-12
    }


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    "name", ["gpt2", "neox", "qwen2", "phi", "opt", "llama_attention_biases", "llama_biases"]
)
@pytest.mark.parametrize("preset", ["ATTN_LRP", "CP_LRP", "GRADIENT"])
def test_every_bias_takes_what_the_literal_recursion_says(host: str, name: str, preset: str) -> None:
    """Sink by sink, not only their sum."""
    if host == "hooked" and name not in zoo.HOOKED_NAMES:
        host = "bridge"  # llama_biases: no HookedTransformer holds it
    tokens = zoo.prompt_tokens(1, 9)
    matrix = torch.zeros(9, zoo.D_VOCAB, dtype=torch.float64)
    matrix[-1, 3], matrix[-1, 7] = 1.0, -1.0
    with zoo.float64_throughout():
        weights = oracles.from_hugging_face(zoo.hugging_face(name))
        answer = oracles.compute_relevance(weights, tokens[0], matrix, preset)
        cache = run_with_relevance(zoo.shared(host, name), tokens, LogitDiff(3, 7), rules=PRESETS[preset])[1]
    expected = oracle_sinks(answer, gated_hooked=False)
    found = {(row.layer, row.name): float(row.amount[0]) for row in cache.ledger().rows if row.kind == "bias"}
    found = {key: value for key, value in found.items() if abs(value) > 1e-12}
    for layer in range(zoo.N_LAYERS):  # Phi has one norm for both branches; the recursion counts it twice
        if (layer, "ln2 bias") in expected and (layer, "ln2 bias") not in found:
            expected[layer, "ln1 bias"] += expected.pop((layer, "ln2 bias"))
    assert expected and found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-8, abs=1e-10)
    rest = sum(answer.sinks.values()) - sum(expected.values())
    others = sum(float(row.amount[0]) for row in cache.ledger().rows if row.kind != "bias")
    assert others == pytest.approx(rest, rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("host", HOSTS)
def test_sinks_are_named_for_what_they_are(host: str) -> None:
    model, tokens = zoo.BUILD[host]("gemma2"), zoo.prompt_tokens(1, 9)

    def kinds(rules: RuleSet) -> set[str]:
        return set(run_with_relevance(model, tokens, METRIC, rules=rules)[1].ledger().by_kind())

    assert kinds(CP_LRP) == set()
    assert kinds(ATTN_LRP) == kinds(CP_LRP.replace(attention=Plain())) == {"softmax"}
    assert kinds(CP_LRP.replace(softcap=Plain())) == {"soft-cap"}
    assert kinds(CP_LRP.replace(norm=Plain())) == {"norm"}
    assert kinds(CP_LRP.replace(product=ProductWeights(0.0, 0.5))) == {"activation"}
    rows = run_with_relevance(model, tokens, METRIC, rules=ATTN_LRP)[1].ledger().rows
    assert [row.label for row in rows] == ["L1 softmax", "L0 softmax"]
    rows = run_with_relevance(model, tokens, METRIC, rules=CP_LRP.replace(norm=Plain()))[1].ledger().rows
    norms = {str(site) for site in resolve(model).of(NormSite) if site.of == "stream"}
    assert {row.label for row in rows} == norms and len(norms) == 9


def test_a_mixture_names_its_router() -> None:
    model, tokens = zoo.bridge("mixtral"), zoo.prompt_tokens(1, 9)
    assert list(resolve(model).of(ExpertsSite))
    rows = run_with_relevance(model, tokens, METRIC, rules=CP_LRP.replace(experts=ExpertWeights(0.5, 0.5)))[1]
    assert [(row.label, row.kind) for row in rows.ledger().rows] == [
        ("L1 router", "router"),
        ("L0 router", "router"),
    ]


# ------------------------------------------------------------------------------- a remainder is a bug
@pytest.mark.parametrize("host", HOSTS)
def test_a_leak_shows_as_a_remainder_in_its_layer(host: str) -> None:
    """A user's hook that swallows part of the gradient between two accounts is no sink of any rule."""
    model, tokens = zoo.BUILD[host]("llama"), zoo.prompt_tokens(1, 9)

    def leak(tensor: Tensor, hook: Any) -> Tensor:
        return scale_gradient(tensor, 0.9)

    with model.hooks(fwd_hooks=[("blocks.1.hook_mlp_out", leak)]):
        cache = run_with_relevance(model, tokens, METRIC, rules=CP_LRP)[1]
    ledger = cache.ledger()
    assert ledger.relative_remainder > 1e-3
    layers = ledger.layers().set_index("layer")["remainder"].abs()
    assert layers["L1"] > 1e-3 and layers[["final", "L0"]].max() < 1e-5
    shown = next(line for line in str(ledger).splitlines() if "remainder" in line)
    assert f"{ledger.remainder[0]:.2g}" in shown


def test_a_remainder_above_rounding_is_a_warning_wherever_it_is_shown() -> None:
    model = load_demo_model(device="cpu")
    prompt = "then mary and john went to the park . john gave the key to"

    def cut(tensor: Tensor, hook: Any) -> Tensor:
        return (tensor + tensor.detach()) / 2

    whole = run_with_relevance(model, prompt)[1].ledger()
    assert whole.warning == "" and "WARNING" not in str(whole) and "Warning" not in whole._repr_html_()
    layer = Names.mlp_out(model.cfg.n_layers - 1)
    off = [(layer, lambda tensor, hook: tensor.detach())]
    with model.hooks(fwd_hooks=off), pytest.raises(SiteError, match="a hook on the model may cut it off"):
        run_with_relevance(model, prompt)
    with model.hooks(fwd_hooks=[(layer, cut)]):
        ledger = run_with_relevance(model, prompt)[1].ledger()
        explained = explain(model, prompt, "john", "mary")
    said = f"a remainder of {100 * ledger.relative_remainder:.3g} % of Σ|R| is more than rounding leaves (0.01 %)"
    assert ledger.relative_remainder > 0.01
    (noted,) = [note for note in explained.notes if "remainder" in note]
    for text in (ledger.warning, str(ledger), ledger._repr_html_(), noted):
        assert said.split("remainder")[0] in text and "the account does not close" in text
    assert said in str(ledger) and "the account does not close" in explanation_html(explained)
    assert Ledger.from_dict(ledger.to_dict()).warning == ledger.warning


@pytest.mark.parametrize(("dtype", "share"), [("float32", 1e-4), ("float16", 2e-2), ("bfloat16", 1e-1)])
def test_what_rounding_explains_depends_on_the_precision(dtype: str, share: float) -> None:
    model = zoo.bridge("gpt2", dtype=getattr(torch, dtype))
    ledger = run_with_relevance(model, zoo.prompt_tokens(1, 9), METRIC)[1].ledger()
    assert ledger.rounding == share and ledger.warning == ""


# ---------------------------------------------------------------------------------------- as a table
@pytest.mark.parametrize("host", HOSTS)
def test_tables(host: str) -> None:
    model, tokens = zoo.BUILD[host]("gpt2"), zoo.prompt_tokens(2, 9)
    ledger = run_with_relevance(model, tokens, METRIC)[1].ledger()
    frame = ledger.to_dataframe()
    assert list(frame.columns) == ["example", "layer", "name", "kind", "amount", "share"]
    np.testing.assert_allclose(frame.groupby("example")["amount"].sum(), ledger.metric, rtol=1e-12)
    np.testing.assert_allclose(frame.groupby("example")["share"].sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(sum(ledger.by_kind().values()), ledger.sinks, rtol=1e-12, atol=1e-14)
    layers = ledger.layers()
    assert list(layers["layer"]) == ["final", "L1", "L0"] * 2
    assert layers["entering"].iloc[0] == ledger.metric[0]
    assert [row.label for row in ledger.of_layer(None)] == ["ln_final bias"]
    again = Ledger.from_dict(ledger.to_dict())
    assert str(again) == str(ledger) and again.relative_remainder == ledger.relative_remainder
    assert "(example 0 of 2" in str(ledger) and repr(ledger) == str(ledger)
    single = run_with_relevance(model, tokens[:1], METRIC)[1].ledger()
    assert "example" not in single.to_dataframe() and "example" not in single.layers()
    lines = str(single).splitlines()
    assert lines[0].startswith("Ledger  RuleSet ATTN_LRP, LogitDiff(")
    assert lines[1].split()[0] == "metric" and lines[-1].split()[1] == "remainder"
    np.testing.assert_allclose(single.metric, ledger.metric[:1], rtol=1e-9)


@pytest.mark.parametrize("host", HOSTS)
def test_a_selection_has_no_ledger(host: str) -> None:
    cache = run_with_relevance(zoo.BUILD[host]("gpt2"), zoo.prompt_tokens(1, 5), names_filter="hook_embed")[1]
    with pytest.raises(InputError, match=r"needs all default hook points[\s\S]*without names_filter"):
        cache.ledger()


@pytest.mark.parametrize("host", HOSTS)
def test_gim_needs_nothing_of_the_mlp(host: str) -> None:
    """GIM leaves MLPs their gradient, so their nonlinearity is a sink of its own."""
    ledger = run_with_relevance(zoo.BUILD[host]("gpt2"), zoo.prompt_tokens(1, 9), METRIC, rules=GIM)[
        1
    ].ledger()
    assert {row.name for row in ledger.of_layer(0) if row.kind != "bias"} == {"softmax", "activation"}
