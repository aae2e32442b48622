"""GGUF files, written by gguf's own writer: a tiny Llama and its tokenizer."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

WORDS = ["<s>", "</s>", *map(chr, range(ord("!"), ord("~") + 1)), "Ġ", "Ġa", "Ġb"]
MERGES = ["Ġ a", "Ġ b"]
SIZES = dict(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
)


def tiny_llama() -> LlamaForCausalLM:
    """Random, but always the same; norm weights far from one."""
    config = LlamaConfig(**SIZES, vocab_size=len(WORDS), max_position_embeddings=64, initializer_range=0.25)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = LlamaForCausalLM(config).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    return model


def write_gguf(
    path: Path,
    model: LlamaForCausalLM,
    *,
    architecture: str = "llama",
    quantised: Any = None,
    tokenizer: bool = True,
    leave_out: str = "",
    extra: dict[str, np.ndarray] | None = None,
    also: dict[str, str] | None = None,
) -> None:
    """Write a Llama as llama.cpp's converter does.

    Args:
        path: the file.
        model: the weights; a matrix that is quantised is replaced in the model by its dequantised values.
        architecture: what the header calls it.
        quantised: a GGMLQuantizationType for the matrices, float32 if None.
        tokenizer: whether the file holds one.
        leave_out: the name of a tensor that is not written.
        extra: more tensors, by name.
        also: more metadata, texts by key.
    """
    config, names = model.config, gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    for key, value in (also or {}).items():
        writer.add_string(key, value)
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("gpt-2")
        writer.add_token_list(WORDS)
        writer.add_token_types([3, 3] + [1] * (len(WORDS) - 2))
        writer.add_token_merges(MERGES)
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
    for name, parameter in model.named_parameters():
        written = names.get_name(name.removesuffix(".weight")) + ".weight"
        values = parameter.detach().numpy()
        kind = None
        if quantised is not None and values.ndim == 2:
            kind = quantised
            values = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
            parameter.data.copy_(torch.from_numpy(values.copy()))
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        for part, count in heads.items():
            if part in written:  # llama.cpp rotates neighbours, transformers the two halves
                rows, columns = values.shape
                halves = values.reshape(count, 2, rows // count // 2, columns)
                values = halves.swapaxes(1, 2).reshape(rows, columns)
        if written != leave_out:
            packed = values if kind is None else gguf.quants.quantize(values, kind)
            writer.add_tensor(written, np.ascontiguousarray(packed), raw_dtype=kind)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
