"""Rules at attention, z = P v with P = softmax(S) and S = q·k: what q, k and v receive.

1. A rule says it in closed form, for a block of rows (`row_gradients`): the weights with which v's gradient is made of
   those at z, and the gradient at the scores; and the shares that q, k and v take of theirs (`share`).
2. By these answers alone it acts, too (`row_hooks`); rules that only weight q, k and v, or detach the pattern, have
   cheaper hooks of their own.
3. The softmax has a rule of its own (`lrp_lens.rules.softmax`), which `row_gradients` is handed.

Arrays are [..., row, key]; hidden keys have the score -inf and the pattern 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import RuleError
from lrp_lens.hosts.sites import AttentionSite
from lrp_lens.ops.gates import accumulation_dtype, rerouted, scale_gradient, stop_relevance
from lrp_lens.rules.rule import Hook, Rule, question, require_share, scaled
from lrp_lens.rules.softmax import SoftmaxRows, SoftmaxRule, Square, shown, sink_of, visible

Part = Literal["q", "k", "v", "pattern"]


@dataclass(frozen=True, eq=False)
class AttentionRows(SoftmaxRows):
    """Rows of one layer's attention, one key-value head for each head."""

    at_z: Float[Tensor, "*head row d_head"]
    """The gradient at hook_z."""
    value: Float[Tensor, "*head key d_head"]

    @cached_property
    def at_pattern(self) -> Square:
        """The pattern's gradient, at_z · v."""
        return self.at_z @ self.value.mT


class AttentionRule(Rule):
    """How the relevance of z goes to q, k and v; acts by `hooks`, or by `row_gradients` and `share`."""

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
class ConservingAttention(AttentionRule):
    """q and k keep a share s each of the scores' relevance, and v receives exactly what is left of z's: none is lost.

    For a query j, with g the gradient at z, a_i = P_ji (v_i · g_j) what key i contributes, and c_j = Σ_i S_ji gS_ji the
    scores' relevance under the softmax's rule (plain, or `SecantSoftmax`):

        v_i receives Σ_j P_ji (1 - 2 s c_j sign(a_i) / Σ|a|) g_j;    q and k receive s times what gS sends them.

    So v holds R_j - 2 s c_j, what it gives up taken in proportion to |a|, and q, k and v together R_j = Σ a.  Under the
    plain softmax c_j = Σ a_i (S_ji - S̄_j) with S̄ = Σ P S, so the correction is at most 2 s max |S_ji - S̄_j| of P, and
    vanishes with a.  A query with Σ|a| = 0 holds no relevance and hands none on.  What ALiBi adds to the scores takes
    its part, as biases do.  Derived in docs/attention_rules.md.

    Example:
        >>> from lrp_lens import RELP, SecantSoftmax
        >>> rules = RELP.replace(name="MINE", attention=ConservingAttention(), softmax=SecantSoftmax())
        >>> print(rules.attention)
        q ¼, k ¼ of the scores, v the rest (conserves)
    """

    part: float | int = 0.25
    """s, of q and of k."""

    def __post_init__(self) -> None:
        require_share(self, part=self.part)
        if self.part == 0:
            raise RuleError(
                "ConservingAttention leaves q and k a share above 0 of the scores' relevance; received part=0. Use "
                "AttentionWeights(0, 0, 1), which gives v everything."
            )

    def __str__(self) -> str:
        part = {0.25: "¼", 0.5: "½"}.get(self.part, f"{self.part:g}")
        return f"q {part}, k {part} of the scores, v the rest (conserves)"

    def share(self, part: Part) -> float:
        """s at q and k; v's is in its weights, and the pattern has the whole gradient of P · v."""
        return float(self.part) if part in ("q", "k") else 1.0

    def sinks(self, site: AttentionSite, within: Sequence[str]) -> tuple[str, ...]:
        """Only what is added to the scores (ALiBi), and a soft-cap whose rule takes relevance."""
        passed = ("softmax", *site.extras)
        added = (name for name in site.extras if name != "attention sink")
        return (*added, *(name for name in within if name not in passed))

    def row_gradients(self, rows: AttentionRows, softmax: SoftmaxRule) -> tuple[Square, Square]:
        """P (1 - 2 s c sign(a) / Σ|a|), and the softmax rule's gradient; both 0 changed where Σ|a| is 0."""
        at_scores = softmax.at_scores(rows, rows.at_pattern)
        c = torch.where(rows.scores.isfinite(), rows.scores * at_scores, 0).sum(-1, keepdim=True)
        contributed = rows.pattern * rows.at_pattern
        total = contributed.abs().sum(-1, keepdim=True)
        holds = (
            total * (torch.finfo(total.dtype).max / 4) > c.abs()
        )  # else it holds none, or c / Σ|a| overflows
        taken = torch.where(holds, 2 * float(self.part) * c / torch.where(holds, total, 1), 0)
        return rows.pattern * (1 - taken * contributed.sign()), at_scores.masked_fill(~holds, 0)


def row_hooks(site: AttentionSite, rule: AttentionRule, softmax: SoftmaxRule) -> tuple[Hook, ...] | None:
    """The hooks of a rule that acts by `row_gradients` and `share`: from z to v and, past the softmax, to the scores.

    The pattern is recorded with its gradient, and passes nothing on to the scores, which receive theirs from z.
    """
    if not rule.answers("row_gradients"):
        raise rule.unanswered("hooks")
    if site.scores is None or site.pattern is None:
        return None
    kept: dict[str, Tensor] = {}

    def read(name: str) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: object) -> None:
            kept[name] = tensor

        return hook

    def end(tensor: Tensor, hook: object) -> Tensor:
        return scale_gradient(tensor, 0.0)

    def replace(tensor: Tensor, hook: object) -> Tensor:
        inputs = tuple(kept.pop(name) for name in ("scores", "pattern", "v"))
        before, pattern, v = (one.detach() for one in inputs)
        wide, sink = accumulation_dtype(tensor.dtype), sink_of(site)
        groups = tensor.shape[2] // v.shape[2]

        def backward(gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
            at_z = gradient.to(wide).transpose(1, 2)
            value = v.to(wide).repeat_interleave(groups, dim=2).transpose(1, 2)
            rows = AttentionRows(pattern.to(wide), visible(before), sink, at_z, value)
            weights, at_scores = rule.row_gradients(rows, softmax)
            at_v = (weights.mT @ at_z).transpose(1, 2).unflatten(2, (-1, groups)).sum(3)
            return None if at_scores is None else shown(at_scores, rows), rows.at_pattern, at_v

        return rerouted(tensor, inputs, backward)

    return (
        Hook(site.scores, read("scores"), "read"),
        Hook(site.pattern, end, "replace"),
        Hook(site.pattern, read("pattern"), "read"),
        Hook(site.v, read("v"), "read"),
        Hook(site.z, replace, "replace"),
        *scaled(site.q, rule.share("q")),
        *scaled(site.k, rule.share("k")),
        *scaled(site.v, rule.share("v"), detach=False),
    )
