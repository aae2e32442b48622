"""read_cases: which reader for which file.

1. A name that ends in .eval, .csv, .tsv or .parquet says it; a .json is told by its members, a .jsonl by its first line
   that can be read.
2. A folder gives its files in the order of their names; what is no log there is a row that says so.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import pandas as pd

from lrp_lens.cases import Passage
from lrp_lens.cases.passages import as_passages
from lrp_lens.errors import InputError, did_you_mean
from lrp_lens.failures.logs.documents import members
from lrp_lens.failures.logs.fields import (
    FIELDS,
    CsvReader,
    FieldsReader,
    ListReader,
    ParquetReader,
    RowsReader,
)
from lrp_lens.failures.logs.helm import HelmReader
from lrp_lens.failures.logs.inspect_logs import InspectReader
from lrp_lens.failures.logs.lines import json_lines
from lrp_lens.failures.logs.lm_eval import KEYS, LmEvalReader
from lrp_lens.failures.logs.log import CaseLog, LogRow
from lrp_lens.failures.logs.reader import Column, Options, Reader

_READERS: dict[str, type[Reader]] = {
    one.format: one
    for one in (LmEvalReader, InspectReader, HelmReader, FieldsReader, ListReader, CsvReader, ParquetReader)
}
FORMATS = tuple(_READERS)
"""The formats of files: lm_eval, inspect, helm, jsonl, json, csv, parquet."""

_BY_NAME: dict[str, type[Reader]] = {
    ".eval": InspectReader, ".csv": CsvReader, ".tsv": CsvReader, ".parquet": ParquetReader,
}  # fmt: skip
_TRIED = 20
"""Lines of a .jsonl that are looked at to tell its format."""


def read_cases(
    source: Any,
    format: str | None = None,
    *,
    columns: Mapping[str, Column] | None = None,
    passages: Mapping[str, Any] | None = None,
    filter: str | None = None,
    chat: bool = False,
) -> CaseLog:
    """The cases of benchmarks' logs or of any rows, read one at a time.

    Args:
        source: a file or a folder, or several; or rows: a Hugging Face dataset, a DataFrame, anything that yields
            dictionaries or cases.
        format: one of `FORMATS`; None tells it from each file.
        columns: field of `Case` → name of a column, or function of the row; of rows and tables of one's own.
        passages: parts of every prompt by name, as `Case.passages` has them: a regular expression, {"message": 0}, ...
        chat: whether a prompt that is a text is a user's message, to go through the model's chat template.
        filter: which filter's lines of a lm-evaluation-harness log become cases; None: each document's first.

    Returns:
        The log: go through it for the cases; `rows`, `to_dataframe()` and `coverage()` say what became of each row.

    Raises:
        InputError: no source, a path that is not there, a file whose format cannot be told or whose reader is
            not installed, an unknown format, or columns for fields that a case does not have.  A row is never an error:
            it has a fate.

    Example:
        >>> rows = [{"question": "7 + 5 =", "answer": "12"}, {"question": None, "answer": "4"}]
        >>> log = read_cases(rows, columns={"prompt": "question", "accepted": "answer"}, passages={"numbers": "[0-9]+"})
        >>> [(case.id, case.accepted, case.decided) for case in log]
        [('rows:1', ('12',), False)]
        >>> log.to_dataframe()[["line", "fate"]].values.tolist()
        [[1, 'case'], [2, 'bad']]
    """
    if format is not None and format not in _READERS:
        raise InputError(
            f"a log's format is one of {list(FORMATS)}, got {format!r}.{did_you_mean(format, FORMATS)}"
        )
    for name in columns or {}:
        if name not in FIELDS:
            raise InputError(
                f"columns are for fields of a case, {list(FIELDS)}, got {name!r}.{did_you_mean(name, FIELDS)}"
            )
    options, named = Options(columns or {}, filter), as_passages(passages or {})
    paths = _paths(source)
    if paths is None:
        return _of_rows(source, options, named, chat)
    readers: list[Callable[[], Reader]] = []
    others = []
    for path, asked in paths:
        kind = _READERS[format] if format is not None else _told(path)
        if kind is not None:
            if asked:
                kind.require(path)
            readers.append(partial(kind, path, str(path), options))
        elif asked:
            raise InputError(f"cannot tell the format of {str(path)!r}: pass format=, one of {list(FORMATS)}")
        else:
            others.append(LogRow(str(path), 0, "no log", "of none of the formats", ""))
    return CaseLog(readers, named, others, chat=chat)


def _of_rows(source: Any, options: Options, named: Mapping[str, tuple[Passage, ...]], chat: bool) -> CaseLog:
    if isinstance(source, Mapping):
        raise InputError(
            f"rows come one behind the other, got a dictionary of {sorted(map(str, source))}: pass one of them"
        )
    if not isinstance(source, Iterable) or isinstance(source, bytes):
        raise InputError(f"cases are read from paths or rows, got {type(source).__name__}")
    once = isinstance(source, Iterator)
    return CaseLog([partial(RowsReader, source, "rows", options)], named, once=once, chat=chat)


def _paths(source: Any) -> list[tuple[Path, bool]] | None:
    """The files, and whether each was named itself; None where the source is rows."""
    if isinstance(source, str | PathLike):
        source = [source]
    if not isinstance(source, Sequence) or isinstance(source, bytes | pd.DataFrame):
        return None
    if not source:
        raise InputError("cases are read from at least one path or row, got none")
    if not isinstance(source[0], str | PathLike):
        return None
    found: list[tuple[Path, bool]] = []
    for one in source:
        path = Path(fspath(one)) if isinstance(one, str | PathLike) else None
        if path is None or not path.exists():
            raise InputError(f"there is no file or folder {one!r}: pass paths of logs")
        inside = sorted(inner for inner in path.rglob("*") if inner.is_file()) if path.is_dir() else []
        found += [(inner, False) for inner in inside] or [(path, True)]
        if path.is_dir() and not inside:
            raise InputError(f"the folder {str(path)!r} is empty: pass paths of logs")
    return found


def _told(path: Path) -> type[Reader] | None:
    """The reader for a file; None for one that is no log."""
    suffixes = [one for one in path.suffixes if one != ".gz"]
    last = suffixes[-1] if suffixes else ""
    if last in _BY_NAME:
        return _BY_NAME[last]
    if last in (".jsonl", ".ndjson"):
        return _of_lines(path)
    return _of_document(path) if last == ".json" else None


def _of_lines(path: Path) -> type[Reader]:
    try:
        for record in islice(json_lines(path), _TRIED):
            if isinstance(record.values, Mapping):
                return LmEvalReader if set(record.values) >= KEYS else FieldsReader
    except (OSError, EOFError):  # told again when it is read, as a row
        pass
    return FieldsReader


def _of_document(path: Path) -> type[Reader] | None:
    try:
        for member in members(path, {"samples", "request_states"}):
            if not member.key:
                return (
                    ListReader
                    if isinstance(member.value, Mapping) and {"prompt", "messages"} & set(member.value)
                    else None
                )
            if member.key in ("request_states", "adapter_spec"):
                return HelmReader
            if member.key in ("samples", "eval", "plan"):
                return InspectReader
    except (InputError, OSError, EOFError):
        return None
    return None
