"""Weights in bfloat16 and float16: relevance in float32, how near to that of float32 weights, and what overflows."""

from typing import Any

import numpy as np
import pytest
import torch

from lrp_lens import InputError, LogitDiff, RelevanceCache, load_model, run_with_relevance
from tests import zoo
from tests.zoo_recipes import EVERY_RULE_SET

METRIC = LogitDiff(3, [7, 9])
VIEWS = ("tokens", "layers", "heads")
LEAST = {torch.bfloat16: 0.99, torch.float16: 0.9999}
"""Correlation with float32, cell by cell."""


def agreement(low: RelevanceCache, exact: RelevanceCache) -> dict[str, float]:
    """View → correlation of its cells with those of a pass in float32."""
    return {
        name: float(
            np.corrcoef(*(getattr(cache, name)().values.ravel().astype(float) for cache in (low, exact)))[
                0, 1
            ]
        )
        for name in VIEWS
    }


FIRST = (*EVERY_RULE_SET, "olmo2")  # OLMo's rotation leaves q and k in float32


def over_the_zoo() -> list[Any]:
    marks = (pytest.mark.full, pytest.mark.zoo)
    return [pytest.param(*one, marks=() if one[1] in FIRST else marks) for one in zoo.models()]


@pytest.mark.parametrize("dtype", LEAST, ids=str)
@pytest.mark.parametrize(("host", "name"), over_the_zoo())
def test_relevance_of_narrow_weights_is_that_of_float32(host: str, name: str, dtype: torch.dtype) -> None:
    """Either way: float32 numbers, all finite, near to those of float32, and a ledger closed up to rounding."""
    tokens = zoo.prompt_tokens(1, 9)
    _, exact = run_with_relevance(zoo.shared(host, name, torch.float32), tokens, METRIC, memory="full")
    for memory in ("full", "low"):
        _, low = run_with_relevance(zoo.shared(host, name, dtype), tokens, METRIC, memory=memory)
        kept = list(low) or list(low.sums)
        assert kept and all(low.summed(one).dtype == torch.float32 for one in kept)
        assert all(bool(low.summed(one).isfinite().all()) for one in kept)
        found = agreement(low, exact)
        assert min(found.values()) >= LEAST[dtype], found
        assert low.ledger().relative_remainder <= low.ledger().rounding and not low.ledger().warning


@pytest.mark.parametrize("host", zoo.HOSTS)
@pytest.mark.parametrize("memory", ["full", "low"])
def test_an_overflow_is_named(host: str, memory: Any) -> None:
    """Forward, where the first infinity stands; backward, where the gradient stops being a number."""
    model, tokens = zoo.shared(host, "llama", torch.float16), zoo.prompt_tokens(1, 5)
    hook = ("blocks.0.hook_resid_post", lambda tensor, hook: tensor * 1e6)
    with (
        model.hooks(fwd_hooks=[hook]),
        pytest.raises(
            InputError, match=r"first that .* stand at blocks\.[01]\.hook_resid_(post|pre)\. float16"
        ),
    ):
        run_with_relevance(model, tokens, METRIC, memory=memory)
    with pytest.raises(InputError, match=r"finite gradients.* those at (logits|unembed\.hook_out) .*65,504"):
        run_with_relevance(model, tokens, lambda logits: logits[:, -1, 3] * 1e6, memory=memory)
    wide = zoo.shared(host, "llama", torch.float32)
    _, cache = run_with_relevance(wide, tokens, lambda logits: logits[:, -1, 3] * 1e6, memory=memory)
    assert bool(cache.summed("hook_embed").isfinite().all())


@pytest.mark.parametrize("dtype", LEAST, ids=str)
def test_narrow_weights_of_a_language_model(smollm2: Any, dtype: torch.dtype) -> None:
    """SmolLM2: measured 0.9998 in bfloat16 and 1.0 in float16, remainders 0.6 % and 0.2 % of the sum of |R|."""
    prompt, metric = "The capital of France is Paris. The capital of Italy is", LogitDiff(" Rome", " Paris")
    _, exact = run_with_relevance(smollm2, prompt, metric)
    _, low = run_with_relevance(load_model("smollm2", device="cpu", dtype=dtype), prompt, metric)
    found = agreement(low, exact)
    assert min(found.values()) >= 0.999, found
    assert low.ledger().relative_remainder <= {torch.bfloat16: 2e-2, torch.float16: 5e-3}[dtype]
