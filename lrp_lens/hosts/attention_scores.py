"""How an attention layer turns q and k into its pattern: what recomputing one block of rows needs.

1. q and k (as hook_q and hook_k show them) pass the QK-norm, if any, and the rotary embedding, if any.
2. scores = q · k × scale, soft-capped (Gemma 2), plus slope × distance (ALiBi, Press et al. 2022).
3. A query sees itself and the keys before it, at most `window` of them (sliding attention).
4. pattern = softmax over those keys and, in GPT-OSS, one more column that is dropped (the sink).

HookedTransformer keeps these numbers on its attention module; TransformerBridge leaves them in Hugging Face's
configuration and rotary module.  Callers check what they recompute against the recorded z.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.hosts.forward import device_of, is_bridge
from lrp_lens.hosts.sites import AttentionSite, NormSite, Sites
from lrp_lens.hosts.transformer_bridge import unwrap


@dataclass(frozen=True, eq=False)
class ScoreGeometry:
    """The numbers between hook_q, hook_k and hook_pattern of one layer, for one prompt from position 0."""

    scale: float
    """Factor on the query-key products."""
    softcap: float | None = None
    window: int | None = None
    """A query sees the last `window` keys, itself included; None for all."""
    slopes: Tensor | None = None
    """ALiBi: [head]."""
    sink: Tensor | None = None
    """Logit of one more column of the softmax, [head]."""
    rotary: tuple[Tensor, Tensor] | None = None
    """cos and sin, [pos, rotated width]."""
    adjacent: bool = False
    """Pairs that rotate together are neighbours (GPT-J), else the two halves."""
    query_norm: NormSite | None = None
    key_norm: NormSite | None = None

    def rotate(self, heads: Float[Tensor, "pos head d_head"]) -> Float[Tensor, "pos head d_head"]:
        """The rotary embedding (Su et al. 2021), a linear map at each position; the same tensor without one."""
        if self.rotary is None:
            return heads
        cos, sin = (table[: len(heads), None].to(heads) for table in self.rotary)
        turned, kept = heads[..., : cos.shape[-1]], heads[..., cos.shape[-1] :]
        if self.adjacent:
            quarter = torch.stack([-turned[..., 1::2], turned[..., ::2]], dim=-1).flatten(-2)
        else:
            first, second = turned.chunk(2, dim=-1)
            quarter = torch.cat([-second, first], dim=-1)
        return torch.cat([turned * cos + quarter * sin, kept], dim=-1)


def score_geometry(model: Any, sites: Sites, layer: int, length: int) -> ScoreGeometry:
    """The geometry of one layer's scores, for a prompt of `length` tokens."""
    site = next(site for site in sites.of(AttentionSite) if site.layer == layer)
    norms = {norm.of: norm for norm in sites.of(NormSite) if norm.layer == layer}
    sink = site.sink()
    own = (_of_bridge if is_bridge(model) else _of_hooked_transformer)(model, layer, length)
    return ScoreGeometry(
        softcap=site.softcap,
        window=window_of(model, layer),
        sink=None if sink is None else sink.reshape(-1),
        slopes=_slopes(sites.n_heads).to(device_of(model)) if "ALiBi" in site.extras else None,
        query_norm=norms.get("query"),
        key_norm=norms.get("key"),
        **own,
    )


def window_of(model: Any, layer: int) -> int | None:
    """How many keys a query of a layer sees, itself included, as its host says; None for all before it."""
    if not is_bridge(model):
        local = model.blocks[layer].attn.attn_type == "local"
        return int(model.cfg.window_size) if local else None
    config = model.original_model.config
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    slides = kinds[layer] == "sliding_attention" if kinds else getattr(config, "use_sliding_window", True)
    return int(window) if window and slides else None


def _slopes(heads: int) -> Tensor:
    """ALiBi's slopes: powers of 2^(-8/n) for n heads, or for the next lower power of two and every other one."""
    lower = 2 ** (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * index / lower) for index in range(1, lower + 1)]
    slopes += [2.0 ** (-4.0 * index / lower) for index in range(1, 2 * (heads - lower), 2)]
    return torch.tensor(slopes, dtype=torch.float64)


def _of_hooked_transformer(model: Any, layer: int, length: int) -> dict[str, Any]:
    attn, cfg = model.blocks[layer].attn, model.cfg
    rotary = cfg.positional_embedding_type == "rotary"
    return {
        "scale": 1.0 / float(attn.attn_scale),
        "rotary": (attn.rotary_cos, attn.rotary_sin) if rotary else None,
        "adjacent": bool(cfg.rotary_adjacent_pairs),
    }


def _of_bridge(model: Any, layer: int, length: int) -> dict[str, Any]:
    config, inner = model.original_model.config, unwrap(model.blocks[layer].attn)
    kinds = getattr(config, "layer_types", None)
    d_head = int(model.cfg.d_head)
    scale = getattr(inner, "scaling", None) or d_head**-0.5
    if getattr(config, "scale_attn_by_inverse_layer_idx", False):
        scale = scale / (layer + 1)
    return {
        "scale": float(scale),
        "rotary": _rotary_tables(model, inner, kinds[layer] if kinds else None, d_head, length),
        "adjacent": config.model_type == "gptj",
    }


def _rotary_tables(
    model: Any, attention: Any, kind: str | None, d_head: int, length: int
) -> tuple[Tensor, Tensor] | None:
    if hasattr(attention, "embed_positions"):  # GPT-J keeps sin and cos of every other entry
        sin, cos = attention.embed_positions.chunk(2, dim=-1)
        return cos.repeat_interleave(2, dim=-1), sin.repeat_interleave(2, dim=-1)
    owners = (part for part in model.original_model.modules() if "rotary_emb" in part._modules)
    owner = next(owners, None)
    if owner is None:
        return None
    module = unwrap(owner.rotary_emb)
    layered = (kind,) if hasattr(module, "full_attention_inv_freq") else ()
    positions = torch.arange(length, device=device_of(model))[None]
    sample = torch.empty(0, dtype=next(model.original_model.parameters()).dtype, device=device_of(model))
    with torch.no_grad():
        cos, sin = module(sample, positions, *layered)
    cos, sin = cos[0], sin[0]
    if model.original_model.config.model_type == "gpt_oss" and 2 * cos.shape[-1] == d_head:
        cos, sin = torch.cat([cos, cos], dim=-1), torch.cat([sin, sin], dim=-1)  # one entry a pair
    return cos, sin
