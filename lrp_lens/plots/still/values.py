"""Numbers of a figure as arrays, however plotly holds them."""

import base64
from typing import Any

import numpy as np


def numbers(values: Any) -> np.ndarray:
    """A list, an array, or the base64 of a figure that was read from JSON, as float64; none for none.

    Example:
        >>> numbers({"dtype": "i1", "bdata": "AQIDBA==", "shape": "2, 2"}).tolist()
        [[1.0, 2.0], [3.0, 4.0]]
    """
    if values is None:
        return np.zeros(0)
    if isinstance(values, dict):
        flat = np.frombuffer(base64.b64decode(values["bdata"]), np.dtype(values["dtype"]).newbyteorder("<"))
        shape = str(values.get("shape", flat.size))
        return flat.reshape([int(one) for one in shape.split(",")]).astype(float)
    return np.asarray(values, dtype=float)
