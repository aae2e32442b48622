"""SmolLM2 on an arithmetic question: what it says, and why it is wrong; skipped where the model is not installed."""

from typing import Any

import pytest

from lrp_lens import explain, generate, message_segments, tokenize
from lrp_lens.run.generation import Generation

MESSAGES = [{"role": "user", "content": "17 + 25?"}]
BEGINNING = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
)


def test_seventeen_and_twenty_five(smollm2: Any) -> None:
    batch = tokenize(smollm2, MESSAGES)
    ids = smollm2.tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert batch.ids[0].tolist() == ids
    strings = batch.strings[0]
    assert "".join(strings).startswith(BEGINNING) and strings[0] != strings[1]  # BOS, once
    ((start, stop),) = message_segments(smollm2, MESSAGES)["user 1"]
    assert "".join(strings[start:stop]) == "17 + 25?"

    said = generate(smollm2, MESSAGES, 20, top_k=5)
    assert isinstance(said, Generation)
    assert said.text == "17 + 25 = 32." and said.stopped == "end" and said.tokens[-1] == "<|im_end|>"
    assert "4" in said.top_tokens[8]  # the right answer's first digit is among what it nearly said

    why = explain(smollm2, MESSAGES, contrast="42", completion=said, position="32", seeds=1, top_k=2)
    assert (why.target.text, why.contrast.text) == ("3", "4") and why.target.rank == 1
    assert why.metric_value == pytest.approx(said.gaps[8][said.top_tokens[8].index("4")], abs=1e-2)
    assert why.segments is not None
    assert list(why.segments.labels["segment"]) == ["template", "user 1", "completion"]
    assert why.segments.values.sum() == pytest.approx(why.tokens.values.sum(), abs=1e-3)
