"""Saving a Decomposition: its arrays, and its words as JSON."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lrp_lens.files import AnyPath
from lrp_lens.files.arrays import read, write
from lrp_lens.files.headers import understood

if TYPE_CHECKING:
    from lrp_lens.decomposition.result import Decomposition

KIND = "Decomposition/3"
_ARRAYS = ("direct", "total", "metric", "frozen", "recomputed", "sources", "special")
_WORDS = (
    "stages", "without_sources", "token_strings", "pieces", "answers", "single", "towards", "metric_text", "rules_text",
)  # fmt: skip
_RESIDUAL = "residual: "


def save(parts: "Decomposition", path: AnyPath) -> None:
    """See Decomposition.save."""
    arrays = {name: getattr(parts, name) for name in _ARRAYS if getattr(parts, name) is not None}
    arrays |= {_RESIDUAL + name: values for name, values in parts.residuals.items()}
    words = {name: getattr(parts, name) for name in _WORDS}
    words["components"] = [asdict(one) for one in parts.components]
    words["residuals"] = list(parts.residuals)
    write(path, KIND, arrays, words)


def load(path: AnyPath) -> dict[str, Any]:
    """The constructor arguments of a saved decomposition, components as dicts."""
    arrays, words = read(path, KIND)
    with understood(path, KIND):
        residuals = {name: arrays[_RESIDUAL + name] for name in words["residuals"]}
        return words | {name: arrays.get(name) for name in _ARRAYS} | {"residuals": residuals}
