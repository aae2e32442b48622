"""Rows that have the fields of `Case` under their own or other names: JSONL, JSON lists, CSV, parquet, any iterable.

1. A field comes from the column of its name, from the column that `columns` names, or from a function of the row;
   `messages` is another name for `prompt`.
2. Values become what the field holds: numbers of texts, texts of numbers, lists of one text, option letters; nulls are
   not given.  In tables of text, structured fields are JSON.
3. What no field takes goes into `metadata`.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, ClassVar

import pandas as pd

from lrp_lens.cases import Case
from lrp_lens.errors import InputError
from lrp_lens.failures.logs.choice import decision
from lrp_lens.failures.logs.documents import members
from lrp_lens.failures.logs.lines import json_lines, opened, undecoded
from lrp_lens.failures.logs.reader import Column, Reader, Record
from lrp_lens.failures.logs.values import (
    as_json,
    clipped,
    is_missing,
    messages,
    number,
    plain,
    text,
    texts,
    verdict,
    whole,
)  # fmt: skip
from lrp_lens.files.parquet import parquet

FIELDS = tuple(one.name for one in fields(Case))
_STRUCTURED = ("segments", "passages", "metadata")
_BATCH = 256
_LONGEST = 2**31 - 1


class FieldsReader(Reader):
    """Rows of JSON lines."""

    format: ClassVar[str] = "jsonl"

    def records(self) -> Iterator[Record]:
        """One for each line."""
        return json_lines(self.source)

    def case(self, values: Any) -> Case:
        """The case of a row."""
        if isinstance(values, Case):
            return values
        if not isinstance(values, Mapping):
            raise InputError(f"a row has named columns, got {clipped(values)}")
        return case_of_row(values, self.options.columns)


class ListReader(FieldsReader):
    """The elements of a JSON document that is a list."""

    format: ClassVar[str] = "json"

    def records(self) -> Iterator[Record]:
        """One for each element."""
        for member in members(self.source):
            yield Record(member.number, member.value, "not UTF-8" if undecoded(member.value) else "")


class RowsReader(FieldsReader):
    """Anything that yields dictionaries or cases."""

    format: ClassVar[str] = "rows"

    def records(self) -> Iterator[Record]:
        """One for each row."""
        rows = _records_of(self.source) if isinstance(self.source, pd.DataFrame) else self.source
        return (Record(number, row) for number, row in enumerate(rows, start=1))


class CsvReader(FieldsReader):
    """A table of text: commas, or tabs in a .tsv; the first line names the columns."""

    format: ClassVar[str] = "csv"

    def records(self) -> Iterator[Record]:
        """One for each row, with the line that it begins at."""
        tabs = ".tsv" in self.source.suffixes
        with (
            opened(self.source) as raw,
            io.TextIOWrapper(raw, "utf-8-sig", "surrogateescape", newline="") as file,
        ):
            rows = csv.reader(file, delimiter="\t" if tabs else ",")
            head = _next(rows)
            while head is not None:
                line = rows.line_num + 1
                row = _next(rows)
                if row is None:
                    return
                if row:
                    yield _table_row(line, head, row)


class ParquetReader(FieldsReader):
    """A parquet file, in batches of a few hundred rows."""

    format: ClassVar[str] = "parquet"

    @classmethod
    def require(cls, source: Any) -> None:
        """Raise InputError without pyarrow, too."""
        super().require(source)
        parquet()

    def records(self) -> Iterator[Record]:
        """One for each row."""
        number = 0
        for batch in parquet().ParquetFile(self.source).iter_batches(batch_size=_BATCH):
            for row in batch.to_pylist():
                number += 1
                yield Record(number, row)


def case_of_row(row: Mapping[str, Any], columns: Mapping[str, Column]) -> Case:
    """The case that a row's columns say.

    Args:
        row: column → value.
        columns: field of `Case` → column, or function of the row.

    Raises:
        InputError: no prompt, a column that is not there, or a value that its field cannot hold.

    Example:
        >>> row = {"question": "2 + 2?", "answer": 4, "level": "easy"}
        >>> case_of_row(row, {"prompt": "question", "accepted": "answer"})
        Case(prompt='2 + 2?', ... accepted=('4',), ... correct=None, ... metadata={'level': 'easy'}, ...)
    """
    given, used = {}, set()
    for name in FIELDS:
        source = columns.get(name, _own_column(name, row))
        if isinstance(source, str):
            used.add(source)
            if name in columns and source not in row:
                raise InputError(
                    f"{name} comes from the column {source!r}; the row has {sorted(map(str, row))}"
                )
        value = row.get(source) if isinstance(source, str) else source(row)
        if name == "prompt" and source == "messages":
            value = as_json(value, source)
        if not is_missing(value):
            given[name] = value
    if "prompt" not in given:
        raise InputError(
            "a row needs a prompt (or messages), or columns={'prompt': ...}; it has"
            f" {sorted(map(str, row))}"
        )
    made = {
        name: _field(name, plain(value)) for name, value in given.items() if name not in ("chosen", "right")
    }
    for name in ("chosen", "right"):
        if name in given:
            made[name] = _option(name, plain(given[name]), made.get("choices", ()))
    rest = {str(name): plain(one) for name, one in row.items() if name not in used and not is_missing(one)}
    made["metadata"] = {**rest, **made.get("metadata", {})}
    made.setdefault("correct", _right_one(made))
    if not any(made.get(name) for name in ("target", "contrast", "completion")):
        made |= decision(made.get("choices", ()), made.get("chosen"), made.get("right"))
    return Case.from_dict(made)


def _own_column(name: str, row: Mapping[str, Any]) -> str:
    """The column of a field's own name; for a prompt that is not given, messages."""
    return "messages" if name == "prompt" and is_missing(row.get(name)) and "messages" in row else name


def _field(name: str, value: Any) -> Any:
    """A value as its field holds it."""
    if name == "prompt":
        return value if isinstance(value, str) else messages(value)
    if name in _STRUCTURED:
        return as_json(value, name)
    if name in ("accepted", "choices"):
        several = isinstance(value, str) and value.lstrip().startswith("[")
        return texts(as_json(value, name) if several else value, name)
    if name == "position":
        digits = value.removeprefix("-") if isinstance(value, str) else ""
        return int(value) if digits.isascii() and digits.isdigit() else value
    if name == "correct":
        found = verdict(value)
        if found is None:
            raise InputError(f"correct is true or false, got {clipped(value)}")
        return found
    if name == "logit_gap":
        return float(value) if value in ("inf", "-inf") else number(value, name)
    return whole(value, name) if name == "answer_rank" else text(value, name)


def _option(name: str, value: Any, choices: tuple[str, ...]) -> int:
    """The index of an option, from its number, its text, or its letter."""
    if isinstance(value, str):
        same = [index for index, one in enumerate(choices) if one.strip() == value.strip()]
        letter = ord(value.strip()) - ord("A") if len(value.strip()) == 1 else -1
        if len(same) == 1:
            return same[0]
        if 0 <= letter < len(choices):
            return letter
    return whole(value, f"{name}, the index of one of {len(choices)} choices,")


def _right_one(made: Mapping[str, Any]) -> bool | None:
    """Whether the chosen option is the right one, if the row says both."""
    chosen, right = made.get("chosen"), made.get("right")
    return None if chosen is None or right is None else chosen == right


def _records_of(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    names = list(map(str, frame.columns))
    return (dict(zip(names, row, strict=True)) for row in frame.itertuples(index=False, name=None))


def _table_row(line: int, head: list[str], row: list[str]) -> Record:
    if len(row) != len(head):
        return Record(line, fault=f"a row has the {len(head)} columns of the first line, got {len(row)}")
    if undecoded(row):
        return Record(line, fault="not UTF-8")
    return Record(line, {name: value for name, value in zip(head, row, strict=True) if value != ""})


def _next(rows: Any) -> list[str] | None:
    """The next row, None at the end; fields may be as long as they are."""
    with _long_fields():
        return next(rows, None)


@contextmanager
def _long_fields() -> Iterator[None]:
    before = csv.field_size_limit(_LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)
