"""Models converted once: directories that are whole, or made again.

1. An entry is a directory under `folder()`, named after what it was made from (a digest of the key).
2. It is made under another name and then renamed, so that it is there as a whole or not at all. A lock file lets one
   process do it; others wait, and find it.
3. A manifest in it lists each file with its size and CRC-32 (some gigabytes a second, against damage, not against
   malice), written last. An entry that does not fit its manifest is made again.
"""

import hashlib
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

VARIABLE = "LRP_LENS_CACHE"
"""The environment variable that names another folder."""
MANIFEST = "lrp_lens.json"
_BLOCK = 1 << 24


def folder() -> Path:
    """Where converted models lie; it can be deleted at any time."""
    own = os.environ.get(VARIABLE)
    return (Path(own).expanduser() if own else platformdirs.user_cache_path("lrp_lens")) / "models"


def stored(name: str, key: Mapping[str, Any], build: Callable[[Path], None]) -> Path:
    """The entry for a key, made by `build` if it is missing or damaged.

    Args:
        name: how the entry's name begins.
        key: all that decides what the entry holds; anything that JSON can hold.
        build: writes the files into an empty directory.

    Raises:
        OSError: the folder cannot be written. Whatever `build` raises.
    """
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    entry = folder() / f"{name}-{digest}"
    if intact(entry):
        return entry
    entry.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{entry}.lock"):
        if not intact(entry):
            _make(entry, key, build)
    return entry


def intact(entry: Path) -> bool:
    """Whether a directory holds the files that its manifest lists, and each as it was written."""
    try:
        files = json.loads((entry / MANIFEST).read_bytes())["files"]
        found = {one.name: one.stat().st_size for one in entry.iterdir() if one.name != MANIFEST}
        return found == {name: size for name, (size, _) in files.items()} and all(
            _crc32(entry / name) == checksum for name, (_, checksum) in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _make(entry: Path, key: Mapping[str, Any], build: Callable[[Path], None]) -> None:
    """Under the lock: whatever lies half made or thrown away here is of a process that is gone."""
    for left in entry.parent.glob(f".{entry.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    new = entry.with_name(f".{entry.name}-{secrets.token_hex(4)}")
    new.mkdir()
    try:
        build(new)
        files = {one.name: (one.stat().st_size, _crc32(one)) for one in sorted(new.iterdir())}
        (new / MANIFEST).write_text(json.dumps({"key": dict(key), "files": files}, indent=1))
        if entry.exists():
            entry.rename(entry.with_name(f"{new.name}-old"))
        new.rename(entry)
    finally:
        for left in entry.parent.glob(f".{entry.name}-*"):
            shutil.rmtree(left, ignore_errors=True)


def _crc32(file: Path) -> int:
    total = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            total = zlib.crc32(block, total)
    return total
