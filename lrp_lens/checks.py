"""Numbers that a user passes, checked before any work."""

import operator
from typing import Any, TypeGuard

from lrp_lens.errors import InputError


def is_whole(value: object) -> TypeGuard[int]:
    """Whether this is a whole number: an int, numpy's and torch's too, and no bool.

    Example:
        >>> is_whole(3), is_whole(True), is_whole(3.0)
        (True, False, False)
    """
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]  # what it refuses is no whole number
    except TypeError:
        return False
    return True


def require_whole(value: Any, what: str, least: int) -> int:
    """A whole number of at least `least`.

    Raises:
        InputError: for bools, floats, text, or a smaller number.

    Example:
        >>> require_whole(5, "samples", 0)
        5
    """
    if not is_whole(value) or value < least:
        raise InputError(f"{what} is a whole number, {what} >= {least}; received {value!r}.")
    return operator.index(value)
