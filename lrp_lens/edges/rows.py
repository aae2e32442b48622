"""All edges of one attention layer in closed form, in blocks of target rows.

A transformer mixes positions in attention alone, and there each (target j, source i) term is explicit.  With g the
gradient at hook_z, P the pattern, S the scores, and images v̂, k̂, q̂ of the sources without biases (`tangents`):

1. S = q · k × scale, soft-cap, ALiBi, mask; P = softmax(S): recomputed from q and k for the block's rows, as flash
   attention does (Dao et al. 2022), so that nothing quadratic in length is ever kept.
2. dP = g · v;   dS = P ⊙ (dP - Σ P ⊙ dP) (tempered for GIM, 0 for a frozen pattern), through the soft-cap, × scale.
3. OV edge: P[j, i] g_j · v̂_i.   K edge: dS[j, i] q_j · k̂_i.   Q, on the diagonal: Σ_i dS[j, i] q̂_j · k_i.
4. What the target's z held and no source receives: biases, the norm, the softmax.

Arrays are [head, row, key]; keys outside the causal window of the block are never formed.  A token sees the prompt
before it, and of several answers its own (`Places`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_lens.edges.tangents import Projection
from lrp_lens.hosts.scores import ScoreGeometry
from lrp_lens.hosts.token_batch import Places
from lrp_lens.ratios import softcap_ratio
from lrp_lens.rules import Plain, RuleSet, TemperedSoftmax

SINK_KINDS = ("bias", "norm", "softmax")


@dataclass(frozen=True, eq=False)
class Rows:
    """Edges into the positions start … stop - 1 from the keys first … last - 1 of one layer."""

    start: int
    stop: int
    first: int
    ov: Tensor
    """[head, row, key]."""
    k: Tensor | None
    """[head, row, key]; None where no relevance passes the pattern."""
    q: Tensor
    """Diagonal, [head, row]."""
    sinks: Tensor
    """[kind, row], for `SINK_KINDS`."""
    z: Tensor
    """Recomputed output of the heads, [head, row, d_head]: must be the recorded one."""


@dataclass(frozen=True, eq=False)
class AttentionEdges:
    """One layer's factors: O(pos · width) numbers from which any row of edges follows; heads first."""

    geometry: ScoreGeometry
    z: Tensor
    gradient: Tensor
    """At hook_z, [head, pos, d_head]."""
    q: Projection
    k: Projection
    v: Projection
    places: Places
    reaches_pattern: bool
    temperature: float
    identity_softcap: bool

    @property
    def length(self) -> int:
        """Number of positions."""
        return self.z.shape[1]

    def blocks(self, size: int) -> Iterator[Rows]:
        """Every row, `size` at a time."""
        for start in range(0, self.length, size):
            yield self.rows(start, min(start + size, self.length))

    def _keys(self, tensor: Tensor, first: int, stop: int) -> Tensor:
        """Keys or values of the block, one head per query head, [head, key, d_head]."""
        tensor = tensor[:, first:stop]
        groups = self.z.shape[0] // tensor.shape[0]
        return tensor if groups == 1 else tensor.repeat_interleave(groups, dim=0)

    def rows(self, start: int, stop: int) -> Rows:
        """The edges into positions start … stop - 1."""
        window = self.geometry.window
        first = 0 if window is None else max(0, int(self.places.depth[start:stop].min()) - window + 1)
        g, query = self.gradient[:, start:stop], self.q.value[:, start:stop]
        key, value = self._keys(self.k.value, first, stop), self._keys(self.v.value, first, stop)
        pattern, slope, sink = self._pattern(query, key, start, first)
        at_pattern = g @ value.mT
        same = self.v.image is self.v.value
        ov = pattern * (at_pattern if same else g @ self._keys(self.v.image, first, stop).mT)
        sums = [_through(pattern, self._keys(one, first, stop), g) for one in self.v.distinct]
        sums = self.v.spread(sums)
        k, q = None, torch.zeros_like(g[..., 0])
        if self.reaches_pattern:
            at_scores = self._at_scores(pattern, at_pattern, sink) * slope
            k = at_scores * (query @ self._keys(self.k.image, first, stop).mT)
            at_query = at_scores @ key
            own = self.q.spread([(at_query * one[:, start:stop]).sum(-1) for one in self.q.distinct])
            others = [_through(at_scores, self._keys(one, first, stop), query) for one in self.k.distinct]
            of_keys = self.k.spread(others)
            sums = [of_v + of_q + of_k for of_v, of_q, of_k in zip(sums, own, of_keys, strict=True)]
            q = own[0]
        image, unbiased, whole = (one.sum(0) for one in sums)
        held = (self.z[:, start:stop] * g).sum((0, -1))
        sinks = torch.stack([whole - unbiased, unbiased - image, held - whole])
        return Rows(start, stop, first, ov, k, q, sinks, pattern @ value)

    def _pattern(
        self, query: Tensor, key: Tensor, start: int, first: int
    ) -> tuple[Tensor, Tensor | float, Tensor | None]:
        """Pattern, [head, row, key]; derivative of the logits along the products; sink's share, [head, row, 1]."""
        geometry = self.geometry
        logits = (query @ key.mT) * geometry.scale
        slope: Tensor | float = geometry.scale
        if geometry.softcap is not None:
            u = logits / geometry.softcap
            capped = torch.tanh(u)
            slope = slope * (softcap_ratio(u) if self.identity_softcap else 1 - capped * capped)
            logits = geometry.softcap * capped
        depth, branch = (one.to(query.device) for one in self.places)
        rows, columns = slice(start, start + query.shape[1]), slice(first, first + key.shape[1])
        row, column = depth[rows, None], depth[columns]
        if geometry.slopes is not None:
            logits = logits + geometry.slopes.to(logits)[:, None, None] * (column - row)
        hidden = (column > row) | ((branch[columns] > 0) & (branch[columns] != branch[rows, None]))
        if geometry.window is not None:
            hidden = hidden | (column <= row - geometry.window)
        logits = logits.masked_fill(hidden, -torch.inf)
        if geometry.sink is None:
            return torch.softmax(logits, -1), slope, None
        extra = geometry.sink.to(logits)[:, None, None].expand(*logits.shape[:2], 1)
        both = torch.softmax(torch.cat([logits, extra], -1), -1)
        return both[..., :-1], slope, both[..., -1:]

    def _at_scores(self, pattern: Tensor, at_pattern: Tensor, sink: Tensor | None) -> Tensor:
        """The gradient before the softmax; a sink's column has no value, so it only takes part in the sum."""
        if self.temperature != 1:
            total: Any = 0 if sink is None else sink.pow(1 / self.temperature)
            pattern = pattern.pow(1 / self.temperature)
            pattern = pattern / (pattern.sum(-1, keepdim=True) + total)
        return pattern * (at_pattern - (pattern * at_pattern).sum(-1, keepdim=True))


def _through(weights: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
    """Σ_i weights[j, i] (rows_j · keys_i), [head, row]."""
    return ((weights @ keys) * rows).sum(-1)


def softmax_rule(rules: RuleSet, layer: int) -> dict[str, Any]:
    """How relevance passes one layer's pattern, as `AttentionEdges` takes it."""
    attention, softmax = rules.rule_for("attention", layer), rules.rule_for("softmax", layer)
    return {
        "reaches_pattern": isinstance(attention, Plain) or bool(attention.reaches_pattern),
        "temperature": float(softmax.temperature) if isinstance(softmax, TemperedSoftmax) else 1.0,
        "identity_softcap": not isinstance(rules.rule_for("softcap", layer), Plain),
    }
