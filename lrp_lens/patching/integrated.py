"""Integrated gradients along the embedding path: coefficients averaged between the corrupted and the clean run.

1. At each point of the path from the corrupted to the clean embeddings (`lrp_lens.run.path`), run the model under the
   rules and go backward from the metric.
2. Average the gradients; the score of a patch is (a′ - a) ⊙ that average.

Without rules: EAP-IG (inputs) of Hanna et al. 2403.17806, here for nodes.  At the embedding the scores sum to the
difference of the metrics, up to the midpoint rule's error (Sundararajan et al. 2017).  With LRP rules: the same
average of LRP coefficients.
"""

from dataclasses import replace
from typing import Any

from torch import Tensor

from lrp_lens.hosts.names import Names
from lrp_lens.hosts.tokens import require_different
from lrp_lens.patching.attribution import PatchingPass, patching_pass
from lrp_lens.patching.inputs import PatchingMetric, activations, aligned, require_aligned
from lrp_lens.rules import GRADIENT, RuleSet
from lrp_lens.run.path import midpoints, placed


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
    require_aligned((clean.shape[0], clean.shape[1]), (base.batch.ids.shape[0], base.batch.ids.shape[1]))
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
