"""Where a pass stops being numbers: forward the first hook point, backward the one nearest to the metric."""

from collections.abc import Iterable, Mapping

from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.hosts.forward import is_finite, range_of, require_finite
from lrp_lens.hosts.names import Names
from lrp_lens.run.balance import Calls


def first_not_finite(kept: Mapping[str, Iterable[Tensor]]) -> str:
    """The first of some hook points in order that holds NaN or an infinity; "" for none.

    Scores and patterns are passed over, as a mask is an infinity.
    """
    for name, tensors in kept.items():
        if not name.endswith(Names.MASKED) and not all(map(is_finite, tensors)):
            return name
    return ""


def require_finite_forward(logits: Tensor, kept: Mapping[str, Iterable[Tensor]]) -> None:
    """Refuse logits that are no finite numbers.

    Args:
        logits: what the model returned.
        kept: what hook points passed on, in order.

    Raises:
        InputError: names the first of these that is no number.
    """
    require_finite(logits, lambda: first_not_finite(kept))


def require_finite_backward(gradient: Tensor, calls: Mapping[str, Calls]) -> None:
    """Refuse a backward pass that overflowed, which would leave relevance that is no number.

    Args:
        gradient: where it arrived.
        calls: what was recorded on the way, in the order of a forward pass.

    Raises:
        InputError: names the hook point nearest to the metric at which the gradient is no finite number.
    """
    if not is_finite(gradient):
        place = first_not_finite({name: calls[name].gradients for name in reversed(list(calls))})
        raise InputError(
            f"Relevance needs finite gradients; going back from the metric, those at {place or Names.EMBED} are not."
            f"{range_of(gradient.dtype)} Load the model in float32 or bfloat16, or look for an infinite slope in the "
            "metric."
        )
