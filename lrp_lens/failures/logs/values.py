"""Values of logs as what a case may hold: plain data, texts, numbers, verdicts."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrp_lens.errors import InputError, LrpLensError

_CLIPPED, _LINE = 80, 200


def clipped(value: Any, length: int = _CLIPPED) -> str:
    """A value's text for a message, no longer than this.

    Example:
        >>> clipped("a" * 9, 4)
        "'aaa…"
    """
    try:
        text = value if isinstance(value, Exception) else repr(value)
        text = str(text)
    except (ValueError, RecursionError):  # an integer of more digits than Python writes
        text = f"a {type(value).__name__}"
    return text if len(text) <= length else f"{text[:length]}…"


def told(error: Exception, length: int = _LINE) -> str:
    """An error for a row's reason: our own as they are, others with their kind in front.

    Example:
        >>> told(InputError("no prompt")), told(KeyError("x"))
        ('no prompt', "KeyError: 'x'")
    """
    said = clipped(error, length)
    return said if isinstance(error, LrpLensError) else f"{type(error).__name__}: {said}"


def plain(value: Any) -> Any:
    """Dictionaries, lists, strings and numbers for JSON; what is no finite number becomes its name.

    Example:
        >>> plain({"a": np.arange(2), "b": (float("nan"), b"x"), 3: None})
        {'a': [0, 1], 'b': ['nan', "b'x'"], '3': None}
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [plain(one) for one in value]
    return str(value)


def is_missing(value: Any) -> bool:
    """Whether a cell of a table is empty: None, NaN, or pandas' own."""
    missing = value is None or value is pd.NA or value is pd.NaT
    return missing or (isinstance(value, float) and math.isnan(value))


def text(value: Any, what: str) -> str:
    """A text, or a number as one.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    raise InputError(f"{what} is a text, got {clipped(value)}")


def texts(value: Any, what: str) -> tuple[str, ...]:
    """Several texts: a list, the list under "text" (as question-answering data have it), or one text.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, Mapping):
        value = value.get("text")
    if isinstance(value, list | tuple):
        return tuple(text(one, what) for one in value)
    return (text(value, what),)


def number(value: Any, what: str) -> float:
    """A number, or a text that is one.

    Raises:
        InputError: anything else, and what is not a number (NaN).
    """
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if math.isnan(found):
        raise InputError(f"{what} is a number, got {clipped(value)}")
    return found


def whole(value: Any, what: str) -> int:
    """A whole number, or a text that is one.

    Raises:
        InputError: anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    found = number(value, what)
    if not found.is_integer():
        raise InputError(f"{what} is a whole number, got {clipped(value)}")
    return int(found)


def verdict(value: Any) -> bool | None:
    """Whether a score says right or wrong; None for a score in between, or one that is no score.

    Example:
        >>> verdict("C"), verdict(0.0), verdict(True), verdict(0.5), verdict("False")
        (True, False, True, None, False)
    """
    words = {"c": True, "i": False, "n": False, "true": True, "false": False, "1": True, "0": False}
    if isinstance(value, str):
        return words.get(value.strip().lower())
    if isinstance(value, bool | int | float) and value in (0, 1):
        return bool(value)
    return None


def first_verdict(values: Iterable[Any]) -> bool | None:
    """The first of several scores that says right or wrong."""
    return next((one for one in map(verdict, values) if one is not None), None)


def messages(value: Any, what: str = "the prompt") -> list[dict[str, str]]:
    """Messages with a role and a text each.

    Raises:
        InputError: images, calls of tools, and anything else that a template would write in a way of its own.
    """
    if not isinstance(value, list | tuple) or not value:
        raise InputError(f"{what} is a text or messages, got {clipped(value)}")
    return [_message(index, one) for index, one in enumerate(value)]


def content_text(content: Any, what: str) -> str:
    """The text of a message's content, which may come in parts; what the model thought is left out.

    Raises:
        InputError: parts that are no text.
    """
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, list | tuple):
        raise InputError(f"{what} is text, got {clipped(content)}")
    said = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        found = part.get("text") if isinstance(part, Mapping) else part
        if kind == "reasoning":
            continue
        if kind != "text" or not isinstance(found, str):
            raise InputError(f"{what} is text, got a part of type {kind!r}")
        said.append(found)
    return "".join(said)


def _message(index: int, one: Any) -> dict[str, str]:
    if not isinstance(one, Mapping) or not isinstance(one.get("role"), str):
        raise InputError(f"a message has a role and a content, message {index} is {clipped(one)}")
    if one.get("tool_calls") or one["role"] == "tool":
        raise InputError(f"calls of tools are written by a template in its own way; message {index} has one")
    return {
        "role": one["role"],
        "content": content_text(one.get("content"), f"the content of message {index}"),
    }


def as_json(value: Any, what: str) -> Any:
    """What a text says in JSON; anything else as it is.

    Raises:
        InputError: a text that is no JSON.
    """
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is JSON, got {clipped(value)}: {clipped(error)}") from error


def first_line(value: Any) -> str:
    """The first line of an error's text, which may come as {"message": ...}."""
    found = value.get("message") if isinstance(value, Mapping) else value
    line = (str(found).strip() or "no reason given").splitlines()[0]
    return line if len(line) <= _LINE else f"{line[:_LINE]}…"
