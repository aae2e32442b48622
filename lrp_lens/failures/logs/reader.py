"""What a reader of one format is: records out of a file, and a case out of a record."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

from lrp_lens.cases import Case
from lrp_lens.errors import InputError

Fate = Literal["case", "filter", "option", "duplicate", "no answer", "bad", "empty", "no log"]
"""What became of a row: a case; another filter's line of a document that was read already; one option of a multiple
choice, read with the others; the same once more; nothing the model said; a row that cannot be read; a file without
rows; a file that is no log (in a folder of logs)."""

Column = str | Callable[[Mapping[str, Any]], Any]
"""Where a field of a case comes from: the name of a column, or a function of the row."""


class Record(NamedTuple):
    """One row of a file, or why there is none."""

    line: int
    """Its line; in JSON documents, tables and iterables its number; both from 1."""
    values: Any = None
    fault: str = ""
    """What is wrong with it, "" for nothing."""


class Options(NamedTuple):
    """What a caller says about a log."""

    columns: Mapping[str, Column] = {}
    """Field of `Case` → column; a field that is not named is the column of its own name."""
    filter: str | None = None
    """Which filter's lines of a lm-evaluation-harness log become cases; None: each document's first."""


class NotACaseError(InputError):
    """A row that is no case although nothing is wrong with it."""

    def __init__(self, fate: Fate, reason: str) -> None:
        super().__init__(reason)
        self.fate: Fate = fate


class Reader(ABC):
    """Reads one file or iterable once.

    Args:
        source: a path, or what yields rows.
        name: what rows are said to come from.
        options: what the caller says about the log.
    """

    format: ClassVar[str]

    def __init__(self, source: Any, name: str, options: Options) -> None:
        self.source = source
        self.name = name
        self.options = options

    @classmethod
    def require(cls, source: Any) -> None:
        """Raise InputError if the file may not be read, or what reads such files is not installed."""
        if not os.access(source, os.R_OK):
            raise InputError(f"cannot read {str(source)!r}: permission denied")

    @abstractmethod
    def records(self) -> Iterator[Record]:
        """The rows, one at a time; an exception ends the file."""

    @abstractmethod
    def case(self, values: Any) -> Case:
        """The case of one row; its `id` is empty where the row has none.

        Raises:
            NotACaseError: a row with another fate.
            InputError: a row that cannot be read.
        """
