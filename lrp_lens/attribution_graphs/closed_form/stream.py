"""Edges of one transition, pruned while they are formed.

1. Blocks of rows are formed one after the other; the dense [target, source] array of a long prompt never is.
2. First sweep: sums per target, Σ|A|, and how much mass lies in each narrow class of magnitudes.  From these follows
   the class in which the share p of the mass is reached (arXiv 2604.17761 prunes each layer pair by such a share).
3. Second sweep: edges above that class are kept, those inside are ranked exactly; the parts of the kept are read off.
4. What is dropped is added up per target and in total, so every target still accounts for its relevance.

Short prompts keep their blocks between the sweeps, long ones form them twice.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lrp_lens.attribution_graphs.arrays.pruning import keep_mass
from lrp_lens.attribution_graphs.closed_form.rows import Rows
from lrp_lens.attribution_graphs.closed_form.transition import Transition, parts_of

_KEPT_NUMBERS = 2**24
"""Numbers in a [head, target, source] array whose blocks are kept between the sweeps."""
_CLASS_BITS, _CLASSES = 47, 2**17
"""Magnitudes are classed by the upper 17 bits of their float64 form: 3 % wide."""


@dataclass(frozen=True)
class Pruning:
    """What is kept of a transition."""

    node_threshold: float
    """Nodes with |R| at most this (in the metric's units) keep no edges."""
    edge_threshold: float
    """Edges with |A| at most this go."""
    mass: float
    """Share of Σ|A| that the strongest edges kept hold together."""
    most: int | None
    """At most so many edges a transition."""


@dataclass(frozen=True, eq=False)
class Pruned:
    """The kept edges of a transition, and the account of the others."""

    target: np.ndarray
    source: np.ndarray
    relevance: np.ndarray
    parts: np.ndarray
    """[edge, 2 + 3 · heads]: residual, MLP, then OV, K and Q of each head."""
    pruned: np.ndarray
    pruned_mass: float
    total_mass: float
    sinks: dict[str, np.ndarray]
    column_error: float
    """Largest |Σ_j edge[j, i] - relevance that q, k, v of source i received|, relative to the largest of these."""


class _Sweep:
    """Sums over all rows of one transition, and the class of magnitudes from which edges are kept."""

    def __init__(self, transition: Transition, pruning: Pruning, received: tuple[Tensor, ...] | None) -> None:
        self.transition, self.pruning, self.received = transition, pruning, received
        threshold = pruning.node_threshold
        self.sources = transition.source_relevance.abs() > threshold
        self.targets = transition.target_relevance.abs() > threshold
        device = transition.residual.device
        self.row_sum = torch.zeros(transition.length, dtype=torch.float64, device=device)
        self.mass = 0.0
        self.class_mass = torch.zeros(_CLASSES, dtype=torch.float64, device=device)
        self.class_count = torch.zeros(_CLASSES, dtype=torch.int64, device=device)
        self.attention_sinks: list[Tensor] = []
        self.columns: Tensor | None = None

    def candidates(self, rows: Rows, totals: Tensor) -> Tensor:
        """|A| where both nodes are kept and the edge is above the threshold, else 0; [row, key]."""
        magnitude = totals.abs()
        kept = self.targets[rows.start : rows.stop, None] & self.sources[rows.first : rows.stop]
        return torch.where(kept & (magnitude > self.pruning.edge_threshold), magnitude, 0)

    def add(self, rows: Rows, totals: Tensor) -> None:
        """Add one block to the sums."""
        self.row_sum[rows.start : rows.stop] += totals.sum(-1, dtype=torch.float64)
        self.mass += float(totals.abs().sum(dtype=torch.float64))
        self.attention_sinks.append(rows.sinks)
        if self.received is not None:
            if self.columns is None:
                self.columns = rows.ov.new_zeros(
                    3, rows.ov.shape[0], self.transition.length, dtype=torch.float64
                )
            self.columns[0, :, rows.first : rows.stop] += rows.ov.sum(1)
            if rows.k is not None:
                self.columns[1, :, rows.first : rows.stop] += rows.k.sum(1)
            self.columns[2, :, rows.start : rows.stop] += rows.q
        magnitude = self.candidates(rows, totals)
        magnitude = magnitude[magnitude > 0]
        classes = _classes(magnitude)
        self.class_mass += torch.bincount(classes, magnitude.double(), minlength=_CLASSES)
        self.class_count += torch.bincount(classes, minlength=_CLASSES)

    def floor(self) -> int:
        """The lowest class of magnitudes that may hold a kept edge."""
        above = self.class_mass.flip(0).cumsum(0)
        enough = (above >= self.pruning.mass * self.mass).nonzero()
        lowest = _CLASSES - 1 - int(enough[0]) if self.pruning.mass < 1 and len(enough) else 0
        if self.pruning.most is not None:
            counted = (self.class_count.flip(0).cumsum(0) >= self.pruning.most).nonzero()
            lowest = max(lowest, _CLASSES - 1 - int(counted[0]) if len(counted) else 0)
        return lowest

    def column_error(self) -> float:
        """See Pruned.column_error."""
        if self.columns is None or self.received is None:
            return 0.0
        v, k, q = self.columns
        of_v, of_k, of_q = self.received
        errors = (
            v.unflatten(0, (of_v.shape[0], -1)).sum(1) - of_v,
            k.sum(0) - of_k.sum(0),  # a plain QK-norm over all heads mixes them
            q.sum(0) - of_q.sum(0),
        )
        error = max(float(one.abs().max()) for one in errors)
        size = max(float(one.abs().max()) for one in self.received)
        return error / size if size else error


def _classes(magnitude: Tensor) -> Tensor:
    return magnitude.double().view(torch.int64) >> _CLASS_BITS


def prune_transition(
    transition: Transition,
    pruning: Pruning,
    *,
    received: tuple[Tensor, ...] | None = None,
    block: int | None = None,
    progress: Callable[[int], object] = lambda rows: None,
) -> Pruned:
    """Form every edge of a transition, keep what the pruning asks for, and account for the rest.

    Args:
        transition: the factors.
        pruning: what to keep.
        received: relevance that v, k and q of each position received, three of [head, pos] (for v and k one head per
            group), to check the edges' sums over targets against.
        block: rows at a time; default by memory.
        progress: called with the number of rows done.
    """
    if transition.attention is None:
        return _self_edges(transition, pruning)
    sweep = _Sweep(transition, pruning, received)
    small = transition.attention.z.shape[0] * transition.length**2 <= _KEPT_NUMBERS
    blocks: list[tuple[Rows, Tensor]] = []
    for rows, totals in transition.blocks(block):
        sweep.add(rows, totals)
        if small:
            blocks.append((rows, totals))
        progress(rows.stop - rows.start)
    floor = sweep.floor()
    found: list[tuple[Tensor, ...]] = []
    for rows, totals in blocks if small else transition.blocks(block):
        magnitude = sweep.candidates(rows, totals)
        chosen = (magnitude > 0) & (_classes(magnitude) >= floor)
        line, place = chosen.nonzero(as_tuple=True)
        parts = parts_of(transition, rows, line, place)
        found.append((line + rows.start, place + rows.first, totals[line, place].double(), parts))
    columns = [torch.cat(one).cpu().numpy() for one in zip(*found, strict=True)]
    keep = _exactly(np.abs(columns[2]), pruning, sweep.mass)
    target, source, relevance, edge_parts = (one[keep] for one in columns)
    kept_sum = np.bincount(target, relevance, minlength=transition.length)
    sinks = _numpy(transition.sinks)
    for kind, amount in zip(
        ("bias", "norm", "softmax"), torch.cat(sweep.attention_sinks, dim=-1), strict=True
    ):
        sinks[kind] = sinks.get(kind, 0) + amount.double().cpu().numpy()
    return Pruned(
        target,
        source,
        relevance,
        edge_parts,
        sweep.row_sum.cpu().numpy() - kept_sum,
        max(sweep.mass - float(np.abs(relevance).sum()), 0.0),
        sweep.mass,
        sinks,
        sweep.column_error(),
    )


def _exactly(magnitude: np.ndarray, pruning: Pruning, total: float) -> np.ndarray:
    """True for the edges kept, ranked by magnitude; equal ones by place."""
    keep = keep_mass(magnitude, pruning.mass, total if pruning.mass < 1 else None)
    if pruning.most is not None and keep.sum() > pruning.most:
        order = np.argsort(-np.where(keep, magnitude, 0).ravel(), kind="stable")
        most = np.zeros(magnitude.size, dtype=bool)
        most[order[: pruning.most]] = True
        keep = keep & most.reshape(magnitude.shape)
    return keep


def _self_edges(transition: Transition, pruning: Pruning) -> Pruned:
    """A transition without attention: one edge a position."""
    total = transition.residual + transition.mlp
    parts = torch.stack([transition.residual, transition.mlp], dim=-1)
    place = torch.arange(transition.length, device=total.device)
    found = _listed(
        place, place, total, parts, transition.source_relevance, transition.target_relevance, pruning
    )
    return replace(found, sinks=_numpy(transition.sinks))


def prune_matrix(
    matrix: Tensor, source_relevance: Tensor, target_relevance: Tensor, pruning: Pruning
) -> Pruned:
    """The kept edges of a dense matrix [target, source]; the sink `not apportioned` is whatever its rows lack."""
    target, source = matrix.nonzero(as_tuple=True)
    values = matrix[target, source]
    found = _listed(target, source, values, values[:, None], source_relevance, target_relevance, pruning)
    rest = target_relevance.double() - matrix.sum(-1, dtype=torch.float64)
    return replace(found, sinks=_numpy({"not apportioned": rest}))


def _listed(
    target: Tensor,
    source: Tensor,
    values: Tensor,
    parts: Tensor,
    source_relevance: Tensor,
    target_relevance: Tensor,
    pruning: Pruning,
) -> Pruned:
    """Prune a list of edges in order of target, then source."""
    kept = (source_relevance.abs() > pruning.node_threshold)[source]
    kept &= (target_relevance.abs() > pruning.node_threshold)[target]
    candidates = torch.where(kept & (values.abs() > pruning.edge_threshold), values.abs(), 0)
    relevance, mass = values.double().cpu().numpy(), float(values.abs().sum(dtype=torch.float64))
    keep = _exactly(candidates.double().cpu().numpy(), pruning, mass)
    into, origin = target.cpu().numpy(), source.cpu().numpy()
    dropped = np.bincount(into[~keep], relevance[~keep], minlength=len(target_relevance))
    return Pruned(
        into[keep],
        origin[keep],
        relevance[keep],
        parts.cpu().numpy()[keep],
        dropped,
        float(np.abs(relevance[~keep]).sum()),
        mass,
        {},
        0.0,
    )


def _numpy(sinks: dict[str, Tensor]) -> dict[str, np.ndarray]:
    return {kind: tensor.double().cpu().numpy() for kind, tensor in sinks.items()}
