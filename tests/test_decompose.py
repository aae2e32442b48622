"""Decomposition: direct contributions sum to the metric and equal other definitions; totals are the cache's."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import lrp_lens
from lrp_lens import (
    ATTN_LRP,
    CP_LRP,
    GIM,
    GRADIENT,
    RELP,
    Epsilon,
    LogitDiff,
)
from tests import zoo
from tests.decompositions import METRIC, close, prompts, row

# Where a test names no rules: some that reach queries and keys, and take a part for themselves.
decompose = partial(lrp_lens.decompose, rules=ATTN_LRP)
run_with_relevance = partial(lrp_lens.run_with_relevance, rules=ATTN_LRP)

HELD = [(name, host) for host, name in zoo.models("hooked", "bridge")]
POST_NORMS = [(name, host) for name, host in HELD if name in ("gemma3", "olmo2", "olmo3")]
needs_hooked = pytest.mark.skipif(
    not zoo.HAS_HOOKED_TRANSFORMER, reason="TransformerLens 4 has no HookedTransformer"
)


# ------------------------------------------------------------------------------- every architecture and host
@pytest.mark.parametrize(("name", "host"), HELD)
def test_direct_sums_to_the_metric_and_totals_are_relevance(name: str, host: str) -> None:
    with zoo.float64_throughout():
        model = zoo.shared(host, name)
        tokens = prompts(9, 6)
        parts = decompose(model, tokens, METRIC)
        logits, cache = run_with_relevance(model, tokens, METRIC)
        gradient = decompose(model, tokens, METRIC, rules=GRADIENT)
    ends = torch.stack([logits[0, 8], logits[1, 5]])
    metric = (ends[:, 3] - ends[:, 7]).numpy()
    table = parts.table()
    for example in range(2):
        assert close(table[table["example"] == example]["direct"].sum(), metric[example])
    assert close(parts.remainder, 0) and close(gradient.remainder, 0)
    assert np.abs(parts.direct[:, :, 8]).sum() > 0 and close(parts.direct[1, :, 6:], 0)

    labels = [component.label for component in parts.components]
    if name != "gemma2":  # the rule of its logit soft-cap linearises the metric
        assert close(parts.direct, gradient.direct)
    assert close(parts.by_source().values.sum(-1), parts.heads().values)
    assert close(parts.heads("total").values, cache.heads().values)
    assert close(parts.direct + parts.indirect, parts.total)

    components = cache.components()
    theirs = dict(zip(components.axis_labels("component"), components.values.T, strict=True))
    mine = dict(zip(labels, parts.total.sum(-1).T, strict=False))
    assert set(theirs) == set(labels) - set(parts.residuals)
    for label, values in theirs.items():
        layer, _, what = label.partition(" ")
        whole = {label, f"{layer} b_out"} & set(labels) if what == "MLP" else {label}
        assert close(sum(mine[one] for one in whole), values), label

    stages = dict(zip(parts.stages, parts.frozen.T, strict=True))
    assert close(stages["L1"], metric)
    written = {
        c.label: d for c, d in zip(parts.components, parts.direct.sum(-1).T, strict=False) if c.layer == 1
    }
    assert close(stages["L1"] - stages["L0"], sum(written.values()))
    if "L1 mid" in stages:
        heads = sum(value for label, value in written.items() if label.startswith("L1H") or label == "L1 b_O")
        assert close(stages["L1 mid"] - stages["L0"], heads)
    assert ("L1 mid" in stages) == (name not in ("neox", "gptj", "phi"))


@needs_hooked
@pytest.mark.parametrize("name", [name for _, name in zoo.models("native")])
def test_native_configurations(name: str) -> None:
    model, tokens = zoo.shared("native", name), prompts(7)[0]
    parts, gradient = (decompose(model, tokens, METRIC, rules=rules) for rules in (CP_LRP, GRADIENT))
    assert close(parts.remainder, 0) and close(parts.direct, gradient.direct)
    assert close(parts.by_source().values.sum(-1), parts.heads().values)
    assert close(parts.cumulative().values[-1], parts.metric)


@needs_hooked
def test_biases_behind_post_norms() -> None:
    """The scales of the norms after attention and MLP depend on b_O and b_out, which no loaded model has there."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    fields = dict(n_layers=2, d_model=16, n_ctx=9, d_head=4, n_heads=4, d_vocab=11, act_fn="gelu", d_mlp=8)
    fields |= dict(normalization_type="RMS", use_normalization_before_and_after=True, device="cpu")
    config = HookedTransformerConfig(**fields)
    model = HookedTransformer(config).to(torch.float64).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    tokens = torch.arange(7)
    parts, gradient = (decompose(model, tokens, METRIC, rules=rules) for rules in (CP_LRP, GRADIENT))
    for label in ("L0 b_O", "L1 b_out", "b_U"):
        assert abs(row(parts, label)) > 1e-3
    assert close(parts.remainder, 0) and close(parts.direct, gradient.direct)
    assert close(row(parts, "L1 b_out", "indirect"), 0) and close(row(parts, "L1 MLP", "indirect"), 0)


# ------------------------------------------------------------------------------- other definitions of direct
@pytest.mark.parametrize(("name", "host"), POST_NORMS)
def test_heads_behind_post_norms_equal_the_literal_product(name: str, host: str) -> None:
    """Each head's output, divided by the recorded scales and multiplied by gains and unembedding, step by step."""
    with zoo.float64_throughout():
        model = zoo.shared(host, name)
        parts = decompose(model, prompts(7)[0], METRIC)
        _, cache = run_with_relevance(
            model,
            prompts(7)[0],
            METRIC,
            names_filter=lambda name: name.endswith(("z", "hook_attn_out", "hook_resid_post")),
        )
    reference = zoo.hugging_face(name)
    offset = 1.0 if name == "gemma3" else 0.0
    direction = (reference.lm_head.weight[3] - reference.lm_head.weight[7]).detach()
    final, eps = reference.model.norm.weight.detach() + offset, reference.config.rms_norm_eps
    last = cache.activations["resid_post", 1][0, -1]
    for layer, block in enumerate(reference.model.layers):
        gain = block.post_attention_layernorm.weight.detach() + offset
        z = cache.activations["z", layer][0, -1]
        width = z.shape[1]
        weight = block.self_attn.o_proj.weight.detach()
        outputs = torch.stack([weight[:, h * width : (h + 1) * width] @ z[h] for h in range(len(z))])
        scale = (outputs.sum(0).pow(2).mean() + eps).sqrt()
        direct = (outputs / scale * gain / (last.pow(2).mean() + eps).sqrt() * final) @ direction
        assert close(parts.heads().values[layer], direct)


def fold(host: str) -> Any:
    if host == "hooked":
        model = zoo.hooked("gpt2")
        model.process_weights_()
        return model
    model = zoo.bridge("gpt2")
    model.enable_compatibility_mode(disable_warnings=True)
    return model


@pytest.mark.parametrize("host", [host for name, host in HELD if name == "gpt2"])
def test_direct_equals_logit_attrs_of_a_folded_model(host: str) -> None:
    model, tokens = fold(host), zoo.prompt_tokens(2, 7)
    parts = decompose(model, tokens, METRIC)
    assert close(parts.remainder, 0, 1e-9)
    _, cache = model.run_with_cache(tokens)
    embed, labels = cache.decompose_resid(return_labels=True, mode="mlp", pos_slice=-1)
    heads, head_labels = cache.stack_head_results(return_labels=True, pos_slice=-1)
    attributes = cache.logit_attrs(
        torch.cat([embed, heads]),
        tokens=torch.tensor([3, 3]),
        incorrect_tokens=torch.tensor([7, 7]),
        pos_slice=-1,
    )
    mine = {c.label: d for c, d in zip(parts.components, parts.direct.sum(-1).T, strict=False)}
    compared = 0
    for label, theirs in zip([*labels, *head_labels], attributes, strict=True):
        layer = label.removesuffix("_mlp_out")
        known = mine[label] if label in mine else mine[f"L{layer} MLP"] + mine[f"L{layer} b_out"]
        assert np.abs(theirs.detach().numpy()).max() > 1e-3
        assert close(known, theirs.detach().numpy(), 1e-5), label
        compared += 1
    assert compared == 2 + 2 + 8


@pytest.mark.skipif(zoo.HAS_HOOKED_TRANSFORMER, reason="the analysis tools came with TransformerLens 4")
def test_direct_equals_the_analysis_tools_of_transformer_lens() -> None:
    from transformer_lens.tools.analysis import direct_logit_attribution

    model, tokens = fold("bridge"), zoo.prompt_tokens(1, 7)
    parts = decompose(model, tokens[0], METRIC)
    theirs = direct_logit_attribution(model, tokens, 3, 7, unit="head")
    for label, value in zip(theirs.labels, theirs.attribution[:, 0].tolist(), strict=True):
        if label.startswith("L"):
            assert abs(row(parts, label) - value) < 1e-5


@needs_hooked
def test_a_model_worked_by_hand() -> None:
    """One head that averages the values of two tokens; no norm, no MLP."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    fields = dict(
        n_layers=1, d_model=2, n_ctx=4, d_head=1, n_heads=1, d_vocab=3, attn_only=True, device="cpu"
    )
    model = HookedTransformer(HookedTransformerConfig(**fields, normalization_type=None, dtype=torch.float64))
    attn = model.blocks[0].attn
    values = {
        model.embed.W_E: [[1, 0], [0, 1], [1, 1]],
        model.pos_embed.W_pos: [[0, 0], [0.5, 0], [0, 0], [0, 0]],
        attn.W_V: [[[2], [0]]],
        attn.b_V: [[1]],
        attn.W_O: [[[0, 3]]],
        attn.b_O: [0.1, 0.2],
        model.unembed.W_U: [[1, 0, 0], [0, 1, 0]],
        model.unembed.b_U: [0.5, 0, 0],
    }
    with torch.no_grad():
        for parameter in (attn.W_Q, attn.W_K, attn.b_Q, attn.b_K):
            parameter.zero_()
        for parameter, value in values.items():
            parameter.copy_(torch.tensor(value, dtype=torch.float64))
    parts = decompose(model.to(torch.float64).eval(), torch.tensor([0, 1]), LogitDiff(1, 0), rules=CP_LRP)
    # Stream before the head: (1, 0), (0.5, 1).  Values 2·1 + 1 = 3 and 2·0.5 + 1 = 2, each weighted ½.
    # Stream after it: (0.6, 1 + 3·2.5 + 0.2).  Unembedding difference: (-1, 1).
    table = parts.table().set_index("component")
    assert close(parts.metric, 8.7 - (0.6 + 0.5))
    expected = {
        "embed": (1.0, 3.0),
        "pos_embed": (-0.5, 0.5 * 2 * 0.5 * 3),
        "L0H0": (7.5, 0.0),
        "L0 b_O": (-0.1 + 0.2, 0.0),
        "L0 b_V": (0.0, 3.0),
        "b_U": (-0.5, 0.0),
    }
    assert set(table.index) == set(expected)
    for label, (direct, indirect) in expected.items():
        assert close(table.loc[label, "direct"], direct), label
        assert close(table.loc[label, "indirect"], indirect), label
        assert close(table.loc[label, "total"], direct + indirect), label
    assert close(parts.by_source(layer=0, head=0).values, [0.5 * 3 * 3, 0.5 * 2 * 3])
    assert close(parts.by_position("total").select(component="L0 b_V").values, [1.5, 1.5])
    assert parts.stages == ("embed", "L0")
    assert close(parts.cumulative().values, [1.0 - 0.5 - 0.5, 7.6])
    assert table.loc["L0 b_V", "kind"] == "inner bias" and table.loc["L0 b_O", "kind"] == "bias"


# ------------------------------------------------------------------------------- rules
@pytest.mark.parametrize(
    "rules", [CP_LRP, RELP, GIM, ATTN_LRP.replace(linear=Epsilon(0.1))], ids=lambda r: r.name
)
def test_direct_does_not_depend_on_the_rules(rules: Any) -> None:
    with zoo.float64_throughout():
        model, tokens = zoo.bridge("gpt2"), prompts(7)[0]
        reference = decompose(model, tokens, METRIC, rules=ATTN_LRP)
        parts = decompose(model, tokens, METRIC, rules=rules)
        _, cache = run_with_relevance(model, tokens, METRIC, rules=rules)
    assert close(parts.remainder, 0)
    if "ε at unembed" in parts.residuals:
        assert np.abs(parts.residuals["ε at unembed"]).min() > 1e-6
    else:
        assert close(parts.direct, reference.direct)
    assert not close(parts.total, reference.total, 1e-3)
    assert close(parts.heads("total").values, cache.heads().values)


def test_the_last_mlp_acts_directly_only_and_early_heads_do_not() -> None:
    with zoo.float64_throughout():
        parts = decompose(zoo.bridge("gemma2"), prompts(7)[0], METRIC)
    assert close(row(parts, "L1 MLP", "indirect"), 0)
    assert abs(row(parts, "L0H0", "indirect")) > 1e-3
