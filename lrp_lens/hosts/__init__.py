"""The only package that knows TransformerLens versions and spells hook names."""

import weakref
from typing import Any

from lrp_lens.hosts.forward import is_bridge
from lrp_lens.hosts.hooked_transformer import resolve_hooked_transformer
from lrp_lens.hosts.liveness import dead_ports
from lrp_lens.hosts.offload import failure_named
from lrp_lens.hosts.scope import exclusive
from lrp_lens.hosts.sites import Sites
from lrp_lens.hosts.transformer_bridge import resolve_transformer_bridge
from lrp_lens.hosts.weights import require_readable

_FLAGS = (
    "use_split_qkv_input",
    "use_attn_in",
    "use_attn_result",
    "use_hook_mlp_in",
    "ungroup_grouped_query_attention",
    "normalization_type",
    "positional_embedding_type",
    "act_fn",
)
_cache: "weakref.WeakKeyDictionary[Any, tuple[tuple[Any, ...], Sites, dict[str, str]]]" = (
    weakref.WeakKeyDictionary()
)


def _fingerprint(model: Any) -> tuple[Any, ...]:
    """What, when changed, changes a model's sites."""
    config = getattr(getattr(model, "original_model", None), "config", None)
    return (
        *(getattr(model.cfg, flag, None) for flag in _FLAGS),
        getattr(model, "compatibility_mode", None),
        getattr(config, "_attn_implementation", None),
        getattr(model.cfg, "dtype", None),
        str(getattr(getattr(model, "original_model", None), "hf_device_map", None)),
        tuple(id(block) for block in model.blocks),
    )


def resolve(model: Any) -> Sites:
    """The sites of a model, cached while neither its flags nor its blocks change.

    Raises:
        InputError: if it is neither a HookedTransformer nor a TransformerBridge.
        SiteError: for an operation that no rule knows, or weights that cannot be read.
    """
    return _entry(model)[1]


def dead(model: Any) -> dict[str, str]:
    """Hook points of the model's sites at which an edit does not reach the logits, with the reason."""
    return _entry(model)[2]


def _entry(model: Any) -> tuple[tuple[Any, ...], Sites, dict[str, str]]:
    bridge = is_bridge(model)
    fingerprint = _fingerprint(model)
    with exclusive(model):
        entry = _cache.get(model)
        if entry is None or entry[0] != fingerprint:
            require_readable(model)
            sites = resolve_transformer_bridge(model) if bridge else resolve_hooked_transformer(model)
            with failure_named(model):
                entry = (fingerprint, sites, dead_ports(model, sites))
            _cache[model] = entry
        return entry


__all__ = ["Sites", "resolve"]
