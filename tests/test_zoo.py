"""Every host computes the same logits for the same architecture, and the models are as random as claimed."""

import contextlib
from typing import Any

import pytest
import torch

from lrp_lens.hosts import resolve
from tests import zoo, zoo_recipes
from tests.zoo_recipes import FIRST

BATCH, LENGTH = 2, 9


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _logits(model, **options) -> torch.Tensor:
    with torch.no_grad():
        output = model(zoo.prompt_tokens(BATCH, LENGTH), **options)
    return output if isinstance(output, torch.Tensor) else output.logits


def _largest_difference(left: torch.Tensor, right: torch.Tensor) -> float:
    return (left - right).abs().max().item()


@pytest.mark.parametrize("name", zoo.HOOKED_NAMES)
def test_hooked_transformer_agrees_with_hugging_face(name):
    expected = _logits(zoo.hugging_face(name), use_cache=False)
    assert expected.dtype == torch.float64
    assert _largest_difference(_logits(zoo.hooked(name)), expected) < zoo.logit_tolerance(name)


@pytest.mark.parametrize("name", zoo.BRIDGE_NAMES)
def test_bridge_agrees_with_hugging_face(name):
    expected = _logits(zoo.hugging_face(name), use_cache=False)
    assert _largest_difference(_logits(zoo.bridge(name)), expected) < zoo.logit_tolerance(name)


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_all_hosts_agree_to_round_off_where_nothing_casts_to_float32(name):
    with zoo.float64_throughout():
        logits = {host: _logits(getattr(zoo, host)(name)) for host in zoo.hosts_of(name)}
    expected = logits.pop("hugging_face")
    tolerance = 1e-8 if name == "bloom" else 1e-12
    differences = {host: _largest_difference(found, expected) for host, found in logits.items()}
    assert all(difference < tolerance for difference in differences.values()), differences


def test_float64_throughout_leaves_nothing_behind():
    names = torch.float32, torch.float, torch.get_default_dtype(), torch.Tensor.float
    with zoo.float64_throughout():
        assert torch.ones(1).dtype == torch.zeros(1, dtype=torch.float32).dtype == torch.float64
    assert names == (torch.float32, torch.float, torch.get_default_dtype(), torch.Tensor.float)
    with contextlib.suppress(RuntimeError), zoo.float64_throughout():
        raise RuntimeError
    assert names == (torch.float32, torch.float, torch.get_default_dtype(), torch.Tensor.float)
    inside = zoo.hugging_face("llama")
    with zoo.float64_throughout():
        for left, right in zip(zoo.hugging_face("llama").parameters(), inside.parameters(), strict=True):
            assert torch.equal(left, right)


@pytest.mark.parametrize("name", zoo.ARCHITECTURES)
def test_every_parameter_is_random_and_nothing_is_degenerate(name):
    model = zoo.hugging_face(name)
    constant = [key for key, value in model.named_parameters() if value.numel() > 1 and value.std() < 1e-3]
    assert constant == []
    logits = _logits(model, use_cache=False)
    assert logits.isfinite().all() and 0.1 < logits.std() < 50
    assert "hugging_face" in zoo.hosts_of(name) and "bridge" in zoo.hosts_of(name)
    assert ("hooked" in zoo.hosts_of(name)) == (name in zoo.HOOKED_NAMES)


@pytest.mark.skipif(
    not zoo.HAS_HOOKED_TRANSFORMER, reason="HookedTransformer was removed in TransformerLens 4"
)
@pytest.mark.parametrize("name", zoo.HOOKED_NAMES)
def test_hooked_transformer_lost_no_bias(name):
    """The agreement of the logits says nothing about a bias that both sides lack, so look at the biases."""
    model = zoo.hooked(name)
    has_attention_biases = name in (
        "gpt2", "neox", "opt", "bloom", "qwen2", "phi", "gpt_oss", "llama_attention_biases"
    )  # fmt: skip
    assert bool(model.blocks[0].attn.b_Q.any()) == has_attention_biases
    assert bool(model.blocks[0].attn.b_O.any()) == (has_attention_biases and name != "qwen2")
    assert bool(model.unembed.b_U.any()) == (name in ("gptj", "phi"))


@pytest.mark.parametrize("name", zoo.NATIVE_NAMES)
def test_native_models_run_and_have_the_biases_they_claim(name):
    model = zoo.native_hooked(name)
    logits = _logits(model)
    assert logits.shape == (BATCH, LENGTH, zoo.D_VOCAB)
    assert logits.isfinite().all() and 0.1 < logits.std() < 200
    biases = [
        value for key, value in model.named_parameters() if key.rsplit(".", 1)[-1].lstrip("_").startswith("b")
    ]
    assert biases and all(bool(bias.any()) != (name in zoo.BIAS_FREE_NAMES) for bias in biases)
    assert (
        "rotary_cos" not in model.blocks[0].attn._buffers
        or model.blocks[0].attn.rotary_cos.dtype == torch.float64
    )
    low = zoo.native_hooked(name, torch.float32)
    assert _largest_difference(_logits(low).double(), logits) < 1e-2


def test_builders_are_deterministic_and_leave_the_random_state_alone():
    before = torch.get_rng_state()
    first, second = zoo.hugging_face("llama"), zoo.hugging_face("llama")
    zoo.bridge("gpt2")
    if zoo.HAS_HOOKED_TRANSFORMER:
        zoo.hooked("mixtral")
        zoo.native_hooked("ln_relu")
    assert torch.equal(torch.get_rng_state(), before)
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)
    assert torch.equal(zoo.prompt_tokens(2, 5, seed=1), zoo.prompt_tokens(2, 5, seed=1))


def test_sliding_windows_clamps_and_caps_are_active():
    """The features that only show at some magnitude or length do show in these models."""
    assert LENGTH > zoo_recipes.WINDOW
    model = zoo.hugging_face("gpt_oss")
    clamped = []
    experts = model.model.layers[0].mlp.experts
    original = experts._apply_gate

    def record(gate_up):
        clamped.append((gate_up[..., ::2] > 7).any() and (gate_up[..., 1::2].abs() > 7).any())
        return original(gate_up)

    experts._apply_gate = record
    _logits(model, use_cache=False)
    assert any(clamped)
    assert _logits(zoo.hugging_face("gemma2"), use_cache=False).abs().max() > 4


def kinds(model: Any) -> set[tuple[Any, ...]]:
    """What operations a model has, apart from where they stand and how large they are."""
    sites = resolve(model)
    found: set[tuple[Any, ...]] = {("parallel", sites.parallel)}
    for site in sites.sites:
        parts = [f"{key}={value}" for key, value in vars(site).items() if key in PLAIN]
        parts += [f"{key}: {value is not None}" for key, value in vars(site).items() if key in OPTIONAL]
        parts += [f"{key}: {getattr(site, key)() is not None}" for key in READ if hasattr(site, key)]
        where = (site.label,) if site.kind in ("linear", "bias") else ()
        found.add((site.kind, *where, *parts))
    return found


PLAIN = ("centred", "of", "function", "expert", "biased", "extras")
OPTIONAL = ("limit", "softcap", "scores", "pattern", "up", "input", "output", "scale")
READ = ("gain", "bias", "sink")


@pytest.mark.full
@pytest.mark.parametrize("host", zoo.BUILD)
def test_the_first_tier_holds_every_kind_of_site(host):
    found = {name: kinds(zoo.shared(host, name)) for _, name in zoo.models(host)}
    every = set().union(*found.values())
    assert every == set().union(*(found[name] for name in found.keys() & FIRST))
    assert len(found.keys() & FIRST) < len(found) / 2


def test_a_shared_model_that_is_changed_is_noticed_and_not_lent_again():
    changes = {
        "hook": lambda model: model.hook_dict["hook_embed"].add_hook(lambda tensor, hook: None),
        "weight": lambda model: next(model.parameters()).data.mul_(1.5),
        "requires_grad": lambda model: next(model.parameters()).requires_grad_(False),
        "mode": lambda model: model.train(),
        "module": lambda model: model.blocks[0].add_module("mlp", torch.nn.Identity()),
        "cfg": lambda model: setattr(model.cfg, "use_attn_result", not model.cfg.use_attn_result),
    }
    assert zoo.changed() == []
    for what, change in changes.items():
        model = zoo.shared("bridge", "gpt2")
        model(zoo.prompt_tokens(1, 4)).sum().backward()
        model.zero_grad()
        assert zoo.changed() == [], what  # running it is no change
        assert zoo.shared("bridge", "gpt2") is model
        change(model)
        (fault,) = zoo.changed()
        assert fault.startswith("bridge gpt2: "), what
        assert zoo.shared("bridge", "gpt2") is not model
