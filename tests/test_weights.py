"""Weights that cannot be read are refused by name: placeholders that nothing fills, or quantised."""

from typing import Any

import accelerate
import pytest
import torch
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

from lrp_lens import LogitDiff, SiteError, run_with_relevance
from tests import zoo

METRIC = LogitDiff(3, 7)


def dispatched(device_map: dict[str, str]) -> Any:
    """A bridge around a model that accelerate spread."""
    model: Any = zoo.hugging_face("llama", torch.float32)
    with zoo._quietly():
        model = accelerate.dispatch_model(model, device_map=device_map, force_hooks=True)
        return build_bridge_from_module(
            model, type(model).__name__, hf_config=model.config, dtype=torch.float32
        ).eval()


@pytest.mark.parametrize("host", zoo.HOSTS)
def test_placeholders_that_nothing_fills_are_refused_by_name(host: str) -> None:
    model = zoo.BUILD[host]("llama", torch.float32)
    model.blocks[1].add_module("away", torch.nn.Linear(2, 2, device="meta"))
    with pytest.raises(SiteError, match=r"Linear.weight is not in memory \(device 'meta'\), and no hook"):
        run_with_relevance(model, zoo.prompt_tokens(1, 7), METRIC)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("memory", ["full", "low"])
def test_a_device_map_with_all_weights_in_memory_changes_nothing(memory: Any) -> None:
    """accelerate's hooks around every module; equal to the model without them."""
    tokens = zoo.prompt_tokens(1, 7)
    _, plain = run_with_relevance(zoo.shared("bridge", "llama", torch.float32), tokens, METRIC, memory=memory)
    _, found = run_with_relevance(dispatched({"": "cpu"}), tokens, METRIC, memory=memory)
    torch.testing.assert_close(found.summed("hook_embed"), plain.summed("hook_embed"), rtol=0, atol=0)
    assert found.ledger().relative_remainder <= found.ledger().rounding


@pytest.mark.parametrize("host", zoo.HOSTS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.float8_e4m3fn], ids=str)
def test_quantised_weights_are_refused_by_name(host: str, dtype: torch.dtype) -> None:
    """As bitsandbytes holds them: 4 bits in bytes, or 8."""
    model = zoo.BUILD[host]("llama", torch.float32)

    class Linear4bit(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(4, 4).to(dtype), requires_grad=False)

    model.blocks[1].add_module("quantised", Linear4bit())
    with pytest.raises(SiteError, match=rf"Linear4bit.weight is quantised \({dtype}\)"):
        run_with_relevance(model, zoo.prompt_tokens(1, 7), METRIC)
