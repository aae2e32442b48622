"""The rules, as local formulas on coefficients, and the presets.

The relevance of a value x is R = x * c, where c is its relevance coefficient: R / x, never computed as a
quotient, so that a value of zero costs nothing. A rule is a formula for the coefficient of an operation's
input from the coefficient of its output. Where every rule is the true derivative, c is the metric's gradient.
"""

import functools
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

GIM_TEMPERATURE = 2.0
GIM_GRADIENT_SCALE = 1.0
"""dS = P_T (dP - sum P_T dP) * this. GIM leaves out the inner derivative 1/T of softmax(S / T)."""


@dataclass(frozen=True)
class Rules:
    """What replaces the true derivative, and where. The defaults are the true derivative everywhere."""

    freeze_norms: bool = False
    """ln1, ln2, post-norms, ln_final, SoLU's norm: the scale (std or rms) is a constant."""
    freeze_qk_norms: bool = False
    """q_norm and k_norm: likewise."""
    activation_identity: bool = False
    """Coefficient f(x)/x instead of f'(x), at activations and at GPT-OSS's clamps."""
    gated_product: tuple[float, float] = (1.0, 1.0)
    """Factors on the derivative towards (activated gate, up)."""
    attention: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors on the coefficient at (hook_q, hook_k, hook_v)."""
    softmax_temperature: float = 1.0
    """Temperature of the attention softmax's derivative."""
    softmax_nodes: int = 0
    """Above 0: the attention softmax's derivative is the mean along the path t S, cut at so many nodes."""
    conserving: float = 0.0
    """Above 0: q and k take this share of the scores' relevance each, and v what is left of z's."""
    soft_cap_identity: bool = False
    """Coefficient t/s instead of t'(s), at the scores' and the logits' soft-cap."""
    experts: tuple[float, float] = (1.0, 1.0)
    """Factors on the derivative towards (routing weight, expert output)."""

    def without(self, rule: str) -> "Rules":
        """These rules but one, which falls back to the true derivative: a negative control."""
        return replace(self, **{rule: getattr(GRADIENT, rule)})


GRADIENT = Rules()
ATTN_LRP = Rules(
    freeze_norms=True,
    freeze_qk_norms=True,
    activation_identity=True,
    gated_product=(0.5, 0.5),
    attention=(0.25, 0.25, 0.5),
    soft_cap_identity=True,
    experts=(0.5, 0.5),
)
CP_LRP = replace(ATTN_LRP, gated_product=(0.0, 1.0), attention=(0.0, 0.0, 1.0), experts=(0.0, 1.0))
RELP = replace(ATTN_LRP, attention=(1.0, 1.0, 1.0))
RELP_FROZEN_PATTERN = replace(RELP, attention=CP_LRP.attention)
GIM = Rules(
    freeze_norms=True,
    freeze_qk_norms=True,
    attention=(0.25, 0.25, 0.5),
    softmax_temperature=GIM_TEMPERATURE,
)
RELP_SECANT = replace(RELP, softmax_nodes=4)
RELP_CONSERVING = replace(RELP, attention=(0.25, 0.25, 1.0), conserving=0.25)
VARIANTS = {
    "RELP_QK_HALF": replace(RELP, attention=(0.5, 0.5, 1.0)),
    "RELP_QK_QUARTER": replace(RELP, attention=(0.25, 0.25, 1.0)),
    "RELP_SECANT": RELP_SECANT,
    "RELP_SECANT_QK_HALF": replace(RELP_SECANT, attention=(0.5, 0.5, 1.0)),
    "RELP_SECANT_QK_QUARTER": replace(RELP_SECANT, attention=(0.25, 0.25, 1.0)),
    "RELP_CONSERVING": RELP_CONSERVING,
    "RELP_CONSERVING_SECANT": replace(RELP_CONSERVING, softmax_nodes=4),
}
PRESETS = {
    "ATTN_LRP": ATTN_LRP,
    "CP_LRP": CP_LRP,
    "RELP": RELP,
    "RELP_FROZEN_PATTERN": RELP_FROZEN_PATTERN,
    "GIM": GIM,
    "GRADIENT": GRADIENT,
}

# The tanh GELU x/2 (1 + tanh(a x (1 + 0.044715 x²))): the hosts write a with different numbers of digits.
_TANH_GELU = {
    "gelu_new": math.sqrt(2.0 / math.pi),
    "gelu_pytorch_tanh": math.sqrt(2.0 / math.pi),
    "gelu_fast": 0.7978845608,
    "gelu_bloom": 0.79788456,
}
_CUBIC = 0.044715
_SWISH = {"silu": 1.0, "gpt_oss": 1.702}


def activation_ratio(name: str, x: Tensor) -> Tensor:
    """f(x)/x in closed form, with the limit at zero where there is one (ReLU: 0)."""
    if name == "relu":
        return (x > 0).to(x.dtype)
    if name in _SWISH:
        return 1.0 / (1.0 + (-_SWISH[name] * x).exp())
    if name == "gelu":
        return 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))
    if name == "solu":
        exponentials = (x - x.amax(-1, keepdim=True)).exp()
        return exponentials / exponentials.sum(-1, keepdim=True)
    return 0.5 * (1.0 + (_TANH_GELU[name] * x * (1.0 + _CUBIC * x * x)).tanh())


def activation_value(name: str, x: Tensor) -> Tensor:
    """f(x)."""
    return x * activation_ratio(name, x)


def through_activation(name: str, x: Tensor, c: Tensor, *, identity: bool) -> Tensor:
    """The coefficient at x from the coefficient c at f(x)."""
    ratio = activation_ratio(name, x)
    if identity or name == "relu":
        return c * ratio
    if name == "solu":  # f_i = x_i s_i with s = softmax(x)
        return c * ratio + ratio * (c * x - (c * x * ratio).sum(-1, keepdim=True))
    if name in _SWISH:
        slope = _SWISH[name] * ratio * (1.0 - ratio)
    elif name == "gelu":
        slope = (-0.5 * x * x).exp() / math.sqrt(2.0 * math.pi)
    else:
        tanh = 2.0 * ratio - 1.0
        slope = 0.5 * (1.0 - tanh * tanh) * _TANH_GELU[name] * (1.0 + 3.0 * _CUBIC * x * x)
    return c * (ratio + x * slope)


def through_clamp(x: Tensor, clamped: Tensor, c: Tensor, *, identity: bool) -> Tensor:
    """The coefficient at x from the one at clamp(x): clamped/x, or one inside the bounds and zero outside."""
    inside = x == clamped
    if identity:
        return c * torch.where(inside, 1.0, clamped / torch.where(inside, 1.0, x))
    return c * inside


def through_soft_cap(x: Tensor, cap: float | None, c: Tensor, *, identity: bool) -> Tensor:
    """The coefficient at x from the one at t = cap tanh(x/cap): t/x (1 at zero), or 1 - (t/cap)²."""
    if cap is None:
        return c
    tanh = (x / cap).tanh()
    if identity:
        return c * torch.where(x == 0, 1.0, cap * tanh / torch.where(x == 0, 1.0, x))
    return c * (1.0 - tanh * tanh)


def through_norm(normalized: Tensor, scale: Tensor, c: Tensor, *, centred: bool, freeze: bool) -> Tensor:
    """The coefficient at x from the one at n = (x - mean x) / scale (no mean for RMSNorm).

    Frozen: the scale is a constant. Else the true Jacobian. The mean is linear and stays in both.
    """
    if not freeze:
        c = c - normalized * (c * normalized).mean(-1, keepdim=True)
    c = c / scale
    return c - c.mean(-1, keepdim=True) if centred else c


def through_softmax(probabilities: Tensor, c: Tensor) -> Tensor:
    """The true Jacobian: the coefficient at the logits from the one at the probabilities."""
    return probabilities * (c - (probabilities * c).sum(-1, keepdim=True))


@functools.cache
def legendre_nodes(count: int) -> list[tuple[float, float]]:
    """(t, weight) of Gauss-Legendre quadrature on [0, 1]: roots of P_n by Newton, weights 2 / ((1 - x²) P_n'(x)²)."""
    nodes = []
    for index in range(count):
        x = math.cos(math.pi * (index + 0.75) / (count + 0.5))
        for _ in range(20):
            before, here = 1.0, x
            for n in range(2, count + 1):  # n P_n = (2n - 1) x P_{n-1} - (n - 1) P_{n-2}
                before, here = here, ((2 * n - 1) * x * here - (n - 1) * before) / n
            slope = count * (x * here - before) / (x * x - 1.0)
            x -= here / slope
        nodes.append(((x + 1.0) / 2.0, 1.0 / ((1.0 - x * x) * slope * slope)))
    return nodes


def secant_softmax(scores: list[float], c: list[float], nodes: int) -> list[float]:
    """The coefficients at visible scores from those at their probabilities: sum of w_n p_i (c_i - sum_k p_k c_k)."""
    found, largest = [0.0] * len(scores), max(scores)
    for t, weight in legendre_nodes(nodes):
        exponentials = [math.exp(t * (score - largest)) for score in scores]
        total = sum(exponentials)
        p = [one / total for one in exponentials]
        mean = sum(p_k * c_k for p_k, c_k in zip(p, c, strict=True))
        for i in range(len(scores)):
            found[i] += weight * p[i] * (c[i] - mean)
    return found


def conserving_values(
    pattern: list[float], c_pattern: list[float], scores: list[float], c_scores: list[float], share: float
) -> list[float]:
    """Weights of one query's values: P_i (1 - 2 s c sign(a_i) / sum_k |a_k|), a_k = P_k c_k, c = sum of S_k c(S_k)."""
    a = [p * c for p, c in zip(pattern, c_pattern, strict=True)]
    c = sum(score * one for score, one in zip(scores, c_scores, strict=True))
    total = sum(abs(one) for one in a)
    if total == 0.0:
        return list(pattern)
    signs = [(one > 0) - (one < 0) for one in a]
    return [p * (1.0 - 2.0 * share * c * sign / total) for p, sign in zip(pattern, signs, strict=True)]
