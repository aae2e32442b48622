"""A tiny random Llama with a word tokenizer, as a local Hugging Face directory: what `--model DIR` reads."""

from pathlib import Path

import tokenizers
import torch
import transformers

WORDS = "then mary and john went to the store . gave a ball it back tom garden key".split()
SPECIAL = ("<unk>", "<bos>", "<eos>", "<pad>")


def save_word_model(directory: Path) -> Path:
    """Write the model and its tokenizer; every build is the same."""
    vocabulary = {word: i for i, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIAL, strict=True))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)
    return save_llama(
        directory, vocab_size=len(vocabulary), num_key_value_heads=4, max_position_embeddings=64,
        bos_token_id=1, eos_token_id=2, pad_token_id=3,
    )  # fmt: skip


def save_llama(directory: Path, **options: int) -> Path:
    """Write a random Llama of two layers beside its tokenizer; every build is the same."""
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=False,
        initializer_range=0.3,
        **options,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.LlamaForCausalLM(config).save_pretrained(directory)
    return directory
