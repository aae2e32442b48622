"""All edges of one attention layer in closed form, in blocks of target rows.

A transformer mixes positions in attention alone, and there each (target j, source i) term is explicit.  With g the
gradient at hook_z, P the pattern, S the scores, and images v̂, k̂, q̂ of the sources without biases (`tangents`):

1. S = q · k × scale, soft-cap, ALiBi, mask; P = softmax(S): recomputed from q and k for the block's rows, as flash
   attention does (Dao et al. 2022), so that nothing quadratic in length is ever kept.
2. The rules of attention and softmax say with which weights w the gradient g reaches v (the pattern), and what the
   gradient dS at the scores is (P ⊙ (dP - Σ P ⊙ dP) with dP = g · v under the plain gradient), through the soft-cap,
   × scale.
3. OV edge: w[j, i] g_j · v̂_i.   K edge: dS[j, i] q_j · k̂_i.   Q, on the diagonal: Σ_i dS[j, i] q̂_j · k_i.
4. What the target's z held and no source receives: biases, the norm, the softmax.

Arrays are [head, row, key]; keys outside the causal window of the block are never formed.  A token sees the prompt
before it, and of several answers its own (`Places`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from lrp_lens.attribution_graphs.closed_form.tangents import Projection
from lrp_lens.hosts.attention_scores import ScoreGeometry
from lrp_lens.hosts.token_batch import Places
from lrp_lens.rules import AttentionRows, RuleSet

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
    rules: RuleSet
    layer: int

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
        seen, slope = self._seen(start, first, query, key, value, g)
        attention, softmax = (self.rules.rule_for(one, self.layer) for one in ("attention", "softmax"))
        weights, at_scores = attention.row_gradients(seen, softmax)
        same = self.v.image is self.v.value and weights is seen.pattern
        ov = weights * (seen.at_pattern if same else g @ self._keys(self.v.image, first, stop).mT)
        sums = [_through(weights, self._keys(one, first, stop), g) for one in self.v.distinct]
        sums = self.v.spread(sums)
        k, q = None, torch.zeros_like(g[..., 0])
        if at_scores is not None:
            at_scores = at_scores * slope
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
        return Rows(start, stop, first, ov, k, q, sinks, seen.pattern @ value)

    def _seen(
        self, start: int, first: int, query: Tensor, key: Tensor, value: Tensor, g: Tensor
    ) -> tuple[AttentionRows, Tensor | float]:
        """What the rules see of a block, and the derivative of the logits along the products q · k."""
        geometry = self.geometry
        logits = (query @ key.mT) * geometry.scale
        slope: Tensor | float = geometry.scale
        if geometry.softcap is not None:
            u = logits / geometry.softcap
            capped = torch.tanh(u)
            slope = slope * self.rules.rule_for("softcap", self.layer).slope(u)
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
            return AttentionRows(torch.softmax(logits, -1), logits, None, g, value), slope
        sink = geometry.sink.to(logits)[:, None, None]
        both = torch.softmax(torch.cat([logits, sink.expand(*logits.shape[:2], 1)], -1), -1)
        return AttentionRows(both[..., :-1], logits, sink, g, value), slope


def _through(weights: Tensor, keys: Tensor, rows: Tensor) -> Tensor:
    """Σ_i weights[j, i] (rows_j · keys_i), [head, row]."""
    return ((weights @ keys) * rows).sum(-1)
