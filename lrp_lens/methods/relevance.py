"""Relevance under a rule set, and gradient × input.

1. Sites: attribution patching under GRADIENT, relevance patching under other rules (`attribution`).
2. Tokens: relevance at the embedding, one forward and one backward pass; under GRADIENT it is gradient × input.
   Prompts of like length share a pass.
3. Gradient × input of sites: the activation of the run itself in place of the change, a ⊙ g.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.hosts.names import Names
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.methods.attribution import PatchingPass, patching_pass
from lrp_lens.methods.facets import Facet
from lrp_lens.methods.inputs import PatchingMetric
from lrp_lens.methods.method import Method
from lrp_lens.methods.question import TokenQuestion
from lrp_lens.rules import GRADIENT, PRESETS, VARIANTS, RuleSet, as_rule_set
from lrp_lens.run.over import relevance_over
from lrp_lens.run.path import TOKENS_AT_ONCE
from lrp_lens.run.relevance import run_with_relevance


def relevance_method(rules: RuleSet | str) -> Method:
    """Relevance under a rule set (or a preset's name): patching at sites, relevance of tokens.

    Example:
        >>> relevance_method("cp-lrp").name
        'CP_LRP'
    """
    rules = as_rule_set(rules)

    def make(model: Any, batch: TokenBatch, other: TokenBatch, metric: PatchingMetric) -> PatchingPass:
        return patching_pass(model, batch, metric, rules=rules)

    def score(question: TokenQuestion) -> Tensor:
        _, relevance = run_with_relevance(
            question.model,
            question.batch,
            question.metric,
            rules=rules,
            names_filter=Names.EMBED,
            logits="metric",
        )
        return relevance.sum_to_positions(Names.EMBED)[0, : len(question.tokens)]

    def together(questions: Sequence[TokenQuestion]) -> list[np.ndarray | Tensor]:
        prompts, metrics = [one.tokens for one in questions], [one.metric for one in questions]
        found: list[np.ndarray | Tensor] = []
        for one in relevance_over(
            questions[0].model,
            prompts,
            metrics,
            rules=rules,
            batch_tokens=TOKENS_AT_ONCE,
            progress=False,
        ):
            if one.error is None:
                found.append(one.views["tokens"].values[: len(prompts[one.index])])
            else:
                found.append(score(questions[one.index]))  # alone it says why it is refused
        return found

    return Method(
        rules.name,
        make,
        score,
        cost="1F + 1B",
        requires=rules.plan,
        together=together,
        lrp=not rules.is_gradient,
        words=str(rules),
        aliases=("attribution patching",) if rules.is_gradient else (),
    )


def gradient_times_input(passed: PatchingPass, facet: Facet) -> Float[Tensor, "batch layer ..."]:
    """Activation ⊙ gradient (under rules: relevance) of the run itself, summed as a facet's patches are."""
    names = passed.require(facet)
    zeros = {name: torch.zeros_like(passed.activations[name]) for name in names if name in passed.gradients}
    return -replace(passed, path_end=None).scores(zeros, facet)


def _gradient_times_input(passed: PatchingPass, source: Any, facet: Facet) -> Tensor:
    return gradient_times_input(passed, facet)


METHODS = (
    *map(relevance_method, (PRESETS | VARIANTS).values()),
    replace(
        relevance_method(GRADIENT),
        name="GRADIENT_X_INPUT",
        score=_gradient_times_input,
        forwards=0,
        words="",
        aliases=("gradient × input",),
    ),
)
"""GRADIENT is attribution patching (AtP)."""
