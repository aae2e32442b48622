"""How tests/zoo.py gets an architecture into HookedTransformer (TransformerLens 3.9 only).

TransformerLens's own reading of the configuration and its own weight converter are used wherever they exist,
so that the model is the one users get; the exceptions are those of the table in tests/zoo.py.
"""

import tempfile
from unittest import mock

import torch
import transformers
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens import loading_from_pretrained as loading
from transformer_lens.pretrained.weight_conversions import convert_mixtral_weights, convert_olmo3_weights


def convert(name: str, model: transformers.PreTrainedModel, dtype: torch.dtype) -> HookedTransformer:
    """The named architecture of tests/zoo.py as a HookedTransformer with the weights of `model`."""
    fields = _hooked_fields(name, model.config)
    fields |= dict(dtype=dtype, device="cpu", init_weights=False, tokenizer_name=None)
    config = HookedTransformerConfig(**fields | dict(model_name="tiny", from_checkpoint=False))
    if name == "olmo2_gqa":
        weights = convert_olmo3_weights(model, config)
    elif name == "qwen3_moe":
        weights = convert_mixtral_weights(model, config)
        for layer, block in enumerate(model.model.layers):
            weights[f"blocks.{layer}.attn.q_norm.w"] = block.self_attn.q_norm.weight
            weights[f"blocks.{layer}.attn.k_norm.w"] = block.self_attn.k_norm.weight
    else:
        # Any existing directory makes the loader skip its table of model names.
        weights = loading.get_pretrained_state_dict(tempfile.gettempdir(), config, model, dtype=dtype)
    if name == "llama_attention_biases":
        heads = dict(b_Q=config.n_heads, _b_K=config.n_key_value_heads, _b_V=config.n_key_value_heads)
        for layer, block in enumerate(model.model.layers):
            attention, prefix = block.self_attn, f"blocks.{layer}.attn."
            for bias, count in heads.items():
                projection = getattr(attention, f"{bias[-1].lower()}_proj")
                weights[prefix + bias] = projection.bias.view(count, config.d_head)
            weights[prefix + "b_O"] = attention.o_proj.bias
    weights = {key: value.detach().clone() for key, value in weights.items()}
    host = HookedTransformer(config)
    host.load_and_process_state_dict(
        weights, fold_ln=False, center_writing_weights=False, center_unembed=False, fold_value_biases=False
    )
    return host.to(dtype, print_details=False).eval()


def _hooked_fields(name: str, config: transformers.PretrainedConfig) -> dict:
    """The HookedTransformerConfig fields: TransformerLens's own reading of the config where it has one."""
    if name.startswith("olmo2") or name == "qwen3_moe":
        return _fields_by_hand(name, config)
    if name.startswith("gemma"):
        template = {"gemma2": "google/gemma-2-2b", "gemma3": "google/gemma-3-1b-pt"}[name]
        fields = loading.convert_hf_model_config(template)  # keyed by name, no network
        return fields | _gemma_fields(name, config)
    if name == "gpt2":
        config.n_ctx = config.n_positions  # dropped by transformers 5
    real = loading.AutoConfig.from_pretrained

    def with_rotary_factor(*args, **kwargs):
        found = real(*args, **kwargs)
        if found.model_type == "phi":
            found.partial_rotary_factor = found.rope_parameters["partial_rotary_factor"]
        return found

    # The directory's name is neutral: one that contains "llama" or "gemma" would be read as a model name.
    with tempfile.TemporaryDirectory(prefix="tiny_") as directory:
        config.save_pretrained(directory)
        with mock.patch.object(loading.AutoConfig, "from_pretrained", with_rotary_factor):
            fields = loading.convert_hf_model_config(directory)
    if name == "llama_head_dim":
        fields["d_head"] = fields["rotary_dim"] = config.head_dim
    return fields


def _gemma_fields(name: str, config: transformers.PretrainedConfig) -> dict:
    fields = dict(
        d_model=config.hidden_size,
        d_head=config.head_dim,
        rotary_dim=config.head_dim,
        n_heads=config.num_attention_heads,
        n_key_value_heads=config.num_key_value_heads,
        d_mlp=config.intermediate_size,
        n_layers=config.num_hidden_layers,
        n_ctx=config.max_position_embeddings,
        d_vocab=config.vocab_size,
        eps=config.rms_norm_eps,
        attn_types=["local" if kind == "sliding_attention" else "global" for kind in config.layer_types],
        window_size=config.sliding_window,
        use_local_attn=True,
        use_attn_scale=True,
        attn_scale=config.query_pre_attn_scalar**0.5,
    )
    if name == "gemma2":
        fields["attn_scores_soft_cap"] = config.attn_logit_softcapping
        fields["output_logits_soft_cap"] = config.final_logit_softcapping
    else:
        rope = config.rope_parameters
        fields["rotary_base"] = rope["full_attention"]["rope_theta"]
        fields["rotary_base_local"] = rope["sliding_attention"]["rope_theta"]
        fields["rotary_scaling_factor"] = 1.0
    return fields


def _fields_by_hand(name: str, config: transformers.PretrainedConfig) -> dict:
    """Architectures that HookedTransformer computes but whose configuration it cannot read."""
    is_moe = name == "qwen3_moe"
    d_head = config.head_dim if is_moe else config.hidden_size // config.num_attention_heads
    fields = dict(
        d_model=config.hidden_size,
        d_head=d_head,
        rotary_dim=d_head,
        n_heads=config.num_attention_heads,
        n_key_value_heads=None if name == "olmo2" else config.num_key_value_heads,
        d_mlp=config.moe_intermediate_size if is_moe else config.intermediate_size,
        n_layers=config.num_hidden_layers,
        n_ctx=config.max_position_embeddings,
        d_vocab=config.vocab_size,
        eps=config.rms_norm_eps,
        act_fn=config.hidden_act,
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_base=config.rope_parameters["rope_theta"],
        gated_mlp=True,
        original_architecture=config.architectures[0],
    )
    if is_moe:
        fields |= dict(use_qk_norm=True, norm_topk_prob=config.norm_topk_prob)
        fields |= dict(num_experts=config.num_experts, experts_per_token=config.num_experts_per_tok)
    return fields
