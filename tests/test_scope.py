"""After a pass, also a failed one, the model is exactly as before; contexts and models do not mix."""

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lrp_lens import (
    ATTN_LRP,
    CP_LRP,
    GIM,
    GRADIENT,
    PRESETS,
    RELP,
    InputError,
    LogitDiff,
    MetricError,
    RuleSet,
    SecantSoftmax,
    SiteError,
    attribution_graph,
    decompose,
    load_demo_model,
    run_with_relevance,
)
from lrp_lens.hosts.scope import exclusive
from tests import zoo

METRIC = LogitDiff(3, 7)
HOSTS = zoo.HOSTS
HOOK_LISTS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

Model = Any


def state(model: Model) -> dict[str, Any]:
    """Everything of a model that a pass could leave behind."""
    found: dict[str, Any] = {"training": [module.training for module in model.modules()]}
    for name, module in model.named_modules():
        for hooks in HOOK_LISTS:
            found[f"{name}.{hooks}"] = list(getattr(module, hooks).items())
        if hasattr(module, "fwd_hooks"):
            found[f"{name}.handles"] = (list(map(id, module.fwd_hooks)), list(map(id, module.bwd_hooks)))
            found[f"{name}.ctx"] = dict(module.ctx)
    for name, parameter in model.named_parameters():
        gradient = None if parameter.grad is None else parameter.grad.clone()
        found[f"{name} parameter"] = (id(parameter), parameter.requires_grad, parameter._version)
        found[f"{name} values"] = (parameter.detach().clone(), gradient)
    found["flags"] = {
        key: value for key, value in vars(model.cfg).items() if isinstance(value, bool | str | int)
    }
    found["modules"] = [id(module) for module in model.modules()]
    found["grad mode"] = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_rng_state().tolist())
    return found


def same(before: Any, after: Any) -> bool:
    if isinstance(before, Tensor):
        return isinstance(after, Tensor) and torch.allclose(before, after, rtol=0, atol=0, equal_nan=True)
    if isinstance(before, dict):
        return before.keys() == after.keys() and all(same(before[key], after[key]) for key in before)
    if isinstance(before, tuple | list):
        return len(before) == len(after) and all(map(same, before, after))
    return bool(before == after)


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return [key for key in before.keys() | after.keys() if not same(before.get(key), after.get(key))]


def embedding_relevance(model: Model, tokens: Tensor, hooks: list[Any] | None = None) -> Tensor:
    """Token relevance by TransformerLens alone, under whatever hooks are attached, and these."""
    kept: list[Tensor] = []

    def leaf(tensor: Tensor, hook: Any) -> Tensor:
        kept.append(tensor.detach().requires_grad_(True))
        return kept[-1]

    with model.hooks(fwd_hooks=[("hook_embed", leaf)]), model.hooks(fwd_hooks=hooks or []):
        value = METRIC(model(tokens))
    return (kept[-1] * torch.autograd.grad(value.sum(), kept[-1])[0]).detach()


def relevance(model: Model, tokens: Tensor | str, rules: RuleSet = ATTN_LRP) -> Tensor:
    return run_with_relevance(model, tokens, METRIC, rules=rules)[1]["hook_embed"]


@pytest.fixture(params=HOSTS)
def build(request: pytest.FixtureRequest) -> Callable[[str], Model]:
    def builder(name: str) -> Model:
        model = zoo.BUILD[request.param](name)
        with torch.no_grad():
            model(zoo.prompt_tokens(1, 3))  # TransformerBridge attaches hooks of its own at the first pass
        return model

    return builder


@pytest.fixture
def tokens() -> Tensor:
    return zoo.prompt_tokens(1, 6)


class UserError(Exception):
    """What a user's own code raises in the middle of a pass."""


def raising(error: type[BaseException]) -> Callable[..., None]:
    def hook(tensor: Tensor, hook: Any) -> None:
        raise error

    return hook


# ------------------------------------------------------------------------------ threads
def test_threads_take_turns_with_one_model(build: Callable[[str], Model]) -> None:
    """Runs of all kinds, many at once, give the numbers they give alone; one that fails does not stop the others."""
    model = build("gpt2")
    prompts = [zoo.prompt_tokens(1, 6, seed=seed) for seed in range(3)]

    def failing(logits: Tensor) -> Tensor:
        raise UserError

    def fails() -> Tensor:
        with pytest.raises(UserError):
            run_with_relevance(model, prompts[0], failing)
        return torch.zeros(1)

    runs: list[Callable[[], Tensor]] = [fails]
    for prompt in prompts:
        runs += [
            lambda prompt=prompt: relevance(model, prompt),
            lambda prompt=prompt: relevance(model, prompt, GIM),
            lambda prompt=prompt: torch.as_tensor(decompose(model, prompt, METRIC).total),
            lambda prompt=prompt: torch.as_tensor(attribution_graph(model, prompt, METRIC).relevance),
        ]
    alone = [run() for run in runs]
    before = state(model)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda run: run(), runs * 3))
    assert all(same(one, other) for one, other in zip(alone * 3, found, strict=True))
    assert differences(before, state(model)) == []


def test_threads_take_turns_with_one_tokenizer() -> None:
    """transformer_lens sets the model's defaults while it tokenises: a thread would see another's BOS."""
    model = load_demo_model(device="cpu")
    prompts = ["then mary and john went to the park . john gave the key to", "mary gave the key to"] * 6
    alone = [relevance(model, prompt) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: relevance(model, prompt), prompts))
    assert all(same(one, other) for one, other in zip(alone, found, strict=True))


def test_two_models_do_not_wait_for_each_other(build: Callable[[str], Model], tokens: Tensor) -> None:
    one, other = build("gpt2"), build("gpt2")
    with ThreadPoolExecutor(1) as pool, exclusive(one):
        assert pool.submit(relevance, other, tokens).result(timeout=60).shape[1] == 6
        waiting = pool.submit(relevance, one, tokens)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
    assert waiting.result(timeout=60).shape[1] == 6


# ------------------------------------------------------------------------------ nothing left behind
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "mixtral", "bloom"])
def test_nothing_is_left_behind(build: Callable[[str], Model], name: str, tokens: Tensor) -> None:
    model = build(name)
    METRIC(model(tokens)).sum().backward()
    frozen = next(iter(model.parameters()))
    frozen.requires_grad_(False)
    before = state(model)
    assert any(parameter.grad is not None for parameter in model.parameters())
    for rules in PRESETS.values():
        run_with_relevance(model, tokens, METRIC, rules=rules)
        rules.hooks(model)
        with model.hooks(fwd_hooks=rules.hooks(model)), torch.no_grad():
            model(tokens)
    assert differences(before, state(model)) == []


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("where", ["hook_embed", "blocks.0.attn.hook_z", "blocks.1.hook_mlp_out"])
def test_nothing_is_left_behind_by_an_exception(
    build: Callable[[str], Model], tokens: Tensor, where: str, error: type[BaseException]
) -> None:
    model = build("llama")
    before = state(model)
    with pytest.raises(error), model.hooks(fwd_hooks=[(where, raising(error))]):
        run_with_relevance(model, tokens, METRIC)
    assert differences(before, state(model)) == []
    with pytest.raises(error), model.hooks(fwd_hooks=ATTN_LRP.hooks(model)):
        raise error
    assert differences(before, state(model)) == []
    torch.testing.assert_close(relevance(model, tokens), relevance(build("llama"), tokens), rtol=0, atol=0)


def test_an_interrupted_probe_leaves_nothing_behind(build: Callable[[str], Model], tokens: Tensor) -> None:
    """The first pass on a model probes it; here the model itself fails then."""
    model = build("llama")
    before = state(model)
    failing = mock.patch.object(type(model.blocks[1]), "forward", side_effect=KeyboardInterrupt)
    with failing, pytest.raises(KeyboardInterrupt):
        ATTN_LRP.hooks(model)
    assert differences(before, state(model)) == []
    torch.testing.assert_close(relevance(model, tokens), relevance(build("llama"), tokens), rtol=0, atol=0)


def test_a_metric_that_fails_leaves_nothing_behind(build: Callable[[str], Model], tokens: Tensor) -> None:
    def metric(logits: Tensor) -> Tensor:
        raise UserError

    model = build("gpt2")
    before = state(model)
    with pytest.raises(UserError):
        run_with_relevance(model, tokens, metric)
    with pytest.raises(MetricError):
        run_with_relevance(model, tokens, lambda logits: logits[:, -1, 3].detach())
    assert differences(before, state(model)) == []


def test_works_while_gradients_are_off(build: Callable[[str], Model], tokens: Tensor) -> None:
    model = build("gpt2")
    expected = relevance(model, tokens)
    with torch.no_grad():
        assert torch.equal(relevance(model, tokens), expected)
        assert not torch.is_grad_enabled()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert torch.equal(relevance(model, tokens), expected)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_inference_mode_is_refused_or_works(build: Callable[[str], Model], tokens: Tensor) -> None:
    """Nothing can be differentiated in inference mode: say so, instead of blaming the metric."""
    model = build("gpt2")
    before = state(model)
    with torch.inference_mode(), pytest.raises(InputError, match="inference"):
        run_with_relevance(model, tokens, METRIC)
    assert differences(before, state(model)) == []


# ------------------------------------------------------------------------------------- users' hooks
def test_users_hooks_stay_and_run_once_a_pass(build: Callable[[str], Model], tokens: Tensor) -> None:
    """Also not on the tokens of the probe, which have another length."""
    model, seen = build("llama"), []

    def count(tensor: Tensor, hook: Any) -> None:
        seen.append((hook.name.rpartition(".")[2], tensor.shape[1]))

    model.hook_dict["blocks.0.hook_resid_pre"].add_perma_hook(count)
    model.hook_dict["blocks.1.hook_resid_post"].add_hook(count)
    with model.hooks(
        fwd_hooks=[("blocks.0.attn.hook_z", count)], bwd_hooks=[("blocks.1.attn.hook_z", count)]
    ):
        before = state(model)
        run_with_relevance(model, tokens, METRIC)
        assert len(seen) == 4 and {length for _, length in seen} == {tokens.shape[1]}
        run_with_relevance(model, tokens, METRIC)
        assert len(seen) == 8
        assert differences(before, state(model)) == []
    model.reset_hooks(including_permanent=True)
    seen.clear()
    run_with_relevance(model, tokens, METRIC)
    assert seen == []


def test_users_module_hooks_run_once_a_pass(build: Callable[[str], Model], tokens: Tensor) -> None:
    """PyTorch's own hooks on modules do not see the probe either."""
    model, seen = build("llama"), []
    handles = [
        model.register_forward_hook(lambda module, inputs, output: seen.append("model")),
        model.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append("block")),
        model.blocks[1].attn.register_forward_pre_hook(lambda module, inputs: seen.append("attention")),
    ]
    run_with_relevance(model, tokens, METRIC)
    assert sorted(seen) == ["attention", "block", "model"]
    assert all(handle.id in hooks for handle in handles if (hooks := handle.hooks_dict_ref()) is not None)


def test_relevance_is_that_of_the_model_as_edited_by_the_user(
    build: Callable[[str], Model], tokens: Tensor
) -> None:
    model = build("llama")
    reference = build("llama")
    z = run_with_relevance(reference, tokens, METRIC)[1].activations["z", 1]

    def ablate(tensor: Tensor, hook: Any) -> Tensor:
        tensor = tensor.clone()
        tensor[:, :, 0] = 0
        return tensor

    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_z", ablate)]):
        logits, cache = run_with_relevance(model, tokens, METRIC)
        assert torch.equal(logits, model(tokens))
    assert not torch.equal(logits, model(tokens))
    assert torch.equal(cache.activations["z", 1][:, :, 1:], z[:, :, 1:])
    assert cache["z", 1][:, :, 0].abs().max() == 0
    assert cache.ledger().relative_remainder < 1e-6


SECANT = RELP.replace(softmax=SecantSoftmax(), name="SECANT")


@pytest.mark.parametrize("memory", ["full", "low"])
@pytest.mark.parametrize("rules", [ATTN_LRP, GIM, SECANT], ids=lambda rules: rules.name)
def test_an_edit_keeps_its_own_derivative_behind_a_rule(
    build: Callable[[str], Model], tokens: Tensor, rules: RuleSet, memory: Any
) -> None:
    """Half of what an operation gives is the same where a rule replaces that operation's graph and behind it."""
    model = build("llama")
    for place, behind in (("mlp.hook_post", "hook_mlp_out"), ("attn.hook_pattern", "attn.hook_z")):
        found = []
        for point in (place, behind):
            with model.hooks(fwd_hooks=[(f"blocks.1.{point}", lambda tensor, hook: tensor / 2)]):
                found.append(run_with_relevance(model, tokens, METRIC, rules=rules, memory=memory)[1])
        one, other = (cache.tokens().values for cache in found)
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * np.abs(other).max())
        assert found[0].ledger().relative_remainder < 1e-6
    before = state(model)
    with (
        model.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", lambda tensor, hook: tensor.detach())]),
        pytest.raises(SiteError, match="outside the graph"),
    ):
        run_with_relevance(model, tokens, METRIC, rules=rules, memory=memory)
    assert not differences(before, state(model))


# ------------------------------------------------------------------------------- nesting and switching
def test_of_nested_contexts_the_innermost_acts(build: Callable[[str], Model], tokens: Tensor) -> None:
    model = build("llama")
    alone = {name: embedding_relevance(model, tokens, rules.hooks(model)) for name, rules in PRESETS.items()}
    values = list(alone.values())
    assert all(not torch.allclose(values[i], values[j], rtol=1e-3) for i in range(5) for j in range(i))
    outer = CP_LRP.hooks(model)
    with model.hooks(fwd_hooks=outer):
        assert torch.equal(embedding_relevance(model, tokens), alone["CP_LRP"])
        for name, rules in PRESETS.items():
            assert torch.equal(embedding_relevance(model, tokens, rules.hooks(model)), alone[name]), name
            torch.testing.assert_close(
                relevance(model, tokens, rules), alone[name], rtol=1e-10, atol=1e-12, msg=name
            )
            assert torch.equal(embedding_relevance(model, tokens), alone["CP_LRP"]), name
        with model.hooks(fwd_hooks=GIM.hooks(model)), model.hooks(fwd_hooks=RELP.hooks(model)):
            assert torch.equal(embedding_relevance(model, tokens), alone["RELP"])
        assert torch.equal(embedding_relevance(model, tokens), alone["CP_LRP"])
    assert torch.equal(embedding_relevance(model, tokens), alone["GRADIENT"])
    assert torch.equal(embedding_relevance(model, tokens, outer), alone["CP_LRP"])


def test_an_exception_in_an_inner_context_restores_the_outer_one(
    build: Callable[[str], Model], tokens: Tensor
) -> None:
    model = build("gpt2")
    expected = embedding_relevance(model, tokens, CP_LRP.hooks(model))
    with model.hooks(fwd_hooks=CP_LRP.hooks(model)):
        for error in (UserError, KeyboardInterrupt):
            with pytest.raises(error), model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", raising(error))]):
                run_with_relevance(model, tokens, METRIC, rules=GRADIENT)
            with pytest.raises(error), model.hooks(fwd_hooks=GRADIENT.hooks(model)):
                raise error
            assert torch.equal(embedding_relevance(model, tokens), expected)


def test_rule_hooks_act_after_nesting_where_the_embedding_does_not_fire(
    build: Callable[[str], Model], tokens: Tensor
) -> None:
    """Hooks that an inner rule set silenced act again afterwards, also in a pass that starts behind the embedding."""
    model = build("gpt2")
    stream = run_with_relevance(model, tokens, METRIC)[1].activations["resid_pre", 1]

    def from_layer_one(hooks: list[Any]) -> Tensor:
        kept: list[Tensor] = []

        def enter(tensor: Tensor, hook: Any) -> Tensor:
            kept.append(stream.clone().requires_grad_(True))
            return kept[-1]

        if not starts_inside:  # the host cannot start at a layer: run the block by itself
            with model.hooks(fwd_hooks=hooks):
                kept.append(stream.clone().requires_grad_(True))
                output = model.blocks[1](kept[-1])
                output = output[0] if isinstance(output, tuple) else output
                value = output[0, -1, :4].sum()
        else:
            with model.hooks(fwd_hooks=hooks):
                kept.append(stream.clone().requires_grad_(True))
                value = METRIC(model(kept[-1], start_at_layer=1)).sum()
        return torch.autograd.grad(value, kept[-1])[0]

    try:
        model(stream, start_at_layer=1)
        starts_inside = True
    except NotImplementedError:
        starts_inside = False
    hooks = CP_LRP.hooks(model)
    expected = from_layer_one(CP_LRP.hooks(model))
    assert not torch.allclose(expected, from_layer_one([]), rtol=1e-3)
    assert torch.equal(from_layer_one(hooks), expected)
    with model.hooks(fwd_hooks=hooks):
        run_with_relevance(model, tokens, METRIC, rules=ATTN_LRP)
    assert torch.equal(from_layer_one(hooks), expected)


def test_two_models_do_not_influence_each_other(build: Callable[[str], Model], tokens: Tensor) -> None:
    one, other, third = build("gpt2"), build("llama"), build("gpt2")
    with torch.no_grad():
        for parameter in third.parameters():
            parameter.mul_(0.9)
    alone = [relevance(model, tokens) for model in (one, other, third)]
    assert not torch.allclose(alone[0], alone[2], rtol=1e-3)
    with one.hooks(fwd_hooks=CP_LRP.hooks(one)), third.hooks(fwd_hooks=GIM.hooks(third)):
        plain = embedding_relevance(other, tokens)
        within = [relevance(model, tokens) for model in (one, other, third)]
    assert torch.equal(plain, embedding_relevance(other, tokens))
    assert all(map(torch.equal, alone, within))


def test_one_models_pass_inside_anothers_hook(build: Callable[[str], Model], tokens: Tensor) -> None:
    outer, inner = build("gpt2"), build("llama")
    expected = relevance(outer, tokens, CP_LRP), relevance(inner, tokens, RELP)
    found = []

    def detour(tensor: Tensor, hook: Any) -> None:
        found.append(relevance(inner, tokens, RELP))

    with outer.hooks(fwd_hooks=[("blocks.0.hook_resid_post", detour)]):
        assert torch.equal(relevance(outer, tokens, CP_LRP), expected[0])
    assert len(found) == 1 and torch.equal(found[0], expected[1])


@pytest.mark.skipif(not zoo.HAS_HOOKED_TRANSFORMER, reason="TransformerBridge refuses split inputs")
@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("flag", ["use_attn_result", "use_split_qkv_input", "use_hook_mlp_in"])
def test_changed_flags_of_a_model_are_followed(flag: str, name: str, tokens: Tensor) -> None:
    model = zoo.hooked(name)
    expected = relevance(model, tokens)
    getattr(model, f"set_{flag}")(True)
    logits, cache = run_with_relevance(model, tokens, METRIC, rules=ATTN_LRP)
    assert torch.equal(logits, model(tokens))
    torch.testing.assert_close(cache["hook_embed"], expected, rtol=1e-10, atol=1e-12)
    assert cache.ledger().relative_remainder < 1e-12
    assert getattr(model.cfg, flag) is True
    getattr(model, f"set_{flag}")(False)
    assert torch.equal(relevance(model, tokens), expected)


# ------------------------------------------------------------------------------------ life of a model
@pytest.fixture
def apart() -> Iterator[None]:
    """What there is already is left out of collections: a full one takes half a second, and it is not in question."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mixtral"])
def test_a_model_can_be_garbage_collected(build: Callable[[str], Model], name: str, tokens: Tensor) -> None:
    model = build(name)
    watched = [weakref.ref(parameter) for parameter in model.parameters()]
    reference = weakref.ref(model)
    _, cache = run_with_relevance(model, tokens, METRIC)
    ATTN_LRP.hooks(model)
    del model
    gc.collect()
    assert reference() is None, "the model is alive although only a RelevanceCache is left of its pass"
    assert cache.ledger().relative_remainder < 1e-6
    del cache
    gc.collect()
    assert [parameter for parameter in watched if parameter() is not None] == []


@pytest.mark.usefixtures("apart")
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mixtral"])
def test_a_cache_does_not_keep_weights_alive(
    build: Callable[[str], Model], name: str, tokens: Tensor
) -> None:
    """A RelevanceCache holds what it recorded: no matrix of the model."""
    model = build(name)
    matrices = {key: weakref.ref(value) for key, value in model.named_parameters() if value.ndim > 1}
    _, cache = run_with_relevance(model, tokens, METRIC)
    del model
    gc.collect()
    assert [key for key, value in matrices.items() if value() is not None] == []
    assert len(cache) > 10


def test_a_ledger_is_that_of_the_weights_of_its_pass(build: Callable[[str], Model], tokens: Tensor) -> None:
    """The ledger is summed when it is asked for; by then the weights may have been trained or scaled."""
    model = build("gpt2")
    _, cache = run_with_relevance(model, tokens, METRIC)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    assert cache.ledger().relative_remainder < 1e-6


def test_changed_weights_are_followed(build: Callable[[str], Model], tokens: Tensor) -> None:
    model = build("gpt2")
    run_with_relevance(model, tokens, METRIC)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.8)
    fresh = build("gpt2")
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.mul_(0.8)
    _, cache = run_with_relevance(model, tokens, METRIC, rules=ATTN_LRP)
    assert torch.equal(cache["hook_embed"], relevance(fresh, tokens))
    assert cache.ledger().relative_remainder < 1e-6


def test_a_model_can_be_copied_after_a_pass(build: Callable[[str], Model], tokens: Tensor) -> None:
    """Also by users who never compute gradients themselves: no tensor of the pass' graph stays in the model."""
    model = build("gpt2")
    with torch.no_grad():
        model(tokens)
        copy.deepcopy(model)
        expected = relevance(model, tokens)
        twin = copy.deepcopy(model)
        for parameter in twin.parameters():
            parameter.mul_(0.9)
    assert not torch.allclose(relevance(twin, tokens), expected, rtol=1e-3)
    assert torch.equal(relevance(model, tokens), expected)
    assert not any(
        module.__dict__.get("fwd_hooks") for module in twin.modules() if isinstance(module, nn.Module)
    )


def test_no_graph_stays_alive(build: Callable[[str], Model], tokens: Tensor) -> None:
    model = build("gpt2")
    logits, cache = run_with_relevance(model, tokens, METRIC)
    held = [
        logits,
        cache.metric_value,
        *cache.activations.values(),
        *cache.gradients.values(),
        *cache.values(),
    ]
    assert not any(tensor.requires_grad for tensor in held)
