"""Tensors by hook name, as ActivationCache takes it: `tensors["z", 5]`."""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from lrp_lens.errors import InputError, UnknownNameError
from lrp_lens.hosts.names import resolve_name

Key = str | tuple[Any, ...]


class TensorsByName(Mapping[str, Tensor]):
    """Hook name → tensor, read-only; also takes ActivationCache's short forms such as ("z", 5)."""

    __eq__, __hash__ = object.__eq__, object.__hash__  # a Mapping's would compare tensors

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        n_layers: int,
        what: str,
        summed: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._tensors, self._n_layers, self._what = dict(tensors), n_layers, what
        self._summed = summed or {}

    def __getitem__(self, key: Key) -> Tensor:
        name = resolve_name(key, self._n_layers)
        if name in self._summed and name not in self._tensors:
            raise UnknownNameError(
                f"A pass in low memory sums relevance block by block and keeps no {self._what}; received {name!r}, of "
                f"which only the sums are left (`cache.summed`). Run with names_filter=[{name!r}], or with "
                "memory='full'."
            )
        if name not in self._tensors:
            near = get_close_matches(name, self._tensors, n=3, cutoff=0.8)
            ask = "Did you mean one of these? If not, name" if near else "Name"
            raise UnknownNameError(
                f"No {self._what} was kept at {name!r}; {len(self._tensors)} hook points were, such as "
                f"{', '.join(near or list(self._tensors)[:3])}. {ask} it in names_filter (scores and patterns are kept "
                "on request only)."
            )
        return self._tensors[name]

    def __contains__(self, key: Any) -> bool:
        try:
            return resolve_name(key, self._n_layers) in self._tensors
        except (InputError, TypeError, ValueError):
            return False

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
