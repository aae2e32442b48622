"""Gates: tensor in, the same tensor out, with another local derivative.

A gate keeps the value of an operation and replaces its local derivative.  Gradient × activation of a
graph built from gates is layer-wise relevance propagation (LRP); the correspondence for each gate:

1. `scale_gradient`       product rules: each factor of a product of N factors receives 1/N of the relevance
                          (Arras et al. 2019; AttnLRP, Achtibat et al. 2024, Proposition 3.3), and the
                          ε-rule when the scale is z / (z + ε sign z) (Bach et al. 2015).
2. `stop_relevance`       a frozen factor: it receives none (CP-LRP, Ali et al. 2022).
3. `product_gate`         identity rule on an activation f, written f(x) = x · ratio(x) with the ratio frozen
                          (AttnLRP, Equation 9), and the weights of the gated product f(x) · up.
4. `frozen_normalizer`    LN-rule: mean subtraction, gain and bias stay linear; the standard deviation is a
                          constant (Ali et al. 2022, Equation 12; AttnLRP, Proposition 3.4).
5. `rerouted`             any other backward pass, as a function of the gradient: `softmax_backward` for the softmax at
                          another temperature (GIM, Edin et al. 2025), or that of a rule of your own.

No gate divides by an activation: ratios are closed forms (see `lrp_lens.ops.ratios`) and finite in float16.
Values pass through by reference, so logits are bit-identical with and without gates.
Gradients that are products of several numbers are formed in float32 at least.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from lrp_lens.ops.norms import Norm

Ratio = Callable[[Tensor], Tensor]


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which sums over `dtype` numbers are taken: float32 at least.

    Example:
        >>> accumulation_dtype(torch.bfloat16)
        torch.float32
    """
    return torch.promote_types(dtype, torch.float32)


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least, out of the graph."""
    return tensor.detach().to(accumulation_dtype(tensor.dtype))


class _Gate(torch.autograd.Function):
    """What gates share: outside torch.func the arguments are handed on as they are.

    torch fills in defaults of `forward` at every call, which takes longer than a gate does; gates have none.
    """

    generate_vmap_rule = True

    @classmethod
    def apply(cls, *args: Any) -> Any:
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]


class _ScaleGradient(_Gate):
    @staticmethod
    def forward(tensor: Tensor, factor: Tensor | float) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        _, factor = inputs
        ctx.number = None if isinstance(factor, Tensor) else factor
        ctx.save_for_backward(*((factor,) if isinstance(factor, Tensor) else ()))

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        if ctx.number is not None:
            return gradient * ctx.number, None
        (factor,) = ctx.saved_tensors
        return (gradient * factor).to(gradient.dtype), None


class _ProductGate(_Gate):
    @staticmethod
    def forward(
        value: Tensor,
        pre: Tensor,
        up: Tensor | None,
        ratio: Ratio,
        weights: tuple[float | int, float | int],
        offset: float,
    ) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        _, pre, up, ctx.ratio, ctx.weights, ctx.offset = inputs
        ctx.save_for_backward(pre, *(() if up is None else (up,)))

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        pre, *rest = ctx.saved_tensors
        to_pre, to_up = ctx.weights
        wide = accumulation_dtype(gradient.dtype)
        through = gradient * ctx.ratio(pre.to(wide))  # as wide as the MLP, so each pass over it counts
        if not rest:
            through = through if to_pre == 1 else through * to_pre
            return None, through.to(gradient.dtype), None, None, None, None
        up = rest[0].to(wide)
        pre_gradient = up_gradient = None
        if to_pre or not to_up:  # with both cut, the graph stays connected, at gradient 0
            factor = up + ctx.offset if ctx.offset else up
            pre_gradient = torch.mul(through, factor)
            pre_gradient = (pre_gradient if to_pre == 1 else pre_gradient.mul_(to_pre)).to(gradient.dtype)
        if to_up:
            through = through if to_up == 1 else through.mul_(to_up)
            up_gradient = through.mul_(pre.to(wide)).to(gradient.dtype)
        return None, pre_gradient, up_gradient, None, None, None


class _FrozenNormalizer(_Gate):
    @staticmethod
    def forward(value: Tensor, inputs: Tensor, gain: Tensor | None, scale: Tensor, centred: bool) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        _, _, gain, scale, ctx.centred = inputs
        ctx.save_for_backward(scale, *(() if gain is None else (gain,)))

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        scale, *gain = ctx.saved_tensors
        result = Norm(ctx.centred, 0.0, *gain).linear_transpose(gradient, scale)
        return None, result.to(gradient.dtype), None, None, None


class _Rerouted(_Gate):
    @staticmethod
    def forward(value: Tensor, backward: Callable[[Tensor], Any], *inputs: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        _, ctx.through, *_ = inputs

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        found = ctx.through(gradient)
        several = found if isinstance(found, tuple) else (found,)
        return None, None, *(None if one is None else one.to(gradient.dtype) for one in several)


def scale_gradient(tensor: Tensor, factor: Tensor | float) -> Tensor:
    """`tensor`, unchanged, whose gradient is multiplied by `factor` (a number, or a tensor that broadcasts).

    Example:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> torch.autograd.grad(scale_gradient(x, 0.25) * 2, x)[0].item()
        0.5
    """
    return _ScaleGradient.apply(tensor, factor)


def stop_relevance(tensor: Tensor) -> Tensor:
    """`tensor`, unchanged, through which no relevance flows back."""
    return tensor.detach()


def product_gate(
    value: Tensor,
    pre: Tensor,
    up: Tensor | None,
    ratio: Ratio,
    *,
    weights: tuple[float | int, float | int] = (1.0, 0.0),
    offset: float = 0.0,
) -> Tensor:
    """`value` = pre · ratio(pre) [· (up + offset)], with the ratio frozen and the product's factors weighted.

    Args:
        value: what the model computed, any shape; returned unchanged.
        pre: input of the activation, same shape.
        up: the linear branch of a gated product, same shape, or None for a plain activation.
        ratio: x ↦ f(x)/x in closed form, with its limit at 0.
        weights: share of the relevance for (activation branch, linear branch).
        offset: a constant added to `up` inside the product (1 in GPT-OSS); its share is absorbed.

    Example:
        >>> x = torch.tensor([-2.0, 3.0], requires_grad=True)
        >>> y = product_gate(torch.relu(x), x, None, lambda x: (x > 0).to(x))
        >>> (x * torch.autograd.grad(y.sum(), x)[0]).tolist()
        [-0.0, 3.0]
    """
    return _ProductGate.apply(value.detach(), pre, up, ratio, weights, offset)


def frozen_normalizer(value: Tensor, inputs: Tensor, norm: Norm) -> Tensor:
    """`value` = norm(inputs), differentiated with the standard deviation held constant.

    Args:
        value: the norm's output, [..., width]; returned unchanged.
        inputs: the norm's input, [..., width].
        norm: LayerNorm (the mean is subtracted, linearly) or RMSNorm.
    """
    gain = None if norm.gain is None else norm.gain.detach()
    scale = norm.scale(wide(inputs))
    return _FrozenNormalizer.apply(value.detach(), inputs, gain, scale, norm.centred)


def softmax_backward(
    scores: Tensor, gradient: Tensor, path: Iterable[tuple[float, float]], sink: Tensor | None = None
) -> Tensor:
    """Backward pass of the softmax at t · scores, p ⊙ (g - Σ p ⊙ g) with p = softmax(t · scores), [..., query, key].

    The inner derivative t is left out: so GIM defines its softmax at temperature 1 / t, and so the path t · scores
    needs it.  Keys with the score -inf receive 0; a row that sees no key has no softmax (NaN).

    Args:
        scores: what the softmax is taken of.
        gradient: g, at the pattern.
        path: values of t, each with its weight in the sum that is returned.
        sink: logit of one more column, which the pattern does not show (g is 0 there); broadcasts to [..., query, 1].

    Example:
        >>> scores = torch.tensor([0.0, 0.0, -torch.inf])
        >>> softmax_backward(scores, torch.tensor([1.0, 0.0, 0.0]), [(0.5, 1.0)]).tolist()
        [0.25, -0.25, 0.0]
    """
    width, result = scores.shape[-1], torch.zeros_like(scores)
    if sink is not None:
        scores = torch.cat([scores, sink.to(scores).expand(*scores.shape[:-1], 1)], dim=-1)
    for t, weight in path:
        p = torch.softmax(t * scores, dim=-1)[..., :width]
        dot = torch.linalg.vecdot(p, gradient)[..., None]
        result = torch.addcmul(result, p, gradient - dot, value=weight)
    return result


def rerouted(value: Tensor, inputs: Tensor | tuple[Tensor, ...], backward: Callable[[Tensor], Any]) -> Tensor:
    """`value`, unchanged, whose gradient g reaches `inputs` as backward(g) and nothing else.

    Of several inputs each receives its own: backward(g) is then a tuple, with None for an input that receives nothing.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> torch.autograd.grad(rerouted(x**2, x, lambda g: 3 * g).sum(), x)[0].tolist()
        [3.0, 3.0]
    """
    return _Rerouted.apply(value.detach(), backward, *(inputs if isinstance(inputs, tuple) else (inputs,)))
