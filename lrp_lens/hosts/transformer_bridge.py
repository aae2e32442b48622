"""Sites of a TransformerBridge (transformer_lens 3.x and 4.x).

The bridge runs Hugging Face's own modules between its hook points.  The facts used here:

1. `hook_dict` holds HookedTransformer's names as aliases of its own; a hook point is identified by object, and
   rules attach under the point's own name, so that compatibility mode does not fire them twice.
2. Norms may be computed inside Hugging Face's module, where an edit of the scale shifts the logits: the norm's
   output is replaced instead (value kept).
3. `hook_resid_mid` sees the MLP branch only; the gradient of the skip path is that of `hook_mlp_out`.
4. A mixture of experts has no hook points inside: its output is replaced by a gate over the whole mixture.
5. Configured activation names can be wrong (BLOOM): activations are identified by value.
6. An unknown module would fall back to a plain gradient, so only architectures in `ARCHITECTURES` are taken.
"""

from typing import Any

from torch import Tensor, nn

from lrp_lens.errors import SiteError
from lrp_lens.hosts.collector import SiteCollector
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import (
    ActivationSite,
    AttentionSite,
    ExpertsSite,
    LinearSite,
    MixtureSite,
    NormSite,
    Sites,
    no_parameter,
    parameter_of,
)
from lrp_lens.ops.ratios import identify

ARCHITECTURES = frozenset(
    f"{name}ForCausalLM"
    for name in (
        "GPTNeoX GPTJ OPT Bloom Llama Mistral Mixtral Qwen2 Qwen3 Qwen3Moe Gemma2 Gemma3 Phi Phi3 Olmo2 Olmo3 "
        "Olmoe GptOss"
    ).split()
) | {"GPT2LMHeadModel", "BloomForCausalLM"}
"""Hugging Face classes whose every operation has a rule, each proven against the oracle in the tests."""

_ACTIVATION_ATTRIBUTES = ("act_fn", "act", "activation_fn", "gelu_impl")
_NORM_KEYS = {"q_norm": "query", "k_norm": "key", "embed_ln": "embedding"}


def unwrap(module: Any) -> Any:
    """The Hugging Face module inside (possibly several) bridge components."""
    while isinstance(getattr(module, "original_component", None), nn.Module):
        module = module.original_component
    return module


def _activation(module: Any, where: str) -> str:
    for name in _ACTIVATION_ATTRIBUTES:
        function = getattr(module, name, None)
        if callable(function):
            return identify(function, where)
    raise SiteError(
        f"Every MLP needs an activation that a rule knows; {type(module).__name__} at {where} has none of the "
        f"attributes {', '.join(_ACTIVATION_ATTRIBUTES)}. Add its attribute to lrp_lens.hosts.transformer_bridge."
    )


def _refuse_variants(config: Any) -> None:
    """Raise SiteError for options of a supported architecture that bring in operations no rule knows."""
    projected = getattr(config, "word_embed_proj_dim", None) not in (None, config.hidden_size)
    checks = {
        "clip_qkv": bool(getattr(config, "clip_qkv", None)),
        "word_embed_proj_dim": projected,
        "do_layer_norm_before=False": getattr(config, "do_layer_norm_before", True) is False,
    }
    for option, present in checks.items():
        if present:
            raise SiteError(
                f"Every operation of the model needs a relevance rule; {option} in the configuration of "
                f"{type(config).__name__} brings in one that no rule knows. Use a model without it."
            )


class _Resolver(SiteCollector):
    """Walks one TransformerBridge."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.hugging_face = model.original_model
        self.architecture = type(self.hugging_face).__name__
        if self.architecture not in ARCHITECTURES:
            raise SiteError(
                f"Every operation of the model needs a relevance rule; TransformerBridge around "
                f"{self.architecture} may hold some that no rule knows. Supported: "
                f"{', '.join(sorted(ARCHITECTURES))}."
            )
        for flag in ("use_split_qkv_input", "use_attn_in"):
            if getattr(self.cfg, flag, False):
                raise SiteError(
                    f"Rules must see every norm; with cfg.{flag} TransformerBridge bypasses the hooks of ln1. "
                    f"Call model.set_{flag}(False) first."
                )
        self.config = self.hugging_face.config
        _refuse_variants(self.config)

    def norm(self, layer: int | None, prefix: str, module: Any) -> None:
        label, inner = prefix.rpartition(".")[2], unwrap(module)
        if isinstance(inner, nn.Identity):
            return
        of = _NORM_KEYS.get(label, "stream")
        result = self.record(Names.norm_output(prefix), layer, at=f"{prefix}.hook_out", optional=True)
        self.record(Names.normalized(prefix), layer, optional=True)
        self.record(Names.scale(prefix), layer, optional=True)
        epsilon = getattr(inner, "variance_epsilon", None) or getattr(inner, "eps", None) or self.cfg.eps
        offset = 1.0 if getattr(module.config, "rmsnorm_uses_offset", False) else 0.0
        weight = parameter_of(module, "weight")

        def gain() -> Tensor | None:
            value = weight()
            return value if value is None else value + offset

        centred = not module.uses_rms_norm
        self.sites.append(
            NormSite(
                layer=layer,
                label=label,
                centred=centred,
                epsilon=float(epsilon),
                input=self.port(f"{prefix}.hook_in"),
                output=self.port(f"{prefix}.hook_out"),
                gain=gain,
                bias=parameter_of(inner, "bias") if centred else no_parameter,
                result=result,
                of=of,
            )
        )
        if centred and of != "embedding":
            self.bias(f"{label} bias", layer, result, inner, "bias")

    def attention(self, layer: int, attn: Any) -> None:
        q, k, v, z = (self.record(Names.attention(layer, part), layer) for part in "qkvz")
        for label, name, part in (("b_Q", q, "q"), ("b_K", k, "k"), ("b_V", v, "v")):
            self.linear(part, layer, name)
            self.bias(label, layer, name, attn, label)
        softcap = getattr(self.config, "attn_logit_softcapping", None)
        extras: tuple[str, ...] = ("ALiBi",) if self.architecture == "BloomForCausalLM" else ()
        extras += ("attention sink",) if self.architecture == "GptOssForCausalLM" else ()
        self.sites.append(
            AttentionSite(
                layer=layer,
                label="attn",
                q=self.port(q),
                k=self.port(k),
                v=self.port(v),
                scores=self.maybe(Names.attention(layer, "attn_scores")),
                pattern=self.maybe(Names.attention(layer, "pattern")),
                z=self.port(z),
                softcap=float(softcap) if softcap else None,
                sink=parameter_of(unwrap(attn), "sinks"),
                extras=extras,
            )
        )
        output = self.record(
            Names.raw(Names.attn_out(layer)), layer, at=Names.o_projection(layer), optional=True
        )
        self.linear("o", layer, output)
        self.bias("b_O", layer, output, attn, "b_O")

    def mlp(self, layer: int, mlp: Any) -> None:
        where, inner = f"{Names.block(layer)}.mlp", unwrap(mlp)
        if type(mlp).__name__ == "MoEBridge":
            if not hasattr(inner, "experts"):
                raise SiteError(
                    f"A mixture of experts needs its experts; {type(inner).__name__} at {where} has none "
                    "(an interleaved dense layer?). Use an architecture without dense layers in between."
                )
            return self.experts(layer, inner, where)
        pre, up, post = (self.record(Names.mlp(layer, part), layer) for part in ("pre", "pre_linear", "post"))
        gated = up in self.records
        self.linear("mlp gate" if gated else "mlp in", layer, pre)
        self.linear("mlp in", layer, up)
        self.sites.append(
            ActivationSite(
                layer=layer,
                label="mlp",
                pre=self.port(pre),
                up=self.maybe(up),
                post=self.port(post),
                function=_activation(inner, where),
            )
        )
        if gated:
            self.bias("b_gate", layer, pre, mlp, "b_gate")
        self.bias("b_in", layer, up if gated else pre, mlp, "b_in")
        output = self.record(
            Names.raw(Names.mlp_out(layer)), layer, at=f"{where}.out.hook_out", optional=True
        )
        self.linear("mlp out", layer, output)
        self.bias("b_out", layer, output, mlp, "b_out")

    def experts(self, layer: int, module: Any, where: str) -> None:
        experts = module.experts
        gpt_oss = self.architecture == "GptOssForCausalLM"
        self.sites.append(
            ExpertsSite(
                layer=layer,
                label="experts",
                input=self.port(f"{where}.hook_in"),
                output=self.port(f"{where}.hook_out"),
                module=module,
                function="clamped_swiglu" if gpt_oss else _activation(experts, where),
                limit=float(experts.limit) if gpt_oss else None,
            )
        )
        source = self.record(Names.moe_input(layer), layer, optional=True)
        self.sites.append(LinearSite(layer=layer, label="experts", output=None, record=Names.mlp_out(layer)))
        self.sites.append(
            MixtureSite(
                layer=layer, label="experts", source=source, result=Names.mlp_out(layer), biased=gpt_oss
            )
        )

    def block(self, layer: int, block: Any, parallel: bool) -> None:
        prefix = Names.block(layer)
        self.record(Names.resid_pre(layer), layer)
        self.attention(layer, block.attn)
        self.record(Names.attn_out(layer), layer)
        if not parallel:
            self.record(Names.resid_mid(layer), layer, plus=(Names.mlp_out(layer),))
        self.mlp(layer, block.mlp)
        self.record(Names.mlp_out(layer), layer)
        self.record(Names.resid_post(layer), layer)
        for label in ("ln1", "ln1_post", "ln2", "ln2_post"):
            if f"{prefix}.{label}.hook_out" in self.hook_dict:
                self.norm(layer, f"{prefix}.{label}", getattr(block, label))
        for part in "qk":
            if f"{Names.qk_norm(layer, part)}.hook_out" in self.hook_dict:
                self.norm(layer, Names.qk_norm(layer, part), getattr(block.attn, f"{part}_norm"))

    def resolve(self) -> Sites:
        model = self.model
        parallel = type(model.blocks[0]).__name__ == "ParallelBlockBridge"
        if Names.BRIDGE_EMBED_NORM_OUTPUT in self.hook_dict:
            self.norm(None, "embed_ln", model.embed_ln)
        self.record(Names.EMBED, None)
        self.record(Names.POS_EMBED, None)
        for layer, block in enumerate(model.blocks):
            self.block(layer, block, parallel)
        self.norm(None, Names.FINAL_NORM, model.ln_final)
        return self.finish(
            host="TransformerBridge",
            architecture=self.architecture,
            parallel=parallel,
            softcap=getattr(self.config, "final_logit_softcapping", None),
            unembed=model.unembed,
        )


def resolve_transformer_bridge(model: Any) -> Sites:
    """The sites of a TransformerBridge.

    Raises:
        SiteError: for an architecture outside `ARCHITECTURES`, or one of its operations that no rule knows.
    """
    return _Resolver(model).resolve()
