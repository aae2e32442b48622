"""A transformer as plain data: every weight of every architecture in tests/zoo.py, in one layout.

Vectors are rows, so a linear map is x @ W + b. A missing bias, norm or feature is None.
`from_hooked_transformer` (hooked.py) and `from_hugging_face` (hugging_face.py) fill these classes.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """LayerNorm (centred) or RMSNorm: n = x / sqrt(mean x² + eps), then n * weight + bias."""

    centred: bool
    eps: float
    weight: Tensor | None = None
    """[width]"""
    bias: Tensor | None = None
    """[width]"""


@dataclass(frozen=True)
class Attention:
    """Causal attention, H query heads and G key-value heads (G divides H)."""

    W_Q: Tensor
    """[H, d_model, d_head]"""
    W_K: Tensor
    """[G, d_model, d_head]"""
    W_V: Tensor
    """[G, d_model, d_head]"""
    W_O: Tensor
    """[H, d_head, d_model]"""
    scale: float
    """Factor on the query-key products, usually d_head ** -0.5."""
    b_Q: Tensor | None = None
    """[H, d_head]"""
    b_K: Tensor | None = None
    """[G, d_head]"""
    b_V: Tensor | None = None
    """[G, d_head]"""
    b_O: Tensor | None = None
    """[d_model]"""
    q_norm: Norm | None = None
    k_norm: Norm | None = None
    norm_per_head: bool = True
    """QK-norm over each head (Qwen-3, Gemma-3), or over all heads together (OLMo)."""
    cos: Tensor | None = None
    """[positions, rotary width]; with `sin` the rotary embedding, None without one."""
    sin: Tensor | None = None
    rotary_adjacent: bool = False
    """Rotate neighbouring entries (GPT-J) instead of the two halves."""
    alibi_slopes: Tensor | None = None
    """[H]; score += slope * (key position - query position)."""
    window: int | None = None
    """A query sees the last `window` keys, itself included."""
    soft_cap: float | None = None
    sinks: Tensor | None = None
    """[H]; GPT-OSS's logit of one more column of the softmax, which is dropped afterwards."""


@dataclass(frozen=True)
class MLP:
    """post = f(pre), or f(gate) * up; out = post @ W_out + b_out. Also one expert of a mixture.

    In a gated MLP `W_in` and `b_in` are those of the gate (what the activation reads, TransformerLens's
    hook_pre), `W_up` and `b_up` those of the other branch (hook_pre_linear).
    """

    activation: str
    """A name known to oracles.rules.Activation."""
    W_in: Tensor
    """[d_model, d_mlp]"""
    W_out: Tensor
    """[d_mlp, d_model]"""
    b_in: Tensor | None = None
    b_out: Tensor | None = None
    W_up: Tensor | None = None
    """[d_model, d_mlp]; None: not gated."""
    b_up: Tensor | None = None
    b_product: Tensor | None = None
    """[d_mlp]; HookedTransformer's GatedMLP adds its b_in after the product."""
    post_norm: Norm | None = None
    """SoLU's LayerNorm between activation and output."""
    clamp: float | None = None
    """GPT-OSS: gate at most this, up between minus this and this."""
    up_offset: float = 0.0
    """GPT-OSS: f(gate) * (up + 1)."""


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts: out = sum over the chosen experts e of weight_e * expert_e(x)."""

    W_router: Tensor
    """[d_model, experts]"""
    experts: tuple[MLP, ...]
    chosen: int
    """Experts per token."""
    b_router: Tensor | None = None
    """[experts]"""
    softmax_after_choice: bool = False
    """GPT-OSS: softmax over the chosen logits only."""
    renormalize: bool = False
    """Divide the chosen probabilities by their sum."""


@dataclass(frozen=True)
class Block:
    """One layer; a norm that is None is not there. `parallel`: the MLP reads resid_pre, not resid_mid."""

    attention: Attention
    ln1: Norm | None = None
    ln1_post: Norm | None = None
    mlp: MLP | Mixture | None = None
    ln2: Norm | None = None
    ln2_post: Norm | None = None
    parallel: bool = False


@dataclass(frozen=True)
class Transformer:
    """The whole model."""

    embedding: Tensor
    """[d_vocab, d_model], as added to the residual stream: after BLOOM's norm and Gemma's scale."""
    blocks: tuple[Block, ...]
    W_U: Tensor
    """[d_model, d_vocab]"""
    positions: Tensor | None = None
    """[n_ctx, d_model]; learned position embeddings."""
    ln_final: Norm | None = None
    b_U: Tensor | None = None
    soft_cap: float | None = None
