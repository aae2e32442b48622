"""Files of lines: read one at a time, compressed or not, each line a record or a fault.

Bytes that are no UTF-8, lines that are no JSON, numbers longer than Python reads and nesting deeper than it follows
cost their own line and no other.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from lrp_lens.failures.logs.reader import Record
from lrp_lens.failures.logs.values import clipped

_BOM = b"\xef\xbb\xbf"


def opened(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked if it is a .gz."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def json_lines(path: Path) -> Iterator[Record]:
    """One record for each line that is not blank; lines count from 1."""
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            data = line.removeprefix(_BOM) if number == 1 else line
            if data.strip():
                yield _record(number, data)


def _record(number: int, data: bytes) -> Record:
    try:
        return Record(number, json.loads(data.decode("utf-8")))
    except UnicodeDecodeError as error:
        return Record(number, fault=f"not UTF-8: byte {error.start} of the line is 0x{data[error.start]:02x}")
    except RecursionError:
        return Record(number, fault="JSON nested deeper than can be read")
    except ValueError as error:  # JSONDecodeError, and integers of too many digits
        return Record(number, fault=f"no JSON: {clipped(error, 200)}")


def undecoded(value: Any) -> bool:
    """Whether a text, also one in a list or dictionary, holds bytes that were no UTF-8, as "surrogateescape" keeps."""
    if isinstance(value, str):
        return any("\udc80" <= letter <= "\udcff" for letter in value) if not value.isascii() else False
    if isinstance(value, dict):
        return any(undecoded(one) for pair in value.items() for one in pair)
    return isinstance(value, list) and any(map(undecoded, value))
