"""The demo model's configuration and tokenizer, and writing them as a Hugging Face directory."""

import copy
import json
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lrp_lens.files import write_text
from tools.demo_model.vocabulary import BOS, PAD, TOKEN_IDS, UNKNOWN, WORDS

CONTEXT_LENGTH = 128
"""Most positions the model has, `<bos>` included."""


def demo_config() -> LlamaConfig:
    """4 layers, width 128, 4 heads, gated MLP of 384: 0.98 million parameters, none of them a bias."""
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(WORDS),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=CONTEXT_LENGTH,
        rms_norm_eps=1e-5,
        initializer_range=0.8 / 128**0.5,
        tie_word_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
        bos_token_id=TOKEN_IDS[BOS],
        eos_token_id=TOKEN_IDS[BOS],
        pad_token_id=TOKEN_IDS[PAD],
    )


def demo_tokenizer() -> PreTrainedTokenizerFast:
    """One word, one token, split at white space; `<bos>` is put in front, unknown words become `<unk>`.

    `<bos>` also ends a text, as documents follow one another; padding is on the right by default.
    """
    backend = Tokenizer(models.WordLevel(dict(TOKEN_IDS), unk_token=UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.add_special_tokens([AddedToken(word, special=True) for word in (BOS, PAD, UNKNOWN)])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, TOKEN_IDS[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=BOS,
        unk_token=UNKNOWN,
        pad_token=PAD,
        padding_side="right",
        model_max_length=CONTEXT_LENGTH,
        clean_up_tokenization_spaces=False,
    )


def export(model: LlamaForCausalLM, folder: Path) -> None:
    """Write config, float16 weights and tokenizer to `folder`; `model` itself is left as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(model).to(torch.float16).save_pretrained(folder)
    demo_tokenizer().save_pretrained(folder)
    settings = folder / "tokenizer_config.json"  # name the class as transformers 4 and 5 both know it
    values = json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    write_text(settings, json.dumps(values, indent=2, sort_keys=True) + "\n")
