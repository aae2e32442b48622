"""Gates alone: the value is kept bit for bit, the gradient is the documented one, and stays finite in float16."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformer_lens.hook_points import HookPoint

from lrp_lens.errors import SiteError
from lrp_lens.hosts.sites import AttentionSite, Port
from lrp_lens.ops.gates import (
    accumulation_dtype,
    frozen_normalizer,
    product_gate,
    scale_gradient,
    stop_relevance,
)
from lrp_lens.ops.norms import Norm
from lrp_lens.ops.ratios import RATIOS, clamp_ratio, clamped_swiglu, identify, softcap_ratio
from lrp_lens.rules import TemperedSoftmax

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
EXTREMES = [0.0, -0.0, 1e-7, -1e-7, 1e-3, -1e-3, 1.0, -1.0, 11.0, -11.0, 250.0, -250.0, 6e4, -6e4]


def tempered_softmax(
    pattern: Tensor, scores: Tensor, temperature: float, sink: Tensor | None = None
) -> Tensor:
    """The pattern behind the rule's hooks."""
    ports = {name: Port(name, HookPoint()) for name in ("q", "k", "v", "scores", "pattern", "z")}
    site = AttentionSite(layer=0, label="attn", sink=lambda: sink, **ports)
    read, replace = TemperedSoftmax(temperature).hooks(site)
    read.function(scores, hook=None)
    return replace.function(pattern, hook=None)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def leaf(*shape: int, seed: int = 0) -> Tensor:
    return uniform(*shape, seed=seed).requires_grad_(True)


def softmax_with_sink(scores: Tensor, sink: Tensor) -> Tensor:
    return torch.softmax(torch.cat([scores, sink.expand(*scores.shape[:-1], 1)], dim=-1), dim=-1)[..., :-1]


# Name → (inputs, gate as a function of them): what the vmap and dtype tests run through.
GATES: dict[str, tuple[tuple[Tensor, ...], Callable[..., Tensor]]] = {
    "scale by a number": ((uniform(3, 4),), lambda x: scale_gradient(x, 0.25)),
    "scale by a tensor": ((uniform(3, 4),), lambda x: scale_gradient(x, uniform(4, seed=9).to(x.dtype))),
    "identity rule": (
        (uniform(3, 4),),
        lambda x: product_gate(functional.silu(x), x, None, RATIOS["silu"]),
    ),
    "gated product": (
        (uniform(3, 4), uniform(3, 4, seed=1)),
        lambda x, up: product_gate(functional.silu(x) * up, x, up, RATIOS["silu"], weights=(0.5, 0.5)),
    ),
    "normaliser": (
        (uniform(3, 4),),
        lambda x: frozen_normalizer(
            functional.layer_norm(x, (4,)), x, Norm(True, 1e-5, uniform(4, seed=2).to(x.dtype))
        ),
    ),
    "softmax": (
        (uniform(2, 3, 3),),
        lambda x: tempered_softmax(torch.softmax(x, -1), x, 2.0),
    ),
    "softmax with a sink": (
        (uniform(2, 3, 3),),
        lambda x: tempered_softmax(
            softmax_with_sink(x, torch.tensor(0.3, dtype=x.dtype)),
            x,
            2.0,
            torch.full((2, 1, 1), 0.3, dtype=x.dtype),
        ),
    ),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_pass_through_bit_for_bit(dtype: torch.dtype) -> None:
    """Whatever `value` is, even nonsense the gate would compute differently, comes out unchanged."""
    x = torch.tensor([*EXTREMES, math.inf, -math.inf], dtype=torch.float64).to(dtype).requires_grad_(True)
    value = torch.arange(len(x)).to(dtype) - 3.5
    gates = {
        "scale": (scale_gradient(x, 0.5), x),
        "stop": (stop_relevance(x), x),
        "product": (product_gate(value, x, x, RATIOS["gelu"], weights=(0.5, 0.5)), value),
        "norm": (frozen_normalizer(value, x, Norm(True, 1e-5)), value),
        "softmax": (tempered_softmax(value, x, 2.0), value),
    }
    for name, (result, expected) in gates.items():
        assert torch.equal(result, expected), name
        assert result.dtype == dtype, name
        assert torch.equal(torch.signbit(result), torch.signbit(expected)), name


def test_scaled_gradients() -> None:
    x, factor = leaf(3, 4), uniform(4, seed=1)
    (by_number,) = torch.autograd.grad((scale_gradient(x, 0.25) * 2).sum(), x)
    assert torch.equal(by_number, torch.full_like(x, 0.5))
    (by_tensor,) = torch.autograd.grad(scale_gradient(x, factor).sum(), x)
    assert torch.equal(by_tensor, factor.expand(3, 4))
    assert not stop_relevance(x).requires_grad


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.5, 0.5), (0.0, 1.0), (1.0, 0.0), (0.3, 0.6)])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_gated_product_hands_each_branch_its_share(weights: tuple[float, float], offset: float) -> None:
    """R(pre) = share · R(value); R(up) = share · R(value) · up / (up + offset): the offset keeps its part."""
    pre, up, relevance = leaf(5, seed=1), leaf(5, seed=2), uniform(5, seed=3)
    value = (functional.silu(pre) * (up + offset)).detach()
    gate = product_gate(value, pre, up, RATIOS["silu"], weights=weights, offset=offset)
    found = torch.autograd.grad(gate, (pre, up), relevance / value, allow_unused=True, materialize_grads=True)
    torch.testing.assert_close(found[0] * pre, weights[0] * relevance, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        found[1] * up, weights[1] * relevance * up / (up + offset), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("centred", [True, False], ids=["LayerNorm", "RMSNorm"])
@pytest.mark.parametrize("with_gain", [True, False])
def test_frozen_normaliser_is_the_linear_map_of_its_detached_scale(centred: bool, with_gain: bool) -> None:
    x, gain, direction = leaf(2, 3, 6), uniform(6, seed=1), uniform(2, 3, 6, seed=2)
    gain_or_none = gain if with_gain else None

    def linear(x: Tensor) -> Tensor:
        shifted = x - x.mean(-1, keepdim=True) if centred else x
        scale = (shifted.pow(2).mean(-1, keepdim=True) + 1e-2).sqrt().detach()
        return shifted / scale * (gain if with_gain else 1.0)

    expected = torch.autograd.grad(linear(x), x, direction)[0]
    gate = frozen_normalizer(linear(x), x, Norm(centred, 1e-2, gain_or_none))
    torch.testing.assert_close(torch.autograd.grad(gate, x, direction)[0], expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sink", [False, True], ids=["plain", "with an attention sink"])
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_tempered_softmax_is_softmax_at_the_temperature(temperature: float, sink: bool) -> None:
    """Gradient p ⊙ (g - Σ p g), p = softmax(scores / temperature), over the keys and the sink alike."""
    scores, direction = leaf(2, 4, 4), uniform(2, 4, 4, seed=1)
    logit = uniform(2, 1, 1, seed=2)
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    masked = scores.masked_fill(~mask, -math.inf)
    if sink:
        pattern = softmax_with_sink(masked, logit)
        p = softmax_with_sink(masked.detach() / temperature, logit / temperature)
    else:
        pattern, p = torch.softmax(masked, -1), torch.softmax(masked.detach() / temperature, -1)
    gate = tempered_softmax(pattern, masked, temperature, logit if sink else None)
    found = torch.autograd.grad(gate, scores, direction, retain_graph=True)[0]
    expected = p * (direction - (p * direction).sum(-1, keepdim=True))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert torch.equal(found[:, ~mask], torch.zeros_like(found[:, ~mask]))
    if temperature == 1:
        true = torch.autograd.grad(pattern, scores, direction)[0]
        torch.testing.assert_close(found, true, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", GATES)
def test_batched_gradients_equal_single_ones(name: str) -> None:
    inputs, gate = GATES[name]
    inputs = tuple(x.clone().requires_grad_(True) for x in inputs)
    output = gate(*inputs)
    directions = uniform(5, *output.shape, seed=4)
    together = torch.autograd.grad(output, inputs, directions, retain_graph=True, is_grads_batched=True)
    singles = [torch.autograd.grad(output, inputs, one, retain_graph=True) for one in directions]
    for index, batched in enumerate(together):
        expected = torch.stack([single[index] for single in singles])
        torch.testing.assert_close(batched, expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", GATES)
def test_gates_work_under_torch_func(name: str) -> None:
    inputs, gate = GATES[name]
    output, pullback = torch.func.vjp(gate, *inputs)
    directions = uniform(3, *output.shape, seed=4)
    together = torch.func.vmap(pullback)(directions)
    leaves = tuple(x.clone().requires_grad_(True) for x in inputs)
    for number, direction in enumerate(directions):
        singles = torch.autograd.grad(gate(*leaves), leaves, direction)
        for batched, single in zip(together, singles, strict=True):
            torch.testing.assert_close(batched[number], single, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", RATIOS)
def test_gradients_are_finite_at_zero_and_at_extremes(name: str, dtype: torch.dtype) -> None:
    x = torch.tensor(EXTREMES, dtype=torch.float64).to(dtype).requires_grad_(True)
    up = torch.full_like(x, 2.0, requires_grad=True)
    gate = product_gate(torch.zeros_like(x), x, up, RATIOS[name], weights=(0.5, 0.5))
    tiny = torch.full_like(x, 1e-5)
    for found in torch.autograd.grad(gate, (x, up), tiny):
        assert found.dtype == dtype
        assert bool(torch.isfinite(found).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_norm_and_softmax_gradients_are_finite_at_extremes(dtype: torch.dtype) -> None:
    for numbers in (EXTREMES, [0.0] * 4, [6e4] * 4, [6e-8, -6e-8, 0.0, 0.0]):
        x = torch.tensor(numbers, dtype=torch.float64).to(dtype).requires_grad_(True)
        for centred in (True, False):
            gate = frozen_normalizer(torch.zeros_like(x), x, Norm(centred, 1e-5))
            assert bool(torch.isfinite(torch.autograd.grad(gate.sum(), x)[0]).all()), numbers
        for sink in (None, torch.tensor([0.5], dtype=dtype)):
            scores = x[None, None]
            gate = tempered_softmax(torch.softmax(scores, -1), scores, 2.0, sink)
            assert bool(torch.isfinite(torch.autograd.grad(gate[0, 0, 0], x)[0]).all()), numbers


def test_a_fully_masked_row_has_no_gradient() -> None:
    scores = torch.full((1, 3), -math.inf, dtype=torch.float64, requires_grad=True)
    gate = tempered_softmax(torch.zeros(1, 3, dtype=torch.float64), scores, 2.0)
    assert torch.equal(torch.autograd.grad(gate.sum(), scores)[0], torch.zeros_like(scores))


def test_low_precision_gradients_are_formed_in_float32() -> None:
    """2e-4 · 2e-4 · 6e4 is 0 in float16 if the first product is rounded; the gate forms it in float32."""
    assert accumulation_dtype(torch.float16) == accumulation_dtype(torch.bfloat16) == torch.float32
    assert accumulation_dtype(torch.float64) == torch.float64
    pre = torch.tensor([2e-4], dtype=torch.float16, requires_grad=True)
    up = torch.tensor([6e4], dtype=torch.float16, requires_grad=True)
    gate = product_gate(torch.zeros_like(pre), pre, up, lambda x: x, weights=(1.0, 0.0))
    (found,) = torch.autograd.grad(gate, pre, torch.tensor([2e-4], dtype=torch.float16))
    assert abs(found.item() - 2e-4 * 2e-4 * 6e4) < 1e-5


# ------------------------------------------------------------------------------------------ ratios
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_fast": lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608 * x * (1 + 0.044715 * x * x))),
    "gelu_bloom": lambda x: x * 0.5 * (1 + torch.tanh(0.79788456 * x * (1 + 0.044715 * x * x))),
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),
    "relu2": lambda x: torch.relu(x).square(),
    "solu": lambda x: x * torch.softmax(x, dim=-1),
    "identity": lambda x: x,
}
LIMITS = dict(relu=0.0, silu=0.5, gelu=0.5, gelu_tanh=0.5, gelu_fast=0.5, gelu_bloom=0.5) | dict(
    gelu_quick=0.5, relu2=0.0, identity=1.0
)


def test_every_ratio_is_tested() -> None:
    assert set(ACTIVATIONS) == set(RATIOS) == {*LIMITS, "solu"}


@pytest.mark.parametrize("name", RATIOS)
def test_ratios_are_the_activation_over_its_input(name: str) -> None:
    x = torch.linspace(-12, 12, 400, dtype=torch.float64)[None]  # an even number of points: 0 is none of them
    torch.testing.assert_close(RATIOS[name](x), ACTIVATIONS[name](x) / x, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("name", LIMITS)
def test_ratios_at_zero_are_their_limits(name: str) -> None:
    assert RATIOS[name](torch.zeros(1, dtype=torch.float64)).item() == LIMITS[name]
    below = RATIOS[name](torch.tensor([-1e-9], dtype=torch.float64)).item()
    assert abs(below - LIMITS[name]) < 1e-8  # from above, ReLU's is 1


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_identified_by_their_values(name: str) -> None:
    # BLOOM's constant differs from the others' in the 9th digit: a value within 1e-6 is the same activation.
    same = {"gelu_tanh", "gelu_fast", "gelu_bloom"}
    found = identify(ACTIVATIONS[name], "blocks.0.mlp")
    assert found == name or {found, name} <= same


@pytest.mark.parametrize(
    "function",
    [functional.mish, functional.softplus, torch.tanh, torch.nn.LeakyReLU(0.01), lambda x: x * math.nan],
    ids=["mish", "softplus", "tanh", "leaky_relu", "nan"],
)
def test_unknown_activations_are_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(SiteError, match=r"known ratio f\(x\)/x; the one at blocks.7.mlp [\s\S]*nearest: \w+"):
        identify(function, "blocks.7.mlp")


def test_clamps() -> None:
    x = torch.tensor([-9.0, -7.0, -1.0, 0.0, 1.0, 7.0, 14.0], dtype=torch.float64)
    expected = torch.tensor([7 / 9, 1, 1, 1, 1, 1, 7 / 14], dtype=torch.float64)
    torch.testing.assert_close(clamp_ratio(x, -7.0, 7.0), expected, rtol=1e-15, atol=0)
    assert clamp_ratio(x, None, 7.0).tolist() == [1.0] * 6 + [0.5]
    clamped = x.clamp(max=7.0)
    value = clamped * torch.sigmoid(1.702 * clamped)
    torch.testing.assert_close(clamped_swiglu(1.702, 7.0)(x) * x, value, rtol=1e-14, atol=1e-15)


def test_soft_cap() -> None:
    u = torch.tensor([-30.0, -1.0, -1e-3, -2e-4, 2e-4, 0.5, 3.0, 40.0], dtype=torch.float64)
    torch.testing.assert_close(softcap_ratio(u), torch.tanh(u) / u, rtol=1e-14, atol=0)
    assert softcap_ratio(torch.zeros(1, dtype=torch.float64)).item() == 1.0
    # Just below the switch to the series, 1 - u²/3 + 2u⁴/15 differs from it by 1e-17.
    u = torch.tensor([9.9e-5], dtype=torch.float64)
    torch.testing.assert_close(softcap_ratio(u), torch.tanh(u) / u, rtol=1e-15, atol=1e-15)
