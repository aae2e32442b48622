"""What the zoo is made of: plain configuration data, one entry a model (see tests/zoo.py)."""

D_MODEL, N_HEADS, N_KV_HEADS, D_HEAD, D_MLP, N_LAYERS, D_VOCAB, N_CTX = 32, 4, 2, 8, 64, 2, 97, 128
WINDOW = 4


def _modern(**changes) -> dict:
    """Configuration fields that the Llama-like architectures share."""
    fields = dict(
        hidden_size=D_MODEL,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_KV_HEADS,
        num_hidden_layers=N_LAYERS,
        intermediate_size=D_MLP,
        vocab_size=D_VOCAB,
        max_position_embeddings=N_CTX,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        tie_word_embeddings=False,
        attention_dropout=0.0,
    )
    return fields | changes


def _gpt(**changes) -> dict:
    """Configuration fields of the GPT-2 family."""
    fields = dict(n_embd=D_MODEL, n_head=N_HEADS, n_layer=N_LAYERS, vocab_size=D_VOCAB, n_positions=N_CTX)
    return fields | dict(bos_token_id=1, eos_token_id=2) | changes


def _without_key_value_heads(fields: dict) -> dict:
    return {name: value for name, value in fields.items() if name != "num_key_value_heads"}


_ALTERNATING = dict(sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"])
_EXPERTS = dict(num_experts_per_tok=2)
_OPT = dict(hidden_size=D_MODEL, word_embed_proj_dim=D_MODEL, num_attention_heads=N_HEADS, ffn_dim=D_MLP)

# Hugging Face models: name -> (model class, configuration class, configuration fields)
RECIPES = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _gpt()),
    "neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _without_key_value_heads(_modern())),
    "gptj": ("GPTJForCausalLM", "GPTJConfig", _gpt(rotary_dim=4, tie_word_embeddings=False)),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        _OPT
        | dict(num_hidden_layers=N_LAYERS, vocab_size=D_VOCAB, max_position_embeddings=N_CTX)
        | dict(bos_token_id=1, eos_token_id=2, pad_token_id=0),
    ),
    "bloom": (
        "BloomForCausalLM",
        "BloomConfig",
        dict(hidden_size=D_MODEL, n_head=N_HEADS, n_layer=N_LAYERS, vocab_size=D_VOCAB)
        | dict(bos_token_id=1, eos_token_id=2, pad_token_id=0),
    ),
    "llama": ("LlamaForCausalLM", "LlamaConfig", _modern()),
    "llama_mha": ("LlamaForCausalLM", "LlamaConfig", _modern(num_key_value_heads=N_HEADS)),
    "llama_head_dim": ("LlamaForCausalLM", "LlamaConfig", _modern(head_dim=2 * D_HEAD)),
    "llama_attention_biases": ("LlamaForCausalLM", "LlamaConfig", _modern(attention_bias=True)),
    "llama_biases": ("LlamaForCausalLM", "LlamaConfig", _modern(attention_bias=True, mlp_bias=True)),
    "mistral": ("MistralForCausalLM", "MistralConfig", _modern(sliding_window=WINDOW, head_dim=D_HEAD)),
    "mixtral": (
        "MixtralForCausalLM",
        "MixtralConfig",
        _modern(num_local_experts=4, sliding_window=None, **_EXPERTS),
    ),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _modern()),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _modern(head_dim=2 * D_HEAD)),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        "Qwen3MoeConfig",
        _modern(
            head_dim=2 * D_HEAD, num_experts=4, moe_intermediate_size=48, norm_topk_prob=True, **_EXPERTS
        ),
    ),
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        _modern(head_dim=2 * D_HEAD, query_pre_attn_scalar=12, tie_word_embeddings=True, **_ALTERNATING)
        | dict(attn_logit_softcapping=5.0, final_logit_softcapping=6.0),
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        _modern(head_dim=2 * D_HEAD, query_pre_attn_scalar=12, tie_word_embeddings=True, **_ALTERNATING),
    ),
    "phi": ("PhiForCausalLM", "PhiConfig", _modern(num_key_value_heads=N_HEADS)),
    "phi3": (
        "Phi3ForCausalLM",
        "Phi3Config",
        _modern(original_max_position_embeddings=N_CTX, sliding_window=None),
    ),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", _modern(num_key_value_heads=N_HEADS)),
    "olmo2_gqa": ("Olmo2ForCausalLM", "Olmo2Config", _modern()),
    "olmo3": ("Olmo3ForCausalLM", "Olmo3Config", _modern(**_ALTERNATING)),
    "olmoe": (
        "OlmoeForCausalLM",
        "OlmoeConfig",
        _modern(num_key_value_heads=N_HEADS, num_experts=4, **_EXPERTS),
    ),
    "gpt_oss": (
        "GptOssForCausalLM",
        "GptOssConfig",
        _modern(head_dim=2 * D_HEAD, num_local_experts=4, attention_bias=True, **_ALTERNATING, **_EXPERTS),
    ),
}


# HookedTransformer's own models: name -> HookedTransformerConfig fields (besides the dimensions)
_GATED = dict(gated_mlp=True, act_fn="silu", positional_embedding_type="rotary", normalization_type="RMS")
NATIVE = {
    "attention_only": dict(attn_only=True),
    "attention_only_no_norm": dict(attn_only=True, normalization_type=None),
    "attention_only_rms_pre": dict(
        attn_only=True, normalization_type="RMSPre", positional_embedding_type="rotary"
    ),
    "ln_relu": dict(act_fn="relu"),
    "ln_gelu": dict(act_fn="gelu"),
    "ln_gelu_new": dict(act_fn="gelu_new"),
    "ln_silu": dict(act_fn="silu"),
    "ln_pre_gelu": dict(act_fn="gelu", normalization_type="LNPre"),
    "ln_parallel_gelu": dict(act_fn="gelu", parallel_attn_mlp=True),
    "ln_gated_gelu": dict(act_fn="gelu", gated_mlp=True),
    "no_norm_gelu": dict(act_fn="gelu", normalization_type=None),
    "rms_relu": dict(act_fn="relu", normalization_type="RMS"),
    "rms_gated_silu": _GATED,
    "rms_pre_gated_silu": _GATED | dict(normalization_type="RMSPre"),
    "grouped_gated_silu": _GATED | dict(n_key_value_heads=N_KV_HEADS),
    "solu_ln": dict(act_fn="solu_ln"),
    "bias_free_ln_gelu": dict(act_fn="gelu"),
    "bias_free_rms_gated": _GATED,
    "bias_free_attention_only": dict(attn_only=True),
}

# The first tier of the tests: together these hold every kind of site (tests/test_zoo.py).  A test over the whole zoo
# runs these in `make test` and all of them in `make test-all` (tests/conftest.py).
FIRST = frozenset(
    """gpt2 neox opt bloom llama_biases mixtral gemma2 olmo2_gqa gpt_oss
    attention_only_no_norm ln_gelu_new ln_silu ln_pre_gelu ln_parallel_gelu ln_gated_gelu rms_relu
    rms_pre_gated_silu""".split()
)

# What the first tier runs under every rule set, where a test does so over the whole zoo (`zoo.under_rules`): between
# them LayerNorm and RMS norm, biases, learned and rotary positions, grouped queries, windows, sinks and experts.
EVERY_RULE_SET = frozenset("gpt2 gpt_oss ln_gelu_new".split())
