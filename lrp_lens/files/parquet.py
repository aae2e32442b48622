"""Tables as parquet files, through pyarrow, which is an extra and imported when a table is read or written."""

import importlib
from collections.abc import Mapping, Sequence
from os import fspath
from typing import Any

from lrp_lens.errors import InputError
from lrp_lens.extras import require_extra
from lrp_lens.files.headers import understood
from lrp_lens.files.paths import AnyPath, replacing


def parquet() -> Any:
    """pyarrow.parquet.

    Raises:
        InputError: it is not installed; the message names the extra.
    """
    return require_extra("parquet", "pyarrow.parquet", use="parquet files are read and written")


def write(path: AnyPath, kind: str, columns: Mapping[str, tuple[str, Sequence[Any]]]) -> None:
    """Write a table; the file appears when it is complete.

    Args:
        path: of the file.
        kind: names the table and the version of its columns, e.g. "Triage/1".
        columns: name → pyarrow's name of the type, and the values; None where there is none.

    Raises:
        InputError: the path cannot be written, or pyarrow is not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write(f"{folder}/a.parquet", "Sums/1", {"sum": ("int64", [3, None])})
        ...     read(f"{folder}/a.parquet", "Sums/1")
        [{'sum': 3}, {'sum': None}]
    """
    module = parquet()
    arrow = importlib.import_module("pyarrow")
    held = arrow.table(
        {name: arrow.array(values, arrow.type_for_alias(of)) for name, (of, values) in columns.items()}
    ).replace_schema_metadata({"lrp_lens": kind})
    with replacing(path) as part:
        module.write_table(held, part, compression="zstd")


def read(path: AnyPath, kind: str, columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The lines of a table that `write` wrote.

    Args:
        path: of the file.
        kind: what it has to be.
        columns: which to read; None reads all.

    Raises:
        InputError: nothing there, no parquet file, one of another kind, or pyarrow is not installed.
    """
    module = parquet()
    with understood(path, kind, "a parquet file"):
        file = module.ParquetFile(path)
        of = (file.schema_arrow.metadata or {}).get(b"lrp_lens", b"").decode()
        if of != kind:
            raise InputError(
                f"A table is of the kind {kind!r}; {fspath(path)!r} is of the kind {of!r}. Pass one written as "
                "such, or use the version of lrp_lens that wrote it."
            )
        return file.read(columns=columns).to_pylist()
