"""One large JSON document, read element by element.

1. The document is an object, or a list.  Its members are decoded one at a time from a buffer that grows only while a
   value goes on behind its end, and what was read is let go of.
2. Of the members that are asked for, and are lists, each element is a record of its own.
3. A place that is no JSON ends the document: what comes behind it cannot be told apart.
"""

import io
import json
from collections.abc import Collection, Iterator
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NamedTuple

from lrp_lens.errors import InputError
from lrp_lens.failures.logs.lines import opened

_CHUNK = 1 << 16
_CUT = 16
"""How near to the end of the buffer a mistake may be one of cutting: the longest escape or word of JSON fits in."""


_EXPONENT = len("e+0")
"""How far behind a number's end has to be seen to know that it does not go on."""


class Member(NamedTuple):
    """A member of a document."""

    key: str
    """Its name; "" for the elements of a document that is a list."""
    number: int
    """Of an element of a list that is read one by one: from 1; else 0."""
    value: Any


def members(path: Path, lists: Collection[str] = (), chunk: int = _CHUNK) -> Iterator[Member]:
    """The members of a document in their order.

    Args:
        path: the file.
        lists: members whose elements are read one by one; those of a document that is a list always are.
        chunk: characters that are read at once.

    Raises:
        InputError: no JSON, or one that ends early.
    """
    with opened(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape") as file:
        text = _Text(file, chunk)
        if text.next() == "[":
            yield from _elements(text, "")
            return
        text.take("{")
        while text.next() != "}":
            key = text.value()
            text.take(":")
            if key in lists and text.next() == "[":
                yield from _elements(text, key)
            else:
                yield Member(str(key), 0, text.value())
            if text.next() != "}":
                text.take(",")


def _elements(text: "_Text", key: str) -> Iterator[Member]:
    text.take("[")
    number = 0
    while text.next() != "]":
        number += 1
        yield Member(key, number, text.value())
        if text.next() != "]":
            text.take(",")
    text.take("]")


class _Text:
    """A window on the file's text."""

    def __init__(self, file: io.TextIOWrapper, chunk: int) -> None:
        self.file, self.chunk = file, chunk
        self.text, self.at, self.ended, self.gone = "", 0, False, 0
        self.decode = json.JSONDecoder().raw_decode

    def fill(self) -> None:
        """Read on, as much again as a value has taken already."""
        more = self.file.read(max(self.chunk, len(self.text) - self.at))
        self.ended = not more
        self.gone += self.at
        self.text, self.at = self.text[self.at :] + more, 0

    def next(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n":
                self.at += 1
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.fill()

    def take(self, wanted: str) -> None:
        """Go behind this character."""
        found = self.next()
        if found != wanted:
            what = f"{found!r}" if found else "the end of the file"
            raise InputError(f"no JSON: {wanted!r} is wanted at character {self.gone + self.at}, got {what}")
        self.at += 1

    def value(self) -> Any:
        """The value that begins here."""
        self.next()
        while True:
            try:
                found, end = self.decode(self.text, self.at)
            except JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - _CUT
                if self.ended or not cut:
                    raise InputError(
                        f"no JSON at character {self.gone + error.pos}: {error.msg}; what comes behind it is not read"
                    ) from error
                self.fill()
                continue
            if end > len(self.text) - _EXPONENT and not self.ended:  # a number may go on
                self.fill()
                continue
            self.at = end
            return found
