"""Options of patching and comparing, checked before anything runs.

1. One value in the place of a list is a list of one; repeated entries count once.
2. A rule set may be given by the name of its preset.
"""

from collections.abc import Iterable
from numbers import Number
from typing import Any, Literal, get_args

from lrp_lens.checks import require_whole
from lrp_lens.errors import InputError

Engine = Literal["auto", "restarted", "transformer_lens", "batched"]
TRANSFORMER_LENS_ONLY = (
    "index_df", "return_index_df", "index_axis_names", "patch_setter", "activation_name",
)  # fmt: skip
"""Options of transformer_lens.patching that have no counterpart here."""


def as_list(values: Any, what: str, single: type | tuple[type, ...] = str) -> list[Any]:
    """A list without repeated entries, from one value or several.

    Raises:
        InputError: for what is neither, or an empty list.

    Example:
        >>> as_list("mlp_out", "sites"), as_list([3, 5, 3], "ks", int)
        (['mlp_out'], [3, 5])
    """
    if isinstance(values, single):
        return [values]
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise InputError(f"{what} is a list; received {values!r}.")
    found: list[Any] = []
    for value in values:
        if not any(value is other or (type(value) is type(other) and value == other) for other in found):
            found.append(value)
    if not found:
        raise InputError(f"{what} has at least one entry; received none.")
    return found


def require_sizes(ks: Any) -> tuple[int, ...]:
    """Sizes of top-k overlaps, from one or several; empty for none.

    Raises:
        InputError: unless every k is a whole number of at least 1.

    Example:
        >>> require_sizes(5), require_sizes((5, 10, 5)), require_sizes(())
        ((5,), (5, 10), ())
    """
    if isinstance(ks, list | tuple) and not ks:
        return ()
    sizes = []
    for k in as_list(ks, "ks", Number):
        try:
            sizes.append(require_whole(k, "k", 1))
        except InputError:
            raise InputError(
                f"A top-k overlap has k >= 1, a whole number; received {k!r} in ks={ks!r}."
            ) from None
    return tuple(dict.fromkeys(sizes))


def require_engine(engine: Any) -> None:
    """Raise InputError unless this is an engine of activation patching."""
    if engine not in get_args(Engine):
        raise InputError(f"engine is one of {', '.join(get_args(Engine))}; received {engine!r}.")


def one_metric(name: str, patching_metric: Any, metric: Any, others: dict[str, Any]) -> Any:
    """The metric, under either of transformer_lens' names for it; None if none was given.

    Raises:
        InputError: if both were, or for options that only transformer_lens has.
    """
    for option in others:
        known = option in TRANSFORMER_LENS_ONLY
        remedy = "Index the result, which has every cell." if known else "Check the spelling."
        where = "is an option of transformer_lens.patching only" if known else "is no option"
        raise InputError(f"{name} takes the options of its signature; {option} {where}. {remedy}")
    if patching_metric is not None and metric is not None:
        raise InputError(f"{name} takes one metric; received patching_metric and metric. Pass one of them.")
    return metric if patching_metric is None else patching_metric
