"""Attribution and relevance patching: every patch at once, from one backward pass.

1. Run the corrupted prompts once under the rules and go backward once from the metric: activations a and gradients g
   of every part of every layer (`PatchingPass`).
2. Take the clean activations a′ (a cache, or one forward pass).
3. The effect of a patch is, to first order, Σ (a′ - a) ⊙ g over what the patch replaces.
4. Lay the sums out as transformer_lens.patching does (`Facet.reduce`).

Without rules this is attribution patching (Nanda 2023; Syed et al. 2310.10348); with LRP rules, whose gradient is
the LRP coefficient, it is relevance patching (RelP, Jafari et al. 2508.21258).  Scores are changes of the metric, in
its units: an activation patch minus the metric of the unpatched run.
What a rule cuts off, or the host keeps out of the graph, is NaN, and `PatchingPass.missing` says why.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.hosts import dead, resolve
from lrp_lens.hosts.sites import Sites
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.methods.facets import PARTS, Facet, record_name
from lrp_lens.methods.inputs import (
    PatchingMetric,
    aligned,
    is_cache,
    lengths,
    per_prompt,
    source_activations,
)
from lrp_lens.methods.missing import missing_parts, require_part
from lrp_lens.ops.gates import accumulation_dtype
from lrp_lens.rules import GRADIENT, RELP, RuleSet, as_rule_set
from lrp_lens.run.dropped import LayerDrops
from lrp_lens.run.pairs import require_aligned, require_different
from lrp_lens.run.plain import plain_activations
from lrp_lens.run.relevance import relevance_run

_OTHER_END = (
    "An integrated pass serves the clean run that its path ends at; these are other clean prompts. Make the pass with "
    "integrated_pass from these."
)


@dataclass(frozen=True, eq=False)
class PatchingPass:
    """Activations and gradients of one run, from which every facet's scores follow.

    Make one with `patching_pass` (or `integrated_pass`) and hand it to the twins as `backward`.
    """

    model: Any
    batch: TokenBatch
    """The run that is patched, the metric's answers appended."""
    metric: PatchingMetric
    """As the caller gave it."""
    rules: RuleSet
    activations: Mapping[str, Tensor]
    """Hook name → what that run computed there."""
    gradients: Mapping[str, Tensor]
    """Hook name → gradient (under rules: LRP coefficient) of each prompt's metric, same shapes."""
    value: Float[Tensor, " batch"]
    """The metric of each prompt, unpatched."""
    missing: Mapping[str, str]
    """Hook name → why it has no gradient."""
    forwards: int = 1
    backwards: int = 1
    path_end: Tensor | None = None
    """Token ids of the clean run, [row, pos], if the gradients are means along the path to it; they serve no other."""
    _end: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    """What the clean run of `path_end` computed where a cache of it can be recognised."""
    _sources: dict[bytes, dict[str, Tensor]] = field(default_factory=dict, repr=False)
    """Token ids → activations of the other run, so that one forward pass serves every facet."""
    _sites: Sites | None = field(default=None, repr=False)

    @property
    def tokens(self) -> Tensor:
        """Token ids of the run that is patched, [row, pos]."""
        return self.batch.ids

    def forwards_for(self, facets: Iterable[Facet]) -> int:
        """Forward passes that scoring these facets takes, besides the clean run."""
        return self.forwards

    @property
    def sites(self) -> Sites:
        """The model's, as they were when the pass was made."""
        return self._sites or resolve(self.model)

    def layers(self) -> int:
        """Number of layers of the model."""
        return self.sites.n_layers

    def require(self, facet: Facet) -> list[str]:
        """Hook names of a facet, one per layer.

        Raises:
            SiteError: if no layer of the model has the part.
            InputError: if this pass did not record it.
        """
        names = [record_name(facet.part, layer) for layer in range(self.layers())]
        require_part(self.sites, facet.part)
        lost = [name for name in names if name not in self.gradients and name not in self.missing]
        if lost:
            raise InputError(
                f"This pass did not record {lost[0]!r}; it was made with other parts. Make it with "
                f"patching_pass(..., parts=[{facet.part!r}, ...]) or without `parts`."
            )
        return names

    def scores(self, source: Any, facet: Facet) -> Float[Tensor, "batch layer ..."]:
        """First-order effect of every patch of a facet on each prompt's metric, [batch, layer, *axes].

        Args:
            source: the other run: its ActivationCache, its prompts, or a mapping from hook names.
            facet: an entry of `FACETS`.

        Raises:
            InputError: for another clean run than an integrated pass was made with.
        """
        names = self.require(facet)
        other = self.other(source, [name for name in names if name in self.gradients])
        products = {}
        for layer, name in enumerate(names):
            if name in self.gradients:
                own = self.activations[name]
                wide = accumulation_dtype(own.dtype)
                change = other[name].reshape(own.shape).to(own.device, wide) - own.to(wide)
                products[layer] = change * self.gradients[name].to(wide) * self._share(facet.part, layer)
        return self._laid_out(facet, products)

    def other(self, source: Any, names: Iterable[str]) -> dict[str, Tensor]:
        """Activations of the other run at these hook points; prompts are run once for all facets."""
        shape = (self.batch.ids.shape[0], self.batch.ids.shape[1])
        if is_cache(source):
            self._require_path_end(source, shape)
            return source_activations(self.model, source, names, shape)
        tokens = aligned(self.model, source, "clean", self.metric).ids
        require_aligned(lengths(tokens.shape), lengths(shape))
        require_different(tokens, self.tokens)
        if self.path_end is not None and not torch.equal(tokens.to(self.path_end.device), self.path_end):
            raise InputError(_OTHER_END)
        key = tokens.cpu().numpy().tobytes()
        if key not in self._sources:
            self._sources.clear()
            self._sources[key] = plain_activations(self.model, tokens, self.gradients)[1]
        return self._sources[key]

    def _require_path_end(self, cache: Any, shape: tuple[int, int]) -> None:
        """Recognise a cache of the clean run by what it holds before the first layer."""
        if self.path_end is None:
            return
        for name, end in self._end.items():
            try:
                found = source_activations(self.model, cache, [name], shape)[name]
            except InputError:
                continue
            if not torch.allclose(found.to(end), end, atol=1e-4, rtol=1e-3):
                raise InputError(_OTHER_END)
            return
        raise InputError(
            f"An integrated pass serves one clean run, recognised in a cache by {' or '.join(self._end)}; this one "
            "holds neither. Pass the clean tokens, or cache one of them."
        )

    def _laid_out(self, facet: Facet, products: Mapping[int, Tensor]) -> Tensor:
        rows = {layer: self.batch.per_example(facet.reduce(product)) for layer, product in products.items()}
        shape = next(iter(rows.values())).shape if rows else self._shape(facet)
        nothing = torch.full(shape, torch.nan, device=self.batch.ids.device, dtype=self.value.dtype)
        return torch.stack([rows.get(layer, nothing) for layer in range(self.layers())], dim=1)

    def _shape(self, facet: Facet) -> tuple[int, ...]:
        """Of one layer, where no layer has a gradient."""
        cfg, length = self.model.cfg, self.batch.ids.shape[1]
        heads = (getattr(cfg, "n_key_value_heads", None) if facet.part in "kv" else None) or cfg.n_heads
        return (self.batch.n_examples, *(heads if axis == "head" else length for axis in facet.axes))

    def _share(self, part: str, layer: int) -> float:
        """What the product pattern · v gives the pattern; the rule scales q, k and v, beyond this point."""
        rule = self.rules.rule_for("attention", layer)
        return float(rule.share("pattern")) if part == "pattern" else 1.0


def patching_pass(
    model: Any,
    corrupted_tokens: Any,
    patching_metric: PatchingMetric,
    *,
    rules: RuleSet | str = RELP,
    parts: Iterable[str] | None = None,
    prepend_bos: bool | None = None,
) -> PatchingPass:
    """One forward and one backward pass, from which all twins read.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        corrupted_tokens: the run that is patched: token ids [batch, pos] or prompts of one length (for noising the
            clean run).
        patching_metric: logits → scalar, or one number per prompt.
        rules: a rule set or the name of a preset; `GRADIENT` for attribution patching.
        parts: which activations to keep, of `PARTS`; all by default (the pattern is quadratic in length).
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.

    Returns:
        PatchingPass: hand it to `get_lrp_patch_*` and `get_attribution_patch_*` as `backward`.

    Raises:
        InputError, MetricError, SiteError: as `run_with_relevance` does.

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model
        >>> from lrp_lens.patching import get_lrp_patch_resid_pre, patching_pass
        >>> model = load_demo_model(device="cpu")
        >>> clean = "then mary and john went to the park . john gave the key to"
        >>> corrupted = "then mary and john went to the park . mary gave the key to"
        >>> metric = LogitDiff("mary", "john")
        >>> backward = patching_pass(model, corrupted, metric)
        >>> get_lrp_patch_resid_pre(model, corrupted, clean, metric, backward=backward).shape
        torch.Size([4, 15])
    """
    return passed_with(model, corrupted_tokens, patching_metric, rules, parts, prepend_bos)


def passed_with(
    model: Any,
    corrupted_tokens: Any,
    patching_metric: Any,
    rules: RuleSet | str,
    parts: Iterable[str] | None = None,
    prepend_bos: bool | None = None,
    drops: LayerDrops | None = None,
) -> PatchingPass:
    """`patching_pass`, and further backward passes of the same graph where `drops` asks for them."""
    rules, metric = as_rule_set(rules), per_prompt(patching_metric, model)
    batch = aligned(model, corrupted_tokens, "corrupted", metric, prepend_bos)
    wanted = tuple(PARTS) if parts is None else tuple(parts)
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        raise InputError(f"parts are {', '.join(PARTS)}; received {unknown[0]!r}.")
    sites = resolve(model)
    missing = missing_parts(sites, dead(model), rules)
    asked = {record_name(part, layer) for part in wanted for layer in range(sites.n_layers)}
    names = (asked - set(missing)) | {record_name("resid_pre", 0)}  # there is always something to go back to
    _, cache = relevance_run(model, batch, metric, rules, lambda name: name in names, drops=drops)
    for name in names - set(cache):
        missing[name] = f"{sites.host} computes {name} outside the graph"
    found = names & set(cache)
    return PatchingPass(
        model=model,
        batch=batch,
        metric=patching_metric,
        rules=rules,
        activations={name: cache.activations[name] for name in found},
        gradients={name: cache.gradients[name] for name in found},
        value=cache.metric_value,
        missing=missing,
        _sites=sites,
    )


def no_pass(model: Any, batch: TokenBatch, other: TokenBatch, metric: PatchingMetric) -> PatchingPass:
    """For scores that need neither activations nor gradients."""
    value = torch.full((batch.n_examples,), torch.nan)
    return PatchingPass(model, batch, metric, GRADIENT, {}, {}, value, {}, forwards=0, backwards=0)


def reasons(passed: PatchingPass, facet: Facet) -> tuple[str, ...]:
    """Why layers of a facet are NaN; empty if none is."""
    names = (record_name(facet.part, layer) for layer in range(passed.layers()))
    return tuple(passed.missing[name] for name in names if name in passed.missing)
