"""The ungated run: one forward pass without rules and gradients, which may edit activations, or keep them.

1. Whatever an analysis edits or reads it says as hooks; they are attached for the length of the pass.
2. `keeping` makes the hooks that keep activations: at hook points, and at modules where a host has no hook point.
3. Every ungated run of a whole batch is made here; `lrp_lens.hosts` has those that start in the middle.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.scope import HookFunction, attached
from lrp_lens.hosts.sites import Sites


def plain_logits(
    model: Any,
    ids: Int[Tensor, "row pos"],
    hooks: Iterable[tuple[Any, HookFunction]] = (),
    modules: Iterable[tuple[Any, Callable[..., Any]]] = (),
    mask: Bool[Tensor, "row pos"] | None = None,
) -> Float[Tensor, "row read d_vocab"]:
    """Logits of one ungated run.

    Args:
        model: the host.
        ids: token ids.
        hooks: hook points and what to do there; one before the unembedding may keep fewer positions.
        modules: modules and what to do with their outputs.
        mask: False at padding, or None where there is none on the left.
    """
    with torch.no_grad(), attached(model, hooks, modules):
        return forward(model, ids, mask)


def keeping(model: Any, names: Iterable[str], kept: dict[str, Tensor]) -> tuple[list[Any], list[Any]]:
    """Hooks on hook points and on modules that keep these records; names that the model lacks are left out."""
    return _keepers(resolve(model), names, kept)


def _keepers(sites: Sites, names: Iterable[str], kept: dict[str, Tensor]) -> tuple[list[Any], list[Any]]:
    known = sites.record_of
    records = [known[name] for name in names if name in known]
    ports = [(one.port.point, _keeper(one.name, kept)) for one in records if one.port is not None]
    modules = [
        (one.module, _keeper(one.name, kept))
        for one in records
        if one.port is None and one.module is not None
    ]
    return ports, modules


def plain_activations(
    model: Any,
    ids: Int[Tensor, "row pos"],
    names: Iterable[str],
    read: HookFunction | None = None,
    mask: Bool[Tensor, "row pos"] | None = None,
) -> tuple[Float[Tensor, "row read d_vocab"], dict[str, Tensor]]:
    """Logits of one ungated run, of the positions that `read` keeps, and the activations of these records by name."""
    kept: dict[str, Tensor] = {}
    sites = resolve(model)
    ports, modules = _keepers(sites, names, kept)
    if read is not None:
        ports.append((sites.unembed_input.point, read))
    return plain_logits(model, ids, ports, modules, mask), kept


def _keeper(name: str, kept: dict[str, Tensor]) -> Callable[..., None]:
    """A hook, for hook points and for modules alike, that keeps what is passed on."""

    def keep(first: Any, *rest: Any, hook: Any = None) -> None:
        kept[name] = (rest[-1] if rest else first).detach().clone()

    return keep
