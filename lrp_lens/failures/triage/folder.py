"""Folder: the rows of a triage on disk, complete at every moment.

1. A finished case is a file of its own, `case-<id's hash>.parquet`, which appears when it is complete: a kill loses the
   case in hand only.
2. Every 64 of them become one shard, `rows-<number>.parquet`, and are removed then; a kill in between leaves both, and
   the shard counts.  A case that was done again has its later row.
3. `manifest.json` says what the rows depend on.  Other settings are refused, and the error names what differs.
4. A lock keeps a second run out.
"""

import hashlib
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import fspath
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lrp_lens.errors import InputError
from lrp_lens.failures.triage.row import COLUMNS, TriageRow, read_rows, write_rows
from lrp_lens.files import AnyPath, made_folder, write_text

MANIFEST = "manifest.json"
SCHEMA = "lrp_lens.triage/1"
_TOGETHER = 64
_CLIPPED = 120


class Folder:
    """Rows under one manifest; use it in a `with`, which holds the lock.

    Raises:
        InputError: a path that is no folder, or one in which another run works.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as path, Folder(path) as folder:
        ...     folder.require_same({"seed": "0"})
        ...     folder.keep(TriageRow(id="a", number=0, fate="excluded", reason="no decision", content="ab"))
        ...     sorted(folder.finished)
        ['a']
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = made_folder(path)
        self._lock = FileLock(self.path / ".lock")
        self._waiting: list[TriageRow] = []
        self._known: set[tuple[str, int, str, str]] = set()
        self.finished: dict[str, str] = {}
        """Id of each finished case → its content's hash."""
        self.failed: set[str] = set()
        """Ids of those of them at which something failed."""

    def __enter__(self) -> "Folder":
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise InputError(
                f"One run at a time works in a folder; another works in {fspath(self.path)!r}. Wait for it, or pass "
                "another folder."
            ) from error
        for path in self._cases():
            self._set_aside_damaged(path)
        for row in rows_in(self.path, ("id", "file", "line", "content")):
            self._note(row)
        return self

    def __exit__(self, *error: object) -> None:
        self._lock.release()

    def require_same(self, settings: Mapping[str, str]) -> None:
        """Go on only under the settings that the folder has; those that it has not yet are written.

        Raises:
            InputError: another value than the folder's, or a manifest that cannot be read.
        """
        begun = (self.path / MANIFEST).exists()
        held = read_manifest(self.path)["settings"] if begun else {}
        other = [name for name, value in settings.items() if held.get(name, value) != value]
        if other:
            told = "; ".join(
                f"{name}: {_clipped(held[name])} there, {_clipped(settings[name])} now" for name in other
            )
            raise InputError(
                f"A triage goes on under the settings it was begun with; {fspath(self.path)!r} has others: {told}. "
                "Pass another folder, or these settings."
            )
        if not begun or held != held | dict(settings):
            text = json.dumps({"schema": SCHEMA, "settings": held | dict(settings)}, indent=2)
            write_text(self.path / MANIFEST, text + "\n")

    def keep(self, row: TriageRow) -> None:
        """Keep the row of a finished case.

        Raises:
            InputError: the disk refuses it; what was kept before stays.
        """
        with self._what_is_kept_told():
            write_rows(self.path / f"case-{_hashed(row.id)}.parquet", [row])
        self._note(row)
        if len(self._cases()) >= _TOGETHER:
            self.compact()

    def keep_other(self, row: TriageRow) -> None:
        """Keep a row that is no case, with the next shard."""
        if _key(row) not in self._known:
            self._note(row)
            self._waiting.append(row)

    def compact(self) -> None:
        """Make one shard of what is in files of its own.

        Raises:
            InputError: the disk refuses it; nothing is lost.
        """
        parts = self._cases()
        rows = [row for part in parts for row in read_rows(part)] + self._waiting
        if rows:
            number = 1 + max((int(one.stem.removeprefix("rows-")) for one in _shards(self.path)), default=-1)
            with self._what_is_kept_told():
                write_rows(self.path / f"rows-{number:06d}.parquet", sorted(rows, key=lambda row: row.number))
            self._waiting = []
        for part in parts:
            part.unlink()

    @contextmanager
    def _what_is_kept_told(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            raise InputError(
                f"{error} The rows of {len(self.finished)} finished cases are kept in {fspath(self.path)!r}; the same "
                "call goes on after them."
            ) from error

    def _note(self, row: TriageRow) -> None:
        self._known.add(_key(row))
        if row.content:
            self.finished[row.id] = row.content
            (self.failed.add if row.fate == "error" else self.failed.discard)(row.id)

    def _cases(self) -> list[Path]:
        return sorted(self.path.glob("case-*.parquet"))

    def _set_aside_damaged(self, path: Path) -> None:
        try:
            read_rows(path)
        except InputError:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            warnings.warn(
                f"A finished case is damaged; it is put aside as {aside.name!r} and done again.", stacklevel=3
            )


def rows_in(path: Path, columns: Sequence[str] = COLUMNS) -> Iterator[TriageRow]:
    """The rows of a folder, a file at a time; each once, whatever a kill left twice, and the last of a case.

    Raises:
        InputError: a file that cannot be read.
    """
    parts = [*_shards(path), *sorted(path.glob("case-*.parquet"))]
    keys = ("file", "line", "content")
    last = {_key(row): part for part in parts for row in read_rows(part, keys)}
    for part in parts:
        for row in read_rows(part, (*keys, *columns)):
            if last.get(_key(row)) == part:
                del last[_key(row)]
                yield row


def _key(row: TriageRow) -> tuple[str, int, str, str]:
    """What no two rows of a folder share: a case's id, or what a row that is no case says."""
    return ("", 0, "", row.id) if row.content else (row.file, row.line, row.fate, row.id)


def read_manifest(path: Path) -> dict[str, Any]:
    """What the rows of a folder depend on.

    Raises:
        InputError: there is no manifest, or it is none.
    """
    file = path / MANIFEST
    if not file.is_file():
        raise InputError(
            f"The folder of a triage has a {MANIFEST}; there is none in {fspath(path)!r}. Run triage first."
        )
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        if held["schema"] != SCHEMA or not isinstance(held["settings"], dict):
            raise InputError(f"its schema is {held['schema']!r}, not {SCHEMA!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"The {MANIFEST} in {fspath(path)!r} is not that of a triage: {error}.") from error
    return dict(held)


def _shards(path: Path) -> list[Path]:
    return sorted(path.glob("rows-*.parquet"))


def _hashed(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _clipped(text: str) -> str:
    return text if len(text) <= _CLIPPED else f"{text[:_CLIPPED]}…"
