"""Rules at the softmax of attention, P = softmax(S): the gradient at the scores from the one at the pattern.

1. `SoftmaxRule.at_scores` answers for a block of rows; by the same answer the rule acts as a hook.
2. `TemperedSoftmax`: the derivative at another temperature (GIM).
3. `SecantSoftmax`: the mean derivative along the path t · S, from no preference (t = 0) to the model's (t = 1).

With g the gradient at the pattern, every one of them is a mean of J(t S)ᵀ g = p ⊙ (g - Σ p ⊙ g), p = softmax(t S), over
some t: t = 1 for the plain gradient, 1 / T at the temperature T, all of [0, 1] for the secant.  docs/attention_rules.md
derives what each hands on.

Arrays are [..., row, key]; hidden keys have the score -inf and the pattern 0.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import RuleError
from lrp_lens.hosts.sites import AttentionSite
from lrp_lens.ops.gates import accumulation_dtype, rerouted, softmax_backward
from lrp_lens.rules.rule import Hook, Rule, question

Square = Float[Tensor, "*head row key"]


@dataclass(frozen=True, eq=False)
class SoftmaxRows:
    """Rows of a softmax."""

    pattern: Square
    scores: Square
    """What it is the softmax of; -inf where hidden."""
    sink: Float[Tensor, "... 1 1"] | None
    """Logit of one more column that the pattern does not show (GPT-OSS), or None."""


class SoftmaxRule(Rule):
    """How relevance passes the softmax of attention."""

    @question("whether the softmax hands on all the relevance that it receives")
    def conserves(self, site: AttentionSite) -> bool:
        """Whether Σ S ⊙ (gradient at S) is Σ P ⊙ (gradient at P)."""
        raise NotImplementedError

    @question("what the softmax's backward pass looks like")
    def at_scores(self, rows: SoftmaxRows, gradient: Square) -> Square:
        """The gradient at the scores, from the one at the pattern; 0 where hidden."""
        raise NotImplementedError

    def hooks(self, site: AttentionSite) -> tuple[Hook, ...] | None:
        """Send the gradient from pattern to scores through `at_scores`."""
        if site.scores is None or site.pattern is None:
            return None
        kept: list[Tensor] = []

        def read(tensor: Tensor, hook: object) -> None:
            kept[:] = [tensor]

        def replace(tensor: Tensor, hook: object) -> Tensor:
            scores, wide = kept.pop(), accumulation_dtype(tensor.dtype)
            pattern, before, sink = tensor.detach(), scores.detach(), sink_of(site)

            def backward(gradient: Tensor) -> Tensor:
                rows = SoftmaxRows(pattern.to(wide), visible(before), sink)
                return shown(self.at_scores(rows, gradient.to(wide)), rows)

            return rerouted(tensor, scores, backward)

        return Hook(site.scores, read, "read"), Hook(site.pattern, replace, "replace")


def visible(scores: Tensor) -> Tensor:
    """Scores in the dtype of sums, -inf where hidden: Hugging Face hides a key by the lowest number of the dtype."""
    hidden = scores <= torch.finfo(scores.dtype).min / 2
    return scores.to(accumulation_dtype(scores.dtype)).masked_fill(hidden, -torch.inf)


def shown(at_scores: Tensor, rows: SoftmaxRows) -> Tensor:
    """0 at hidden keys, also in rows that see nothing (padding)."""
    return at_scores.masked_fill(rows.scores == -torch.inf, 0)


def sink_of(site: AttentionSite) -> Tensor | None:
    """The logits of an attention sink as they join scores, [head, 1, 1]."""
    sink = site.sink()
    return None if sink is None else sink.to(accumulation_dtype(sink.dtype)).reshape(-1, 1, 1)


@dataclass(frozen=True)
class TemperedSoftmax(SoftmaxRule):
    """Backward pass of the attention softmax with the pattern p at another temperature T: p ⊙ (g - Σ p ⊙ g).

    Source: GIM (Edin et al. 2025, 2505.17630), temperature 2.  Acts on scores and pattern, [.., query, key].
    """

    temperature: float | int = 2.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise RuleError(
                f"A softmax temperature is positive; TemperedSoftmax received {self.temperature!r}. Use 2.0 (GIM)."
            )

    def __str__(self) -> str:
        return f"softmax backward at temperature {self.temperature:g}"

    def conserves(self, site: AttentionSite) -> bool:
        """A softmax takes relevance at any temperature."""
        return False

    def at_scores(self, rows: SoftmaxRows, gradient: Square) -> Square:
        """p ⊙ (g - Σ p ⊙ g) with p at the temperature; a sink's column only takes part in p's sum."""
        return softmax_backward(rows.scores, gradient, [(1 / self.temperature, 1.0)], rows.sink)


@dataclass(frozen=True)
class SecantSoftmax(SoftmaxRule):
    """The softmax differentiated along the path t · S: ∫ J(t S)ᵀ g dt from t = 0 to 1, by Gauss-Legendre quadrature.

    Σ S ⊙ ∫ J(t S)ᵀ g dt = Σ (P - u) ⊙ g, with u uniform over the keys that a query sees (and a sink's column): to the
    softmax what f(x) / x is to an activation, its secant from S = 0, where plain gradients vanish once a pattern is
    saturated.  It takes Σ u ⊙ g, what a uniform pattern would have been worth.  One node is `TemperedSoftmax(2)`; four
    cost four softmaxes a layer.  Integrated gradients (Sundararajan et al. 2017, 1703.01365) for one operation.

    Example:
        >>> from lrp_lens import RELP
        >>> print(RELP.replace(softmax=SecantSoftmax()).softmax)
        softmax along the path t · scores (4 nodes)
    """

    nodes: int = 4

    def __post_init__(self) -> None:
        if not isinstance(self.nodes, int) or isinstance(self.nodes, bool) or not 1 <= self.nodes <= 64:
            raise RuleError(
                f"A path is cut at 1 to 64 nodes; SecantSoftmax received {self.nodes!r}. Use 4, or more for scores "
                "far apart."
            )

    def __str__(self) -> str:
        return f"softmax along the path t · scores ({self.nodes} node{'s' * (self.nodes > 1)})"

    def conserves(self, site: AttentionSite) -> bool:
        """It takes what a uniform pattern is worth."""
        return False

    def at_scores(self, rows: SoftmaxRows, gradient: Square) -> Square:
        """Σ_n w_n p_n ⊙ (g - Σ p_n ⊙ g), p_n = softmax(t_n · S)."""
        return softmax_backward(rows.scores, gradient, _quadrature(self.nodes), rows.sink)


@cache
def _quadrature(nodes: int) -> tuple[tuple[float, float], ...]:
    """(t, weight) of Gauss-Legendre quadrature on [0, 1]."""
    x, weights = np.polynomial.legendre.leggauss(nodes)
    return tuple(zip(((x + 1) / 2).tolist(), (weights / 2).tolist(), strict=True))


def plain_softmax(rows: SoftmaxRows, gradient: Square) -> Square:
    """The gradient at the scores by the softmax's own derivative: P ⊙ (g - Σ P ⊙ g)."""
    dot: Tensor = torch.sum(rows.pattern * gradient, -1, keepdim=True)
    return rows.pattern * (gradient - dot)
