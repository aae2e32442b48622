"""Mixtures of experts inside Hugging Face's modules (Mixtral, Qwen3-MoE, OLMoE, GPT-OSS), from their weights.

TransformerBridge has no hook points inside a mixture.  `mixture` computes it once more and lets the caller put graphs
of its own behind the routing weights, each expert's activation and each expert's output.

1. Router: which experts each token goes to, and with which weights.
2. Each expert, on its tokens: pre and up, f(pre) · up, down.  GPT-OSS interleaves pre and up, clamps both and adds 1
   to up.
3. Sum of routing weight × output.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from lrp_lens.hosts.offload import weights_present
from lrp_lens.hosts.scope import modules_of
from lrp_lens.hosts.sites import ExpertsSite
from lrp_lens.hosts.transformer_bridge import unwrap
from lrp_lens.ops.ratios import GPT_OSS_SLOPE


def mixture(
    site: ExpertsSite,
    inputs: Float[Tensor, "... d_model"],
    *,
    routing: Callable[[Tensor], Tensor],
    inner: Callable[[Tensor, Tensor, Callable[..., Tensor]], Tensor],
    output: Callable[[Tensor], Tensor],
) -> Float[Tensor, "token d_model"]:
    """What a mixture writes for each token.

    Args:
        site: the mixture.
        inputs: what it reads.
        routing: stands behind the routing weights, [token, chosen].
        inner: (pre, up, compute) → f(pre) · up of one expert, where compute(pre, up) is what the model computes.
        output: stands behind an expert's output, [token, d_model].
    """
    module: Any = site.module
    bank = unwrap(module.experts)
    router = unwrap(module.router if hasattr(module, "router") else module.gate)
    flat = inputs.reshape(-1, inputs.shape[-1])
    _, weights, indices = router(flat)
    weights = routing(weights)
    result = torch.zeros_like(flat)
    with weights_present(modules_of(bank)):
        for expert in indices.unique().tolist():
            token, slot = torch.where(indices == expert)
            pre, up = _branches(bank, expert, flat[token], site.limit)
            hidden = inner(pre, up, lambda pre, up: _product(bank, pre, up, site.limit))
            written = output(_down(bank, expert, hidden, site.limit))
            result = result.index_add(0, token, (written * weights[token, slot, None]).to(result.dtype))
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
