"""The type checker that tests run under: beartype, which compiles each signature once.

jaxtyping's import hook hands over, for each function of lrp_lens, a stand-in with the function's signature and nothing
else of it.  A function inside another is made anew at every call of the outer one, and a relevance pass makes hundreds
(every hook is one): compiling their checks each time took nine tenths of the first tier.
"""

from types import FunctionType
from typing import Any, get_args, get_origin

from beartype import beartype
from jaxtyping import AbstractArray

_compiled: dict[Any, Any] = {}
_PLAIN = (type(None), bool, int, float, str)


def checked(stand_in: FunctionType) -> Any:
    """The stand-in with beartype's checks; the same one for the same signature."""
    defaults = (*(stand_in.__defaults__ or ()), *(stand_in.__kwdefaults__ or {}).values())
    if not all(isinstance(one, _PLAIN) for one in defaults):
        return beartype(stand_in)
    key = (
        stand_in.__module__,
        stand_in.__qualname__,
        stand_in.__code__,
        tuple((name, _parts(hint)) for name, hint in stand_in.__annotations__.items()),
        tuple((type(one), one) for one in defaults),
    )
    if key not in _compiled:
        _compiled[key] = beartype(stand_in)
    return _compiled[key]


def _parts(hint: Any) -> Any:
    """What two spellings of a type have in common: jaxtyping's are new classes each time they are written."""
    if isinstance(hint, list):  # the parameters of a Callable
        return tuple(map(_parts, hint))
    if isinstance(hint, type) and issubclass(hint, AbstractArray) and hasattr(hint, "dim_str"):
        return hint.dtype, _parts(hint.array_type), hint.dim_str
    found = get_args(hint)
    return (get_origin(hint), *map(_parts, found)) if found else (type(hint), hint)
