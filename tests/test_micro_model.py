"""Models small enough for paper: every expected number is written as the arithmetic that gives it.

Attention: two tokens, one head of width one, no norm.

    x0 = (1, 0), x1 = (0, 2); W_V = (1, 3), W_K = (0, 1), W_Q = (0, ln 3 / 4), W_O = (2, 1), logits = stream.
    At position 1: k = (0, 2), q = ln 3 / 2, so scores (0, ln 3), pattern (1/4, 3/4), v = (1, 6),
    z = 1/4 + 18/4 = 19/4, logit 0 = 2 z = 19/2: 1/2 from v of token 0, 9 from v of token 1.
    The gradient at the pattern is 2 v = (2, 12), its mean under the pattern 19/2; at the scores therefore
    (1/4 (2 - 19/2), 3/4 (12 - 19/2)) = (-15/8, 15/8), and R(q) = R(k) = 15/8 ln 3, all at token 1.

Gated MLP: one token, x = (1, 2), attention writes nothing.

    gate = ln 3 (sigmoid 3/4), up = 6, product = 9/2 ln 3, logit 0 = 1 + 9 ln 3: the gate reads x[0], up reads x[1].
"""

import math
from typing import Any

import pytest
import torch
import transformers
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from lrp_lens import (
    ATTN_LRP,
    CP_LRP,
    GIM,
    GRADIENT,
    RELP,
    Epsilon,
    Logit,
    LogitDiff,
    ProductWeights,
    RuleSet,
    run_with_relevance,
)
from tests import zoo

LN3 = math.log(3)
hooked_only = pytest.mark.skipif(
    not zoo.HAS_HOOKED_TRANSFORMER,
    reason="TransformerLens 4 has no HookedTransformer, the host without norms",
)


def numbers(*rows: Any) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def empty_hooked(**fields: Any) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        **dict(n_layers=1, d_model=2, n_heads=1, n_ctx=4, d_vocab=2, normalization_type=None) | fields,
        dtype=torch.float64,
        device="cpu",
    )
    model = HookedTransformer(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.unembed.W_U.copy_(torch.eye(2))
    return model


def attention_model() -> Any:
    model = empty_hooked(d_head=1, attn_only=True, use_attn_scale=False)
    attention = model.blocks[0].attn
    with torch.no_grad():
        model.embed.W_E.copy_(numbers([1, 0], [0, 2]))
        attention.W_V[0, :, 0] = numbers(1.0, 3.0)
        attention.W_K[0, :, 0] = numbers(0.0, 1.0)
        attention.W_Q[0, :, 0] = numbers(0.0, LN3 / 4)
        attention.W_O[0, 0] = numbers(2.0, 1.0)
    return model


def mlp_model() -> Any:
    model = empty_hooked(d_head=1, d_mlp=1, act_fn="silu", gated_mlp=True)
    mlp = model.blocks[0].mlp
    with torch.no_grad():
        model.embed.W_E.copy_(numbers([1, 2], [0, 0]))
        mlp.W_gate[:, 0] = numbers(LN3, 0.0)
        mlp.W_in[:, 0] = numbers(0.0, 3.0)
        mlp.W_out[0] = numbers(2.0, 0.0)
    return model


def close(found: torch.Tensor, *expected: float) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64).reshape(found.shape)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


# The pattern at temperature 2 is (1, √3) / (1 + √3); the gradient at its scores is ∓ 10 a b with a, b its entries.
TEMPERED = 10 * math.sqrt(3) / (1 + math.sqrt(3)) ** 2


@hooked_only
@pytest.mark.parametrize(
    ("rules", "token0", "token1", "softmax"),
    [
        (GRADIENT, 1 / 2, 9 + 2 * 15 / 8 * LN3, -2 * 15 / 8 * LN3),
        (RELP, 1 / 2, 9 + 2 * 15 / 8 * LN3, -2 * 15 / 8 * LN3),
        (CP_LRP, 1 / 2, 9, 0),
        (ATTN_LRP, 1 / 4, 9 / 2 + (1 / 4 + 1 / 4) * 15 / 8 * LN3, 19 / 4 - 15 / 16 * LN3),
        (GIM, 1 / 4, 9 / 2 + (1 / 4 + 1 / 4) * TEMPERED * LN3, 19 / 4 - TEMPERED / 2 * LN3),
    ],
    ids=lambda value: value.name if isinstance(value, RuleSet) else "",
)
def test_attention(rules: RuleSet, token0: float, token1: float, softmax: float) -> None:
    logits, rel = run_with_relevance(attention_model(), [0, 1], Logit(0), rules=rules)
    close(logits[0, -1], 19 / 2, 2 + 19 / 4)
    close(torch.from_numpy(rel.tokens().values), token0, token1)
    close(torch.from_numpy(rel.positions().values), 0, 0)
    ledger = rel.ledger()
    close(torch.tensor(ledger.metric), 19 / 2)
    assert [row.kind for row in ledger.rows] == ([] if rules is CP_LRP else ["softmax"])
    close(torch.tensor(ledger.sinks), softmax)
    close(torch.tensor(ledger.remainder), 0)
    close(rel["z", 0][0, :, 0, 0], 0, 19 / 2)
    share = 1 / 2 if rules in (ATTN_LRP, GIM) else 1
    close(rel["v", 0][0, :, 0, 0], share * 1 / 2, share * 9)  # what v receives under the rule
    assert float(rel["q", 0][0, 1]) == pytest.approx(float(rel["k", 0][0, 1]), abs=1e-12)
    close(rel["resid_pre", 0].sum(-1)[0], token0, token1)
    close(rel["resid_post", 0].sum(-1)[0], 0, 19 / 2)
    close(torch.from_numpy(rel.heads().values), 19 / 2)


@hooked_only
def test_attention_at_the_first_position_reads_one_token() -> None:
    """x0 = (1, 0), v = 1, z = 1: logits (1 + 2, 1), all of it through one token; the softmax of one is constant."""
    _, rel = run_with_relevance(attention_model(), [0, 1], LogitDiff(0, 1, pos=0), rules=GRADIENT)
    close(torch.from_numpy(rel.tokens().values), 3 - 1, 0)
    close(torch.tensor(rel.ledger().metric), 2)
    close(torch.tensor(rel.ledger().sinks), 0)


@hooked_only
@pytest.mark.parametrize(
    ("rules", "by_gate", "by_up", "sink"),
    [
        (ATTN_LRP, 9 / 2 * LN3, 9 / 2 * LN3, 0),
        (CP_LRP, 0, 9 * LN3, 0),
        (RELP, 9 / 2 * LN3, 9 / 2 * LN3, 0),
        # f'(x) = σ + x σ (1 - σ) = 3/4 + 3/16 ln 3
        (GRADIENT, (3 / 4 + 3 / 16 * LN3) * LN3 * 6 * 2, 9 * LN3, -9 * LN3 - 9 / 4 * LN3**2),
        (ATTN_LRP.replace(product=ProductWeights(0.3, 0.6)), 2.7 * LN3, 5.4 * LN3, 0.9 * LN3),
    ],
    ids=["ATTN_LRP", "CP_LRP", "RELP", "GRADIENT", "shares 0.3 and 0.6"],
)
def test_gated_mlp(rules: RuleSet, by_gate: float, by_up: float, sink: float) -> None:
    logits, rel = run_with_relevance(mlp_model(), [0], Logit(0), rules=rules)
    close(logits[0, -1], 1 + 9 * LN3, 2)
    close(rel["hook_embed"][0, 0], 1 + by_gate, by_up)
    close(rel["post", 0][0, 0], 9 * LN3)
    close(torch.from_numpy(rel.neurons(0).values), 9 * LN3)
    close(rel["mlp_out", 0][0, 0], 9 * LN3, 0)
    ledger = rel.ledger()
    close(torch.tensor(ledger.sinks), sink)
    close(torch.tensor(ledger.remainder), 0)


@hooked_only
@pytest.mark.parametrize("rules", [ATTN_LRP, GRADIENT], ids=["ATTN_LRP", "GRADIENT"])
def test_epsilon_rule(rules: RuleSet) -> None:
    """Every linear output z keeps |z| / (|z| + 1): the logit, the MLP's output, its gate and its up branch."""
    logit, out, gate, up = 1 + 9 * LN3, 9 * LN3, LN3, 6.0
    kept = {name: z / (z + 1) for name, z in dict(logit=logit, out=out, gate=gate, up=up).items()}
    to_gate = 9 / 2 * LN3 if rules is ATTN_LRP else (3 / 4 + 3 / 16 * LN3) * LN3 * 12
    to_up = 9 / 2 * LN3 if rules is ATTN_LRP else 9 * LN3
    _, rel = run_with_relevance(mlp_model(), [0], Logit(0), rules=rules.replace(linear=Epsilon(1.0)))
    through = kept["logit"] * kept["out"]
    close(
        rel["hook_embed"][0, 0],
        kept["logit"] + through * to_gate * kept["gate"],
        through * to_up * kept["up"],
    )
    close(torch.tensor(rel.ledger().remainder), 0)


@hooked_only
def test_biases_absorb_their_part() -> None:
    """Logit 0 = x[0] + 9 ln 3 + b_out + b_U, and b_in is added to the product: 2 b_in more."""
    model = mlp_model()
    with torch.no_grad():
        model.blocks[0].mlp.b_out[0], model.unembed.b_U[0], model.blocks[0].mlp.b_in[0] = 5.0, 7.0, 11.0
        model.blocks[0].attn.b_O[0] = 13.0  # also read by the gate: ln 3 (1 + 13)
    gate = 14 * LN3
    sigmoid = 1 / (1 + 3.0**-14)
    _, rel = run_with_relevance(model, [0], Logit(0), rules=CP_LRP)
    rows = {row.label: float(row.amount[0]) for row in rel.ledger().rows}
    assert rows == pytest.approx({"b_U": 7, "L0 b_out": 5, "L0 b_in": 22, "L0 b_O": 13}, rel=1e-12)
    close(rel["hook_embed"][0, 0], 1, 2 * gate * sigmoid * 6)
    close(torch.tensor(rel.ledger().metric), 1 + 13 + 12 * gate * sigmoid + 22 + 5 + 7)


@hooked_only
def test_position_embeddings_have_their_own_account() -> None:
    model = attention_model()
    with torch.no_grad():
        model.pos_embed.W_pos[1] = numbers(3.0, 0.0)  # v of token 1 becomes 6 + 3, its q and k stay
    _, rel = run_with_relevance(model, [0, 1], Logit(0), rules=CP_LRP)
    close(torch.from_numpy(rel.tokens().values), 1 / 2, 3 / 4 * 6 * 2)
    close(torch.from_numpy(rel.positions().values), 0, 3 + 3 / 4 * 3 * 2)


def norm_model() -> Any:
    """A Llama of width 2 whose inputs have root mean square 1, 2 and 3; attention averages values uniformly.

    x0 = (1, -1), x1 = (2, 2), x2 = (3, -3); normalised by ln1: (1, -1), (1, 1), (1, -1), times the gain (1, 2).
    W_V reads (1, 2), W_O writes (1, 0): v = 1 - 4 = -3, 1 + 4 = 5, -3. Mean at the last position: -1/3.
    The MLP writes nothing; ln_final sees (3 - 1/3, -3), gain (1, 1).
    """
    config = transformers.LlamaConfig(
        hidden_size=2,
        intermediate_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=2,
        vocab_size=3,
        max_position_embeddings=8,
        rms_norm_eps=1e-300,
        tie_word_embeddings=False,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    model = transformers.LlamaForCausalLM(config).to(torch.float64).eval()
    model.set_attn_implementation("eager")
    layer = model.model.layers[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight.copy_(numbers([1, -1], [2, 2], [3, -3]))
        layer.input_layernorm.weight.copy_(numbers(1.0, 2.0))
        layer.post_attention_layernorm.weight.fill_(1.0)
        model.model.norm.weight.fill_(1.0)
        layer.self_attn.v_proj.weight[0] = numbers(1.0, 2.0)
        layer.self_attn.o_proj.weight[0, 0] = 1.0
        model.lm_head.weight[0, 0] = model.lm_head.weight[1, 1] = 1.0
    return build_bridge_from_module(model, "LlamaForCausalLM", hf_config=config, dtype=torch.float64).eval()


@pytest.mark.parametrize(
    ("rules", "value"), [(CP_LRP, 1.0), (ATTN_LRP, 0.5), (RELP, 1.0)], ids=["CP", "Attn", "RelP"]
)
def test_frozen_norms_on_a_bridge(rules: RuleSet, value: float) -> None:
    with zoo.float64_throughout():
        model = norm_model()
        logits, rel = run_with_relevance(model, [0, 1, 2], Logit(0), rules=rules)
    final = math.sqrt(((3 - 1 / 3) ** 2 + 9) / 2)
    close(logits[0, -1], (3 - 1 / 3) / final, -3 / final, 0)
    # Each v is averaged with 1/3; it is 1 · x[0] / rms · 1 + 2 · x[1] / rms · 2.
    close(
        rel["hook_embed"][0],
        *(value / 3 * 1 / final, value / 3 * -4 / final),
        *(value / 3 * 1 / final, value / 3 * 4 / final),
        *((3 + value / 3 * 1) / final, value / 3 * -4 / final),
    )
    close(torch.tensor(rel.ledger().sinks), (1 - value) * (-1 / 3) / final)
    close(torch.tensor(rel.ledger().remainder), 0)
