"""One transition: everything that leads from one boundary to the next, and its edges in blocks of rows.

1. Attention contributes rows (`rows`); the residual stream and the MLP contribute to the diagonal alone.
2. An edge is the sum of its parts: residual, MLP, and for each head OV, K and Q (Q on the diagonal).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lrp_lens.attribution_graphs.closed_form.rows import AttentionEdges, Rows

_BLOCK_NUMBERS, _LEAST_ROWS = 2**20, 32
"""Numbers in one [head, row, key] array of a block, which stays in a processor's cache; but no fewer rows than this."""


@dataclass(frozen=True, eq=False)
class Transition:
    """What goes from one boundary to the next: attention (or none) and everything on the diagonal."""

    attention: AttentionEdges | None
    residual: Tensor
    """Self-edges through the residual stream, [pos]."""
    mlp: Tensor
    """Self-edges through the MLP, [pos]."""
    source_relevance: Tensor
    target_relevance: Tensor
    sinks: dict[str, Tensor] = field(default_factory=dict)
    """Kind → [pos]; the attention rows add theirs."""

    @property
    def length(self) -> int:
        """Number of positions."""
        return len(self.residual)

    def block_size(self) -> int:
        """Rows in one block."""
        if self.attention is None:
            return self.length
        heads = self.attention.z.shape[0]
        return min(self.length, max(_LEAST_ROWS, _BLOCK_NUMBERS // (heads * self.length)))

    def blocks(self, size: int | None) -> Iterator[tuple[Rows, Tensor]]:
        """Every row with its totals, `size` at a time; default by memory."""
        assert self.attention is not None
        for rows in self.attention.blocks(size or self.block_size()):
            yield rows, edge_totals(self, rows)


def edge_totals(transition: Transition, rows: Rows) -> Tensor:
    """Edges into a block's rows from the keys it sees, [row, key]."""
    total = rows.ov.sum(0)
    if rows.k is not None:
        total = total + rows.k.sum(0)
    line, place = _diagonal(rows)
    own = transition.residual + transition.mlp
    total[line, place] += own[rows.start : rows.stop] + rows.q.sum(0)
    return total


def _diagonal(rows: Rows) -> tuple[Tensor, Tensor]:
    line = torch.arange(rows.stop - rows.start, device=rows.q.device)
    return line, line + rows.start - rows.first


def parts_of(transition: Transition, rows: Rows, line: Tensor, place: Tensor) -> Tensor:
    """Parts of some edges of a block, [edge, part]."""
    heads = rows.ov.shape[0]
    values = rows.ov.new_zeros(len(line), 2 + 3 * heads)
    own = place + rows.first == line + rows.start
    position = line + rows.start
    values[:, 0] = torch.where(own, transition.residual[position], 0)
    values[:, 1] = torch.where(own, transition.mlp[position], 0)
    values[:, 2::3] = rows.ov[:, line, place].T
    if rows.k is not None:
        values[:, 3::3] = rows.k[:, line, place].T
        values[:, 4::3] = torch.where(own, rows.q[:, line], 0).T
    return values


def part_labels(heads: int) -> tuple[str, ...]:
    """Names of an edge's parts, in the order of `Pruned.parts`."""
    mechanisms = (f"H{head} {mechanism}" for head in range(heads) for mechanism in ("OV", "K", "Q"))
    return ("residual", "MLP", *mechanisms)


def edge_parts(transition: Transition, target: int, source: int) -> dict[str, float]:
    """The parts of one edge by name; 0 for a source that the target does not see."""
    if transition.attention is None:
        own = target == source
        return {
            "residual": float(transition.residual[target]) if own else 0.0,
            "MLP": float(transition.mlp[target]) if own else 0.0,
        }
    rows = transition.attention.rows(target, target + 1)
    labels = part_labels(rows.ov.shape[0])
    if not rows.first <= source < rows.stop:
        return dict.fromkeys(labels, 0.0)
    place = torch.tensor([source - rows.first], device=rows.ov.device)
    return dict(
        zip(labels, parts_of(transition, rows, torch.zeros_like(place), place)[0].tolist(), strict=True)
    )
