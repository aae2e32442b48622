"""The rows of a folder that triage wrote."""

from collections.abc import Iterator
from os import fspath
from pathlib import Path

from lrp_lens.errors import InputError
from lrp_lens.failures.triage.row import TriageRow, read_rows
from lrp_lens.files import AnyPath


def shards(folder: AnyPath) -> list[Path]:
    """The files of rows in a folder, by name.

    Raises:
        InputError: no folder there, or none with rows.
    """
    base = Path(folder)
    found = (
        sorted(one for one in base.rglob("*.parquet") if not one.name.startswith("."))
        if base.is_dir()
        else []
    )
    if not found:
        what = "it has no .parquet file" if base.is_dir() else "there is no such folder"
        raise InputError(
            f"A triage is a folder with files of rows; received {fspath(folder)!r}: {what}. Pass what was --out of "
            "lrp-lens triage."
        )
    return found


def rows_of(folder: AnyPath) -> Iterator[TriageRow]:
    """Every row once, one file in memory at a time; a row that stands in two files is the first one's.

    Raises:
        InputError: no folder with rows, or a file that holds none.
    """
    seen: set[tuple[int, str]] = set()
    for path in shards(folder):
        for row in read_rows(path):
            if (row.number, row.id) not in seen:
                seen.add((row.number, row.id))
                yield row
