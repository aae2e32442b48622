"""A token method: a named function that scores every token of a question. Any rule set is one.

Scores are signed: positive says that the token pushes the metric up.  A method of your own is a function
question → scores [pos]; it finds the model, the tokens and the metric on the question.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import InputError, RuleError, SiteError, did_you_mean
from lrp_lens.hosts.names import Names
from lrp_lens.masking.question import Question
from lrp_lens.rules import PRESETS, RuleSet, as_rule_set
from lrp_lens.run.relevance import run_with_relevance


@dataclass(frozen=True)
class TokenMethod:
    """A way to score tokens."""

    name: str
    """Name in tables."""
    function: Callable[[Question], Any]
    """question → scores [pos], a tensor or an array; values at special tokens are ignored."""
    cost: str = "?"
    """Passes per prompt: F forward, B backward, n the number of tokens."""
    requires: Callable[[Any], object] | None = None
    """model → anything; raises where the method cannot be applied to that model, before any work."""

    def scores(self, question: Question) -> Float[np.ndarray, " pos"]:
        """The scores in float64, checked.

        Raises:
            InputError: not one finite number per token.
        """
        scores = self.function(question)
        scores = scores.detach().cpu().double().numpy() if isinstance(scores, Tensor) else np.asarray(scores)
        scores = scores.astype(np.float64)
        if scores.shape != (len(question.tokens),) or not np.isfinite(scores).all():
            raise InputError(
                f"A token method returns one finite number per token, shape ({len(question.tokens)},); "
                f"{self.name!r} returned shape {scores.shape}"
                + ("." if np.isfinite(scores).all() else " with NaN or infinite values.")
            )
        return scores


def relevance_method(rules: RuleSet) -> TokenMethod:
    """Token relevance under a rule set: one forward and one backward pass.

    Example:
        >>> relevance_method(PRESETS["CP_LRP"]).name
        'CP_LRP'
    """

    def score(question: Question) -> Tensor:
        _, relevance = run_with_relevance(
            question.model,
            question.batch,
            question.metric,
            rules=rules,
            names_filter=Names.EMBED,
            logits="metric",
        )
        return relevance.sum_to_positions(Names.EMBED)[0, : len(question.tokens)]

    return TokenMethod(rules.name, score, "1F + 1B", rules.plan)


def inapplicable(model: Any, methods: Sequence[TokenMethod], refuse: bool) -> dict[str, str]:
    """Name → reason of each method that this model cannot have.

    Args:
        model: a HookedTransformer or TransformerBridge.
        methods: the methods.
        refuse: raise the first reason instead, as befits methods that were asked for by name.

    Raises:
        RuleError, SiteError: with `refuse`, what the method itself says.
    """
    reasons = {}
    for method in methods:
        try:
            if method.requires is not None:
                method.requires(model)
        except (RuleError, SiteError) as error:
            if refuse:
                raise
            reasons[method.name] = str(error)
    return reasons


MethodLike = TokenMethod | RuleSet | str | Callable[[Question], Any]


def as_methods(methods: Any) -> tuple[TokenMethod, ...]:
    """Methods from rule sets, names (of presets in any spelling), functions; None for every preset and every baseline.

    Raises:
        InputError: an unknown name, two methods of one name, or none at all.
    """
    from lrp_lens.masking.baselines import BASELINES

    known = {name: relevance_method(rules) for name, rules in PRESETS.items()} | dict(BASELINES)
    if methods is None:
        return tuple(known.values())
    single = isinstance(methods, TokenMethod | RuleSet | str) or callable(methods)
    listed: list[Any] = [methods] if single else list(methods)
    found: list[TokenMethod] = []
    for one in listed:
        if isinstance(one, str):
            found.append(known[one] if one in known else _by_name(one, list(known)))
        elif isinstance(one, TokenMethod):
            found.append(one)
        elif isinstance(one, RuleSet):
            found.append(relevance_method(one))
        elif callable(one):
            found.append(TokenMethod(getattr(one, "__name__", repr(one)), one))
        else:
            raise InputError(f"A method is a rule set, a name or a function; received {one!r}.")
    names = [one.name for one in found]
    if not names or len(set(names)) < len(names):
        raise InputError(f"Methods have different names, and there is at least one; received {names}.")
    return tuple(found)


def _by_name(name: str, known: list[str]) -> TokenMethod:
    """The method of a preset's name in another spelling."""
    try:
        return relevance_method(as_rule_set(name))
    except RuleError as error:
        raise InputError(
            f"A method is a rule set, a function, or one of {known}; received {name!r}.{did_you_mean(name, known)}"
        ) from error
