"""get_act_patch_*, get_attribution_patch_* and get_lrp_patch_*: the same arguments, the same shapes.

`get_act_patch_*` returns the metric of the patched run, as transformer_lens does; its twins return the change of the
metric, in the metric's units: activation patch - metric of the unpatched run.  With transformer_lens' usual metric,
normalised so that the unpatched run has 0 and the other run 1, the two are on one scale as they stand; `baseline=True`
adds the unpatched metric otherwise.

One class for activation patching (`sweeps.Sweep`) and one for attribution and relevance patching (`Twin`) serve every
facet of `FACETS` and every bundle of `BUNDLES`; `functions` holds their instances.
"""

import warnings
from typing import Any

import torch
from torch import Tensor

from lrp_lens.errors import InputError, SiteError
from lrp_lens.methods.attribution import PatchingPass, patching_pass, reasons
from lrp_lens.methods.facets import BUNDLES
from lrp_lens.methods.inputs import PatchingMetric, base_and_source, settled_metric
from lrp_lens.patching.checks import one_metric
from lrp_lens.patching.named import Named, bundled, facets_of, filled
from lrp_lens.rules import GRADIENT, RuleSet, as_rule_set
from lrp_lens.run.pairs import Direction


class CutOffWarning(UserWarning):
    """A facet holds NaN, because a rule cuts it off or the host keeps it out of the graph; the text says which."""


class Twin(Named):
    """Attribution or relevance patching of one facet."""

    def __init__(self, name: str, prefix: str, default: RuleSet) -> None:
        what = "Attribution patching" if default.is_gradient else "Relevance (LRP) patching"
        super().__init__(name, prefix, what)
        self.default = default

    def __call__(
        self,
        model: Any,
        corrupted_tokens: Any,
        clean_cache: Any,
        patching_metric: PatchingMetric | None = None,
        *,
        metric: PatchingMetric | None = None,
        rules: RuleSet | str | None = None,
        backward: PatchingPass | None = None,
        direction: Direction = "denoising",
        baseline: bool = False,
        prepend_bos: bool | None = None,
        **others: Any,
    ) -> Tensor:
        """First-order effect of every patch.

        Args:
            model: HookedTransformer or TransformerBridge in eval mode.
            corrupted_tokens: token ids [batch, pos], or prompts of one length.
            clean_cache: ActivationCache of the clean run, or the clean prompts.
            patching_metric: logits → scalar, or one number per prompt (its mean is attributed);
                default: the clean run's top token against its runner-up (needs prompts for clean_cache).
            metric: the same, by the name that transformer_lens' bundles give it.
            rules: LRP rules or the name of a preset, default RELP; attribution patching has none.
            backward: a pass made by `patching_pass` (or `integrated_pass`) of this model, run, metric and rule set,
                to serve several twins; without a metric, its own.
            direction: as in activation patching; with "noising" the pass is one of the clean run.
            baseline: add the metric of the unpatched run, as `get_act_patch_*` has it.
            prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
            others: refused; it catches options that only transformer_lens.patching has.

        Returns:
            Scores in the metric's units, with the axes of the facet.  NaN (and a `CutOffWarning`) where a rule cuts
            the activation off; heads of k and v are key-value heads.

        Raises:
            InputError: runs that are not aligned, train mode, or a pass of another model, run, metric or rule set;
                options that only transformer_lens.patching has (index_df, return_index_df).
            SiteError: the model has no such part.
        """
        asked = one_metric(self.__name__, patching_metric, metric, others)
        rules = self._rules(rules, backward)
        own = backward.metric if asked is None and backward is not None else asked
        own = settled_metric(model, clean_cache, own, prepend_bos)
        batch, source = base_and_source(model, corrupted_tokens, clean_cache, direction, own, prepend_bos)
        facets = facets_of(self.facet)
        if backward is None:
            parts = {facet.part for facet in facets}
            backward = patching_pass(model, batch, own, rules=rules, parts=parts)
        else:
            _require_same(backward, model, batch.ids, own, rules)
        results: list[Tensor | None] = []
        told: list[str] = []
        for facet in facets:
            try:
                results.append(backward.scores(source, facet).mean(0))
                told += reasons(backward, facet)
            except SiteError:
                if self.facet not in BUNDLES:
                    raise
                results.append(None)
        if told:
            warnings.warn(f"{self.__name__} holds NaN: {'; '.join(told)}.", CutOffWarning, stacklevel=2)
        scores = bundled(self.facet, filled(results, facets))
        return scores + backward.value.mean() if baseline else scores

    def _rules(self, rules: RuleSet | str | None, backward: Any) -> RuleSet:
        if backward is not None and not isinstance(backward, PatchingPass):
            raise InputError(f"backward is a pass made by patching_pass; received {type(backward).__name__}.")
        rules = None if rules is None else as_rule_set(rules)
        if self.default.is_gradient:
            given = rules or (GRADIENT if backward is None else backward.rules)
            if not given.is_gradient:
                raise InputError(
                    f"Attribution patching has no rules; received {given.name}. Use get_lrp_patch_{self.facet}."
                )
            return GRADIENT
        return rules or (self.default if backward is None else backward.rules)


def _require_same(
    backward: PatchingPass, model: Any, tokens: Tensor, metric: PatchingMetric, rules: RuleSet
) -> None:
    """Raise InputError unless the pass is one of this model, run, metric and rule set."""
    if backward.model is not model:
        raise InputError(
            "A backward pass serves the model that it was made with; this one is of another model object. Make it "
            "with patching_pass from this model."
        )
    if backward.tokens.shape != tokens.shape or not torch.equal(backward.tokens, tokens):
        raise InputError(
            "A backward pass serves the run that it was made from; this one is of other tokens. For noising make it "
            "from the clean tokens."
        )
    if backward.metric is not metric and backward.metric != metric:
        raise InputError(
            f"A backward pass serves the metric that it was made from, {backward.metric!r}; received {metric!r}. "
            "Pass the same object, or make another pass."
        )
    if backward.rules != rules:
        raise InputError(
            f"A backward pass serves the rules that it was made under, {backward.rules.name}; received {rules.name}."
        )
