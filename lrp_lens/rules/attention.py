"""Rules at attention: z = softmax(S) v with S = q·k, by the shares of its factors and the softmax's backward.

1. `AttentionRule`: what q, k and v receive.  In closed form, for a block of rows: the weights with which v's gradient
   is made of those at z, and the gradient at the scores (`row_gradients`).
2. `SoftmaxRule`: the gradient at the scores from the one at the pattern (`at_scores`), for a block of rows and, by the
   same answer, as a hook.

Arrays are [..., row, key]; hidden keys have the score -inf and the pattern 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import RuleError
from lrp_lens.hosts.sites import AttentionSite
from lrp_lens.ops.gates import (
    accumulation_dtype,
    rerouted,
    sink_probability,
    stop_relevance,
    tempered_backward,
)
from lrp_lens.rules.rule import Hook, Rule, question, require_share, scaled

Part = Literal["q", "k", "v", "pattern"]
Square = Float[Tensor, "*head row key"]


@dataclass(frozen=True, eq=False)
class SoftmaxRows:
    """Rows of a softmax."""

    pattern: Square
    scores: Square
    """What it is the softmax of; -inf where hidden."""
    sink: Float[Tensor, "... 1 1"] | None
    """Logit of one more column that the pattern does not show (GPT-OSS), or None."""


@dataclass(frozen=True, eq=False)
class AttentionRows(SoftmaxRows):
    """Rows of one layer's attention, one key-value head for each head."""

    at_z: Float[Tensor, "*head row d_head"]
    """The gradient at hook_z."""
    query: Float[Tensor, "*head row d_head"]
    """As it enters the scores, after QK-norm and rotation."""
    key: Float[Tensor, "*head key d_head"]
    value: Float[Tensor, "*head key d_head"]

    @cached_property
    def at_pattern(self) -> Square:
        """The pattern's gradient, at_z · v."""
        return self.at_z @ self.value.mT


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
            scores, sink = kept.pop(), site.sink()
            held, wide = (tensor.detach(), scores.detach()), accumulation_dtype(tensor.dtype)

            def backward(gradient: Tensor) -> Tensor:
                pattern, before = (one.to(wide) for one in held)
                column = None if sink is None else sink.to(wide).reshape(-1, 1, 1)
                found = self.at_scores(SoftmaxRows(pattern, before, column), gradient.to(wide))
                return found.masked_fill(before == -torch.inf, 0)  # also rows that see nothing (padding)

            return rerouted(tensor, scores, backward)

        return Hook(site.scores, read, "read"), Hook(site.pattern, replace, "replace")


class AttentionRule(Rule):
    """How the relevance of z goes to q, k and v."""

    @property
    def reaches_pattern(self) -> bool:
        """Whether any relevance passes the softmax; default yes."""
        return True

    @question("which share of z's relevance goes to q, k, v and the pattern")
    def share(self, part: Part) -> float:
        """The factor on the gradient at hook_q, hook_k or hook_v; "pattern": the pattern's share of the product P · v,
        which the factors at q and k apply beyond it."""  # noqa: D209
        raise NotImplementedError

    @question("what takes relevance between z and q, k, v")
    def sinks(self, site: AttentionSite, within: Sequence[str]) -> tuple[str, ...]:
        """Names for what takes relevance, () if q, k and v together receive all that z held.

        Args:
            site: where.
            within: names for what softmax and soft-cap take under their rules, of what passes them.
        """
        raise NotImplementedError

    @question("which gradients v and the scores receive, row by row")
    def row_gradients(self, rows: AttentionRows, softmax: SoftmaxRule) -> tuple[Square, Square | None]:
        """Weights w and gradient dS, before the shares at q, k and v.

        Args:
            rows: a block of rows.
            softmax: the rule of the softmax in that layer.

        Returns:
            w: v_i receives Σ_j w[j, i] · at_z_j;  dS: gradient at the scores, None if nothing passes the softmax.
        """
        raise NotImplementedError


class _PatternTimesValue(AttentionRule):
    """The answers of rules that keep the two matrix products and only weight their factors."""

    def sinks(self, site: AttentionSite, within: Sequence[str]) -> tuple[str, ...]:
        """What the softmax takes, and the products unless their shares are halves."""
        query, key, value = (self.share(part) for part in ("q", "k", "v"))
        if not self.reaches_pattern:
            return () if value == 1 else ("value share",)
        return (*within, *(() if (query + key, value) == (0.5, 0.5) else ("products",)))

    def row_gradients(self, rows: AttentionRows, softmax: SoftmaxRule) -> tuple[Square, Square | None]:
        """The pattern, and the softmax rule's gradient."""
        at_scores = softmax.at_scores(rows, rows.at_pattern) if self.reaches_pattern else None
        return rows.pattern, at_scores


@dataclass(frozen=True)
class AttentionWeights(_PatternTimesValue):
    """Shares of z = softmax(q·k) v at q, k and v; no tensor quadratic in length is touched.

    (¼, ¼, ½): uniform rule on both matrix products (AttnLRP, Proposition 3.3: ½ to v, ½ to the pattern, halved
    again between q and k).  (0, 0, 1): the pattern is a constant (AH-rule of Ali et al. 2022; CP-LRP).
    """

    query: float | int
    key: float | int
    value: float | int

    def __post_init__(self) -> None:
        require_share(self, query=self.query, key=self.key, value=self.value)

    def __str__(self) -> str:
        names = {
            (0.25, 0.25, 0.5): "uniform rule (q ¼, k ¼, v ½)",
            (0.0, 0.0, 1.0): "pattern frozen (AH-rule)",
        }
        key = (self.query, self.key, self.value)
        return names.get(key, f"q {self.query:g}, k {self.key:g}, v {self.value:g}")

    def hooks(self, site: AttentionSite) -> tuple[Hook, ...]:
        """Scale what flows back through q, k and v, before QK-norm and rotation (both linear under FrozenNorm)."""
        through = scaled(site.v, self.value, detach=False)  # z stays in the graph, also with a share of 0
        return (*scaled(site.q, self.query), *scaled(site.k, self.key), *through)

    @property
    def reaches_pattern(self) -> bool:
        """Whether any relevance passes the softmax."""
        return bool(self.query or self.key)

    def cuts(self, site: AttentionSite) -> frozenset[str]:
        """Parts with the share 0; the pattern if nothing passes it."""
        parts: tuple[Part, ...] = ("q", "k", "v")
        cut = {part for part in parts if self.share(part) == 0}
        return frozenset(cut if self.reaches_pattern else {*cut, "pattern"})

    def share(self, part: Part) -> float:
        """As given; the pattern takes what v leaves of the product, or all if v's share is 1 (no product rule)."""
        rest = 1.0 if self.value == 1 else 1.0 - float(self.value)
        return {"q": float(self.query), "k": float(self.key), "v": float(self.value), "pattern": rest}[part]

    sinks = _PatternTimesValue.sinks
    row_gradients = _PatternTimesValue.row_gradients


@dataclass(frozen=True)
class FrozenPattern(_PatternTimesValue):
    """The attention pattern itself is detached: the same relevance as `AttentionWeights(0, 0, 1)`.

    Acts on the [batch, head, query, key] tensor, so it needs a host that computes the pattern.
    """

    def __str__(self) -> str:
        return "pattern detached"

    @property
    def reaches_pattern(self) -> bool:
        """Nothing does."""
        return False

    def hooks(self, site: AttentionSite) -> tuple[Hook, ...] | None:
        """Detach at the pattern."""
        if site.pattern is None:
            return None

        def freeze(tensor: Tensor, hook: object) -> Tensor:
            return stop_relevance(tensor)

        return (Hook(site.pattern, freeze, "scale"),)

    def cuts(self, site: AttentionSite) -> frozenset[str]:
        """The pattern, and with it q and k."""
        return frozenset({"pattern"})

    def share(self, part: Part) -> float:
        """Everything to v."""
        return 1.0 if part == "v" else 0.0

    sinks = _PatternTimesValue.sinks
    row_gradients = _PatternTimesValue.row_gradients


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
        sink = None if rows.sink is None else sink_probability(rows.pattern, rows.scores, rows.sink)
        return tempered_backward(rows.pattern, gradient, float(self.temperature), sink)


def plain_softmax(rows: SoftmaxRows, gradient: Square) -> Square:
    """The gradient at the scores by the softmax's own derivative: P ⊙ (g - Σ P ⊙ g)."""
    dot: Tensor = torch.sum(rows.pattern * gradient, -1, keepdim=True)
    return rows.pattern * (gradient - dot)
