"""Rules at the nonlinearity of an MLP, gated or plain, dense or one expert of a mixture.

1. Activation and product share one gate: R(pre) = gate_share · R, R(up) = up_share · R with f(pre) written as
   pre · ratio(pre) (`product_gate`).
2. With a plain activation the shares are applied where `pre` and `up` are computed.
3. An expert's output is multiplied by its routing weight; HookedTransformer has hook points for both factors.
4. TransformerBridge has none inside a mixture: the mixture is computed once more from Hugging Face's weights,
   with the same gates, and its output stands behind the host's value.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lrp_lens.gates import Ratio, product_gate, scale_gradient, stop_relevance
from lrp_lens.hosts.sites import ActivationSite, ExpertsSite, RouterSite
from lrp_lens.hosts.transformer_bridge import unwrap
from lrp_lens.ratios import RATIOS, clamp_ratio, clamped_swiglu
from lrp_lens.rules.rule import ExpertWeights, Hook, Identity, Plain, ProductWeights, scaled

ActivationRule = Identity | Plain
ProductRule = ProductWeights | Plain
ExpertRule = ExpertWeights | Plain
GPT_OSS_SLOPE = 1.702


def _ratio(site: ActivationSite | ExpertsSite) -> Ratio:
    return RATIOS[site.function] if site.limit is None else clamped_swiglu(GPT_OSS_SLOPE, site.limit)


def _shares(product: ProductRule) -> tuple[float | int, float | int]:
    return (1.0, 1.0) if isinstance(product, Plain) else (product.gate, product.up)


def _gated(
    value: Tensor,
    pre: Tensor,
    up: Tensor | None,
    ratio: Ratio,
    shares: tuple[float | int, float | int],
    limit: float | None,
) -> Tensor:
    """`value` behind an identity rule on the activation and weighted shares of the product."""
    if up is None:
        return product_gate(value, pre, None, ratio)
    if limit is None:
        return product_gate(value, pre, up, ratio, weights=shares)
    clamped = product_gate(
        up.clamp(-limit, limit), up, None, lambda tensor: clamp_ratio(tensor, -limit, limit)
    )
    return product_gate(value, pre, clamped, ratio, weights=shares, offset=1.0)


def activation_hooks(
    site: ActivationSite, activation: ActivationRule, product: ProductRule, experts: ExpertRule
) -> tuple[Hook, ...]:
    """The hooks of one activation site."""
    shares = _shares(product) if site.up is not None else (1.0, 0.0)
    outer: tuple[Hook, ...] = ()
    if site.expert and isinstance(experts, ExpertWeights):
        outer = scaled(site.post, experts.expert, detach=False)
    if isinstance(activation, Plain):
        inner = scaled(site.pre, shares[0]) if site.up is not None else ()
        return (*inner, *(scaled(site.up, shares[1], detach=False) if site.up is not None else ()), *outer)
    kept: dict[str, Tensor] = {}
    ratio = _ratio(site)

    def read(role: str) -> Any:
        def hook(tensor: Tensor, hook: object) -> None:
            kept[role] = tensor

        return hook

    def replace(tensor: Tensor, hook: object) -> Tensor:
        return _gated(tensor, kept.pop("pre"), kept.pop("up", None), ratio, shares, site.limit)

    reads = [Hook(site.pre, read("pre"), "read")]
    if site.up is not None:
        reads.append(Hook(site.up, read("up"), "read"))
    return (*reads, Hook(site.post, replace, "replace"), *outer)


def router_hooks(site: RouterSite, experts: ExpertRule) -> tuple[Hook, ...]:
    """Scale what flows back into the routing weights."""
    return scaled(site.weights, experts.router) if isinstance(experts, ExpertWeights) else ()


def experts_hooks(
    site: ExpertsSite, activation: ActivationRule, product: ProductRule, experts: ExpertRule
) -> tuple[Hook, ...]:
    """Replace a whole mixture by the same mixture with gates inside."""
    if isinstance(activation, Plain) and isinstance(product, Plain) and isinstance(experts, Plain):
        return ()
    kept: list[Tensor] = []

    def read(tensor: Tensor, hook: object) -> None:
        kept[:] = [tensor]

    def replace(tensor: Tensor, hook: object) -> Tensor:
        surrogate = _mixture(site, kept.pop(), activation, product, experts).reshape(tensor.shape)
        return tensor.detach() + (surrogate - surrogate.detach())

    return Hook(site.input, read, "read"), Hook(site.output, replace, "replace")


def _mixture(
    site: ExpertsSite, inputs: Tensor, activation: ActivationRule, product: ProductRule, experts: ExpertRule
) -> Tensor:
    """The mixture of experts of Mixtral, Qwen3-MoE, OLMoE or GPT-OSS, [tokens, d_model], under the rules."""
    module: Any = site.module
    bank = unwrap(module.experts)
    router = unwrap(module.router if hasattr(module, "router") else module.gate)
    flat = inputs.reshape(-1, inputs.shape[-1])
    _, weights, indices = router(flat)
    to_router, to_expert = (1.0, 1.0) if isinstance(experts, Plain) else (experts.router, experts.expert)
    weights = scale_gradient(weights, to_router) if to_router else stop_relevance(weights)
    shares, ratio = _shares(product), _ratio(site)
    result = torch.zeros_like(flat)
    for expert in indices.unique().tolist():
        token, slot = torch.where(indices == expert)
        pre, up = _branches(bank, expert, flat[token], site.limit)
        if isinstance(activation, Plain):
            pre, up = scale_gradient(pre, shares[0]), scale_gradient(up, shares[1])
            hidden = _product(bank, pre, up, site.limit)
        else:
            hidden = _gated(_product(bank, pre, up, site.limit), pre, up, ratio, shares, site.limit)
        output = scale_gradient(_down(bank, expert, hidden, site.limit), to_expert)
        result = result.index_add(0, token, (output * weights[token, slot, None]).to(result.dtype))
    return result


def _branches(bank: Any, expert: int, rows: Tensor, limit: float | None) -> tuple[Tensor, Tensor]:
    if limit is None:
        gate, up = functional.linear(rows, bank.gate_up_proj[expert]).chunk(2, dim=-1)
        return gate, up
    both = rows @ bank.gate_up_proj[expert] + bank.gate_up_proj_bias[expert]
    return both[..., ::2], both[..., 1::2]


def _product(bank: Any, pre: Tensor, up: Tensor, limit: float | None) -> Tensor:
    if limit is None:
        return bank.act_fn(pre) * up
    pre, up = pre.clamp(max=limit), up.clamp(-limit, limit)
    return (up + 1) * (pre * torch.sigmoid(GPT_OSS_SLOPE * pre))


def _down(bank: Any, expert: int, hidden: Tensor, limit: float | None) -> Tensor:
    if limit is None:
        return functional.linear(hidden, bank.down_proj[expert])
    return hidden @ bank.down_proj[expert] + bank.down_proj_bias[expert]
