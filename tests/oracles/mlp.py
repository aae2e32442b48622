"""The recursion through plain, gated and mixed MLPs."""

import torch
from torch import Tensor

from tests.oracles.forward import MixtureTrace, MLPTrace
from tests.oracles.ledger import Ledger
from tests.oracles.rules import Rules, through_activation, through_clamp, through_norm, through_softmax
from tests.oracles.weights import MLP, Mixture


def recurse_mlp(
    mlp: MLP, trace: MLPTrace, c: Tensor, rules: Rules, ledger: Ledger, layer: int, *, expert: bool = False
) -> Tensor:
    """The coefficient at an MLP's (or an expert's) input from the one at its output."""

    def site(bias: str) -> str:
        return "expert bias" if expert else bias

    name, identity = f"blocks.{layer}.mlp.hook_", rules.activation_identity

    # 1. Output projection, and SoLU's norm before it.
    ledger.absorb_bias(layer, site("b_out"), mlp.b_out, c)
    c = c @ mlp.W_out.T
    if not expert:
        ledger.note(name + "post", trace.post, c)
    if mlp.post_norm is not None:
        ledger.absorb_bias(layer, "mlp norm bias", mlp.post_norm.bias, c)
        c = c if mlp.post_norm.weight is None else c * mlp.post_norm.weight
        inner = trace.post_norm
        c_inner = through_norm(inner.normalized, inner.scale, c, centred=True, freeze=rules.freeze_norms)
        ledger.absorb(layer, "mlp norm", (inner.normalized * c).sum() - (inner.input * c_inner).sum())
        c = c_inner
        ledger.note(name + "mid", inner.input, c)

    # 2. The gated product activated * (up + offset) + b_product.
    c_activated, at_clamps, c_input = c, 0.0, 0.0
    if mlp.W_up is not None:
        factor_gate, factor_up = rules.gated_product
        summed = trace.up_clamped + mlp.up_offset
        c_activated, c_up = factor_gate * summed * c, factor_up * trace.activated * c
        product = ((trace.activated * summed) * c).sum()
        ledger.absorb_bias(layer, "b_product", mlp.b_product, c)
        kept = product - (trace.activated * c_activated).sum() - (summed * c_up).sum()
        ledger.absorb(layer, "gated product", kept)
        if mlp.up_offset:
            ledger.absorb(layer, "up offset", (mlp.up_offset * c_up).sum())
        at_clamps = (trace.up_clamped * c_up).sum()
        c_up = through_clamp(trace.up, trace.up_clamped, c_up, identity=identity)
        at_clamps = at_clamps - (trace.up * c_up).sum()
        if not expert:
            ledger.note(name + "pre_linear", trace.up, c_up)
        ledger.absorb_bias(layer, site("b_up"), mlp.b_up, c_up)
        c_input = c_up @ mlp.W_up.T

    # 3. The activation.
    c_pre = through_activation(mlp.activation, trace.pre_clamped, c_activated, identity=identity)
    c_pre = through_clamp(trace.pre, trace.pre_clamped, c_pre, identity=identity)
    kept = (trace.activated * c_activated).sum() - (trace.pre * c_pre).sum()
    ledger.absorb(layer, "activation", kept + at_clamps)

    # 4. Input projection.
    if not expert:
        ledger.note(name + "pre", trace.pre, c_pre)
    ledger.absorb_bias(layer, site("b_in"), mlp.b_in, c_pre)
    return c_input + c_pre @ mlp.W_in.T


def recurse_mixture(
    mixture: Mixture, trace: MixtureTrace, c: Tensor, rules: Rules, ledger: Ledger, layer: int
) -> Tensor:
    """The coefficient at a mixture's input from the one at its output, through the experts and the router."""
    factor_weight, factor_expert = rules.experts

    # 1. The products weight_e * expert_e(x). A weight that is zero hands its expert a coefficient of zero.
    c_input = torch.zeros_like(trace.input)
    c_weights = torch.zeros_like(trace.weights)
    at_experts = 0.0
    for index, (expert, inner) in enumerate(zip(mixture.experts, trace.experts, strict=True)):
        c_weights[:, index] = factor_weight * (inner.output * c).sum(-1)
        c_expert = factor_expert * trace.weights[:, index, None] * c
        at_experts = at_experts + (inner.output * c_expert).sum()
        c_input = c_input + recurse_mlp(expert, inner, c_expert, rules, ledger, layer, expert=True)
    c_weights = torch.where(trace.chosen, c_weights, 0.0)
    at_weights = (trace.weights * c_weights).sum()
    ledger.absorb(layer, "routing product", (trace.output * c).sum() - at_experts - at_weights)

    # 2. Renormalization w = p / sum p over the chosen, then the softmax; the choice itself is constant.
    c_probabilities = c_weights
    if mixture.renormalize:
        total = torch.where(trace.chosen, trace.probabilities, 0.0).sum(-1, keepdim=True)
        mean = (trace.weights * c_weights).sum(-1, keepdim=True)
        c_probabilities = torch.where(trace.chosen, (c_weights - mean) / total, 0.0)
    c_router = through_softmax(trace.probabilities, c_probabilities)
    ledger.absorb(layer, "router", at_weights - (trace.router * c_router).sum())

    # 3. The router's projection.
    ledger.absorb_bias(layer, "router bias", mixture.b_router, c_router)
    return c_input + c_router @ mixture.W_router.T
