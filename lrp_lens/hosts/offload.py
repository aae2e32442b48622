"""Weights that accelerate keeps elsewhere (`device_map` with "disk", or "cpu" beside an accelerator) and brings in.

1. Where such weights were, a module holds placeholders (device "meta"); accelerate's hook brings them in while the
   module runs and lets go of them behind it.  In a graph they stay as long as the graph does: block by block, those of
   one block.
2. Whoever reads weights outside of a forward pass has them brought in for as long as that takes (`weights_present`).
3. A placeholder that no hook of accelerate's fills cannot be read (`lrp_lens.hosts.weights`).
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from accelerate.utils import align_module_device
from torch import Tensor, nn

from lrp_lens.errors import SiteError
from lrp_lens.hosts.scope import modules_of


def brings_in(module: nn.Module) -> bool:
    """Whether accelerate brings in the weights of a module while it runs."""
    return bool(getattr(getattr(module, "_hf_hook", None), "offload", False))


def absent(module: nn.Module) -> list[Tensor]:
    """The placeholders of a module's own weights."""
    return [one for one in module._parameters.values() if one is not None and one.is_meta]


def offloaded(parts: Iterable[nn.Module]) -> list[nn.Module]:
    """Those of some modules whose weights accelerate keeps elsewhere.

    Example:
        >>> from lrp_lens import load_demo_model
        >>> offloaded(modules_of(load_demo_model(device="cpu")))
        []
    """
    return [part for part in parts if brings_in(part) and absent(part)]


@contextmanager
def weights_present(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Have the weights of some modules, those of their own, brought in for the length of the context."""
    with ExitStack() as stack:
        for part in offloaded(parts):
            stack.enter_context(align_module_device(part))
        yield


def read(owner: Any, name: str, parts: Iterable[nn.Module] | None = None) -> Tensor | None:
    """A weight of a module, or one that it forms of its parts' weights, detached; None where it has no such tensor.

    Args:
        owner: the module.
        name: the attribute.
        parts: its modules, where the caller knows those that are offloaded; by default all are looked at.

    Raises:
        SiteError: TransformerBridge does not read it, as it is quantised; or nothing brings it in.
    """
    with weights_present(modules_of(owner) if parts is None else parts):
        try:
            value = getattr(owner, name, None)
        except NotImplementedError as error:
            raise SiteError(
                f"{name} is read as floating point numbers; that of {type(owner).__name__} is quantised: {error} "
                "Passes, views and the ledger work; for this load unquantised weights (dtype=torch.bfloat16)."
            ) from error
        if isinstance(value, Tensor) and value.is_meta:
            raise SiteError(
                f"Rules, the ledger and edges read the model's weights; {name} of {type(owner).__name__} is on device "
                "'meta', and accelerate does not bring in what TransformerBridge makes it of (parts of a fused q, k "
                "and v). Keep its layer in memory."
            )
        return value.detach() if isinstance(value, Tensor) else None


def named_weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """`named_parameters`, those of one module at a time brought in."""
    away = {
        id(one): (part, name)
        for part in offloaded(modules_of(module))
        for name, one in part._parameters.items()
    }
    for name, one in [*module.named_parameters()]:  # all held, so that ids stay theirs
        if id(one) in away:
            part, own = away[id(one)]
            with weights_present([part]):
                yield name, getattr(part, own)
        else:
            yield name, one


def device_of_weight(model: nn.Module, weight: Tensor) -> torch.device:
    """The device that a weight is on, or is brought to."""
    if not weight.is_meta:
        return weight.device
    owners = (part for part in modules_of(model) if any(one is weight for one in part._parameters.values()))
    hooks: Iterator[Any] = (part._hf_hook for part in owners if brings_in(part))
    return next((torch.device(hook.execution_device) for hook in hooks), weight.device)


@contextmanager
def failure_named(model: nn.Module) -> Iterator[None]:
    """While a model runs for the first time: say so if it cannot, as some weights are elsewhere.

    Raises:
        SiteError: where a module reads a placeholder.
    """
    try:
        yield
    except (KeyError, NotImplementedError, RuntimeError, TypeError) as error:
        away = offloaded(modules_of(model))
        if not away:
            raise
        kinds = ", ".join(sorted({type(part).__name__ for part in away}))
        raise SiteError(
            "Weights that accelerate offloads are brought in while their module runs; this model does not run so "
            f"({type(error).__name__}: {error}), and offloaded are weights of {kinds}. Keep what reads them otherwise "
            "in memory (embedding, rotary embedding, router or attention sinks of a mixture), and load the model with "
            "load_model(..., device_map=...)."
        ) from error
