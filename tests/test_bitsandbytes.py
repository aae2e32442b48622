"""Layers of bitsandbytes, 4 and 8 bits: relevance goes back through them; what reads their weights is refused.

The oracle is the same model with the dequantised weights in ordinary layers.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from lrp_lens import LogitDiff, SiteError, component_edges, run_with_relevance
from lrp_lens.hosts import resolve
from lrp_lens.hosts.writes import output_weights
from lrp_lens.run.identity import model_identity
from tests import zoo

bitsandbytes = pytest.importorskip("bitsandbytes", reason="pip install bitsandbytes")
METRIC = LogitDiff(3, 7)
pytestmark = pytest.mark.filterwarnings("ignore")


def is_quantised(module: torch.nn.Module) -> bool:
    return isinstance(module, bitsandbytes.nn.Linear4bit | bitsandbytes.nn.Linear8bitLt)


def dequantised(layer: Any) -> torch.Tensor:
    """[out, in], by bitsandbytes' definition of either kind."""
    if isinstance(layer, bitsandbytes.nn.Linear4bit):
        found = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        return found.float().reshape(layer.out_features, layer.in_features)
    scale = layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB
    return layer.weight.data.float() * scale[:, None] / 127


def host(model: Any) -> Any:
    with zoo._quietly():
        return zoo.build_bridge_from_module(
            model, "LlamaForCausalLM", hf_config=model.config, dtype=torch.float32
        ).eval()


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Any]]:
    """Bits → a Llama with quantised layers, and with the same weights in ordinary ones."""
    folder: Path = tmp_path_factory.mktemp("llama")
    zoo.hugging_face("llama", torch.float32).save_pretrained(folder)

    def make(bits: int, packs: bool = False) -> tuple[Any, Any]:
        options: dict[str, Any] = {f"load_in_{bits}bit": True}
        if bits == 4:
            options["bnb_4bit_compute_dtype"] = torch.float32
        config = transformers.BitsAndBytesConfig(**options)
        read = transformers.AutoModelForCausalLM.from_pretrained
        with zoo._quietly():
            model, plain = (
                read(folder, dtype=torch.float32, attn_implementation="eager", **more)
                for more in ({"quantization_config": config, "device_map": {"": "cpu"}}, {})
            )
        layers = {name: one for name, one in model.named_modules() if is_quantised(one)}
        assert len(layers) == 7 * zoo.N_LAYERS
        for name, one in layers.items():
            one.support_avx512bf16_for_cpu = packs
            plain.get_submodule(name).weight.data = dequantised(one)
        for one in (model, plain):
            one.config.architectures = ["LlamaForCausalLM"]
        return host(model.eval()), host(plain.eval())

    return make


@pytest.mark.parametrize(("bits", "apart", "remainder"), [(4, 1e-4, 1e-4), (8, 5e-2, 2e-2)])
def test_relevance_is_that_of_the_dequantised_weights(
    load: Callable[..., tuple[Any, Any]], bits: int, apart: float, remainder: float
) -> None:
    """4 bits exactly; 8 bits round what a layer reads, too, and the ledger's remainder says how much."""
    quantised, plain = load(bits)
    tokens = zoo.prompt_tokens(1, 9)
    for memory in ("full", "low", "full"):  # a pass leaves nothing behind that stops the next
        _, found = run_with_relevance(quantised, tokens, METRIC, memory=memory)
        _, expected = run_with_relevance(plain, tokens, METRIC, memory=memory)
        for view in ("tokens", "layers", "heads"):
            values, right = (getattr(cache, view)().values for cache in (found, expected))
            np.testing.assert_allclose(values, right, rtol=0, atol=apart * np.abs(right).max())
        assert found.ledger().relative_remainder <= remainder


def test_what_reads_the_weights_is_refused(load: Callable[..., tuple[Any, Any]]) -> None:
    quantised, _ = load(4)
    says = r"W_[OQKV] is read as floating point numbers; .* quantised"
    with pytest.raises(SiteError, match=says):
        output_weights(quantised, 0)
    with pytest.raises(SiteError, match=says):
        component_edges(quantised, zoo.prompt_tokens(1, 5), metric=METRIC)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_scale_is_part_of_the_identity(load: Callable[..., tuple[Any, Any]], bits: int) -> None:
    quantised, _ = load(bits)
    before = model_identity(quantised)
    assert model_identity(load(bits)[0]) == before
    layer = next(one for one in quantised.original_model.modules() if is_quantised(one))
    with torch.no_grad():
        if bits == 4:
            layer.weight.quant_state.absmax.mul_(2)
        else:
            (layer.state.SCB if layer.weight.SCB is None else layer.weight.SCB).mul_(2)
    assert model_identity(quantised) != before


def test_layers_that_pack_their_weights_are_refused(load: Callable[..., tuple[Any, Any]]) -> None:
    quantised, _ = load(4, packs=True)
    with pytest.raises(
        SiteError, match=r"Linear4bit of bitsandbytes packs .* Set support_avx512bf16_for_cpu"
    ):
        resolve(quantised)
    layer = next(one for one in quantised.original_model.modules() if is_quantised(one))
    layer.support_avx512bf16_for_cpu = False
    layer.weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(SiteError, match=r"has packed .* Load the model anew"):
        resolve(quantised)
