"""AtP*: attribution patching with the softmax recomputed for queries and keys, and with GradDrop.

1. QK fix.  A patched query or key passes the softmax exactly; only what follows is linear:
   score = Σ (P′ - P) ⊙ ∂m/∂P, with ∂m/∂P[i, j] = gz_i · v_j from the gradient gz at z.  P′ comes from two forward
   passes for all layers, heads and positions at once: every layer gets clean queries (keys), and its z is put back,
   so that no layer sees the patches of another.  A query changes its own row of P.  A key changes one column of the
   scores by δ; with r = P e^δ - P, the row becomes (P + r) / (1 + r) at that column, so the change of the metric is
   r / (1 + r) (∂m/∂P[i, j] - Σ_k P ∂m/∂P), and no row is ever recomputed.
2. GradDrop.  Direct and indirect effects can cancel.  For each layer, go backward with the gradient through its
   attention and MLP outputs dropped; average |score| over the layers, divided by L - 1 (a node has no score in its
   own layer's pass).  All share one forward pass, and each goes back from its layer only (`lrp_lens.run.dropped`).

The result of the paper is unsigned.  `signed=True` averages without the absolute value, so that signs survive.
Source: Kramár et al. 2024 (2403.00745), sections 3.1.1 and 3.1.2.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import InputError, SiteError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.sites import AttentionSite
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.methods.attribution import PatchingPass, passed_with
from lrp_lens.methods.facets import Facet, record_name
from lrp_lens.methods.inputs import PatchingMetric
from lrp_lens.methods.method import Method
from lrp_lens.ops.gates import accumulation_dtype
from lrp_lens.rules import GRADIENT, RuleSet
from lrp_lens.run.dropped import LayerDrops
from lrp_lens.run.plain import plain_logits

Softmax = tuple[Tensor, Tensor]
"""Attention scores and pattern of one layer, [batch, head, dest, src]."""


@dataclass(frozen=True, eq=False)
class AtPStar(PatchingPass):
    """A `PatchingPass` whose scores are AtP*: hand it to the twins as `backward`."""

    drops: tuple[PatchingPass, ...] = ()
    """One pass per layer, with that layer's outputs dropped from the gradient; empty without GradDrop."""
    qk_fix: bool = True
    signed: bool = False
    _softmaxes: dict[str, tuple[dict[str, Tensor], list[Softmax]]] = field(default_factory=dict, repr=False)

    def forwards_for(self, facets: Iterable[Facet]) -> int:
        """Forward passes for these facets: the QK fix runs only for queries and keys."""
        parts = {facet.part for facet in facets} & {"q", "k"}
        return 1 + (1 + len(parts) if self.qk_fix and parts else 0)

    def scores(self, source: Any, facet: Facet) -> Float[Tensor, "batch layer ..."]:
        """AtP* scores of every patch of a facet, [batch, layer, *axes]."""
        if not self.drops:
            return self._one(self, source, facet)
        parts = []
        for layer, dropped in enumerate(self.drops):
            scores = self._one(dropped, source, facet)
            if facet.part in ("attn_out", "mlp_out"):  # recorded behind the place where it is dropped
                scores[:, layer] = 0
            parts.append(scores if self.signed else scores.abs())
        return torch.stack(parts).sum(0) / (len(parts) - 1)

    def _one(self, one: PatchingPass, source: Any, facet: Facet) -> Tensor:
        if not (self.qk_fix and facet.part in ("q", "k")):
            return PatchingPass.scores(one, source, facet)
        names = self.require(facet)
        other = self.other(source, names)
        own = self._softmax({})
        fixed = self._softmax({name: other[name] for name in names})
        rows = {}
        for layer, name in enumerate(names):
            to_pattern = _pattern_gradient(one, layer)
            if facet.part == "q":
                change = ((fixed[layer][1] - own[layer][1]) * to_pattern).sum(-1)
            elif "pos" in facet.axes:
                change = _key_effects(own[layer], fixed[layer], to_pattern).sum(-2)
            else:
                change = ((fixed[layer][1] - own[layer][1]) * to_pattern).sum(-1)
            by_pos = change.transpose(1, 2)  # [batch, pos, head]
            heads = other[name].shape[2]
            grouped = by_pos.unflatten(2, (heads, by_pos.shape[2] // heads)).sum(-1)
            rows[layer] = grouped if "pos" in facet.axes else grouped.sum(1)
        return self.batch.per_example(torch.stack([rows[layer] for layer in range(self.layers())], dim=1))

    def _softmax(self, patches: Mapping[str, Tensor]) -> list[Softmax]:
        """Scores and pattern of every layer, each with its own patch only; kept for the next facet."""
        key = next(iter(patches), "")
        before, result = self._softmaxes.get(key, ({}, []))
        if result and all(torch.equal(before[name], value) for name, value in patches.items()):
            return result
        result = read_softmax(self.model, self.batch.ids, patches, self.activations)
        self._softmaxes[key] = (dict(patches), result)
        return result


def read_softmax(
    model: Any, tokens: Tensor, patches: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> list[Softmax]:
    """Attention scores and patterns of every layer, when each layer alone gets its patch.

    Args:
        model: HookedTransformer or TransformerBridge.
        tokens: the run, [row, pos].
        patches: hook name → what to put there; each layer's z is put back, so that no other layer sees it.
        own: activations of the run, z included.

    Raises:
        SiteError: if the host does not compute attention patterns.
    """
    sites = resolve(model)
    kept: dict[tuple[int, str], Tensor] = {}
    hooks: list[tuple[Any, Any]] = []

    def put(value: Tensor) -> Any:
        def hook(tensor: Tensor, hook: Any) -> Tensor:
            return value.reshape(tensor.shape).to(tensor)

        return hook

    def keep(layer: int, what: str) -> Any:
        def hook(tensor: Tensor, hook: Any) -> None:
            kept[layer, what] = tensor.detach().to(accumulation_dtype(tensor.dtype), copy=True)

        return hook

    for site in sites.of(AttentionSite):
        assert site.layer is not None
        if site.scores is None or site.pattern is None:
            raise SiteError(
                f"The QK fix of AtP* reads attention patterns; {sites.host} fires none at {site}. Use eager attention "
                "(attn_implementation='eager'), or qk_fix=False."
            )
        hooks += [
            (site.scores.point, keep(site.layer, "scores")),
            (site.pattern.point, keep(site.layer, "p")),
        ]
        z = record_name("z", site.layer)
        if patches:
            hooks.append((site.z.point, put(own[z])))
    hooks += [(_point(sites, name), put(value)) for name, value in patches.items()]
    plain_logits(model, tokens, hooks)
    if len(kept) < 2 * sites.n_layers:
        raise SiteError(
            f"The QK fix of AtP* reads attention patterns; {sites.host} computes attention without them. Use eager "
            "attention (attn_implementation='eager'), or qk_fix=False."
        )
    return [(kept[layer, "scores"], kept[layer, "p"]) for layer in range(sites.n_layers)]


def _point(sites: Any, name: str) -> Any:
    return sites.record_of[name].port.point


def _pattern_gradient(passed: PatchingPass, layer: int) -> Float[Tensor, "batch head dest src"]:
    """∂m/∂P = gz · v, key-value heads repeated for the query heads of their group."""
    gradient, value = passed.gradients[record_name("z", layer)], passed.activations[record_name("v", layer)]
    value = value.repeat_interleave(gradient.shape[2] // value.shape[2], dim=2)
    wide = accumulation_dtype(gradient.dtype)
    return torch.einsum("bihd,bjhd->bhij", gradient.to(wide), value.to(wide))


def _key_effects(own: Softmax, fixed: Softmax, to_pattern: Tensor) -> Float[Tensor, "batch head dest src"]:
    """Change of the metric when one key alone is patched, by destination and key."""
    (scores, pattern), (patched, _) = own, fixed
    visible = pattern > 0
    _require_softmax(scores, pattern)
    delta = torch.where(visible, patched - scores, 0)
    up, down = delta.clamp(min=0), delta.clamp(max=0)
    # r / (1 + r) with r = P (e^δ - 1), numerator and denominator divided by e^max(δ, 0)
    numerator = pattern * (down.exp() - (-up).exp())
    moved = numerator / ((-up).exp() * (1 - pattern) + pattern * down.exp())
    mean = (pattern * to_pattern).sum(-1, keepdim=True)
    return torch.where(visible, moved * (to_pattern - mean), 0)


def _require_softmax(scores: Tensor, pattern: Tensor) -> None:
    """Raise SiteError unless the pattern is a softmax of these scores: score - log P is one number per row."""
    clear = pattern > 1e-4
    gap = torch.where(clear, scores - pattern.clamp_min(1e-30).log(), 0)
    highest = gap.masked_fill(~clear, -torch.inf).amax(-1)
    lowest = gap.masked_fill(~clear, torch.inf).amin(-1)
    if bool(((highest - lowest) > 0.05).any()):
        raise SiteError(
            "The QK fix of AtP* for single keys reads attention scores; this host fires other numbers there than the "
            "pattern is the softmax of. Pass qk_fix=False, or use HookedTransformer for this model."
        )


def atp_star(
    model: Any,
    corrupted_tokens: Any,
    patching_metric: PatchingMetric,
    *,
    rules: RuleSet | str = GRADIENT,
    qk_fix: bool = True,
    grad_drop: bool = True,
    signed: bool = False,
    prepend_bos: bool | None = None,
) -> AtPStar:
    """AtP* of one run; hand the result to `get_attribution_patch_*` as `backward`.

    Cost: one forward and backward pass; with `grad_drop` one backward pass per layer, from that layer down; three
    forward passes for the QK fix.  Every node is scored in every pass: cost does not grow with their number.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        corrupted_tokens: the run that is patched.
        patching_metric: logits → scalar, or one number per prompt.
        rules: LRP rules instead of the plain gradient.
        qk_fix: recompute the softmax for queries and keys.
        grad_drop: average over gradients with one layer dropped each.
        signed: keep signs in that average (the paper takes absolute values).
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.

    Raises:
        InputError: as `run_with_relevance`, or GradDrop on a model of one layer.

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model
        >>> model = load_demo_model(device="cpu")
        >>> passed = atp_star(model, "then mary and john went to the park . mary gave the key to",
        ...                   LogitDiff("mary", "john"))
        >>> passed.forwards, passed.backwards
        (4, 5)
    """
    sites = resolve(model)
    if grad_drop and sites.n_layers < 2:
        raise InputError("GradDrop averages over L - 1 layers; this model has one. Pass grad_drop=False.")
    dropped = LayerDrops(sites) if grad_drop else None
    base = passed_with(
        model, corrupted_tokens, patching_metric, rules, prepend_bos=prepend_bos, drops=dropped
    )
    drops = tuple(replace(base, gradients=one) for one in (dropped.gradients if dropped else ()))
    fields = {name: getattr(base, name) for name in base.__dataclass_fields__}
    fields |= {"forwards": 1 + (3 if qk_fix else 0), "backwards": 1 + len(drops)}
    return AtPStar(**fields, drops=drops, qk_fix=qk_fix, signed=signed)


def _make(
    model: Any, batch: TokenBatch, other: TokenBatch, metric: PatchingMetric, **options: Any
) -> PatchingPass:
    return atp_star(model, batch, metric, **options)


METHODS = (
    Method("ATP_STAR", _make, unsigned=True),
    Method("ATP_STAR_SIGNED", partial(_make, signed=True)),
    Method("ATP_QK_FIX", partial(_make, grad_drop=False)),
)
