"""The packaged language models, SmolLM2-135M-Instruct and Gemma 3 270M: what they say is on record."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lrp_lens.hosts.loading import packages
from tests.conftest import REAL_HOSTS

FRANCE = "The capital of France is"
STORE = "When Mary and John went to the store, John gave a drink to"


def best(model: Any, prompt: str, bos: bool) -> list[tuple[str, float]]:
    """The two most likely next tokens with their logits."""
    with torch.no_grad():
        values, ids = model(model.to_tokens(prompt, prepend_bos=bos))[0, -1].topk(2)
    return [
        (model.tokenizer.decode([one]), value)
        for one, value in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def facts(model: Any) -> tuple[Any, ...]:
    """The name, width, depth and vocabulary."""
    return (
        model.cfg.d_model,
        model.cfg.n_layers,
        model.cfg.n_heads,
        model.cfg.n_key_value_heads,
        model.cfg.d_vocab,
    )


@pytest.mark.parametrize("smollm2", REAL_HOSTS, indirect=True)
def test_smollm2(smollm2: Any) -> None:
    assert facts(smollm2) == (576, 30, 9, 3, 49152)
    (word, logit), (_, next_best) = best(smollm2, FRANCE, bos=False)
    assert word == " Paris"
    assert logit == pytest.approx(17.4, abs=0.05) and next_best == pytest.approx(14.9, abs=0.05)
    assert smollm2.tokenizer.chat_template


@pytest.mark.parametrize("gemma3_270m", REAL_HOSTS, indirect=True)
def test_gemma_3_270m(gemma3_270m: Any, request: pytest.FixtureRequest) -> None:
    assert type(gemma3_270m).__name__ == request.node.callspec.params["gemma3_270m"]
    assert facts(gemma3_270m) == (640, 18, 4, 1, 262144)
    (word, logit), (other, next_best) = best(gemma3_270m, STORE, bos=True)
    assert (word, other) == (" Mary", " the")
    assert logit == pytest.approx(23.4, abs=0.05) and next_best == pytest.approx(20.5, abs=0.05)


@pytest.mark.parametrize("gemma3_270m", ["HookedTransformer"], indirect=True)
def test_gemma_past_its_window_is_hugging_faces(gemma3_270m: Any) -> None:
    """600 tokens where the window is 512: HookedTransformer's own masks against those of transformers."""
    tokens = torch.arange(600)[None] * 97 % 5000 + 5
    with packages.opened(packages.MODELS["gemma3-270m"], torch.float32) as original, torch.no_grad():
        theirs = original.weights(torch.float32)(tokens, logits_to_keep=4).logits[0]
        ours = gemma3_270m(tokens)[0, -4:]
    torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", packages.MODELS)
def test_the_installed_file_is_the_one_on_record(name: str, tmp_path: Path) -> None:
    model = packages.MODELS[name]
    try:
        parts = packages.installed_parts(model)
    except ValueError as error:
        pytest.skip(str(error))
    assert packages.joined(model, parts, tmp_path).name == model.file
