"""The recursion through attention, from its output back to the input of the q, k and v projections."""

import torch
from torch import Tensor

from tests.oracles.forward import AttentionTrace, NormTrace, rotate, softmax_with_sink
from tests.oracles.ledger import Ledger
from tests.oracles.rules import (
    GIM_GRADIENT_SCALE,
    Rules,
    conserving_values,
    secant_softmax,
    through_norm,
    through_soft_cap,
)
from tests.oracles.weights import Attention, Norm


def recurse_attention(
    attention: Attention, trace: AttentionTrace, c: Tensor, rules: Rules, ledger: Ledger, layer: int
) -> Tensor:
    """The coefficient at the input of the q, k and v projections from the one at the attention's output."""
    factor_q, factor_k, factor_v = rules.attention
    share = min(1.0, factor_q + factor_k)  # of the pattern; bookkeeping only

    # 1. Output projection.
    ledger.absorb_bias(layer, "b_O", attention.b_O, c)
    c_z = torch.einsum("nd,hed->nhe", c, attention.W_O)

    # 2. z = pattern @ v, every key-value head serving several query heads.
    groups = trace.v.shape[1]
    values = trace.v.repeat_interleave(c_z.shape[1] // groups, dim=1)
    c_pattern = torch.einsum("qhe,khe->hqk", c_z, values)
    c_logits, c_sink = _through_attention_softmax(trace.logits, attention.sinks, c_pattern, rules)
    to_v = _conserving(trace, c_pattern, c_logits, rules.conserving) if rules.conserving else trace.pattern
    c_v = factor_v * _sum_groups(torch.einsum("hqk,qhe->khe", to_v, c_z), groups)
    at_z, at_pattern = (trace.z * c_z).sum(), (trace.pattern * c_pattern).sum()
    ledger.absorb(layer, "attention product", at_z - (trace.v * c_v).sum() - share * at_pattern)

    # 3. Softmax over the keys and, in GPT-OSS, a sink whose value is zero.
    visible = trace.logits.isfinite()
    at_logits = torch.where(visible, trace.logits * c_logits, 0.0).sum()
    at_sink = 0.0 if attention.sinks is None else (attention.sinks[:, None] * c_sink).sum()
    ledger.absorb(layer, "softmax", share * (at_pattern - at_logits - at_sink))
    if attention.sinks is not None:
        ledger.absorb(layer, "attention sink", share * at_sink)

    # 4. ALiBi and the soft-cap.
    if trace.alibi is not None:
        ledger.absorb(layer, "alibi", share * (trace.alibi * c_logits).sum())
    c_scores = through_soft_cap(trace.scores, attention.soft_cap, c_logits, identity=rules.soft_cap_identity)
    at_scores = (trace.scores * c_scores).sum()
    if attention.soft_cap is not None:
        ledger.absorb(layer, "attention soft-cap", share * ((trace.capped * c_logits).sum() - at_scores))

    # 5. Scores = q @ k * scale.
    repeats = c_z.shape[1] // groups
    keys = trace.k_rotated.repeat_interleave(repeats, dim=1)
    c_q = torch.einsum("hqk,khe->qhe", c_scores, keys) * attention.scale
    c_k = _sum_groups(torch.einsum("hqk,qhe->khe", c_scores, trace.q_rotated) * attention.scale, groups)
    at_q, at_k = (trace.q_rotated * c_q).sum(), (trace.k_rotated * c_k).sum()
    ledger.absorb(layer, "attention product", share * at_scores - factor_q * at_q - factor_k * at_k)

    # 6. Rotary and QK-norm, then the rule's factors at q and k.
    c_q, c_k = rotate(attention, c_q, backwards=True), rotate(attention, c_k, backwards=True)
    c_q, kept_q = _through_head_norm(attention, attention.q_norm, trace.q_norm, c_q, rules)
    c_k, kept_k = _through_head_norm(attention, attention.k_norm, trace.k_norm, c_k, rules)
    if attention.q_norm is not None:
        ledger.absorb(layer, "q_norm", factor_q * kept_q)
        ledger.absorb(layer, "k_norm", factor_k * kept_k)
    c_q, c_k = factor_q * c_q, factor_k * c_k

    # 7. The three projections.
    name = f"blocks.{layer}.attn.hook_"
    ledger.note(name + "z", trace.z, c_z)
    ledger.note(name + "q", trace.q, c_q)
    ledger.note(name + "k", trace.k, c_k)
    ledger.note(name + "v", trace.v, c_v)
    ledger.absorb_bias(layer, "b_Q", attention.b_Q, c_q)
    ledger.absorb_bias(layer, "b_K", attention.b_K, c_k)
    ledger.absorb_bias(layer, "b_V", attention.b_V, c_v)
    return (
        torch.einsum("nhe,hde->nd", c_q, attention.W_Q)
        + torch.einsum("nhe,hde->nd", c_k, attention.W_K)
        + torch.einsum("nhe,hde->nd", c_v, attention.W_V)
    )


def _sum_groups(x: Tensor, groups: int) -> Tensor:
    """[n, H, d_head] → [n, G, d_head]: a key-value head collects from all its query heads."""
    return x.unflatten(1, (groups, -1)).sum(2)


def _through_attention_softmax(logits: Tensor, sinks: Tensor | None, c: Tensor, rules: Rules):
    """The coefficients at the logits [H, n, n] and at the sink's logit [H, n].

    The true Jacobian at T = 1; at another temperature, that of softmax(logits / T), applied to the
    coefficients c of the pattern of the forward pass. A sink has no value vector, so its column's c is zero.
    """
    if rules.softmax_nodes:
        return _along_the_path(logits, sinks, c, rules.softmax_nodes)
    temperature = rules.softmax_temperature
    pattern, sink = softmax_with_sink(logits, sinks, temperature=temperature)
    mean = (pattern * c).sum(-1)
    scale = 1.0 if temperature == 1.0 else GIM_GRADIENT_SCALE
    return scale * pattern * (c - mean[..., None]), -scale * sink * mean


def _along_the_path(logits: Tensor, sinks: Tensor | None, c: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """The mean Jacobian along the path t logits, head by head and query by query."""
    c_logits, c_sink = torch.zeros_like(c), torch.zeros_like(c[..., 0])
    for head in range(logits.shape[0]):
        for query in range(logits.shape[1]):
            seen = logits[head, query].isfinite()
            row, ends = logits[head, query, seen].tolist(), c[head, query, seen].tolist()
            if sinks is None:
                found = secant_softmax(row, ends, nodes)
            else:
                *found, last = secant_softmax([*row, float(sinks[head])], [*ends, 0.0], nodes)
                c_sink[head, query] = last
            c_logits[head, query, seen] = torch.tensor(found, dtype=c.dtype)
    return c_logits, c_sink


def _conserving(trace: AttentionTrace, c_pattern: Tensor, c_logits: Tensor, share: float) -> Tensor:
    """The weights of v, head by head and query by query; nothing where a key is hidden."""
    weights = torch.zeros_like(trace.pattern)
    for head in range(weights.shape[0]):
        for query in range(weights.shape[1]):
            seen = trace.logits[head, query].isfinite()
            row = (
                one[head, query, seen].tolist() for one in (trace.pattern, c_pattern, trace.logits, c_logits)
            )
            weights[head, query, seen] = torch.tensor(conserving_values(*row, share), dtype=weights.dtype)
    return weights


def _through_head_norm(
    attention: Attention, norm: Norm | None, trace: NormTrace | None, c: Tensor, rules: Rules
) -> tuple[Tensor, Tensor | float]:
    """The coefficient before q_norm or k_norm, and what the norm keeps."""
    if norm is None or trace is None:
        return c, 0.0
    flat = c if attention.norm_per_head else c.flatten(1)
    weighted = flat * norm.weight
    before = through_norm(
        trace.normalized, trace.scale, weighted, centred=norm.centred, freeze=rules.freeze_qk_norms
    )
    kept = (trace.normalized * weighted).sum() - (trace.input * before).sum()
    return before.view(c.shape), kept
