"""A pass keeps no keys and values: the cache that transformers would make is never filled, and changes no number."""

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from lrp_lens import LogitDiff, run_with_relevance
from lrp_lens.hosts import forward as of_hosts
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.no_cache import NothingKept, without_cache
from lrp_lens.hosts.replay import blocks_captured
from lrp_lens.ops.live_bytes import Counter
from tests import zoo

LENGTH = 40


def peak(model: Any) -> int:
    with torch.no_grad(), Counter() as counter:
        forward(model, zoo.prompt_tokens(1, LENGTH), None)
    return max(counter.timeline)


def test_no_keys_and_values_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of all layers but the last are gone when the peak is reached; with a cache of the host's they are not."""
    model = zoo.shared("bridge", "gpt2", torch.float32)
    with torch.no_grad(), blocks_captured(model) as calls:
        logits = forward(model, zoo.prompt_tokens(1, LENGTH), None)
    given = [[*call.args, *call.kwargs.values()] for call in calls.values()]
    assert len(given) == zoo.N_LAYERS and all(
        any(isinstance(one, NothingKept) for one in own) for own in given
    )
    without = peak(model)
    monkeypatch.setattr(of_hosts, "without_cache", lambda model: {})
    of_a_layer = 2 * LENGTH * zoo.D_MODEL * 4
    assert peak(model) - without >= (zoo.N_LAYERS - 1) * of_a_layer
    with torch.no_grad():
        assert torch.equal(logits, forward(model, zoo.prompt_tokens(1, LENGTH), None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_returns_what_an_empty_cache_returns(dtype: torch.dtype) -> None:
    keys, values = (
        torch.randn(1, 5, 2, 4).transpose(1, 2),
        torch.randn(1, 5, 2, 4, dtype=dtype).transpose(1, 2),
    )
    cache = NothingKept()
    for found, expected in zip(
        cache.update(keys, values, 0), DynamicCache().update(keys, values, 0), strict=True
    ):
        assert torch.equal(found, expected) and found.dtype == expected.dtype
        assert found.stride() == expected.stride()
    assert cache.get_seq_length() == 0 and not cache.layers


def test_a_model_that_takes_no_cache_gets_none() -> None:
    model = zoo.shared("bridge", "gpt2", torch.float32)

    class Plain:
        original_model = torch.nn.Identity()

    assert list(without_cache(model)) == ["past_key_values"] and without_cache(Plain()) == {}


def test_without_that_cache_olmo_does_not_run_in_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Control: the reason for its types."""
    model, tokens = zoo.shared("bridge", "olmo2", torch.bfloat16), zoo.prompt_tokens(1, 9)
    run_with_relevance(model, tokens, LogitDiff(3, 7), memory="low")
    monkeypatch.setattr(
        NothingKept,
        "update",
        lambda self, keys, values, *args, **kwargs: (keys.contiguous(), values.contiguous()),
    )
    with pytest.raises(RuntimeError, match="dtype"):
        run_with_relevance(model, tokens, LogitDiff(3, 7), memory="low")
