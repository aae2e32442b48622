"""transformers model → oracles.weights, read from the module's parameters and configuration.

The architectures differ mostly in the names of their modules; in more than names in the fused or transposed
projections of the GPT family, the places of the norms, the rotary tables and the experts' layouts.
"""

import torch
from torch import Tensor

from tests.oracles.weights import MLP, Attention, Block, Mixture, Norm, Transformer

_PARALLEL = ("gpt_neox", "gptj", "phi")
_POST_NORM = ("olmo2", "olmo3")
_SANDWICH = ("gemma2", "gemma3_text")


def from_hugging_face(model) -> Transformer:
    """The weights of a transformers model of tests/zoo.py, in float64."""
    config, kind = model.config, model.config.model_type
    trunk = {"opt": lambda: model.model.decoder, "gpt_neox": lambda: model.gpt_neox}.get(
        kind, lambda: model.transformer if hasattr(model, "transformer") else model.model
    )()
    layers = getattr(trunk, "layers", None) or trunk.h
    head = model.get_output_embeddings()
    final = {"gpt2": "ln_f", "gptj": "ln_f", "bloom": "ln_f", "opt": "final_layer_norm"}
    final |= {"gpt_neox": "final_layer_norm", "phi": "final_layernorm"}
    return Transformer(
        embedding=_embedding(model, trunk, kind),
        positions=_positions(trunk, kind),
        blocks=tuple(_block(layer, index, trunk, config) for index, layer in enumerate(layers)),
        ln_final=_norm(getattr(trunk, final.get(kind, "norm"))),
        W_U=head.weight.detach().double().T,
        b_U=None if head.bias is None else head.bias.detach().double(),
        soft_cap=getattr(config, "final_logit_softcapping", None),
    )


def _embedding(model, trunk, kind: str) -> Tensor:
    module = model.get_input_embeddings()
    with torch.no_grad():
        embedding = module(torch.arange(module.num_embeddings))  # a module, because Gemma scales in it
        if kind == "bloom":
            embedding = trunk.word_embeddings_layernorm(embedding)
    return embedding.double()


def _positions(trunk, kind: str) -> Tensor | None:
    if kind == "gpt2":
        return trunk.wpe.weight.detach().double()
    if kind == "opt":
        return trunk.embed_positions.weight.detach().double()[2:]  # OPT's first two rows are never used
    return None


def _norm(module) -> Norm:
    centred = isinstance(module, torch.nn.LayerNorm)
    weight = module.weight.detach().double()
    if type(module).__name__.startswith("Gemma"):
        weight = 1.0 + weight
    eps = getattr(module, "variance_epsilon", None) or module.eps
    bias = getattr(module, "bias", None)
    return Norm(
        centred=centred, eps=eps, weight=weight, bias=None if bias is None else bias.detach().double()
    )


def _linear(module) -> tuple[Tensor, Tensor | None]:
    """Weight [in, out] and bias [out]."""
    weight = module.weight.detach().double()
    bias = None if module.bias is None else module.bias.detach().double()
    return (weight if type(module).__name__ == "Conv1D" else weight.T), bias


def _split(module, sizes: list[int]) -> list[tuple[Tensor, Tensor | None]]:
    """A fused projection's parts, in order of its output."""
    weight, bias = _linear(module)
    biases = [None] * len(sizes) if bias is None else bias.split(sizes)
    return list(zip(weight.split(sizes, dim=1), biases, strict=True))


def _block(layer, index: int, trunk, config) -> Block:
    kind = config.model_type
    names = {
        "gpt2": ("ln_1", "ln_2"),
        "gptj": ("ln_1", "ln_1"),
        "phi": ("input_layernorm", "input_layernorm"),
        "opt": ("self_attn_layer_norm", "final_layer_norm"),
    }
    first, second = names.get(kind, ("input_layernorm", "post_attention_layernorm"))
    posts = (None, None)
    if kind in _SANDWICH:
        second, posts = (
            "pre_feedforward_layernorm",
            ("post_attention_layernorm", "post_feedforward_layernorm"),
        )
    if kind in _POST_NORM:
        first, second, posts = None, None, ("post_attention_layernorm", "post_feedforward_layernorm")
    ln1, ln2, ln1_post, ln2_post = (
        None if name is None else _norm(getattr(layer, name)) for name in (first, second, *posts)
    )
    return Block(
        attention=_attention(layer, index, trunk, config),
        ln1=ln1,
        ln1_post=ln1_post,
        mlp=_mlp(layer, config),
        ln2=ln2,
        ln2_post=ln2_post,
        parallel=kind in _PARALLEL,
    )


def _attention(layer, index: int, trunk, config) -> Attention:
    kind, heads = config.model_type, config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    for name in ("attn", "attention", "self_attention", "self_attn"):
        if hasattr(layer, name):
            module = getattr(layer, name)
    d_head = getattr(config, "head_dim", None) or config.hidden_size // heads
    projections = _projections(module, kind, heads, groups, d_head)
    parts = {}
    for letter, (weight, bias), count in zip("QKV", projections, (heads, groups, groups), strict=True):
        parts[f"W_{letter}"] = weight.view(-1, count, d_head).permute(1, 0, 2)
        parts[f"b_{letter}"] = None if bias is None else bias.view(count, d_head)
    for name in ("c_proj", "dense", "out_proj", "o_proj"):
        if hasattr(module, name):
            weight, b_O = _linear(getattr(module, name))
    layer_types = getattr(config, "layer_types", None)
    windowed = layer_types[index] == "sliding_attention" if layer_types else kind == "mistral"
    cos, sin = _rotary_tables(trunk, module, kind, layer_types[index] if layer_types else None, config)
    heads_from_one = torch.arange(1, heads + 1, dtype=torch.float64)
    return Attention(
        **parts,
        W_O=weight.view(heads, d_head, -1),
        b_O=b_O,
        scale=getattr(config, "query_pre_attn_scalar", d_head) ** -0.5,
        q_norm=_norm(module.q_norm) if hasattr(module, "q_norm") else None,
        k_norm=_norm(module.k_norm) if hasattr(module, "k_norm") else None,
        norm_per_head=not kind.startswith("olmo"),
        cos=cos,
        sin=sin,
        rotary_adjacent=kind == "gptj",
        alibi_slopes=2.0 ** (-8.0 * heads_from_one / heads) if kind == "bloom" else None,
        window=config.sliding_window if windowed else None,
        soft_cap=getattr(config, "attn_logit_softcapping", None),
        sinks=module.sinks.detach().double() if hasattr(module, "sinks") else None,
    )


def _projections(
    module, kind: str, heads: int, groups: int, d_head: int
) -> list[tuple[Tensor, Tensor | None]]:
    """Weight [d_model, heads * d_head] and bias of the query, key and value projection."""
    if kind == "gpt2":
        return _split(module.c_attn, [heads * d_head] * 3)
    if kind == "phi3":
        return _split(module.qkv_proj, [heads * d_head, groups * d_head, groups * d_head])
    if kind in ("gpt_neox", "bloom"):  # fused head by head: (heads, 3, d_head)
        weight, bias = _linear(module.query_key_value)
        weight, bias = weight.view(-1, heads, 3, d_head), bias.view(heads, 3, d_head)
        return [(weight[:, :, part].flatten(1), bias[:, part].flatten()) for part in range(3)]
    return [_linear(getattr(module, name)) for name in ("q_proj", "k_proj", "v_proj")]


def _rotary_tables(trunk, module, kind: str, layer_type: str | None, config):
    if kind == "gptj":
        sin, cos = module.embed_positions.double().chunk(2, dim=-1)
        return cos.repeat_interleave(2, dim=-1), sin.repeat_interleave(2, dim=-1)
    if not hasattr(trunk, "rotary_emb"):
        return None, None
    positions = torch.arange(config.max_position_embeddings)[None]
    layered = (layer_type,) if hasattr(trunk.rotary_emb, "full_attention_inv_freq") else ()
    with torch.no_grad():
        cos, sin = trunk.rotary_emb(trunk.get_input_embeddings().weight, positions, *layered)
    if kind == "gpt_oss":  # one entry a pair instead of two
        cos, sin = torch.cat([cos, cos], dim=-1), torch.cat([sin, sin], dim=-1)
    return cos[0].double(), sin[0].double()


def _mlp(layer, config) -> MLP | Mixture:
    kind = config.model_type
    module = layer if kind == "opt" else layer.mlp
    if hasattr(module, "experts"):
        return _mixture(module, config)
    fields = ("activation_function", "hidden_activation", "hidden_act")
    named = [getattr(config, field) for field in fields if getattr(config, field, None)]
    activation = named[0] if named else "gelu_bloom"  # BLOOM's is not in its configuration
    names = {
        "gpt2": ("c_fc", "c_proj"),
        "gptj": ("fc_in", "fc_out"),
        "opt": ("fc1", "fc2"),
        "phi": ("fc1", "fc2"),
    }
    names["gpt_neox"] = names["bloom"] = ("dense_h_to_4h", "dense_4h_to_h")
    if kind in names:
        (W_in, b_in), (W_out, b_out) = (_linear(getattr(module, name)) for name in names[kind])
        return MLP(activation, W_in=W_in, b_in=b_in, W_out=W_out, b_out=b_out)
    if kind == "phi3":
        (W_in, b_in), (W_up, b_up) = _split(module.gate_up_proj, [config.intermediate_size] * 2)
    else:
        (W_in, b_in), (W_up, b_up) = _linear(module.gate_proj), _linear(module.up_proj)
    W_out, b_out = _linear(module.down_proj)
    return MLP(activation, W_in=W_in, b_in=b_in, W_up=W_up, b_up=b_up, W_out=W_out, b_out=b_out)


def _mixture(module, config) -> Mixture:
    experts = module.experts
    if config.model_type == "gpt_oss":  # weights [expert, in, out], gate and up interleaved
        fused, fused_bias = (
            experts.gate_up_proj.detach().double(),
            experts.gate_up_proj_bias.detach().double(),
        )
        down, down_bias = experts.down_proj.detach().double(), experts.down_proj_bias.detach().double()
        members = [
            MLP(
                "gpt_oss",
                W_in=fused[expert, :, ::2],
                b_in=fused_bias[expert, ::2],
                W_up=fused[expert, :, 1::2],
                b_up=fused_bias[expert, 1::2],
                W_out=down[expert],
                b_out=down_bias[expert],
                clamp=7.0,
                up_offset=1.0,
            )
            for expert in range(config.num_local_experts)
        ]
        router, renormalize = module.router, False
    else:  # weights [expert, out, in], the gate above the up projection
        fused, down = experts.gate_up_proj.detach().double(), experts.down_proj.detach().double()
        members = []
        for expert in range(fused.shape[0]):
            gate, up = fused[expert].chunk(2, dim=0)
            members.append(MLP(config.hidden_act, W_in=gate.T, W_up=up.T, W_out=down[expert].T))
        router, renormalize = module.gate, getattr(config, "norm_topk_prob", config.model_type == "mixtral")
    bias = getattr(router, "bias", None)
    return Mixture(
        W_router=router.weight.detach().double().T,
        b_router=None if bias is None else bias.detach().double(),
        experts=tuple(members),
        chosen=config.num_experts_per_tok,
        softmax_after_choice=config.model_type == "gpt_oss",
        renormalize=renormalize,
    )
