"""A user's message as a chat model reads it: through its tokenizer's chat template."""

from typing import Any

from lrp_lens.errors import InputError


def chat_ids(model: Any, message: str) -> list[int]:
    """Token ids of one user message, up to where the model's answer begins.

    Raises:
        InputError: the model has no tokenizer, or its tokenizer has no chat template.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "A chat message needs a tokenizer with a chat template, and this model has none. Pass the prompt as plain "
            "text, or load the chat version of the model."
        )
    messages = [{"role": "user", "content": message}]
    ids = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    return [int(token) for token in ids]
