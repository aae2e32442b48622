"""A component: what writes to the residual stream, or is added inside it; one row of a decomposition."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["embedding", "position", "head", "mlp", "bias", "inner bias", "residual"]


@dataclass(frozen=True)
class Component:
    """One row of a decomposition."""

    label: str
    """`embed`, `pos_embed`, `L3H5`, `L3 MLP`, `L3 b_O`, `ln_final bias`, `b_U`, ..."""
    layer: int | None
    head: int | None
    kind: Kind
    """`bias`: written to the residual stream, or added after it.  `inner bias`: inside a head, an MLP or a norm
    before them (b_V, b_in, ...), so its direct contribution is 0 and that of the head or MLP contains it.
    `residual`: what linearising a soft-cap or a nonlinear metric leaves."""
