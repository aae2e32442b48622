"""Integrated gradients along the embedding path: gradients, or LRP coefficients, averaged between two runs.

Sites, from the corrupted to the clean run:

1. At each point of the path between their embeddings (`lrp_lens.run.path`), run the model under the rules and go
   backward from the metric.
2. Average the gradients; the score of a patch is (a′ - a) ⊙ that average.

Without rules: EAP-IG (inputs) of Hanna et al. 2403.17806, here for nodes.  At the embedding the scores sum to the
difference of the metrics, up to the midpoint rule's error (Sundararajan et al. 2017).  With LRP rules: the same
average of LRP coefficients.

Tokens, from the replacement b to the embedding x: (x − b) ⊙ mean gradient on the straight path between them, special
tokens kept; the scores sum to m(x) − m(everything masked) up to the error of the midpoint rule.  Near b the embedding
is small and a norm undoes its scale, so the metric changes steeply there: 20 steps are too few, and b = 0 is a bad
choice for any number of steps.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lrp_lens.hosts.names import Names
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.methods.attribution import PatchingPass, patching_pass
from lrp_lens.methods.inputs import PatchingMetric, activations, aligned, lengths
from lrp_lens.methods.method import Method
from lrp_lens.methods.question import TokenQuestion
from lrp_lens.rules import GRADIENT, RELP, RuleSet, as_rule_set
from lrp_lens.run.pairs import require_aligned, require_different
from lrp_lens.run.path import mean_gradient, midpoints, placed

SITE_STEPS, TOKEN_STEPS = 5, 50
"""Points of the path by default; EAP-IG takes 5."""


def integrated_pass(
    model: Any,
    corrupted_tokens: Any,
    clean_tokens: Any,
    patching_metric: PatchingMetric,
    *,
    steps: int = 5,
    rules: RuleSet | str = GRADIENT,
    prepend_bos: bool | None = None,
) -> PatchingPass:
    """A `PatchingPass` whose gradients are averages along the embedding path; hand it to the twins as `backward`.

    It serves these clean prompts only, which are the end of its path.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        corrupted_tokens: the run that is patched.
        clean_tokens: the other end of the path, aligned with it.
        patching_metric: logits → scalar, or one number per prompt.
        steps: m, the number of points of the path (5 in EAP-IG).
        rules: LRP rules (or the name of a preset), to average LRP coefficients.
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.

    Raises:
        InputError: steps below 1, or prompts that are not aligned.

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model
        >>> from lrp_lens.patching import get_attribution_patch_resid_pre
        >>> model = load_demo_model(device="cpu")
        >>> clean = "then mary and john went to the park . john gave the key to"
        >>> corrupted = "then mary and john went to the park . mary gave the key to"
        >>> metric = LogitDiff("mary", "john")
        >>> passed = integrated_pass(model, corrupted, clean, metric, steps=3)
        >>> get_attribution_patch_resid_pre(model, corrupted, clean, metric, backward=passed).shape
        torch.Size([4, 15])
    """
    shares = midpoints(steps)
    base = patching_pass(model, corrupted_tokens, patching_metric, rules=rules, prepend_bos=prepend_bos)
    clean = aligned(model, clean_tokens, "clean", base.metric, prepend_bos).ids
    require_aligned(lengths(clean.shape), lengths(base.batch.ids.shape))
    require_different(clean, base.batch.ids)
    recognised = activations(model, clean, [Names.EMBED, Names.resid_pre(0)])
    total: dict[str, Tensor] = {}
    for share in shares:
        with placed(model, None, recognised[Names.EMBED], share):
            passed = patching_pass(model, base.batch, patching_metric, rules=rules)
        for name, gradient in passed.gradients.items():
            total[name] = total[name] + gradient if name in total else gradient
    gradients = {name: gradient / steps for name, gradient in total.items()}
    return replace(
        base,
        gradients=gradients,
        forwards=2 + steps,
        backwards=1 + steps,
        path_end=clean,
        _end=recognised,
    )


def integrated_gradients(
    steps: int | None = None, rules: RuleSet | str = GRADIENT, name: str | None = None
) -> Method:
    """Integrated gradients (of sites also LRP coefficients) with `steps` points of the midpoint rule.

    Args:
        steps: points of the path; None: 5 for sites, 50 for tokens.
        rules: under LRP rules only sites have scores.
        name: in tables; "integrated gradients", with the rules, by default.

    Raises:
        InputError: fewer than one step.
        RuleError: no rule set.

    Example:
        >>> integrated_gradients(20, "RELP").name
        'integrated gradients with RELP'
    """
    rules = as_rule_set(rules)
    for_sites, shares = steps or SITE_STEPS, midpoints(TOKEN_STEPS if steps is None else steps)

    def make(model: Any, batch: TokenBatch, other: TokenBatch, metric: PatchingMetric) -> PatchingPass:
        return integrated_pass(model, batch, other, metric, steps=for_sites, rules=rules)

    def score(question: TokenQuestion) -> Tensor:
        width = question.batch.ids.shape[1]
        maskable = torch.zeros(width, 1, dtype=torch.bool, device=question.tokens.device)
        maskable[question.maskable] = True
        replacement = torch.nn.functional.pad(question.replacement, (0, 0, 0, width - len(question.tokens)))

        def masked(embedding: Tensor) -> Tensor:
            return torch.where(maskable, replacement.to(embedding), embedding)

        gradient, difference = mean_gradient(
            question.model, question.batch.ids, masked, shares, question.bound
        )
        scores = question.batch.per_position((difference * gradient).sum(-1))
        return scores[0, : len(question.tokens)]

    default = "integrated gradients" if rules.is_gradient else f"integrated gradients with {rules.name}"
    return Method(
        name or default,
        make,
        score if rules.is_gradient else None,
        cost=f"{len(shares)}F + {len(shares)}B",
        lrp=not rules.is_gradient,
        words=f"{for_sites} steps, {rules}",
    )


METHODS = (
    replace(integrated_gradients(), aliases=("IG",)),
    replace(integrated_gradients(rules=RELP), aliases=("IG_RELP",)),
)
