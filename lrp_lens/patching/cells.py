"""Cells: which patches of a facet are asked for, and in which order they are run.

1. A facet has one cell per layer and combination of its axes; `layers=` and `positions=` choose among them.
2. A patch at a position changes nothing before it, so cells are grouped by the position from which on their runs
   differ: each group starts there, and one group makes one entry of a checkpoint.  Up to `GROUPS` groups: of long
   prompts neighbouring positions share one.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lrp_lens.checks import require_whole
from lrp_lens.errors import InputError
from lrp_lens.methods.facets import Facet
from lrp_lens.patching.checks import Engine, as_list

Cell = tuple[int, ...]
"""Indices along a facet's axes."""
Where = tuple[int, Cell]
"""Layer and cell."""
GROUPS = 16
_POSITIONS = ("pos", "dest_pos")


@dataclass(frozen=True)
class Chosen:
    """The layers and positions that are asked for, ascending."""

    layers: tuple[int, ...]
    positions: tuple[int, ...]

    @staticmethod
    def of(layers: Any, positions: Any, n_layers: int, length: int) -> "Chosen":
        """All of them by default; one number or several, from 0, or back from -1.

        Raises:
            InputError: for what is no whole number, or out of range.

        Example:
            >>> Chosen.of(-1, [0, -1], n_layers=4, length=15)
            Chosen(layers=(3,), positions=(0, 14))
        """
        return Chosen(_indices(layers, "layers", n_layers), _indices(positions, "positions", length))

    def keeps(self, facet: Facet, where: Where) -> bool:
        """Whether a cell is asked for."""
        layer, cell = where
        at = position_of(facet, cell)
        return layer in self.layers and (at is None or at in self.positions)


def require_choice(facets: Iterable[Facet], layers: Any, positions: Any, engine: Engine) -> None:
    """Raise InputError if cells are chosen that a facet does not have, or of transformer_lens, which runs all."""
    if engine == "transformer_lens" and not (layers is None and positions is None):
        raise InputError(
            f"transformer_lens.patching runs every cell; received layers={layers!r}, positions={positions!r}. Use "
            "another engine, or leave them out."
        )
    for facet in facets:
        if positions is not None and not set(facet.axes) & set(_POSITIONS):
            raise InputError(
                f"positions chooses cells by their position; received positions={positions!r} for {facet.name}, whose "
                "patches cover all positions. Leave positions or this site out."
            )


def position_of(facet: Facet, cell: Cell) -> int | None:
    """The position that a patch begins at; None if it covers all."""
    at = dict(zip(facet.axes, cell, strict=True))
    return next((at[axis] for axis in _POSITIONS if axis in at), None)


def grouped(facet: Facet, where: Sequence[Where], length: int) -> dict[int, list[Where]]:
    """Position from which on runs differ → the cells whose runs start there, layer by layer."""
    size = math.ceil(length / GROUPS)
    groups: dict[int, list[Where]] = {}
    for layer, cell in where:
        start = (position_of(facet, cell) or 0) // size * size
        groups.setdefault(start, []).append((layer, cell))
    return {start: sorted(groups[start]) for start in sorted(groups)}


def _indices(values: Any, what: str, size: int) -> tuple[int, ...]:
    if values is None:
        return tuple(range(size))
    found = []
    for value in as_list(values, what, (int, str)):
        index = require_whole(value, what, -size)
        if index >= size:
            raise InputError(f"{what} lie in [-{size}, {size}); received {value!r}.")
        found.append(index % size)
    return tuple(sorted(set(found)))
