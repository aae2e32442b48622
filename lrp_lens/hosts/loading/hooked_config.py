"""A Hugging Face configuration as HookedTransformer's fields.

TransformerLens's own reading of config.json is taken wherever it has one, from a copy in a folder with a neutral name
(it takes a path that contains "llama" or "gemma" for a model name). It knows Gemma 3 by the names of released models
only, so that architecture is read here, line by line; what HookedTransformer has no place for is refused.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from lrp_lens.errors import InputError


def hooked_fields(directory: Path, config: PreTrainedConfig, fold_ln: bool) -> dict[str, Any]:
    """The fields of HookedTransformerConfig, but for dtype, device and name.

    Args:
        directory: holds config.json.
        config: the same, read.
        fold_ln: whether norm weights will be folded away.

    Raises:
        InputError: the folder for temporary files is named after a model.
        NotImplementedError, ValueError, AttributeError, KeyError: HookedTransformer does not know this architecture.
    """
    fields = _gemma3(config) if config.architectures == ["Gemma3ForCausalLM"] else _as_read(directory, config)
    if fold_ln:
        fields["normalization_type"] = {"LN": "LNPre", "RMS": "RMSPre"}.get(
            fields["normalization_type"], fields["normalization_type"]
        )
    return fields | {"init_weights": False, "tokenizer_name": None, "from_checkpoint": False}


def _as_read(directory: Path, config: PreTrainedConfig) -> dict[str, Any]:
    """TransformerLens's own reading."""
    from transformer_lens.loading_from_pretrained import convert_hf_model_config

    if any(name in tempfile.gettempdir().lower() for name in ("llama", "gemma")):
        raise InputError(
            "HookedTransformer takes a path with 'llama' or 'gemma' in it for a model name, and the folder"
            f" for temporary files is {tempfile.gettempdir()}: set TMPDIR to another one"
        )
    with tempfile.TemporaryDirectory(prefix="model-") as neutral:
        for file in directory.glob("*config*.json"):
            shutil.copy(file, neutral)
        fields = convert_hf_model_config(neutral)
    head = getattr(config, "head_dim", None)
    if head and fields.get("rotary_dim") == fields["d_head"]:
        fields["d_head"] = fields["rotary_dim"] = head
    return fields


def _gemma3(config: PreTrainedConfig) -> dict[str, Any]:
    """Gemma 3's text model: QK-norms, norms before and after, sliding windows, a rotary base for each kind of layer."""
    everywhere, nearby = (config.rope_parameters[kind] for kind in ("full_attention", "sliding_attention"))
    if everywhere["rope_type"] not in ("default", "linear") or nearby["rope_type"] != "default":
        raise NotImplementedError(f"rotary scaling {config.rope_parameters}")
    if config.attention_bias or getattr(config, "use_bidirectional_attention", False):
        raise NotImplementedError("attention with biases, or in both directions")
    local = [kind == "sliding_attention" for kind in config.layer_types]
    return {
        "original_architecture": "Gemma3ForCausalLM",
        "d_model": config.hidden_size,
        "d_head": config.head_dim,
        "n_heads": config.num_attention_heads,
        "n_key_value_heads": config.num_key_value_heads,
        "d_mlp": config.intermediate_size,
        "n_layers": config.num_hidden_layers,
        "n_ctx": config.max_position_embeddings,
        "d_vocab": config.vocab_size,
        "act_fn": config.hidden_activation,
        "gated_mlp": True,
        "eps": config.rms_norm_eps,
        "normalization_type": "RMS",
        "final_rms": True,
        "use_normalization_before_and_after": True,
        "use_qk_norm": True,
        "use_attn_scale": True,
        "attn_scale": config.query_pre_attn_scalar**0.5,
        "output_logits_soft_cap": config.final_logit_softcapping or -1.0,
        "use_local_attn": any(local),
        "window_size": config.sliding_window,
        "attn_types": ["local" if one else "global" for one in local],
        "positional_embedding_type": "rotary",
        "rotary_dim": config.head_dim,
        "rotary_base": everywhere["rope_theta"],
        "rotary_base_local": nearby["rope_theta"],
        "rotary_scaling_factor": everywhere.get("factor", 1.0),
    }
