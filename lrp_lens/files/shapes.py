"""Do these arrays belong together?  One check for all results, whether computed, built by hand or read from a file."""

from collections.abc import Mapping
from typing import Any

from lrp_lens.errors import InputError


def require_shapes(owner: str, arrays: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raise InputError unless every array has its shape and holds finite numbers.

    Args:
        owner: the class, for the message.
        arrays: numpy arrays or tensors, by name.
        expected: shape of each; -1 leaves a size open.

    Example:
        >>> import numpy as np
        >>> require_shapes("Result", {"values": np.zeros((2, 3))}, {"values": (2, -1)})
    """
    for name, shape in expected.items():
        found = tuple(arrays[name].shape)
        fits = len(found) == len(shape) and all(
            own == size for own, size in zip(found, shape, strict=True) if size != -1
        )
        if not fits:
            raise InputError(f"{owner}.{name} has the shape {shape} here; received {found}.")
        if not bool((arrays[name] * 0 == 0).all()):  # 0 · NaN and 0 · ∞ are NaN
            raise InputError(f"{owner}.{name} must be finite; received a NaN or an infinity.")
