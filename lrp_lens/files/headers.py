"""The header of a saved result: what it is, its words, and a checksum of words and arrays.

1. `sealed` makes the header, JSON in one string.
2. `opened` reads it: a file of another kind, and one that was changed since it was written (by a program, by hand, by
   a bad disk), is refused.
3. `understood` turns whatever else is odd about a file into the same error.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from os import fspath
from typing import Any

from lrp_lens.errors import InputError
from lrp_lens.files.paths import AnyPath

KEY = "lrp_lens"
"""Where the header lies in the metadata of a safetensors file."""
SAFETENSORS = "a safetensors file"


Arrays = Mapping[str, tuple[Any, Any]]
"""By name, each array (anything with a dtype and a shape) and its bytes (anything with the buffer protocol)."""


def sealed(kind: str, words: Any, arrays: Arrays) -> str:
    """The header of a result.

    Args:
        kind: names the class and the version of the format, e.g. "Decomposition/1".
        words: anything that JSON can hold.
        arrays: by name, each with its bytes.
    """
    said = json.dumps(words)
    return json.dumps({"kind": kind, "checksum": _checksum(kind, said, arrays), "words": json.loads(said)})


def opened(path: AnyPath, kind: str, header: str, arrays: Arrays) -> Any:
    """The words of a header that `sealed` made, lists as tuples.

    Raises:
        InputError: a header of another kind or none, or one that does not fit the arrays.
    """
    found: Any = None
    with suppress(ValueError):
        found = json.loads(header)
    of = found.get("kind") if isinstance(found, dict) else None
    name = _name(kind)
    if of != kind:
        newer = isinstance(of, str) and _name(of) == name
        remedy = (
            "Use the version of lrp_lens that wrote it." if newer else f"Pass a file written by {name}.save."
        )
        raise InputError(
            f"A saved {name} is of the kind {kind!r}; {fspath(path)!r} is of the kind {of!r}. {remedy}"
        )
    words = found.get("words")
    if found.get("checksum") != _checksum(kind, json.dumps(words), arrays):
        raise InputError(
            f"A saved {name} holds what was written; {fspath(path)!r} was changed since (its checksum does not fit). "
            "Save it again from the source."
        )
    return as_tuples(words)


def as_tuples(value: Any) -> Any:
    """What JSON gives back as lists, as the tuples that were written, all the way down.

    Example:
        >>> as_tuples({"spans": [[0, 3], [5, 9]], "name": None})
        {'spans': ((0, 3), (5, 9)), 'name': None}
    """
    if isinstance(value, dict):
        return {name: as_tuples(one) for name, one in value.items()}
    return tuple(map(as_tuples, value)) if isinstance(value, list) else value


@contextmanager
def understood(path: AnyPath, kind: str, formats: str = SAFETENSORS) -> Iterator[None]:
    """Reading a file: nothing there, or anything odd about it, becomes one InputError."""
    name = _name(kind)
    if not isinstance(path, str) and not hasattr(path, "__fspath__"):
        raise InputError(f"A saved {name} is read from a path, a string or a Path; received {path!r}.")
    if not os.path.isfile(path):
        raise InputError(f"A saved {name} is a file; nothing is at {fspath(path)!r}.")
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"A saved {name} is {formats}; {fspath(path)!r} is not ({error!r}).") from error


def _name(kind: str) -> str:
    return kind.partition("/")[0]


def _checksum(kind: str, words: str, arrays: Arrays) -> str:
    total = hashlib.blake2b(digest_size=16)
    total.update(f"{kind}\n{words}\n".encode())
    for name in sorted(arrays):
        array, data = arrays[name]
        total.update(f"{name} {array.dtype} {tuple(array.shape)}\n".encode())
        total.update(data)
    return total.hexdigest()
