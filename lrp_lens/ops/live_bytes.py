"""How much memory a computation needs, counted while it runs on few tokens and carried over to many.

1. `Counter` sees every operation of torch, forward and backward, and counts the bytes of the storages that are alive
   after it (each once), and the floating point operations of matrix products.
2. The same computation on n tokens makes the same operations, and every tensor's size is a polynomial of n of degree 2
   at most.  So three lengths give the bytes alive after each operation at any n, and the peak is the largest.
3. Where the number of operations depends on the tokens (a loop over a mixture's experts), there is no such matching:
   then the three peaks are carried over, by the polynomial through them.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Counter(TorchDispatchMode):
    """Bytes alive after each operation inside its context, those of tensors that were there before left out."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = 0
        self.timeline: list[int] = []
        self.flops = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(one.untyped_storage()) for one in _tensors(args)}
        result = function(*args, **(kwargs or {}))
        for one in _tensors(result if isinstance(result, tuple | list) else (result,)):
            storage = one.untyped_storage()
            if storage.data_ptr() and id(storage) not in given:
                self._count(storage)
        self.timeline.append(self.alive)
        count = flop_registry.get(getattr(function, "overloadpacket", None))
        if count is not None:
            self.flops += int(count(*args, **(kwargs or {}), out_val=result))
        return result

    def _count(self, storage: Any) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self.alive += size
        self._known[key] = weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.alive -= size
        self._known.pop(key, None)


def _tensors(values: Any) -> list[Tensor]:
    return [one for one in values if isinstance(one, Tensor)]


@dataclass(frozen=True, eq=False)
class Growth:
    """Counts as polynomials of the length: c₀ + batch · (c₁ n + c₂ n²), one for each operation."""

    coefficients: np.ndarray
    """[operation, power], the constant first."""

    @classmethod
    def through(cls, lengths: Sequence[int], counts: Sequence[Sequence[int]]) -> "Growth":
        """The polynomials through the counts at three lengths; through their peaks, where the operations differ."""
        peaks = [[max(one)] for one in counts]
        values = np.array(counts if len({len(one) for one in counts}) == 1 else peaks, dtype=float)
        powers = np.vander(np.array(lengths, dtype=float), len(lengths), increasing=True)
        return cls(np.linalg.solve(powers, values).T)

    def at(self, n_tokens: int, batch: int = 1, square: float | None = None) -> int:
        """The largest of the counts at a length.

        Args:
            n_tokens: the length n.
            batch: factor on all but the constant.
            square: in place of n², where that stands for a product with another number than n.

        Example:
            >>> Growth.through([1, 2, 3], [[4, 1], [4, 4], [4, 9]]).at(10)  # constant, and n²
            100
        """
        powers = float(n_tokens) ** np.arange(self.coefficients.shape[1])
        powers[2:] = powers[2:] if square is None else square
        powers[1:] *= batch
        return round(float((self.coefficients @ powers).max()))
