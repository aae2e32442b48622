"""What numbers depend on, the same in every process, so that work which goes on later knows whether it may.

1. A model (`model_identity`): host, architecture, weights, and functions that are attached to its hook points.
2. Weights: names, shapes and types; some values of each parameter, in order; and the sum of the bits of all its values,
   a whole number, so that a single changed value shows on any device and with any number of threads.
3. Anything else (`spelled`): data by its values, a function by its code and what it was made with, an object of a class
   that is not lrp_lens' own by its data and the code of that class.  What functions call elsewhere is not followed.
"""

import functools
import hashlib
import inspect
import re
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import fields, is_dataclass
from itertools import chain
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrp_lens.hosts import resolve
from lrp_lens.hosts.offload import named_weights
from lrp_lens.hosts.scope import functions_attached
from lrp_lens.hosts.weights import scales

_SAMPLED = 4096
_TOGETHER = 1 << 22
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def model_identity(model: Any) -> list[str]:
    """Everything about a model that its logits depend on, in words and a hash.

    Args:
        model: a HookedTransformer or TransformerBridge.

    Example:
        >>> from lrp_lens import load_demo_model
        >>> model_identity(load_demo_model(device="cpu"))[1]
        'LlamaForCausalLM'
    """
    sites = resolve(model)
    return [sites.host, sites.architecture, _weights(model), spelled(functions_attached(model))]


def spelled(value: Any) -> str:
    """A value in words that differ where its data or code does, and are the same in every process.

    Example:
        >>> spelled({"b": (1, 2.0), "a": {"y", "x"}})
        "{'b': (1, 2.0), 'a': {'x', 'y'}}"
        >>> spelled(lambda x: x + 1) == spelled(lambda x: x + 2)
        False
    """
    return _spelled(value, ())


def _spelled(value: Any, around: tuple[int, ...]) -> str:
    if id(value) in around:
        return "…"  # a function that holds itself
    around = (*around, id(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_spelled(one, around)}" for key, one in value.items()) + "}"
    if isinstance(value, Set):
        return "{" + ", ".join(sorted(_spelled(one, around) for one in value)) + "}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(_spelled(one, around) for one in value) + ")"
    if isinstance(value, nn.Module):
        return f"{_name(type(value))} {_weights(value)}"
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {value.dtype} {_values(value)}"
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.shape} {value.dtype} {_hash(np.ascontiguousarray(value).tobytes())}"
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, type):
        return _name(value)
    if isinstance(value, CodeType):
        return _spelled((value.co_code.hex(), value.co_names, value.co_consts), around)
    if isinstance(value, functools.partial):
        return _spelled((value.func, value.args, value.keywords), around)
    if inspect.ismethod(value):
        return _spelled((value.__self__, value.__func__), around)
    if isinstance(value, FunctionType):
        function = inspect.unwrap(value)
        parts = (function.__code__, function.__defaults__, function.__kwdefaults__, _made_with(function))
        return f"{_name(function)} {_spelled(parts, around)}"
    if is_dataclass(value):
        held = {one.name: getattr(value, one.name) for one in fields(value)}
        return f"{_name(type(value))} {_spelled((held, _code(type(value))), around)}"
    kind: Any = type(value)
    if kind.__repr__ is object.__repr__ and hasattr(value, "__dict__"):
        return f"{_name(kind)} {_spelled((vars(value), _code(kind)), around)}"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))  # addresses differ in every process


def _name(value: Any) -> str:
    return f"{value.__module__}.{value.__qualname__}"


def _made_with(function: FunctionType) -> dict[str, Any]:
    """What a function took along from where it was made."""
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not there yet
            found[name] = cell.cell_contents
    return found


def _code(kind: type) -> dict[str, Any]:
    """The functions of a class that is not ours; ours change with the version."""
    if kind.__module__.partition(".")[0] == "lrp_lens":
        return {}
    plain = {
        name: getattr(one, "fget", getattr(one, "__func__", one))  # properties, static and class methods
        for name, one in vars(kind).items()
    }
    return {name: one for name, one in plain.items() if isinstance(one, FunctionType)}


def _weights(module: nn.Module) -> str:
    total = hashlib.blake2b(digest_size=16)
    for name, one in chain(named_weights(module), scales(module)):
        total.update(f"{name} {tuple(one.shape)} {one.dtype} {_values(one)}\n".encode())
    return total.hexdigest()


def _values(tensor: Tensor) -> str:
    """Some values in order, and the bits of all summed up."""
    flat = tensor.detach().reshape(-1)
    some = flat[:: -(-len(flat) // _SAMPLED) or 1].cpu().contiguous().view(torch.uint8)
    bits = flat.view(_BITS[flat.element_size()]) if flat.element_size() in _BITS else some
    total = sum(int(piece.sum(dtype=torch.int64)) for piece in bits.split(_TOGETHER))
    return f"{_hash(some.numpy().tobytes())} {total}"


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
