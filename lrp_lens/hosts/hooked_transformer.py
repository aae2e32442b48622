"""Sites of a HookedTransformer (transformer_lens 3.x).

Every hook point of HookedTransformer is live, so rules edit the tensors themselves.  The facts used here:
`ln1` runs once each for query, key and value; a gated MLP adds b_in after the product; with post-norms
`hook_attn_out` and `hook_mlp_out` come after them; a mixture of experts fires the hooks of the selected
experts only; attention scores fire after soft-cap and mask.
"""

from typing import Any

from torch import nn

from lrp_lens.errors import SiteError
from lrp_lens.hosts.collector import SiteCollector
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import (
    ActivationSite,
    AttentionSite,
    LinearSite,
    MixtureSite,
    NormSite,
    RouterSite,
    Sites,
    parameter_of,
)
from lrp_lens.ops.ratios import identify

POSITIONS = ("standard", "rotary", "alibi")
NORMS = (None, "LN", "LNPre", "RMS", "RMSPre")
GPT_OSS_LIMIT = 7.0


def _refuse_unknown(cfg: Any) -> None:
    """Raise SiteError for every configured operation that no rule knows."""
    act = str(cfg.act_fn)
    checks = [
        (cfg.attn_only or not act.endswith("_ln"), f"act_fn={act!r}", "an MLP without a LayerNorm inside"),
        (
            cfg.normalization_type in NORMS,
            f"normalization_type={cfg.normalization_type!r}",
            f"one of {NORMS}",
        ),
        (
            cfg.positional_embedding_type in POSITIONS,
            f"positional_embedding_type={cfg.positional_embedding_type!r}",
            f"one of {POSITIONS}",
        ),
        (getattr(cfg, "clip_qkv", None) is None, "clip_qkv", "a model without clamped q, k and v"),
        (not getattr(cfg, "load_in_4bit", False), "load_in_4bit", "unquantised weights"),
    ]
    for known, received, remedy in checks:
        if not known:
            raise SiteError(
                f"Every operation of the model needs a relevance rule; HookedTransformer with {received} has one "
                f"that no rule knows. Use {remedy}."
            )


class _Resolver(SiteCollector):
    """Walks one HookedTransformer."""

    def __init__(self, model: Any) -> None:
        _refuse_unknown(model.cfg)
        super().__init__(model)

    def norm(self, label: str, layer: int | None, module: nn.Module, prefix: str, of: str = "stream") -> None:
        scale = self.maybe(Names.scale(prefix))
        if scale is None:  # nn.Identity: normalization_type None, or folded away
            return
        self.record(Names.normalized(prefix), layer, optional=of != "stream")
        self.record(Names.scale(prefix), layer, optional=True)
        result = self.tap(Names.norm_output(prefix), layer, module)
        centred = type(module).__name__.startswith("LayerNorm")
        self.sites.append(
            NormSite(
                layer=layer,
                label=label,
                centred=centred,
                epsilon=float(module.eps),  # type: ignore[arg-type]
                scale=scale,
                normalized=self.port(Names.normalized(prefix)),
                gain=parameter_of(module, "w"),
                bias=parameter_of(module, "b"),
                result=result,
                of=of,
            )
        )
        self.bias(f"{label} bias", layer, result, module, "b")

    def embedding(self) -> None:
        embed = self.model.embed
        if getattr(self.cfg, "post_embedding_ln", False):
            # Its bias stays with the tokens: HookedTransformer's hook_embed is the normalised embedding.
            self.sites.append(
                NormSite(
                    layer=None,
                    label="embed norm",
                    centred=True,
                    epsilon=float(embed.ln.eps),
                    scale=self.port(Names.scale(Names.EMBED_NORM)),
                    normalized=self.port(Names.normalized(Names.EMBED_NORM)),
                    gain=parameter_of(embed.ln, "w"),
                    of="embedding",
                )
            )
        self.record(Names.EMBED, None)
        self.record(Names.POS_EMBED, None)

    def attention(self, layer: int, block: Any) -> None:
        attn, has_post_norm = block.attn, self.post_norm(block)
        q, k, v, z = (self.record(Names.attention(layer, part), layer) for part in "qkvz")
        for part in ("rot_q", "rot_k", "attn_scores", "pattern", "result"):
            self.record(Names.attention(layer, part), layer, optional=True)
        grouped = self.cfg.n_key_value_heads is not None and not self.cfg.ungroup_grouped_query_attention
        for label, name, attribute in (
            ("b_Q", q, "b_Q"),
            ("b_K", k, "_b_K" if grouped else "b_K"),
            ("b_V", v, "_b_V" if grouped else "b_V"),
        ):
            self.linear(label[2:].lower(), layer, name)
            self.bias(label, layer, name, attn, attribute)
        for part, of in (("q", "query"), ("k", "key")):
            norm = getattr(attn, f"{part}_norm", None)
            if norm is not None:
                self.norm(f"{part}_norm", layer, norm, Names.qk_norm(layer, part), of)
        extras: tuple[str, ...] = ("ALiBi",) if self.cfg.positional_embedding_type == "alibi" else ()
        if getattr(self.cfg, "use_attention_sinks", False):
            extras += ("attention sink",)
        softcap = getattr(self.cfg, "attn_scores_soft_cap", -1.0)
        self.sites.append(
            AttentionSite(
                layer=layer,
                label="attn",
                q=self.port(q),
                k=self.port(k),
                v=self.port(v),
                scores=self.port(Names.attention(layer, "attn_scores")),
                pattern=self.port(Names.attention(layer, "pattern")),
                z=self.port(z),
                softcap=softcap if softcap and softcap > 0 else None,
                sink=parameter_of(attn, "sinks"),
                extras=extras,
            )
        )
        output = self.record(Names.attn_out(layer), layer)
        raw = self.tap(Names.raw(output), layer, attn) if has_post_norm else output
        self.linear("o", layer, raw)
        self.bias("b_O", layer, raw, attn, "b_O")

    def post_norm(self, block: Any) -> bool:
        """Whether the block normalises what attention and MLP write (Gemma 2 and 3, OLMo 2 and 3)."""
        return bool(self.cfg.use_normalization_before_and_after) or self.norm_after

    @property
    def norm_after(self) -> bool:
        """Whether ln1 and ln2 act on the outputs of attention and MLP instead of their inputs (OLMo 2, 3)."""
        return self.cfg.original_architecture in ("Olmo2ForCausalLM", "Olmo3ForCausalLM")

    def mlp(self, layer: int, block: Any) -> None:
        mlp, output = block.mlp, self.record(Names.mlp_out(layer), layer)
        if hasattr(mlp, "experts"):
            self.experts(layer, mlp)
        else:
            pre, up, post = (
                self.record(Names.mlp(layer, part), layer) for part in ("pre", "pre_linear", "post")
            )
            gated = up in self.hook_dict
            self.linear("mlp gate" if gated else "mlp in", layer, pre)
            self.linear("mlp in", layer, up)
            self.sites.append(
                ActivationSite(
                    layer=layer,
                    label="mlp",
                    pre=self.port(pre),
                    up=self.maybe(up),
                    post=self.port(post),
                    function=identify(mlp.act_fn, f"blocks.{layer}.mlp"),
                )
            )
            self.bias("b_in", layer, post if gated else pre, mlp, "b_in")
        raw = self.tap(Names.raw(output), layer, mlp) if self.post_norm(block) else output
        if hasattr(mlp, "experts"):
            self.sites.append(LinearSite(layer=layer, label="experts", output=None, record=raw))
        else:
            self.linear("mlp out", layer, raw)
            self.bias("b_out", layer, raw, mlp, "b_out")

    def experts(self, layer: int, mlp: Any) -> None:
        gpt_oss = type(mlp).__name__ == "GptOssMoE"
        self.sites.append(
            MixtureSite(
                layer=layer,
                label="experts",
                source=Names.norm_output(f"{Names.block(layer)}.ln2"),
                result=Names.mlp_out(layer),
                biased=gpt_oss,
            )
        )
        self.sites.append(
            RouterSite(layer=layer, label="router", weights=self.port(Names.expert_weights(layer)))
        )
        for index, expert in enumerate(mlp.experts):
            gate, up, post = (self.port(Names.expert(layer, index, part)) for part in ("gate", "pre", "post"))
            self.sites.append(
                ActivationSite(
                    layer=layer,
                    label=f"expert {index}",
                    pre=gate,
                    up=up,
                    post=post,
                    function="clamped_swiglu" if gpt_oss else identify(expert.act_fn, f"blocks.{layer}.mlp"),
                    limit=GPT_OSS_LIMIT if gpt_oss else None,
                    expert=True,
                )
            )

    def block(self, layer: int, block: Any) -> None:
        prefix = Names.block(layer)
        self.record(Names.resid_pre(layer), layer)

        def norm(label: str) -> None:
            if hasattr(block, label):
                self.norm(label, layer, getattr(block, label), f"{prefix}.{label}")

        if not self.norm_after:
            norm("ln1")
        self.attention(layer, block)
        norm("ln1" if self.norm_after else "ln1_post")
        self.record(Names.resid_mid(layer), layer)
        if not self.cfg.attn_only:
            if not self.norm_after:
                norm("ln2")
            self.mlp(layer, block)
            norm("ln2" if self.norm_after else "ln2_post")
        self.record(Names.resid_post(layer), layer)

    def resolve(self) -> Sites:
        self.embedding()
        for layer, block in enumerate(self.model.blocks):
            self.block(layer, block)
        if hasattr(self.model, "ln_final"):
            self.norm("ln_final", None, self.model.ln_final, Names.FINAL_NORM)
        return self.finish(
            host="HookedTransformer",
            architecture=str(self.cfg.original_architecture or "native"),
            parallel=bool(self.cfg.parallel_attn_mlp),
            softcap=getattr(self.cfg, "output_logits_soft_cap", None),
            unembed=self.model.unembed,
        )


def resolve_hooked_transformer(model: Any) -> Sites:
    """The sites of a HookedTransformer.

    Raises:
        SiteError: for an operation that no rule knows (solu_ln, clamped q/k/v, shortformer positions, ...).
    """
    return _Resolver(model).resolve()
