"""The type checks that tests run under: jaxtyping's shapes and beartype's types, compiled once for each signature.

pytest's option `--jaxtyping-packages` decorates every function of lrp_lens with `jaxtyping.jaxtyped`; `install` puts
`checked` in its place.  jaxtyping's own binds the arguments of every call to the signature, and compiles the checks of
a function anew whenever it is made: most functions here take no array, and a relevance pass makes hundreds inside
others (every hook is one).  That took half of the first tier.

1. A function's checks are two stand-ins with its annotations and no body: one takes the parameters, one what is
   returned.  beartype compiles them once; a function of the same code and the same signature takes the same ones.
2. A call hands the arguments to the first, calls the function, hands what came back to the second.
3. Where an annotation holds an array, all of it happens in one context of jaxtyping's, in which an axis has one size.
"""

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial, wraps
from types import FunctionType, SimpleNamespace
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import jaxtyping
from beartype import beartype
from beartype.roar import BeartypeCallHintViolation
from jaxtyping import AbstractArray, TypeCheckError

_PLAIN = (type(None), bool, int, float, str)
_SHAPES = jaxtyping.jaxtyped  # jaxtyping's own, before `install`


class Checks(NamedTuple):
    """What is checked around a call, and whether axes have to agree."""

    parameters: Callable[..., None]
    returned: Callable[[Any], Any]
    has_arrays: bool


_compiled: dict[Any, Checks] = {}


def install() -> None:
    """Let `jaxtyping.jaxtyped` be `checked`, as the import hook looks it up there for every function."""
    jaxtyping.jaxtyped = checked


def checked(target: Any = None, *, typechecker: Any = None) -> Any:
    """A function with its checks; a dataclass, method or property with those of its functions."""
    if target is None:
        return partial(checked, typechecker=typechecker)
    if target == "context":
        return _SHAPES("context")
    if inspect.isclass(target):
        made = target.__dict__.get("__init__")
        if dataclasses.is_dataclass(target) and isinstance(made, FunctionType) and not _is_checked(made):
            target.__init__ = _with_checks(made)  # type: ignore[misc]
        return target
    if isinstance(target, classmethod | staticmethod):
        return type(target)(checked(target.__func__))
    if isinstance(target, property):
        read, write, delete = (one and checked(one) for one in (target.fget, target.fset, target.fdel))
        return property(read, write, delete, target.__doc__)
    return _with_checks(target)


def _is_checked(function: Any) -> bool:
    return hasattr(function, "__wrapped__") and function.__globals__ is globals()


def _with_checks(function: Any) -> Any:
    parameters, returned, has_arrays = _checks(function)

    def call(args: Any, kwargs: Any) -> Any:
        try:
            parameters(*args, **kwargs)
        except BeartypeCallHintViolation as error:
            raise TypeCheckError(f"the parameters of {_name(function)}: {error}") from error
        out = function(*args, **kwargs)
        try:
            returned(out)
        except BeartypeCallHintViolation as error:
            raise TypeCheckError(f"the return value of {_name(function)}: {error}") from error
        return out

    @wraps(function)
    def with_checks(*args: Any, **kwargs: Any) -> Any:
        if jaxtyping.config.jaxtyping_disable:
            return function(*args, **kwargs)
        if not has_arrays:
            return call(args, kwargs)
        with _SHAPES("context"):
            return call(args, kwargs)

    return with_checks


def _name(function: Any) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _checks(function: FunctionType) -> Checks:
    """The stand-ins of a function; the same ones for the same code and signature."""
    defaults = (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    if not all(isinstance(one, _PLAIN) for one in defaults):
        return _stand_ins(function)
    key = (
        function.__code__,
        tuple((name, _parts(hint)) for name, hint in function.__annotations__.items()),
        tuple((type(one), one) for one in defaults),
    )
    if key not in _compiled:
        _compiled[key] = _stand_ins(function)
    return _compiled[key]


def _stand_ins(function: FunctionType) -> Checks:
    hints = {name: _resolved(name, function) for name in function.__annotations__}
    signature = inspect.signature(function)
    bare = [
        one.replace(annotation=one.empty, default=one.default if one.default is one.empty else None)
        for one in signature.parameters.values()
    ]
    made: dict[str, Any] = {}
    bare_signature = signature.replace(parameters=bare, return_annotation=signature.empty)
    exec(f"def parameters{bare_signature}: pass\ndef returned(value): return value", made)
    parameters, returned = made["parameters"], made["returned"]
    parameters.__defaults__, parameters.__kwdefaults__ = function.__defaults__, function.__kwdefaults__
    parameters.__annotations__ = {name: hint for name, hint in hints.items() if name != "return"}
    returned.__annotations__ = {name: hint for name, hint in hints.items() if name == "return"}
    for one in (parameters, returned):
        one.__module__, one.__qualname__ = function.__module__, function.__qualname__
    return Checks(beartype(parameters), beartype(returned), any(map(_has_arrays, hints.values())))


def _resolved(name: str, function: FunctionType) -> Any:
    """The annotation, read where it is text; Any where it names what is imported for type checkers only."""
    alone = SimpleNamespace(__annotations__={name: function.__annotations__[name]})
    try:
        return get_type_hints(alone, function.__globals__, include_extras=True)[name]
    except NameError:
        return Any


def _is_array(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, AbstractArray) and hasattr(hint, "dim_str")


def _has_arrays(hint: Any) -> bool:
    if isinstance(hint, list):  # the parameters of a Callable
        return any(map(_has_arrays, hint))
    return _is_array(hint) or any(map(_has_arrays, get_args(hint)))


def _parts(hint: Any) -> Any:
    """What two spellings of a type have in common: jaxtyping's are new classes each time they are written."""
    if isinstance(hint, list):
        return tuple(map(_parts, hint))
    if _is_array(hint):
        return hint.dtype, _parts(hint.array_type), hint.dim_str
    found = get_args(hint)
    return (get_origin(hint), *map(_parts, found)) if found else (type(hint), hint)
