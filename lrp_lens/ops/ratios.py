"""Activation ratios f(x)/x in closed form: what the identity rule multiplies relevance by.

The identity rule (AttnLRP, Achtibat et al. 2024, Equation 9) hands the whole relevance of f(x) to x, that is,
it uses f(x)/x as the local derivative.  Written as a division it is 0/0 at x = 0 and its guard underflows in
float16; every activation below has a closed form instead, with the exact limit at 0.

`identify` finds the ratio of an activation by evaluating it, so that a misnamed configuration entry cannot
select the wrong rule.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from lrp_lens.errors import SiteError
from lrp_lens.ops.gates import Ratio

GPT_OSS_SLOPE = 1.702
"""GPT-OSS' gate is x·σ(1.702 x)."""


def _tanh_gelu(slope: float) -> Ratio:
    def ratio(x: Tensor) -> Tensor:
        # Fused and in place: as wide as the MLP, so each pass over it counts.
        inner = torch.addcmul(x.new_tensor(slope), x, x, value=0.044715 * slope)
        return inner.mul_(x).tanh_().add_(1).mul_(0.5)

    return ratio


RATIOS: Mapping[str, Ratio] = MappingProxyType(
    {
        "relu": lambda x: (x > 0).to(x.dtype),
        "silu": torch.sigmoid,
        "gelu": lambda x: 0.5 * torch.erfc(-x * math.sqrt(0.5)),
        "gelu_tanh": _tanh_gelu(math.sqrt(2 / math.pi)),
        "gelu_fast": _tanh_gelu(0.7978845608),
        "gelu_bloom": _tanh_gelu(0.79788456),
        "gelu_quick": lambda x: torch.sigmoid(1.702 * x),
        "relu2": lambda x: x.clamp_min(0),
        "solu": lambda x: torch.softmax(x, dim=-1),
        "identity": torch.ones_like,
    }
)
"""Name → x ↦ f(x)/x.  Limits at 0: ½ for SiLU and every GELU, 0 for ReLU (its value there is 0)."""


def clamped_swiglu(alpha: float, limit: float) -> Ratio:
    """f(x)/x of GPT-OSS' gate: f(x) = c·σ(alpha·c) with c = min(x, limit).

    The identity rule on the clamp contributes limit/x, taken only where x > limit > 0.
    """

    def ratio(x: Tensor) -> Tensor:
        clamped = x.clamp(max=limit)
        return torch.sigmoid(alpha * clamped) * clamp_ratio(x, None, limit)

    return ratio


def clamp_ratio(x: Tensor, low: float | None, high: float | None) -> Tensor:
    """clamp(x)/x: 1 inside the bounds, bound/x outside (low < 0 < high, so there is no division near 0)."""
    result = torch.ones_like(x)
    if high is not None:
        result = torch.where(x > high, high / x.clamp_min(high), result)
    if low is not None:
        result = torch.where(x < low, low / x.clamp_max(low), result)
    return result


def softcap_ratio(scaled: Tensor) -> Tensor:
    """tanh(u)/u with its limit 1 at 0: what the identity rule on a soft-cap multiplies relevance by."""
    small = scaled.abs() < 1e-4
    safe = torch.where(small, torch.ones_like(scaled), scaled)
    return torch.where(small, 1 - scaled * scaled / 3, torch.tanh(safe) / safe)


def identify(function: Callable[[Tensor], Tensor], where: str) -> str:
    """The name in `RATIOS` of an activation, found by its values on a grid.

    Raises:
        SiteError: if no known activation has these values.

    Example:
        >>> identify(torch.nn.functional.silu, "blocks.0.mlp")
        'silu'
    """
    grid = torch.linspace(-6, 6, 97, dtype=torch.float64)[None]
    with torch.no_grad():
        values = function(grid.clone())
    errors = {name: (ratio(grid) * grid - values).abs().max().item() for name, ratio in RATIOS.items()}
    best = min(errors, key=lambda name: errors[name])
    if not errors[best] < 1e-6:
        raise SiteError(
            f"Every activation needs a known ratio f(x)/x; the one at {where} ({function}) matches none of "
            f"{', '.join(RATIOS)} (nearest: {best}, off by {errors[best]:.2g}). "
            "Use a model with one of these activations, or add its ratio to lrp_lens.ops.ratios."
        )
    return best
