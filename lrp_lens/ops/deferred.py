"""A tensor that stands for one that is not made: it has a shape, and knows the operation that would make it.

Whatever asks for its numbers is refused.
"""

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from lrp_lens.errors import SiteError
from lrp_lens.ops.by_rows import Node

_ABOUT_SHAPE = {"size", "dim", "numel", "is_floating_point", "ndimension"}
_ATTRIBUTES = {"shape", "dtype", "device", "ndim", "requires_grad", "grad_fn", "layout", "is_cuda"}


class NotByRowsError(SiteError):
    """An attention whose operations cannot be taken row by row."""


class Deferred(Tensor):
    """A tensor of rows and keys without numbers, known by the operation that makes it."""

    node: Node | None
    """None once its attention is over."""

    @staticmethod
    def __new__(cls, node: Node, device: torch.device) -> "Deferred":  # noqa: D102
        with torch._C.DisableTorchFunction():
            made: Deferred = torch.Tensor._make_wrapper_subclass(
                cls, node.meta.shape, dtype=node.meta.dtype, device=device
            )
        made.node = node
        return made

    def __init__(self, *given: Any) -> None:
        super().__init__()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_about_shape(func):
            return super().__torch_function__(func, types, args, kwargs or {})
        raise NotByRowsError(
            f"Attention in blocks of rows is over at its z; {name_of(func)} reads scores or a pattern after that, "
            "which were never made. Use memory='full'."
        )

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return cls.__torch_function__(func, types, args, kwargs)


def name_of(func: Any) -> str:
    """How an operation of torch is called."""
    return str(getattr(func, "__name__", func))


def is_about_shape(func: Any) -> bool:
    """Whether an operation asks for what is known of a tensor without its numbers."""
    if name_of(func) == "__get__":
        return getattr(func.__self__, "__name__", "") in _ATTRIBUTES
    return name_of(func) in _ABOUT_SHAPE


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor among arguments."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [one for item in value for one in tensors_in(item)]
    return [value] if isinstance(value, Tensor) else []


def holds_deferred(value: Any) -> bool:
    """Whether a tensor without numbers is among arguments."""
    if type(value) is Deferred:
        return True
    if isinstance(value, list | tuple):
        return any(map(holds_deferred, value))
    return isinstance(value, dict) and any(map(holds_deferred, value.values()))


class Shapes:
    """Shapes and dtypes of results; each layer of a model asks for the same ones."""

    def __init__(self) -> None:
        self._known: dict[Any, Any] = {}

    def of(self, func: Any, args: Any, kwargs: Any) -> Any:
        """The result without numbers."""
        key = (func, _signature(args), _signature(kwargs))
        if key not in self._known:
            self._known[key] = func(*mapped(args, meta_of), **mapped(kwargs, meta_of))
        return self._known[key]


def _signature(value: Any) -> Any:
    """What the shape and dtype of a result depend on, of arguments; equal where these are."""
    if isinstance(value, dict):
        return tuple((key, _signature(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_signature, value))
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    return (type(value), value) if isinstance(value, Hashable) else object()  # equal to nothing


def mapped(value: Any, function: Callable[[Any], Any]) -> Any:
    """Arguments with every tensor and node replaced."""
    if isinstance(value, dict):
        return {key: mapped(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(mapped(item, function) for item in value)
    return function(value) if isinstance(value, Tensor | Node) else value


def meta_of(tensor: Tensor) -> Tensor:
    """Shape and dtype alone."""
    return node_of(tensor).meta if isinstance(tensor, Deferred) else tensor.detach().to("meta")


def node_of(tensor: Deferred) -> Node:
    """The operation behind a tensor, while its attention goes on."""
    assert tensor.node is not None
    return tensor.node


def node_or_tensor(tensor: Tensor) -> Any:
    """What a node holds of an argument."""
    return node_of(tensor) if isinstance(tensor, Deferred) else tensor.detach()
