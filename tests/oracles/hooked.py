"""HookedTransformer → oracles.weights, read from the module's parameters and configuration."""

import torch
from torch import Tensor

from tests.oracles.weights import MLP, Attention, Block, Mixture, Norm, Transformer

_POST_NORM = ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
_NORM_CENTRED = {"LayerNorm": True, "LayerNormPre": True, "RMSNorm": False, "RMSNormPre": False}


def from_hooked_transformer(model) -> Transformer:
    """The weights of a HookedTransformer (TransformerLens 3.9), in float64."""
    config = model.cfg
    if config.clip_qkv is not None or config.positional_embedding_type not in ("standard", "rotary", "alibi"):
        raise NotImplementedError("the oracle knows no clip_qkv and no shortformer or relative positions")
    embedding = model.embed.W_E
    if config.post_embedding_ln:
        with torch.no_grad():
            embedding = model.embed(torch.arange(config.d_vocab)[None])[0]
    return Transformer(
        embedding=_float64(embedding),
        positions=_float64(model.pos_embed.W_pos) if config.positional_embedding_type == "standard" else None,
        blocks=tuple(_block(block, config) for block in model.blocks),
        ln_final=None if config.normalization_type is None else _norm(model.ln_final),
        W_U=_float64(model.unembed.W_U),
        b_U=_bias(model.unembed.b_U),
        soft_cap=config.output_logits_soft_cap if config.output_logits_soft_cap > 0 else None,
    )


def _float64(tensor: Tensor) -> Tensor:
    return tensor.detach().double()


def _bias(tensor: Tensor) -> Tensor | None:
    """HookedTransformer has every bias as a parameter; where an architecture has none it is zero."""
    return _float64(tensor) if tensor.any() else None


def _norm(module) -> Norm | None:
    name = type(module).__name__
    if name == "Identity":
        return None
    weight, bias = getattr(module, "w", None), getattr(module, "b", None)
    return Norm(
        centred=_NORM_CENTRED[name],
        eps=module.eps,
        weight=None if weight is None else _float64(weight),
        bias=None if bias is None else _bias(bias),
    )


def _block(block, config) -> Block:
    ln1, ln1_post, ln2, ln2_post = (
        _norm(getattr(block, name)) if hasattr(block, name) else None
        for name in ("ln1", "ln1_post", "ln2", "ln2_post")
    )
    if config.original_architecture in _POST_NORM:
        ln1, ln1_post, ln2, ln2_post = None, ln1, None, ln2
    return Block(
        attention=_attention(block.attn, config),
        ln1=ln1,
        ln1_post=ln1_post,
        mlp=None if config.attn_only else _mlp(block.mlp, config),
        ln2=ln2,
        ln2_post=ln2_post,
        parallel=config.parallel_attn_mlp,
    )


def _attention(module, config) -> Attention:
    prefix = "_" if config.n_key_value_heads is not None else ""
    slopes = None
    if config.positional_embedding_type == "alibi":
        heads = torch.arange(1, config.n_heads + 1, dtype=torch.float64)
        slopes = 2.0 ** (-8.0 * heads / config.n_heads)  # Press et al. 2021, for a power of two
    rotary = config.positional_embedding_type == "rotary"
    return Attention(
        W_Q=_float64(module.W_Q),
        W_K=_float64(getattr(module, prefix + "W_K")),
        W_V=_float64(getattr(module, prefix + "W_V")),
        W_O=_float64(module.W_O),
        b_Q=_bias(module.b_Q),
        b_K=_bias(getattr(module, prefix + "b_K")),
        b_V=_bias(getattr(module, prefix + "b_V")),
        b_O=_bias(module.b_O),
        scale=1.0 / float(module.attn_scale),
        q_norm=None if module.q_norm is None else _norm(module.q_norm),
        k_norm=None if module.k_norm is None else _norm(module.k_norm),
        norm_per_head=config.use_qk_norm,
        cos=_float64(module.rotary_cos) if rotary else None,
        sin=_float64(module.rotary_sin) if rotary else None,
        rotary_adjacent=config.rotary_adjacent_pairs,
        alibi_slopes=slopes,
        window=config.window_size if module.attn_type == "local" else None,
        soft_cap=config.attn_scores_soft_cap if config.attn_scores_soft_cap > 0 else None,
        sinks=_float64(module.sinks) if config.use_attention_sinks else None,
    )


def _mlp(module, config) -> MLP | Mixture:
    kind = type(module).__name__
    if kind in ("MoE", "GptOssMoE"):
        gpt_oss = kind == "GptOssMoE"
        return Mixture(
            W_router=_float64(module.W_gate.weight).T,
            b_router=_bias(module.W_gate.bias) if gpt_oss else None,
            experts=tuple(_expert(expert, config, gpt_oss) for expert in module.experts),
            chosen=config.experts_per_token,
            softmax_after_choice=gpt_oss,
            renormalize=config.norm_topk_prob and not gpt_oss,
        )
    gated = kind == "GatedMLP"
    return MLP(
        activation=config.act_fn.removesuffix("_ln"),
        W_in=_float64(module.W_gate if gated else module.W_in),
        b_in=None if gated else _bias(module.b_in),
        W_up=_float64(module.W_in) if gated else None,
        b_product=_bias(module.b_in) if gated else None,
        W_out=_float64(module.W_out),
        b_out=_bias(module.b_out),
        post_norm=_norm(module.ln) if config.act_fn.endswith("_ln") else None,
    )


def _expert(module, config, gpt_oss: bool) -> MLP:
    def bias(linear):
        return None if linear.bias is None else _bias(linear.bias)

    return MLP(
        activation="gpt_oss" if gpt_oss else config.act_fn,
        W_in=_float64(module.W_gate.weight).T,
        b_in=bias(module.W_gate),
        W_up=_float64(module.W_in.weight).T,
        b_up=bias(module.W_in),
        W_out=_float64(module.W_out.weight).T,
        b_out=bias(module.W_out),
        clamp=7.0 if gpt_oss else None,
        up_offset=1.0 if gpt_oss else 0.0,
    )
