"""Methods that `compare` sets beside activation patching, by name.

Each method is one run of passes that then scores every facet; what it costs is counted in passes over all prompts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lrp_lens.errors import InputError, RuleError, did_you_mean
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.patching.atp_star import atp_star
from lrp_lens.patching.attribution import PatchingPass, patching_pass, reasons
from lrp_lens.patching.checks import require_whole
from lrp_lens.patching.controls import attention_rollout, gradient_times_input
from lrp_lens.patching.facets import Facet
from lrp_lens.patching.inputs import PatchingMetric
from lrp_lens.patching.integrated import integrated_pass
from lrp_lens.rules import GRADIENT, PRESETS, RELP, RuleSet, as_rule_set

Score = Callable[[PatchingPass, Any, Facet], Tensor]
"""(pass, clean tokens, facet) → scores [batch, layer, *axes]."""


@dataclass(frozen=True)
class Method:
    """One way to score every cell."""

    name: str
    make: Callable[[Any, TokenBatch, TokenBatch, PatchingMetric], PatchingPass]
    """(model, patched run, other run, metric) → pass."""
    score: Score
    forwards: int = 1
    """Forward passes besides those of the pass: the clean run."""
    unsigned: bool = False
    """Whether scores have no sign: they are compared with |exact|."""
    lrp: bool = False
    """Whether LRP rules are at work."""
    words: str = ""
    """What the scores depend on besides the name: rules, number of steps."""
    draws: int = 0
    """Random rankings in place of scores, without running the model: statistics are means over so many draws."""

    def why_missing(self, passed: PatchingPass, facet: Facet) -> tuple[str, ...]:
        """Why layers of a facet are NaN."""
        return reasons(passed, facet)


def _plain(passed: PatchingPass, source: Any, facet: Facet) -> Tensor:
    return passed.scores(source, facet)


def _gradient_times_input(passed: PatchingPass, source: Any, facet: Facet) -> Tensor:
    return gradient_times_input(passed, facet)


def _rollout(passed: PatchingPass, source: Any, facet: Facet) -> Tensor:
    return attention_rollout(passed, facet)


def _no_pass(model: Any, batch: TokenBatch, other: TokenBatch, metric: PatchingMetric) -> PatchingPass:
    """For scores that need neither activations nor gradients."""
    value = torch.full((batch.n_examples,), torch.nan)
    return PatchingPass(model, batch, metric, GRADIENT, {}, {}, value, {}, forwards=0, backwards=0)


def _random(passed: PatchingPass, source: Any, facet: Facet) -> Tensor:
    raise InputError("RANDOM has no pass to score; use random_scores or random_draws.")


def of_rules(rules: RuleSet | str) -> Method:
    """Attribution patching (GRADIENT) or relevance patching under a rule set, or a preset's name."""
    rules = as_rule_set(rules)

    def make(model: Any, batch: TokenBatch, other: TokenBatch, metric: PatchingMetric) -> PatchingPass:
        return patching_pass(model, batch, metric, rules=rules)

    return Method(rules.name, make, _plain, lrp=not rules.is_gradient, words=str(rules))


def integrated(rules: RuleSet | str = GRADIENT, steps: int = 5, name: str | None = None) -> Method:
    """Integrated gradients (or LRP coefficients) on the embedding path."""
    rules = as_rule_set(rules)
    require_whole(steps, "steps", 1)

    def make(model: Any, batch: TokenBatch, other: TokenBatch, metric: PatchingMetric) -> PatchingPass:
        return integrated_pass(model, batch, other, metric, steps=steps, rules=rules)

    default = "IG" if rules.is_gradient else f"IG_{rules.name}"
    words = f"{steps} steps, {rules}"
    return Method(name or default, make, _plain, lrp=not rules.is_gradient, words=words)


def _atp_star(
    model: Any, batch: TokenBatch, other: TokenBatch, metric: PatchingMetric, **options: Any
) -> PatchingPass:
    return atp_star(model, batch, metric, **options)


_GRADIENT = of_rules(GRADIENT)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        *map(of_rules, PRESETS.values()),
        Method("ATP_STAR", _atp_star, _plain, unsigned=True),
        Method("ATP_STAR_SIGNED", partial(_atp_star, signed=True), _plain),
        Method("ATP_QK_FIX", partial(_atp_star, grad_drop=False), _plain),
        integrated(),
        integrated(RELP),
        Method("GRADIENT_X_INPUT", _GRADIENT.make, _gradient_times_input, forwards=0),
        Method("ROLLOUT", _no_pass, _rollout, forwards=1, unsigned=True),
        Method("RANDOM", _no_pass, _random, forwards=0, draws=20),
    )
}
"""Name → method.  GRADIENT is attribution patching (AtP); ROLLOUT and RANDOM are controls."""


def method_of(method: "str | RuleSet | Method") -> Method:
    """A method from its name (that of a preset in any spelling), a rule set, or itself.

    Raises:
        InputError: for anything else.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, str) and method in METHODS:
        return METHODS[method]
    try:
        return of_rules(method)
    except RuleError as error:
        raise InputError(
            f"A method is a RuleSet, a Method, or one of {', '.join(METHODS)}; received {method!r}."
            f"{did_you_mean(method, METHODS)}"
        ) from error
