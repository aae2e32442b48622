"""The same weights in two hosts, or folded and centred, have the same relevance."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lrp_lens import ATTN_LRP, PRESETS, LogitDiff, RuleSet, run_with_relevance
from tests import zoo

METRIC = LogitDiff(3, 7)
BOTH = zoo.HOOKED_NAMES
TIGHT = 1e-9
BLOOM_CONSTANT = 1e-7  # the hosts write a constant of BLOOM's GELU with different numbers of digits
NO_PATTERN_EDITS = ("gptj", "opt")


def relevance(model: Any, tokens: Tensor, rules: RuleSet) -> Any:
    return run_with_relevance(model, tokens, METRIC, rules=rules)[1]


def error(found: Tensor, expected: Tensor, scale: Tensor) -> float:
    return float((found - expected).abs().max() / scale.abs().max())


@pytest.mark.parametrize("name", BOTH)
def test_attn_lrp_agrees_in_float32(name: str) -> None:
    """As users run it: to 1e-6 of the largest relevance of a token (of its embedding's entries)."""
    tokens = zoo.prompt_tokens(2, 9)
    hooked = relevance(zoo.shared("hooked", name, torch.float32), tokens, ATTN_LRP)
    bridge = relevance(zoo.shared("bridge", name, torch.float32), tokens, ATTN_LRP)
    one, other = hooked.sum_to_positions("hook_embed"), bridge.sum_to_positions("hook_embed")
    assert one.dtype == other.dtype == torch.float32
    total = hooked["hook_embed"].abs().sum((1, 2)).min()
    assert (one - other).abs().max() < 1e-6 * total


@pytest.mark.parametrize("name", BOTH)
def test_every_preset_agrees_at_every_hook_point(name: str) -> None:
    tokens = zoo.prompt_tokens(2, 9)
    with zoo.float64_throughout():
        hooked, bridge = zoo.shared("hooked", name), zoo.shared("bridge", name)
        for preset, rules in PRESETS.items():
            if preset == "GIM" and name in NO_PATTERN_EDITS:
                continue
            one, other = relevance(hooked, tokens, rules), relevance(bridge, tokens, rules)
            shared = [key for key in one if key in other]
            parts = (
                "hook_embed",
                "hook_resid_pre",
                "hook_resid_post",
                "hook_q",
                "hook_k",
                "hook_v",
                "hook_z",
            )
            assert {part for part in parts if any(key.endswith(part) for key in shared)} == set(parts)
            tolerance = BLOOM_CONSTANT if name == "bloom" else TIGHT
            for key in shared:
                assert one[key].shape == other[key].shape, key
                assert error(one[key], other[key], one["hook_embed"]) < tolerance, (preset, key)
            for kind, amount in one.ledger().by_kind().items():
                difference = abs(amount - other.ledger().by_kind()[kind]).max()
                assert difference < tolerance * one.ledger().magnitude.max(), (preset, kind)


# ------------------------------------------------------------------------------ folding and centring
PROCESSING = ("fold_ln", "center_writing_weights", "center_unembed", "fold_value_biases")


def processed(model: Any, *steps: str) -> Any:
    """The model with TransformerLens' own weight processing; a folded LayerNorm has no gain and bias."""
    model.load_and_process_state_dict(model.state_dict(), **{step: step in steps for step in PROCESSING})
    return model.eval()


@pytest.mark.parametrize(
    "steps",
    [*(pytest.param((step,), marks=pytest.mark.full) for step in PROCESSING), PROCESSING],
    ids=lambda steps: "+".join(steps),
)
@pytest.mark.parametrize(
    "name",
    ["gpt2", "neox", "opt", "qwen2", "llama_mha", "ln_gelu"] if zoo.HAS_HOOKED_TRANSFORMER else [],
)
def test_weight_processing_does_not_change_token_relevance(name: str, steps: tuple[str, ...]) -> None:
    build: Callable[[str], Any] = zoo.hooked if name in BOTH else zoo.native_hooked
    check_processing(build, name, lambda model: processed(model, *steps))


@pytest.mark.parametrize(
    "name",
    [
        *("gpt2", "llama", "gemma2", "mixtral"),
        *(pytest.param(name, marks=pytest.mark.full) for name in ("neox", "opt", "phi", "qwen2")),
    ],
)
@pytest.mark.parametrize("folded", [False, True], ids=["names only", "weights processed"])
def test_compatibility_mode_does_not_change_token_relevance(name: str, folded: bool) -> None:
    def process(model: Any) -> Any:
        model.enable_compatibility_mode(disable_warnings=True, no_processing=not folded)
        return model.eval()

    check_processing(zoo.bridge, name, process)


def check_processing(build: Callable[[str], Any], name: str, process: Callable[[Any], Any]) -> None:
    tokens = zoo.prompt_tokens(2, 9)
    with zoo.float64_throughout():
        before, after = build(name), build(name)
        relevance(after, tokens, ATTN_LRP)  # what is known about a model is found again when its parts change
        after = process(after)
        with torch.no_grad():
            plain, logits = before(tokens), after(tokens)
        contrast = METRIC(plain) - METRIC(logits)
        assert contrast.abs().max() < 1e-10
        for preset, rules in PRESETS.items():
            if preset == "GIM" and name in NO_PATTERN_EDITS and build is zoo.bridge:
                continue
            one, other = relevance(before, tokens, rules), relevance(after, tokens, rules)
            expected, found = (cache.sum_to_positions("hook_embed") for cache in (one, other))
            assert error(found, expected, expected) < TIGHT, preset
            assert other.ledger().relative_remainder < 1e-11, preset
            with torch.no_grad():
                assert torch.equal(after.run_with_hooks(tokens, fwd_hooks=rules.hooks(after)), logits), preset
