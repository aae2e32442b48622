"""Waves: patched runs that start at the patched layer and position and go on together.

1. Cells whose runs differ from the unpatched one from the same position on are one group (`cells.grouped`).
2. At each layer the copies of that layer's cells join, with the stream that the unpatched run had there; a hook puts
   each cell's patch into its own copy; the block is run on all copies that are under way.
3. Behind the last block the positions that the metrics read are unembedded, and each copy is one cell's metric.
4. A wave holds as many copies as `batch_tokens` allows; the next one starts at the layer where it stopped taking more.

`whole_batches` is the slow way of the same: whole runs, many copies in a batch, for hosts without a restart.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.hosts.forward import vocabulary_size
from lrp_lens.hosts.restart import Start
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.sites import Port
from lrp_lens.methods.facets import Facet
from lrp_lens.patching.cells import Cell, Where
from lrp_lens.patching.runs import Runs
from lrp_lens.run.plain import plain_logits

BATCH_TOKENS = 4096
"""Positions that go through a block at once."""
LOGIT_BYTES = 2**28
"""Size of the logits that are held at once, where a metric reads many positions."""
Points = Mapping[int, tuple[Port, Tensor]]
"""Layer → where to put what."""
Moved = Callable[[int], Any]
"""Told how many cells are done."""
Item = TypeVar("Item")


def wave(
    runs: Runs,
    facet: Facet,
    points: Points,
    start: Start,
    where: Sequence[Where],
    batch_tokens: int,
    moved: Moved,
) -> Float[Tensor, "metric batch cell"]:
    """The metrics of cells, layer by layer in ascending order, whose runs start at one position."""
    width = runs.length - start.after
    copies = max(1, batch_tokens // (runs.readout.n_rows * width))
    found = []
    for together in chunks(where, copies):
        found.append(_one_wave(runs, facet, points, start, together))
        moved(len(together))
    return torch.cat(found, dim=-1)


def _one_wave(
    runs: Runs, facet: Facet, points: Points, start: Start, where: Sequence[Where]
) -> Float[Tensor, "metric batch cell"]:
    states = start.state(where[0][0], copies=0)
    for layer in range(where[0][0], runs.sites.n_layers):
        joining = [cell for at, cell in where if at == layer]
        states = torch.cat((states, start.state(layer, len(joining))))
        hooks = []
        if joining:
            port, value = points[layer]
            hooks.append((port.point, patcher(facet, joining, value, start.after)))
        with attached(runs.model, hooks):
            states = start.block(layer, states)
    per_row = runs.readout.width * vocabulary_size(runs.model) * states.element_size()
    copies = max(1, LOGIT_BYTES // (per_row * runs.readout.n_rows))
    found = []
    for some in states.split(copies * runs.readout.n_rows):
        with attached(runs.model, [(runs.sites.unembed_input.point, runs.readout.keep)]):
            logits = runs.run.logits(runs.run.whole(start, some))
        found.append(runs.readout.values(logits))
    return torch.cat(found, dim=-1)


def whole_batches(
    runs: Runs, facet: Facet, points: Points, where: Sequence[Where], batch_tokens: int, moved: Moved
) -> Float[Tensor, "metric batch cell"]:
    """The metrics of cells from whole runs, the copies of one layer stacked."""
    size = max(1, batch_tokens // runs.batch.ids.numel())
    found = []
    for layer in sorted({layer for layer, _ in where}):
        port, value = points[layer]
        for cells in chunks([cell for at, cell in where if at == layer], size):
            hooks = [
                (port.point, patcher(facet, cells, value)),
                (runs.sites.unembed_input.point, runs.readout.keep),
            ]
            logits = plain_logits(runs.model, runs.batch.ids.repeat(len(cells), 1), hooks)
            found.append(runs.readout.values(logits))
            moved(len(cells))
    return torch.cat(found, dim=-1)


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Consecutive parts of at most `size`."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]


def patcher(facet: Facet, cells: Sequence[Cell], value: Tensor, after: int = 0) -> Any:
    """A hook that puts one cell's patch into each of the last copies of the rows.

    Args:
        facet: whose axes the cells index.
        cells: one for each of the last copies.
        value: what is put in, [*facet.dims].
        after: the first position that is run.
    """
    axis = next(index for index, dim in enumerate(facet.dims) if dim in ("pos", "dest_pos"))
    value = value.narrow(axis, after, value.shape[axis] - after)
    indices = []
    for cell in cells:
        at = dict(zip(facet.axes, cell, strict=True))
        index: list[Any] = [at.get(dim, slice(None)) for dim in facet.dims]
        if isinstance(index[axis], int):
            index[axis] -= after
        indices.append(tuple(index))

    def patch(tensor: Tensor, hook: Any) -> Tensor:
        patched = tensor.clone(memory_format=torch.contiguous_format)
        copies = patched[-len(cells) * len(value) :].view(len(cells), *value.shape)
        for copy, index in zip(copies, indices, strict=True):
            copy[index] = value[index].to(copy)
        return patched

    return patch
