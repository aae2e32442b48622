"""Running a host's attention in blocks of rows, so that no scores and no pattern of all rows and keys are made.

1. Once hook_q, hook_k and hook_v of a layer have fired, what the host computes is put off (`lrp_lens.ops.deferred`)
   until it multiplies by v; then it runs in blocks of rows (`lrp_lens.ops.by_rows`).
2. What rules do at scores, pattern, v and z runs on each block.
3. A host that keeps its pattern as an attribute is left without one.
4. Nothing is taken on trust: a few tokens are run both ways first, and must give the same logits (`refusal`).
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrp_lens.hosts.attention_scores import window_of
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.liveness import probe_tokens
from lrp_lens.hosts.replay import deviation, rounding
from lrp_lens.hosts.scope import attached, exclusive, modules_of, quiet
from lrp_lens.hosts.sites import AttentionSite, Port, Sites
from lrp_lens.ops.by_rows import Attention, Functions
from lrp_lens.ops.deferred import Deferred, NotByRowsError
from lrp_lens.ops.row_recorder import ByRows

_PROBE_ROWS = 3
_refusals: "weakref.WeakKeyDictionary[Any, tuple[Sites, str]]" = weakref.WeakKeyDictionary()


@contextmanager
def attention_by_rows(
    model: Any,
    layers: Mapping[AttentionSite, Functions],
    size: int,
    length: int | None = None,
    found: dict[str, tuple[int, int, bool]] | None = None,
) -> Iterator[None]:
    """Take the attention of some layers in blocks of rows.

    Args:
        model: HookedTransformer or TransformerBridge.
        layers: their sites, each with what its rules do to the rows of a block.
        size: rows of a block.
        length: tokens of a forward pass in which every layer is taken so: then a mask that the host makes for all of
            them is put off, too.
        found: what earlier passes found out of masks (`Attention.found`); it gets what this one does.

    Raises:
        SiteError: inside, where an attention cannot be taken so.
    """
    mode = ByRows(length)
    hooks: list[tuple[Any, Any]] = []
    for site, functions in layers.items():
        window = window_of(model, site.layer or 0)
        seen = {} if found is None else found
        make = partial(Attention, str(site), size=size, functions=functions, window=window, found=seen)
        hooks += _hooks(mode, site, functions, make)
    try:
        with attached(model, hooks), mode:
            yield
    finally:
        mode.close()
        for site in layers:
            for module in modules_of(model.blocks[site.layer].attn):
                for name in [name for name, value in vars(module).items() if type(value) is Deferred]:
                    setattr(module, name, None)


def _hooks(
    mode: ByRows, site: AttentionSite, functions: Functions, attention: Callable[[int, int], Attention]
) -> list[tuple[Any, Any]]:
    """Hooks that say where attention begins, what it shows, and where it must have ended."""
    seen: dict[str, Tensor] = {}

    def begin(part: str) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: Any) -> None:
            seen[part] = tensor
            if len(seen) == len("qkv"):
                query = seen["q"]
                seen.clear()
                mode.begin(attention(query.shape[0], query.shape[1]))

        return hook

    def mark(part: str) -> Callable[..., Tensor]:
        return lambda tensor, hook: mode.mark(part, tensor)

    def end(tensor: Tensor, hook: Any) -> None:
        mode.end()

    hooks: list[tuple[Any, Any]] = [(getattr(site, part).point, begin(part)) for part in "qkv"]
    ports: dict[str, Port | None] = {"scores": site.scores, "pattern": site.pattern}
    hooks += [
        (port.point, mark(part)) for part, port in ports.items() if port is not None and functions.get(part)
    ]
    return [*hooks, (site.z.point, end)]


def refusal(model: Any, sites: Sites) -> str:
    """Why the attention of a model cannot be taken in blocks of rows; "" if it can.  Found out once for its sites."""
    with exclusive(model):
        known = _refusals.get(model)
        if known is None or known[0] is not sites:
            known = _refusals[model] = (sites, _refusal(model, sites))
        return known[1]


def _refusal(model: Any, sites: Sites) -> str:
    tokens = probe_tokens(model)
    layers: dict[AttentionSite, Functions] = {site: {} for site in sites.of(AttentionSite)}
    with torch.no_grad(), quiet({*model.modules(), *model.hook_dict.values()}):
        expected = forward(model, tokens, None)
        try:
            with attention_by_rows(model, layers, _PROBE_ROWS, tokens.shape[1]):
                found = forward(model, tokens, None)
        except NotByRowsError as error:
            return str(error)
    off = deviation(found, expected)
    if off <= rounding(expected.dtype):
        return ""
    return f"the logits of {sites.architecture} differ by {off:.2g} of their range in blocks of rows"
