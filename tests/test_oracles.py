"""The oracle reproduces every model of the zoo, is autograd where no rule acts, and its ledger closes."""

import dataclasses
import functools
from pathlib import Path

import pytest
import torch

from tests import oracles, zoo
from tests.oracles import literal
from tests.oracles.attention import recurse_attention
from tests.oracles.forward import run_attention, run_mlp, run_norm
from tests.oracles.ledger import Ledger
from tests.oracles.mlp import recurse_mlp
from tests.oracles.recursion import recurse_norm
from tests.oracles.weights import MLP, Attention, Norm

LENGTH = 9
TIGHT = 1e-10


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _metric() -> torch.Tensor:
    """A logit difference at the last position plus something at another one."""
    metric = torch.zeros(LENGTH, zoo.D_VOCAB, dtype=torch.float64)
    metric[-1, 5], metric[-1, 7], metric[3, 2], metric[3, 11] = 1.0, -1.0, 0.5, -0.25
    return metric


@functools.cache
def _model(host: str, name: str):
    with zoo.float64_throughout():
        return getattr(zoo, host)(name)


@functools.cache
def _weights(host: str, name: str):
    with zoo.float64_throughout():
        if host == "hugging_face":
            return oracles.from_hugging_face(_model(host, name))
        return oracles.from_hooked_transformer(_model(host, name))


def _answer(host: str, name: str, rules) -> oracles.Relevance:
    return oracles.compute_relevance(_weights(host, name), zoo.prompt_tokens(1, LENGTH)[0], _metric(), rules)


def _logits(host: str, name: str) -> torch.Tensor:
    with zoo.float64_throughout(), torch.no_grad():
        output = _model(host, name)(zoo.prompt_tokens(1, LENGTH))
    return (output.logits if host == "hugging_face" else output)[0]


def _gradients(model, names) -> dict[str, torch.Tensor]:
    """Autograd's gradient of the metric at every one of the hook points that the host has."""
    kept = {}

    def keep(tensor, hook, name):
        tensor.retain_grad()
        kept[name] = tensor
        return tensor  # a bridge hooks a reshaped copy, which is only in the graph if it is handed back

    names = [name for name in names if name in model.hook_dict]
    hooks = [(name, functools.partial(keep, name=name)) for name in names]
    with zoo.float64_throughout(), model.hooks(fwd_hooks=hooks):
        logits = model(zoo.prompt_tokens(1, LENGTH))
        (_metric() * logits[0]).sum().backward()
    model.zero_grad(set_to_none=True)
    return {name: tensor.grad[0] for name, tensor in kept.items()}


HOOKED = [("hooked", name) for name in zoo.HOOKED_NAMES] + [
    ("native_hooked", name) for name in zoo.NATIVE_NAMES
]
EVERYWHERE = [("hugging_face", name) for name in zoo.ARCHITECTURES] + HOOKED


@pytest.mark.parametrize(("host", "name"), EVERYWHERE)
def test_the_forward_pass_is_the_models(host, name):
    found = oracles.run_forward(_weights(host, name), zoo.prompt_tokens(1, LENGTH)[0]).logits
    torch.testing.assert_close(found, _logits(host, name), rtol=0, atol=TIGHT)


@pytest.mark.parametrize(("host", "name"), HOOKED)
def test_without_rules_the_recursion_is_autograd_on_hooked_transformer(host, name):
    answer = _answer(host, name, oracles.GRADIENT)
    gradients = _gradients(_model(host, name), answer.coefficients)
    assert set(answer.coefficients) - set(gradients) == {"logits"}
    for hook, gradient in gradients.items():
        torch.testing.assert_close(answer.coefficients[hook], gradient, rtol=0, atol=TIGHT, msg=hook)


@pytest.mark.parametrize("name", zoo.BRIDGE_NAMES)
def test_without_rules_the_recursion_is_autograd_on_bridge(name):
    answer = _answer("hugging_face", name, oracles.GRADIENT)
    gradients = _gradients(_model("bridge", name), _names_on_bridge(name, answer.coefficients))
    assert {"hook_embed", "blocks.0.attn.hook_q", "blocks.0.hook_attn_out"} <= set(gradients)
    for hook, gradient in gradients.items():
        expected = answer.coefficients[hook].reshape(gradient.shape)
        torch.testing.assert_close(expected, gradient, rtol=0, atol=TIGHT, msg=hook)


def _names_on_bridge(name, names):
    """What means the same on a bridge: no mixture's mlp points, no norm's inner ones, not OPT's resid_mid."""
    mixture = hasattr(_weights("hugging_face", name).blocks[0].mlp, "experts")
    other = ["hook_normalized"] + [".mlp."] * mixture + ["resid_mid"] * (name == "opt")
    return [hook for hook in names if not any(part in hook for part in other)]


@pytest.mark.parametrize(("host", "name"), EVERYWHERE)
def test_relevance_and_sinks_add_up_to_the_metric_and_in_every_layer(host, name):
    for preset in oracles.PRESETS:
        answer = _answer(host, name, preset)
        assert answer.metric == pytest.approx((answer.logits * _metric()).sum().item(), abs=TIGHT)
        assert answer.total == pytest.approx(answer.metric, abs=TIGHT), preset
        for layer in range(zoo.N_LAYERS):
            above = answer.relevance[f"blocks.{layer}.hook_resid_post"].sum().item()
            below = answer.relevance[f"blocks.{layer}.hook_resid_pre"].sum().item()
            kept = sum(amount for (where, _), amount in answer.sinks.items() if where == layer)
            assert below + kept == pytest.approx(above, abs=TIGHT), (preset, layer)


NORMS = (
    "norm",
    "ln1",
    "ln1_post",
    "ln2",
    "ln2_post",
    "ln_final",
    "mlp norm",
    "q_norm",
    "k_norm",
)
CONSERVING = (*NORMS, "activation", "attention soft-cap", "logit soft-cap")


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_conserving_rules_have_empty_sinks(name):
    for preset, sites in {
        "ATTN_LRP": (*CONSERVING, "gated product", "attention product", "routing product"),
        "CP_LRP": (*CONSERVING, "gated product", "attention product", "routing product", "softmax", "router"),
        "RELP": (*CONSERVING, "gated product", "routing product"),
        "RELP_FROZEN_PATTERN": (
            *CONSERVING,
            "gated product",
            "attention product",
            "routing product",
            "softmax",
        ),
        "GIM": (*NORMS, "attention product"),
    }.items():
        for (layer, site), amount in _answer("hugging_face", name, preset).sinks.items():
            assert site not in sites or abs(amount) < TIGHT, (preset, layer, site, amount)


@pytest.mark.parametrize("name", zoo.BIAS_FREE_NAMES)
def test_cp_lrp_conserves_the_metric_in_a_model_without_biases(name):
    answer = _answer("native_hooked", name, "CP_LRP")
    inputs = sum(
        answer.relevance[hook].sum() for hook in ("hook_embed", "hook_pos_embed") if hook in answer.values
    )
    assert inputs.item() == pytest.approx(answer.metric, abs=TIGHT)
    assert abs(_answer("native_hooked", name, "ATTN_LRP").sinks[0, "softmax"]) > 1e-3


@pytest.mark.parametrize("rule", [field.name for field in dataclasses.fields(oracles.Rules)])
def test_every_rule_matters_somewhere_and_can_be_dropped(rule):
    """A negative control is only one if dropping the rule changes the tokens' relevance."""
    conserving = oracles.VARIANTS["RELP_CONSERVING_SECANT"]
    others = {"softmax_temperature": oracles.GIM, "softmax_nodes": conserving, "conserving": conserving}
    preset = others.get(rule, oracles.ATTN_LRP)
    name = {"experts": "mixtral", "freeze_qk_norms": "qwen3", "soft_cap_identity": "gemma2"}.get(
        rule, "llama"
    )
    dropped = preset.without(rule)
    assert getattr(dropped, rule) == getattr(oracles.GRADIENT, rule) != getattr(preset, rule)
    full, less = (_answer("hugging_face", name, rules).relevance["hook_embed"] for rules in (preset, dropped))
    assert (full - less).abs().max() > 1e-3


# ------------------------------------------------------------ coefficients against the papers' R_j z_ij / z_j
def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(
        *shape, generator=torch.Generator().manual_seed(seed + sum(shape)), dtype=torch.float64
    )


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_frozen_norm_is_the_papers(centred, with_bias):
    weight, bias = _random(6), _random(6, seed=1) if with_bias else None
    norm = Norm(centred=centred, eps=1e-5, weight=weight, bias=bias)
    trace, output = run_norm(norm, _random(1, 6))
    c = _random(1, 6, seed=2)
    c_input = recurse_norm(norm, trace, c, oracles.ATTN_LRP, Ledger(), 0, "ln1")
    expected = literal.frozen_norm(trace.input[0], weight, bias, 1e-5, (output * c)[0], centred=centred)
    torch.testing.assert_close((trace.input * c_input)[0], expected)


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_new"])
def test_gated_mlp_is_the_papers(activation):
    sizes = dict(W_in=_random(4, 5), W_up=_random(4, 5, seed=1), W_out=_random(5, 3))
    biases = dict(b_in=_random(5), b_up=_random(5, seed=1), b_out=_random(3))
    mlp, x, c = MLP(activation, **sizes, **biases), _random(1, 4), _random(1, 3, seed=7)
    trace = run_mlp(mlp, x)
    c_input = recurse_mlp(mlp, trace, c, oracles.ATTN_LRP, Ledger(), 0)
    to_post = literal.linear(trace.post[0], mlp.W_out, mlp.b_out, (trace.output * c)[0])
    to_activated, to_up = literal.product(to_post)
    to_gate = literal.activation(to_activated)
    expected = literal.linear(x[0], mlp.W_in, mlp.b_in, to_gate) + literal.linear(
        x[0], mlp.W_up, mlp.b_up, to_up
    )
    torch.testing.assert_close((x * c_input)[0], expected)


def test_attention_is_the_papers():
    """One head of AttnLRP: the uniform rule twice and Proposition 3.1 make the factors 1/4, 1/4, 1/2."""
    names = ("W_Q", "W_K", "W_V")
    projections = {name: _random(1, 6, 3, seed=seed) for seed, name in enumerate(names)}
    biases = {name.replace("W", "b"): _random(1, 3, seed=seed) for seed, name in enumerate(names)}
    attention = Attention(**projections, **biases, W_O=_random(1, 3, 6), scale=0.6)
    trace, c, ledger = run_attention(attention, _random(5, 6)), _random(5, 6, seed=9), Ledger()
    c_input = recurse_attention(attention, trace, c, oracles.ATTN_LRP, ledger, 0)

    def relevance(name):
        hook = f"blocks.0.attn.hook_{name}"
        return (ledger.values[hook] * ledger.coefficients[hook])[:, 0]

    q, k, v, R_z = trace.q[:, 0], trace.k[:, 0], trace.v[:, 0], relevance("z")
    for position in range(5):
        to_z = literal.linear(trace.z[position, 0], attention.W_O[0], None, (trace.output * c)[position])
        torch.testing.assert_close(R_z[position], to_z)
    found = [relevance(name) for name in "qkv"]
    for ours, theirs in zip(found, literal.causal_head(q, k, v, 0.6, R_z), strict=True):
        torch.testing.assert_close(ours, theirs)
    for position in range(5):
        expected = sum(
            literal.linear(
                trace.input[position], projections[W][0], biases[W.replace("W", "b")][0], R[position]
            )
            for W, R in zip(names, found, strict=True)
        )
        torch.testing.assert_close((trace.input * c_input)[position], expected)


@pytest.mark.parametrize("name", ["relu", "silu", "gelu", "gelu_new", "gpt_oss", "gelu_fast"])
def test_activation_rules_at_and_near_zero(name):
    x = torch.tensor([0.0, -0.0, 1e-300, -3.0, 3.0], dtype=torch.float64)
    ratio = oracles.rules.activation_ratio(name, x)
    limit = 0.0 if name == "relu" else 0.5
    torch.testing.assert_close(ratio[:2], torch.full((2,), limit, dtype=torch.float64))
    torch.testing.assert_close(x * ratio, oracles.rules.activation_value(name, x))


def test_the_oracle_is_independent():
    """No autograd and nothing of lrp_lens, by the text of its modules."""
    for path in Path(oracles.__file__).parent.glob("*.py"):
        words = [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert not any("lrp_lens" in line or "autograd" in line for line in words), path
