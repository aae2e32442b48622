"""Paths to write to: one is checked before the work, and a file appears only when it is complete.

1. `require_writable` says at once what is wrong with a path to a file, `made_folder` with one to a folder.
2. `replacing` hands out a file of another name in the same folder and moves it to its place at the end.  An error or
   an interruption leaves what was there before.
"""

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from lrp_lens.errors import InputError

AnyPath = str | PathLike[str]


def require_writable(path: AnyPath) -> Path:
    """The path, if a file can be written there.

    Raises:
        InputError: no path at all, a directory, a folder that does not exist, or one without permission.

    Example:
        >>> require_writable("/nowhere/at/all.html")
        Traceback (most recent call last):
        lrp_lens.errors.InputError: Cannot write to '/nowhere/at/all.html': there is no directory '/nowhere/at'.
    """
    target = _path(path)
    text = fspath(path)
    if os.path.isdir(target):
        raise InputError(f"Cannot write to {text!r}: it is a directory; pass a file name.")
    if not os.path.isdir(target.parent):
        raise InputError(f"Cannot write to {text!r}: there is no directory {str(target.parent)!r}.")
    try:
        there = target.exists()
    except OSError as error:
        raise InputError(f"Cannot write to {text!r}: {error.strerror}.") from error
    ordinary = target.is_file() or not there
    touched = ([target.parent] if ordinary else []) + ([target] if there else [])
    if not all(os.access(one, os.W_OK) for one in touched):
        raise InputError(f"Cannot write to {text!r}: permission denied.")
    return target


def made_folder(path: AnyPath) -> Path:
    """The folder, made if it is not there, parents too.

    Raises:
        InputError: no path at all, a file, or what cannot be made or written.

    Example:
        >>> made_folder("")
        Traceback (most recent call last):
        lrp_lens.errors.InputError: Cannot write to '': it is no file name. Pass one such as 'result.safetensors'.
    """
    target = _path(path)
    if os.path.exists(target) and not os.path.isdir(target):
        raise InputError(
            f"Files are written to a folder here; {fspath(path)!r} is a file. Pass another path."
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot make the folder {fspath(path)!r}: {error.strerror}.") from error
    if not os.access(target, os.W_OK):
        raise InputError(f"Cannot write to {fspath(path)!r}: permission denied.")
    return target


@contextmanager
def replacing(path: AnyPath) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when the context ends without an error.

    What is no regular file (a pipe, /dev/stdout) cannot be replaced and is written as it is.

    Raises:
        InputError: the path cannot be written, or the disk refuses (full, too long a name).

    Example:
        with replacing("result.json") as part:
            part.write_text("{}")
    """
    target = require_writable(path)
    if target.exists() and not target.is_file():
        yield target
        return
    target = target.resolve()
    made = target.with_name(f".{secrets.token_hex(6)}{target.suffix}")
    try:
        made.touch(exist_ok=False)
        if target.exists():
            made.chmod(target.stat().st_mode & 0o7777)
        yield made
        made.replace(target)
    except OSError as error:
        raise InputError(f"Cannot write to {fspath(path)!r}: {error.strerror or error}.") from error
    finally:
        made.unlink(missing_ok=True)


def write_text(path: AnyPath, text: str) -> Path:
    """Write UTF-8 text as a whole, and return its absolute path.

    Raises:
        InputError: the path cannot be written.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")
    return Path(path).resolve()


def read_json(path: AnyPath) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: there is no such file, it cannot be read, or it is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read {fspath(path)!r}: {error.strerror or error}.") from error
    except ValueError as error:  # UnicodeDecodeError, JSONDecodeError
        raise InputError(f"{fspath(path)!r} is read as JSON, and is none: {error}.") from error


def _path(path: AnyPath) -> Path:
    if not isinstance(path, str | PathLike):
        raise InputError(f"A file is written to a path, a string or a Path; received {path!r}.")
    text = fspath(path)
    if not isinstance(text, str) or not text or "\0" in text or not _encodes(text):
        raise InputError(
            f"Cannot write to {text!r}: it is no file name. Pass one such as 'result.safetensors'."
        )
    return Path(text)


def _encodes(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True
