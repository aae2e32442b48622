"""Do these arrays describe one decomposition?  Shapes, finite numbers, distinct rows, tokens for every position."""

from typing import TYPE_CHECKING

from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError
from lrp_lens.files.shapes import require_shapes

if TYPE_CHECKING:
    from lrp_lens.decomposition.result import Decomposition


def checked(parts: "Decomposition") -> None:
    """Raise InputError unless the fields fit together."""
    batch, length = len(parts.metric), parts.special.shape[-1]
    residuals = [one.label for one in parts.components if one.kind == "residual"]
    whole = (batch, len(parts.components) - len(residuals), length)
    expected = {
        "metric": (batch,),
        "special": (batch, length),
        "direct": whole,
        "total": whole,
        "frozen": (batch, len(parts.stages)),
    }
    if parts.recomputed is not None:
        expected["recomputed"] = (batch, len(parts.stages))
    if parts.sources is not None:
        expected["sources"] = (batch, -1, -1, length)
    require_shapes("Decomposition", vars(parts), expected)
    require_shapes("Decomposition.residuals", parts.residuals, dict.fromkeys(residuals, (batch,)))
    labels = [one.label for one in parts.components]
    if len(set(labels)) != len(labels) or list(parts.residuals) != residuals:
        raise InputError(
            f"The components of a decomposition are distinct, and its residuals are among them; received {labels} and "
            f"the residuals {list(parts.residuals)}."
        )
    if [len(one) for one in parts.token_strings] != [length] * batch:
        raise InputError(
            f"A decomposition names the {length} tokens of each of its {batch} prompts; received "
            f"{[len(one) for one in parts.token_strings]} names."
        )


def require_index(name: str, index: object) -> None:
    """Raise InputError unless this is a whole number, or None.

    Example:
        >>> require_index("layer", 1)
    """
    if index is not None and not is_whole(index):
        raise InputError(f"{name} is a whole number, or None for all; received {index!r}.")
