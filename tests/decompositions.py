"""What the tests of decompositions share."""

from typing import Any

import numpy as np
import torch

from lrp_lens import Decomposition, LogitDiff
from tests import zoo

EXACT = 1e-9
METRIC = LogitDiff(3, 7)


def prompts(*lengths: int) -> list[torch.Tensor]:
    return [zoo.prompt_tokens(1, length, seed=length)[0] for length in lengths]


def row(parts: Decomposition, label: str, part: str = "direct") -> float:
    table = parts.table().set_index("component")
    return float(table.loc[label, part])


def close(left: Any, right: Any, tolerance: float = EXACT) -> bool:
    return bool(np.max(np.abs(np.asarray(left) - np.asarray(right))) < tolerance)
