"""The literal forward pass: one example, every intermediate kept.

Shapes are written for n positions; H heads; G key-value heads. Each trace holds what the recursion needs.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.oracles.rules import activation_value
from tests.oracles.weights import MLP, Attention, Block, Mixture, Norm, Transformer


@dataclass(frozen=True)
class NormTrace:
    """normalized: the (centred) input / scale; output: normalized * weight + bias."""

    input: Tensor
    scale: Tensor
    normalized: Tensor
    output: Tensor


@dataclass(frozen=True)
class AttentionTrace:
    """q, k, v as projected; *_rotated after QK-norm and rotary; scores to pattern are [H, n, n]."""

    input: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    q_norm: NormTrace | None
    k_norm: NormTrace | None
    q_rotated: Tensor
    k_rotated: Tensor
    scores: Tensor
    capped: Tensor
    alibi: Tensor | None
    logits: Tensor
    """capped + alibi, minus infinity where masked."""
    pattern: Tensor
    z: Tensor
    output: Tensor


@dataclass(frozen=True)
class MLPTrace:
    """pre: what the activation reads; up: the other branch; *_clamped: after GPT-OSS's clamps."""

    input: Tensor
    pre: Tensor
    pre_clamped: Tensor
    activated: Tensor
    up: Tensor | None
    up_clamped: Tensor | None
    post_norm: NormTrace | None
    post: Tensor
    output: Tensor


@dataclass(frozen=True)
class MixtureTrace:
    """router, chosen, probabilities and weights are [n, experts]; what is not chosen has weight zero."""

    input: Tensor
    router: Tensor
    chosen: Tensor
    probabilities: Tensor
    weights: Tensor
    experts: tuple[MLPTrace, ...]
    output: Tensor


@dataclass(frozen=True)
class BlockTrace:
    """attn_out and mlp_out are what is added to the residual stream, after any post-norm."""

    resid_pre: Tensor
    ln1: NormTrace | None
    attention: AttentionTrace
    ln1_post: NormTrace | None
    attn_out: Tensor
    resid_mid: Tensor
    ln2: NormTrace | None
    mlp: MLPTrace | MixtureTrace | None
    ln2_post: NormTrace | None
    mlp_out: Tensor | None
    resid_post: Tensor


@dataclass(frozen=True)
class Trace:
    """The whole pass; `uncapped` are the logits before the soft-cap."""

    embed: Tensor
    pos_embed: Tensor | None
    blocks: tuple[BlockTrace, ...]
    ln_final: NormTrace | None
    final: Tensor
    uncapped: Tensor
    logits: Tensor


def run_forward(model: Transformer, tokens: Tensor) -> Trace:
    """The logits [n, d_vocab] of the tokens [n], and everything on the way to them."""
    embed = model.embedding[tokens]
    pos_embed = None if model.positions is None else model.positions[: len(tokens)]
    stream = embed if pos_embed is None else embed + pos_embed
    blocks = []
    for block in model.blocks:
        blocks.append(run_block(block, stream))
        stream = blocks[-1].resid_post
    ln_final, final = run_norm(model.ln_final, stream)
    uncapped = _add(final @ model.W_U, model.b_U)
    return Trace(embed, pos_embed, tuple(blocks), ln_final, final, uncapped, _cap(uncapped, model.soft_cap))


def run_block(block: Block, resid_pre: Tensor) -> BlockTrace:
    """Attention and MLP, one after the other or in parallel."""
    ln1, attention_in = run_norm(block.ln1, resid_pre)
    attention = run_attention(block.attention, attention_in)
    ln1_post, attn_out = run_norm(block.ln1_post, attention.output)
    resid_mid = resid_pre + attn_out
    if block.mlp is None:
        nothing = (None, None, None, None)
        return BlockTrace(resid_pre, ln1, attention, ln1_post, attn_out, resid_mid, *nothing, resid_mid)
    ln2, mlp_in = run_norm(block.ln2, resid_pre if block.parallel else resid_mid)
    mlp = (run_mixture if isinstance(block.mlp, Mixture) else run_mlp)(block.mlp, mlp_in)
    ln2_post, mlp_out = run_norm(block.ln2_post, mlp.output)
    mlp_parts = (ln2, mlp, ln2_post, mlp_out)
    return BlockTrace(
        resid_pre, ln1, attention, ln1_post, attn_out, resid_mid, *mlp_parts, resid_mid + mlp_out
    )


def run_norm(norm: Norm | None, x: Tensor) -> tuple[NormTrace | None, Tensor]:
    """The trace (None without a norm) and the output."""
    if norm is None:
        return None, x
    centred = x - x.mean(-1, keepdim=True) if norm.centred else x
    scale = (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    normalized = centred / scale
    output = normalized if norm.weight is None else normalized * norm.weight
    trace = NormTrace(x, scale, normalized, _add(output, norm.bias))
    return trace, trace.output


def run_attention(attention: Attention, x: Tensor) -> AttentionTrace:
    """Projections, QK-norm, rotary, scores, soft-cap, ALiBi, mask, softmax (with a sink), values, output."""
    q = _add(torch.einsum("nd,hde->nhe", x, attention.W_Q), attention.b_Q)
    k = _add(torch.einsum("nd,hde->nhe", x, attention.W_K), attention.b_K)
    v = _add(torch.einsum("nd,hde->nhe", x, attention.W_V), attention.b_V)
    q_norm, q_normed = _run_head_norm(attention, attention.q_norm, q)
    k_norm, k_normed = _run_head_norm(attention, attention.k_norm, k)
    q_rotated, k_rotated = rotate(attention, q_normed), rotate(attention, k_normed)
    repeats = q.shape[1] // k.shape[1]
    keys, values = k_rotated.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    scores = torch.einsum("qhe,khe->hqk", q_rotated, keys) * attention.scale
    capped = _cap(scores, attention.soft_cap)
    query, key = torch.arange(len(x))[:, None], torch.arange(len(x))[None, :]
    alibi = None
    if attention.alibi_slopes is not None:
        alibi = attention.alibi_slopes[:, None, None] * (key - query)
    visible = key <= query
    if attention.window is not None:
        visible = visible & (key > query - attention.window)
    logits = torch.where(visible, _add(capped, alibi), -math.inf)
    pattern = softmax_with_sink(logits, attention.sinks, temperature=1.0)[0]
    z = torch.einsum("hqk,khe->qhe", pattern, values)
    output = _add(torch.einsum("nhe,hed->nd", z, attention.W_O), attention.b_O)
    qkv = (q, k, v, q_norm, k_norm, q_rotated, k_rotated)
    return AttentionTrace(x, *qkv, scores, capped, alibi, logits, pattern, z, output)


def softmax_with_sink(logits: Tensor, sinks: Tensor | None, *, temperature: float) -> tuple[Tensor, Tensor]:
    """softmax(logits / temperature) over keys and sink: the keys' columns [H, n, n], the sink's [H, n]."""
    if sinks is None:
        column = torch.full((*logits.shape[:-1], 1), -math.inf, dtype=logits.dtype)
    else:
        column = sinks[:, None, None].expand(*logits.shape[:-1], 1)
    scaled = torch.cat([logits, column], dim=-1) / temperature
    exponentials = (scaled - scaled.amax(-1, keepdim=True)).exp()
    probabilities = exponentials / exponentials.sum(-1, keepdim=True)
    return probabilities[..., :-1], probabilities[..., -1]


def _run_head_norm(attention: Attention, norm: Norm | None, x: Tensor) -> tuple[NormTrace | None, Tensor]:
    trace, output = run_norm(norm, x if attention.norm_per_head else x.flatten(1))
    return trace, output.view(x.shape)


def rotate(attention: Attention, x: Tensor, *, backwards: bool = False) -> Tensor:
    """The rotary embedding of x [n, heads, d_head], or its transpose (the rotation by minus the angle)."""
    if attention.cos is None:
        return x
    width = attention.cos.shape[-1]
    turned, kept = x[..., :width], x[..., width:]
    if attention.rotary_adjacent:
        quarter = torch.stack([-turned[..., 1::2], turned[..., ::2]], dim=-1).flatten(-2)
    else:
        first, second = turned.chunk(2, dim=-1)
        quarter = torch.cat([-second, first], dim=-1)
    cos, sin = attention.cos[: len(x), None], attention.sin[: len(x), None]
    return torch.cat([turned * cos + quarter * (-sin if backwards else sin), kept], dim=-1)


def run_mlp(mlp: MLP, x: Tensor) -> MLPTrace:
    """A plain or gated MLP, SoLU's inner norm and GPT-OSS's clamps included."""
    pre = _add(x @ mlp.W_in, mlp.b_in)
    pre_clamped = pre if mlp.clamp is None else pre.clamp(max=mlp.clamp)
    activated = activation_value(mlp.activation, pre_clamped)
    up = up_clamped = None
    post = activated
    if mlp.W_up is not None:
        up = _add(x @ mlp.W_up, mlp.b_up)
        up_clamped = up if mlp.clamp is None else up.clamp(-mlp.clamp, mlp.clamp)
        post = _add(activated * (up_clamped + mlp.up_offset), mlp.b_product)
    post_norm, post = run_norm(mlp.post_norm, post)
    output = _add(post @ mlp.W_out, mlp.b_out)
    return MLPTrace(x, pre, pre_clamped, activated, up, up_clamped, post_norm, post, output)


def run_mixture(mixture: Mixture, x: Tensor) -> MixtureTrace:
    """Router, choice, weights; every expert runs at every position, with weight zero where not chosen."""
    router = _add(x @ mixture.W_router, mixture.b_router)
    chosen = torch.zeros_like(router, dtype=torch.bool)
    chosen.scatter_(1, router.topk(mixture.chosen, dim=-1).indices, True)
    competing = torch.where(chosen, router, -math.inf) if mixture.softmax_after_choice else router
    exponentials = (competing - competing.amax(-1, keepdim=True)).exp()
    probabilities = exponentials / exponentials.sum(-1, keepdim=True)
    weights = torch.where(chosen, probabilities, 0.0)
    if mixture.renormalize:
        weights = weights / weights.sum(-1, keepdim=True)
    experts = tuple(run_mlp(expert, x) for expert in mixture.experts)
    output = sum(weights[:, e, None] * expert.output for e, expert in enumerate(experts))
    return MixtureTrace(x, router, chosen, probabilities, weights, experts, output)


def _add(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias


def _cap(x: Tensor, cap: float | None) -> Tensor:
    return x if cap is None else cap * (x / cap).tanh()
