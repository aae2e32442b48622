"""CaseLog: the cases of logs, one at a time, and the fate of every row.

1. Going through it reads the sources again, row by row; the cases are not kept, their rows' fates are.
2. An id belongs to one case.  The same case under the same id once more is a duplicate; another case under a taken id
   gets the beginning of its content's SHA-256 behind it.
3. Whatever a row or a file does, it costs itself only: an error becomes its fate.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lrp_lens.cases import Case, Passage
from lrp_lens.errors import InputError
from lrp_lens.failures.logs.reader import Fate, NotACaseError, Reader
from lrp_lens.failures.logs.values import told
from lrp_lens.views.table import table_of

_CONTENT = (
    "prompt",
    "target",
    "contrast",
    "completion",
    "position",
    "accepted",
    "choices",
    "chosen",
    "right",
)
_DIGITS = 8
_REASON = 400


class LogRow(NamedTuple):
    """What became of one row."""

    file: str
    """Where it stands: a path, or "rows"."""
    line: int
    """Its line, in JSON documents, tables and iterables its number; from 1; 0 for the whole file."""
    fate: Fate
    """"case", "filter", "duplicate", "no answer", "bad", "empty" or "no log"."""
    reason: str
    """Why it is no case; "" for a case."""
    id: str
    """The case's id; "" if there is none."""


class CaseLog:
    """The cases of one or several logs; go through it as often as its sources allow.

    Example:
        >>> from lrp_lens.failures.logs import read_cases
        >>> log = read_cases([{"prompt": "2 + 2 =", "completion": " 5"}, {"question": "?"}])
        >>> [case.completion for case in log]
        [' 5']
        >>> log
        CaseLog of 2 rows: 1 case, 1 bad
          rows:2: bad: a row needs a prompt (or messages), or columns={'prompt': ...}; it has ['question']
    """

    def __init__(
        self,
        readers: Sequence[Callable[[], Reader]],
        passages: Mapping[str, tuple[Passage, ...]],
        others: Sequence[LogRow] = (),
        once: bool = False,
        chat: bool = False,
    ) -> None:
        """Use `read_cases`.

        Args:
            readers: make a reader for each source.
            passages: what every case names besides its own.
            others: rows whose fate is known already.
            once: whether the source can be gone through only once.
            chat: whether a text is a user's message.
        """
        self._readers, self._passages, self._others, self._once = readers, passages, others, once
        self._chat = chat
        self._rows: list[LogRow] = []
        self._begun = self._finished = False

    def __iter__(self) -> Iterator[Case]:
        """The cases, as they are read."""
        return (case for _, case in self.read() if case is not None)

    def read(self) -> Iterator[tuple[LogRow, Case | None]]:
        """Every row as it is read, with its case if it became one.

        Raises:
            InputError: rows that can be read only once, and were.
        """
        if self._once and self._begun:
            raise InputError(
                "these rows come from an iterator, which can be gone through once, and was. Pass a list, or a new "
                "iterator to another read_cases."
            )
        self._begun, self._finished = True, False
        self._rows = rows = []
        for row, case in self._all():
            rows.append(row)
            yield row, case
        self._finished = self._rows is rows

    @property
    def repeatable(self) -> bool:
        """Whether it can be gone through more than once."""
        return not self._once

    @property
    def rows(self) -> tuple[LogRow, ...]:
        """Every row's fate; files that were not read to the end are."""
        if not self._finished and not self._once:
            for _ in self.read():
                pass
        return tuple(self._rows)

    def to_dataframe(self) -> pd.DataFrame:
        """One line for each row: file, line, fate, reason, id."""
        return table_of({name: [getattr(row, name) for row in self.rows] for name in LogRow._fields})

    def coverage(self) -> pd.DataFrame:
        """How many rows of each file had each fate, and the first reason: file, fate, rows, line, reason."""
        first: dict[tuple[str, str], LogRow] = {}
        rows = self.rows
        count: Counter[tuple[str, str]] = Counter((row.file, row.fate) for row in rows)
        for row in rows:
            first.setdefault((row.file, row.fate), row)
        columns = {
            "file": [file for file, _ in first],
            "fate": [fate for _, fate in first],
            "rows": [count[one] for one in first],
            "line": [row.line for row in first.values()],
            "reason": [row.reason for row in first.values()],
        }
        return table_of(columns)

    def __repr__(self) -> str:
        """The counts, and of each fate the first reason; nothing is read for it."""
        if not self._begun:
            return f"CaseLog of {len(self._readers)} sources, not read yet: go through it, or call coverage()"
        counts = Counter(row.fate for row in self._rows)
        many = {"case": "cases", "duplicate": "duplicates"}
        told = ", ".join(f"{n} {many.get(fate, fate) if n > 1 else fate}" for fate, n in counts.most_common())
        so_far = "" if self._finished else " so far"
        lines = [f"CaseLog of {len(self._rows)} rows{so_far}: {told or 'none'}"]
        shown = {row.fate: row for row in reversed(self._rows) if row.reason}
        lines += [f"  {row.file}:{row.line}: {fate}: {row.reason}" for fate, row in sorted(shown.items())]
        return "\n".join(lines)

    def _all(self) -> Iterator[tuple[LogRow, Case | None]]:
        ids: dict[str, dict[str, str]] = {}
        for make in self._readers:
            yield from self._of(make(), ids)
        yield from ((row, None) for row in self._others)

    def _of(self, reader: Reader, ids: dict[str, dict[str, str]]) -> Iterator[tuple[LogRow, Case | None]]:
        """The rows of one source."""
        line, empty = 0, True
        try:
            for record in reader.records():
                line, empty = record.line, False
                yield self._row(reader, record.line, record.values, record.fault, ids)
        except Exception as error:  # of gzip, csv, pyarrow, the disk, the caller's iterator
            empty = False
            yield _failed(
                reader.name, line + 1, "bad", f"nothing is read from here on: {told(error, _REASON)}"
            )
        if empty:
            yield _failed(reader.name, 0, "empty", "there are no rows")

    def _row(
        self, reader: Reader, line: int, values: Any, fault: str, ids: dict[str, dict[str, str]]
    ) -> tuple[LogRow, Case | None]:
        if fault:
            return _failed(reader.name, line, "bad", fault)
        try:
            case = reader.case(values)
            if self._passages:
                case = replace(case, passages={**self._passages, **case.passages})
            case = _as_message(case) if self._chat else case
            case.text_spans()
            return self._named(reader.name, line, case, ids)
        except NotACaseError as error:
            return _failed(reader.name, line, error.fate, str(error))
        except Exception as error:  # a row is never fatal, whatever is in it
            return _failed(reader.name, line, "bad", told(error, _REASON))

    def _named(
        self, name: str, line: int, case: Case, ids: dict[str, dict[str, str]]
    ) -> tuple[LogRow, Case | None]:
        """The case under an id of its own."""
        own, content = case.id or f"{Path(name).name}:{line}", content_of(case)
        taken = ids.setdefault(own, {})
        if content in taken:
            return _failed(name, line, "duplicate", f"the same case as {taken[content]}", own)
        changed = f"{own}#{content[:_DIGITS]}" if taken else own
        taken[content] = f"{name}:{line}"
        return LogRow(name, line, "case", "", changed), replace(
            case, id=changed
        ) if changed != case.id else case


def _as_message(case: Case) -> Case:
    """A case whose text is a user's message; one of messages as it is.

    Raises:
        NotACaseError: it names spans of tokens, which a template moves.
    """
    if not isinstance(case.prompt, str):
        return case
    if case.segments:
        raise NotACaseError(
            "bad", "segments are tokens of the text, and a chat template moves them: name passages instead"
        )
    passages = {
        name: tuple(one if one.characters is None else replace(one, message=0) for one in own)
        for name, own in case.passages.items()
    }
    return replace(case, prompt=[{"role": "user", "content": case.prompt}], passages=passages)


def _failed(file: str, line: int, fate: Fate, reason: str, name: str = "") -> tuple[LogRow, None]:
    return LogRow(file, line, fate, reason if len(reason) <= _REASON else f"{reason[:_REASON]}…", name), None


def content_of(case: Case) -> str:
    """SHA-256 of what a case asks, the same in every process."""
    values = case.to_dict()
    data = json.dumps([values[name] for name in _CONTENT], ensure_ascii=False)
    return hashlib.sha256(data.encode("utf-8", "surrogatepass")).hexdigest()
