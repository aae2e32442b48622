"""Attention that is softmax(scale · q kᵀ + mask) v, whatever operations a host makes it of: PyTorch's fused kernel.

1. `form_after` follows the operations that are written down (`lrp_lens.ops.row_recorder`): of q · kᵀ, factors, sums and
   masks that do not depend on it leave scores, softmax makes a pattern of these, and anything else has no such form.
2. The mask is what the host's own operations give where q · kᵀ is 0 (`mask_of`); entries that they replace must hide
   their key, as the product is still added to them in the kernel.
3. The kernel is `scaled_dot_product_attention` (flash attention, Dao et al. 2022, 2205.14135); its z and gradients are
   those of the operations, up to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Form:
    """What an operation made of q · kᵀ; this class itself stands for what does not depend on it."""


@dataclass(frozen=True)
class Scores(Form):
    """scale · q kᵀ + mask."""

    scale: float = 1.0
    replaced: bool = False
    """Whether some entries were replaced, not added to."""


@dataclass(frozen=True)
class Pattern(Form):
    """The softmax of scores."""

    scores: Scores
    source: Any
    """What the scores are the result of."""


@dataclass(frozen=True)
class IsNan(Form):
    """Where a pattern has rows that see nothing."""

    pattern: Pattern


CONSTANT = Form()
_TIMES, _OVER = {"mul", "__mul__", "__rmul__"}, {"div", "true_divide", "__truediv__"}
_PLUS, _MINUS = {"add", "__add__", "__radd__", "add_", "__iadd__"}, {"sub", "__sub__"}
_SAME = {"to", "type_as", "float", "double", "contiguous", "nan_to_num"}


def form_after(name: str, args: tuple[Any, ...], kwargs: dict[str, Any], forms: list[Any]) -> Form | None:
    """The form of an operation's result; None if it has none of these.

    Args:
        name: of the operation.
        args: its positional arguments.
        kwargs: its other arguments.
        forms: of the positional arguments; those of tensors and numbers are CONSTANT, those of lists None.
    """
    if all(form == CONSTANT for form in forms):
        return CONSTANT
    moving = [index for index, form in enumerate(forms) if form != CONSTANT]
    form = forms[moving[0]]
    if name == "zeros_like":
        return CONSTANT
    if name == "where" and isinstance(form, IsNan) and moving == [0, 2] and forms[2] == form.pattern:
        return form.pattern
    if len(moving) > 1 or not isinstance(form, Scores | Pattern):
        return None
    first = moving == [0]
    if first and (name in _SAME or (name == "dropout" and _is_off(args, kwargs))):
        return form
    if isinstance(form, Pattern):
        return IsNan(form) if name == "isnan" else None
    if name in _TIMES | _OVER:
        factor = _number(args[1 - moving[0]]) if len(args) == 2 and not kwargs else None
        if factor is None or not (name in _TIMES or (first and factor)):
            return None
        return replace(form, scale=form.scale * factor if name in _TIMES else form.scale / factor)
    if name in _PLUS or (name in _MINUS and first):
        return None if kwargs else form
    if (name == "masked_fill" and first) or (name == "where" and moving != [0]):
        return replace(form, replaced=True)
    return Pattern(form, args[0]) if name == "softmax" and first else None


def _is_off(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    training = kwargs.get("training", args[2] if len(args) > 2 else True)
    return not training or kwargs.get("p", args[1] if len(args) > 1 else 0.5) == 0


def _number(value: Any) -> float | None:
    if isinstance(value, Tensor) and value.ndim == 0:
        return float(value)
    return float(value) if isinstance(value, int | float) else None


def mask_of(scores: Callable[[float], Tensor], form: Scores) -> Tensor | None:
    """The mask of some rows; None if there is none.

    There is none if an entry takes another's place without hiding its key; or if a row sees nothing, which hosts and
    kernels answer each in their own way.

    Args:
        scores: any value of q · kᵀ → what the scores are then.
        form: theirs.
    """
    mask = scores(0.0)
    least = torch.finfo(mask.dtype).min / 2
    if not bool((mask.amax(-1) > least).all()):
        return None
    if form.replaced and bool(((mask == scores(1.0)) & (mask > least)).any()):
        return None
    return mask


def is_causal(mask: Tensor | None, start: int) -> bool:
    """Whether rows see themselves and all before them alike, and nothing else.

    Args:
        mask: of the rows from `start` on, and all keys.
        start: the first of them.

    Example:
        >>> is_causal(torch.full((1, 1, 2, 3), -torch.inf).triu(2), 1)
        True
    """
    if mask is None:
        return False
    each = mask.flatten(0, -3)  # some hosts repeat the mask for each prompt of a batch
    if not bool((each == each[:1]).all()):
        return False
    mask, stop = each[0], start + mask.shape[-2]
    least = torch.finfo(mask.dtype).min / 2
    before, own, behind = mask[:, :start], mask[:, start:stop], mask[:, stop:]
    seen = torch.ones_like(own, dtype=torch.bool).tril()
    alone = torch.where(seen, own == 0, own <= least)
    return bool(alone.all()) and not bool(before.any()) and bool((behind <= least).all())


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """z of [batch, head, row, d_head] and [batch, head, key, d_head]; without a mask rows see what is not behind them.

    Example:
        >>> q, k, v = torch.ones(3, 1, 1, 2, 4)
        >>> fused(q, k, v, torch.tensor([[0.0, -torch.inf], [0.0, 0.0]]), 0.5).shape
        torch.Size([1, 1, 2, 4])
    """
    mask = None if mask is None else mask.to(query.dtype)
    z: Tensor = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale
    )
    return z
