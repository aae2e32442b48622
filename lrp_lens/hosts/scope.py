"""Leaving a model exactly as it was found: hooks, flags, requires_grad, also after an exception.

`attached` adds hooks straight to hook points and removes exactly those.  `model.hooks(...)` would do, but on
TransformerBridge 3.9 it rebuilds the hook dictionary for every call, several times the cost of the pass.

A model has one set of hooks, so it does one run at a time: whoever enters one of these contexts holds the model's
lock until it ends, and another thread waits.  A run inside a run (from a user's hook, say) holds it already.
"""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

HookFunction = Callable[..., Tensor | None]
_locks: "weakref.WeakKeyDictionary[Any, threading.RLock]" = weakref.WeakKeyDictionary()
_finding_locks = threading.Lock()
_PATTERN = "_pattern"
"""Where a bridge's attention keeps that of its last pass; nothing reads it."""
_KINDS = ("_forward_hooks", "_backward_hooks", "_forward_pre_hooks")
"""Where PyTorch keeps a module's hooks."""
_NO_TENSORS = frozenset({dict, OrderedDict, list, tuple, set, str, bool, int, float, type(None)})
"""Types of most attributes of a module: asking whether these are tensors takes longer than anything else here."""


@contextmanager
def exclusive(model: Any) -> Iterator[None]:
    """Keep other threads away from a model; they wait until the context ends."""
    with _finding_locks:
        lock = _locks.setdefault(model, threading.RLock())
    with lock:
        yield


@contextmanager
def attached(
    model: Any,
    hooks: Iterable[tuple[HookPoint, HookFunction]],
    module_hooks: Iterable[tuple[nn.Module, Callable[..., Any]]] = (),
    before: Iterable[tuple[HookPoint, HookFunction]] = (),
) -> Iterator[None]:
    """Attach forward hooks to hook points of a model, and to its modules, for the length of the context.

    Args:
        model: whose hook points and modules these are.
        hooks: run behind those that are attached already, in their order.
        module_hooks: of modules.
        before: run before those that are attached already, in their order.
    """
    handles: list[tuple[HookPoint, Any]] = []
    module_handles = []
    with exclusive(model):
        try:
            for point, function in reversed(list(before)):
                point.add_hook(function, prepend=True)
                handles.append((point, point.fwd_hooks[0]))
            for point, function in hooks:
                point.add_hook(function)
                handles.append((point, point.fwd_hooks[-1]))
            for module, function in module_hooks:
                module_handles.append(module.register_forward_hook(function))
            yield
        finally:
            for point, handle in handles:
                handle.hook.remove()
                point.fwd_hooks = [kept for kept in point.fwd_hooks if kept is not handle]
            for module_handle in module_handles:
                module_handle.remove()


def hooked(model: Any) -> bool:
    """Whether functions of somebody's are attached to the model's hook points."""
    return bool(functions_attached(model))


def stands_at(point: nn.Module) -> bool:
    """Whether a hook of any kind is attached to a hook point."""
    return any(getattr(point, name) for name in _KINDS)


def functions_attached(model: Any) -> dict[str, list[Any]]:
    """Those functions, as the hook points call them, by the point's name."""
    points = {name: point for name, point in model.hook_dict.items() if point.fwd_hooks}
    return {name: list(point._forward_hooks.values()) for name, point in points.items()}


def modules_of(model: nn.Module) -> list[nn.Module]:
    """Every module once but the hook points, which are most and hold nothing; a bridge's original model included.

    `modules()` spends most of its time on names.
    """
    found, seen = [model], {id(model)}
    original = getattr(model, "original_model", None)
    if isinstance(original, nn.Module):  # a TransformerBridge does not register it
        found.append(original)
        seen.add(id(original))
    for module in found:  # grows on the way
        for child in module._modules.values():
            if child is not None and type(child) is not HookPoint and id(child) not in seen:
                seen.add(id(child))
                found.append(child)
    return found


@contextmanager
def parameters_frozen(model: nn.Module, parts: Iterable[nn.Module] | None = None) -> Iterator[None]:
    """Keep parameters out of the graph: nothing is saved for their gradients, and none accumulates.

    `parts` are its modules where the caller has them.
    """
    with exclusive(model):
        parts = modules_of(model) if parts is None else parts
        own = (parameter for module in parts for parameter in module._parameters.values())
        trainable = [parameter for parameter in own if parameter is not None and parameter.requires_grad]
        try:
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)


@contextmanager
def quiet(points: Iterable[nn.Module]) -> Iterator[None]:
    """Silence the hooks already attached to these modules, so that a probe does not run a user's functions."""
    kept: list[tuple[HookPoint, str, Any]] = []
    try:
        for point in points:
            for name in _KINDS:
                if getattr(point, name):
                    kept.append((point, name, getattr(point, name)))
                    setattr(point, name, OrderedDict())
        yield
    finally:
        for point, name, hooks in kept:
            setattr(point, name, hooks)


@contextmanager
def graph_released(model: nn.Module, parts: Iterable[nn.Module] | None = None) -> Iterator[None]:
    """Let go of the tensors of a pass that a host keeps as attributes: its graph, and patterns of all rows and keys.

    `parts` are its modules where the caller has them.
    """
    with exclusive(model):
        try:
            yield
        finally:
            release_graph(modules_of(model) if parts is None else parts)


def release_graph(parts: Iterable[nn.Module]) -> None:
    """The same for modules that have run."""
    for module in parts:
        for name, value in list(vars(module).items()):
            if type(value) in _NO_TENSORS or not isinstance(value, Tensor):
                continue
            if value.grad_fn is not None or name == _PATTERN:
                setattr(module, name, None)
