"""A tiny random Llama whose tokens are bytes and whose tokenizer has a chat template, as a local directory.

The template is SmolLM2's in small: `<s>` begins every turn and is BOS, `<e>` ends it and is EOS.  It takes the roles
system, user and assistant and refuses others.
"""

from pathlib import Path
from typing import Any

import tokenizers
import transformers

from tests.word_model import save_llama

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] not in ['system', 'user', 'assistant'] %}{{ raise_exception('no such role.') }}{% endif %}"
    "{{ '<s>' + m['role'] + '\n' + m['content'] + '<e>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
TRIMMED = TEMPLATE.replace("m['content']", "(m['content'] | trim)")
MERGES = [("h", "e"), ("Ċ", "Ċ"), ("Ġ", "t"), ("3", "2")]  # "Ċ" is a line break, "Ġ" a space
SPECIAL = ("<s>", "<e>")


def chat_tokenizer(template: str | None = TEMPLATE) -> Any:
    """Bytes, a few pairs of them, and the two special tokens."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    pieces = [*SPECIAL, *alphabet, *("".join(pair) for pair in MERGES)]
    bpe = tokenizers.models.BPE({piece: index for index, piece in enumerate(pieces)}, MERGES)
    tokenizer = tokenizers.Tokenizer(bpe)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    names = {"bos_token": "<s>", "eos_token": "<e>", "pad_token": "<e>"}
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    wrapped.chat_template = template
    return wrapped


def save_chat_model(directory: Path) -> Path:
    """Write the model and its tokenizer; every build is the same."""
    tokenizer = chat_tokenizer()
    tokenizer.save_pretrained(directory)
    return save_llama(
        directory, vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=256,
        bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
