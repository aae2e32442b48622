"""The relevance recursion: from the logits back to the embeddings, one explicit formula an operation.

A coefficient c stands for relevance / value (see oracles.rules). Going backwards:

1. The metric m = sum(metric * logits) gives c = metric at the logits; soft-cap, b_U, W_U, ln_final follow.
2. Every block, last to first. A residual sum hands every summand its own coefficient, so that at resid_post
   is also that at mlp_out and resid_mid, to which what the MLP read from the stream is added; likewise
   attn_out and resid_pre. The branches are in attention.py and mlp.py.
3. What is left at the embeddings is the relevance of tokens and positions.

Whatever an operation keeps instead of passing on is booked as a sink (oracles.ledger), so that

    m = sum of hook_embed + sum of hook_pos_embed + sum of all sinks.

There is no autograd in it, and nothing of lrp_lens. The papers: linear maps, Bach et al. 2015 (the 0-rule
R_i = x_i sum_j W_ij R_j / y_j, in coefficients c_x = W c_y); norms and constant attention, Ali et al. 2022
(arXiv:2202.07304); products, activations and softmax, Achtibat et al. 2024 (arXiv:2402.05602); RelP, Jafari
et al. 2025 (arXiv:2508.21258); the softmax at temperature 2, GIM 2025 (arXiv:2505.17630). The softmax along a
path and the conserving attention are docs/attention_rules.md's, in loops. literal.py spells the papers' rules
out as z_ij / z_j * R_j.
"""

import torch
from torch import Tensor

from tests.oracles.attention import recurse_attention
from tests.oracles.forward import BlockTrace, NormTrace, run_forward
from tests.oracles.ledger import Ledger, Relevance
from tests.oracles.mlp import recurse_mixture, recurse_mlp
from tests.oracles.rules import PRESETS, VARIANTS, Rules, through_norm, through_soft_cap
from tests.oracles.weights import Block, Mixture, Norm, Transformer


@torch.no_grad()
def compute_relevance(model: Transformer, tokens: Tensor, metric: Tensor, rules: Rules | str) -> Relevance:
    """Relevance of sum(metric * logits), for tokens [n] and a metric [n, d_vocab]."""
    rules = (PRESETS | VARIANTS)[rules] if isinstance(rules, str) else rules
    trace, ledger = run_forward(model, tokens), Ledger()

    # 1. Logits.
    c = metric.double()
    ledger.note("logits", trace.logits, c)
    relevance_above = (trace.logits * c).sum()
    c = through_soft_cap(trace.uncapped, model.soft_cap, c, identity=rules.soft_cap_identity)
    if model.soft_cap is not None:
        ledger.absorb(None, "logit soft-cap", relevance_above - (trace.uncapped * c).sum())
    ledger.absorb_bias(None, "b_U", model.b_U, c)
    c = c @ model.W_U.T
    if trace.ln_final is not None:
        weight = 1.0 if model.ln_final.weight is None else model.ln_final.weight
        ledger.note("ln_final.hook_normalized", trace.ln_final.normalized, c * weight)
    c = recurse_norm(model.ln_final, trace.ln_final, c, rules, ledger, None, "ln_final")

    # 2. Blocks.
    for layer in reversed(range(len(model.blocks))):
        c = recurse_block(model.blocks[layer], trace.blocks[layer], c, rules, ledger, layer)

    # 3. Embeddings.
    ledger.note("hook_embed", trace.embed, c)
    if trace.pos_embed is not None:
        ledger.note("hook_pos_embed", trace.pos_embed, c)
    return Relevance(
        metric=(metric * trace.logits).sum().item(),
        logits=trace.logits,
        relevance={name: value * ledger.coefficients[name] for name, value in ledger.values.items()},
        coefficients=ledger.coefficients,
        values=ledger.values,
        sinks=dict(ledger.sinks),
    )


def recurse_block(
    block: Block, trace: BlockTrace, c: Tensor, rules: Rules, ledger: Ledger, layer: int
) -> Tensor:
    """The coefficient at resid_pre from the one at resid_post."""
    name = f"blocks.{layer}.hook_"
    ledger.note(name + "resid_post", trace.resid_post, c)
    c_mid, c_parallel = c, 0.0
    if block.mlp is not None:
        ledger.note(name + "mlp_out", trace.mlp_out, c)
        c_mlp = recurse_norm(block.ln2_post, trace.ln2_post, c, rules, ledger, layer, "ln2_post")
        recurse = recurse_mixture if isinstance(block.mlp, Mixture) else recurse_mlp
        c_mlp = recurse(block.mlp, trace.mlp, c_mlp, rules, ledger, layer)
        c_mlp = recurse_norm(block.ln2, trace.ln2, c_mlp, rules, ledger, layer, "ln2")
        if block.parallel:
            c_parallel = c_mlp
        else:
            c_mid = c + c_mlp
            ledger.note(name + "resid_mid", trace.resid_mid, c_mid)
    ledger.note(name + "attn_out", trace.attn_out, c_mid)
    c_attention = recurse_norm(block.ln1_post, trace.ln1_post, c_mid, rules, ledger, layer, "ln1_post")
    c_attention = recurse_attention(block.attention, trace.attention, c_attention, rules, ledger, layer)
    c_attention = recurse_norm(block.ln1, trace.ln1, c_attention, rules, ledger, layer, "ln1")
    c_pre = c_mid + c_attention + c_parallel
    ledger.note(name + "resid_pre", trace.resid_pre, c_pre)
    return c_pre


def recurse_norm(
    norm: Norm | None,
    trace: NormTrace | None,
    c: Tensor,
    rules: Rules,
    ledger: Ledger,
    layer: int | None,
    site: str,
) -> Tensor:
    """The coefficient at a norm's input; nothing happens where there is no norm."""
    if norm is None or trace is None:
        return c
    ledger.absorb_bias(layer, site + " bias", norm.bias, c)
    c = c if norm.weight is None else c * norm.weight
    c_input = through_norm(trace.normalized, trace.scale, c, centred=norm.centred, freeze=rules.freeze_norms)
    ledger.absorb(layer, site, (trace.normalized * c).sum() - (trace.input * c_input).sum())
    return c_input
