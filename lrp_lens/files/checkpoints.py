"""Interrupted work goes on: a folder of the caller's with one file for each finished part.

1. A part is written as a whole, under a name.  A kill at any point leaves the parts that were finished.
2. The next call takes the parts that are there and makes the others.
3. Every part says by name what its numbers depend on (`identity`).  Parts of the same kind that were written for
   anything else are refused, before any work, and the error names what differs.
4. A part that is damaged is put aside with a warning, and made again.
"""

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from os import fspath
from pathlib import Path
from typing import Any

from torch import Tensor

from lrp_lens import __version__
from lrp_lens.errors import InputError
from lrp_lens.files import tensors as tensor_files
from lrp_lens.files.paths import AnyPath, made_folder

SUFFIX = ".safetensors"


class Checkpoint:
    """The finished parts of one piece of work.

    Args:
        folder: made if it does not exist, parents too; None keeps nothing.
        kind: names what a part is and the version of its format, e.g. "Layer/1".  Parts of several kinds may lie in
            one folder.
        identity: says what the parts depend on, by name; anything that JSON can hold.  Not asked without a folder.

    Raises:
        InputError: the path is a file or cannot be made or written, or a part there depends on something else.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> import torch
        >>> with TemporaryDirectory() as folder:
        ...     Checkpoint(folder, "Sum/1", lambda: {"seed": 0}).write("first", {"values": torch.ones(2)}, {})
        ...     Checkpoint(folder, "Sum/1", lambda: {"seed": 0}).read("first")
        ({'values': tensor([1., 1.])}, {})
    """

    def __init__(
        self, folder: AnyPath | None, kind: str, identity: Callable[[], Mapping[str, Any]] = dict
    ) -> None:
        self.kind = kind
        self.folder = None if folder is None else made_folder(folder)
        self.identity = (
            {} if self.folder is None else _hashed({**identity(), "version of lrp_lens": __version__})
        )
        if self.folder is not None:
            for path in sorted(self.folder.glob(f"[!.]*{SUFFIX}")):
                found = _of(path)
                if found is not None and found[0] == kind:
                    self._require_same(path, found[1])

    def write(
        self, name: str, tensors: Mapping[str, Tensor], words: Any, also: Mapping[str, Any] | None = None
    ) -> None:
        """Write one part; the file appears only when it is complete.

        Args:
            name: of the part; letters that a file name can hold.
            tensors: by name.
            words: anything that JSON can hold.
            also: what this part depends on besides, by name.

        Raises:
            InputError: the folder cannot be written.
        """
        if self.folder is not None:
            identity = self.identity | _hashed(also or {})
            tensor_files.write(
                self.folder / (name + SUFFIX), self.kind, tensors, {"identity": identity, "words": words}
            )

    def read(self, name: str, also: Mapping[str, Any] | None = None) -> tuple[dict[str, Tensor], Any] | None:
        """The tensors, on the CPU, and the words of a finished part; None if there is none.

        Args:
            name: of the part.
            also: what this part depends on besides, by name.

        Raises:
            InputError: the part depends on something else, or the file is one of another kind.
        """
        if self.folder is None:
            return None
        path = self.folder / (name + SUFFIX)
        if not path.is_file():
            return None
        try:
            tensors, words = tensor_files.read(path, self.kind)
        except InputError as error:
            found = _of(path)
            if found is not None and found[0] != self.kind:
                raise InputError(
                    f"A checkpoint replaces files of its own only. {error} Pass another folder."
                ) from error
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            warnings.warn(
                f"A finished part is damaged: {fspath(path)!r}. It is put aside as {aside.name!r} and made again.",
                stacklevel=2,
            )
            return None
        self._require_same(path, words["identity"], also or {})
        return tensors, words["words"]

    def _require_same(self, path: Path, written: Any, also: Mapping[str, Any] | None = None) -> None:
        own = self.identity | _hashed(also or {})
        other = [name for name, value in own.items() if written.get(name) != value]
        if other:
            raise InputError(
                f"A checkpoint goes on with what it was written for; {fspath(path)!r} was written for other "
                f"{', '.join(other)}. Pass another folder, or what it was written for."
            )


def _of(path: Path) -> tuple[Any, dict[str, str]] | None:
    """Kind and identity of a part as its header says, unchecked; None if the file has no header that can be read."""
    header = tensor_files.said(path)
    if header is None:
        return None
    words = header.get("words")
    identity = words.get("identity") if isinstance(words, dict) else None
    return header.get("kind"), identity if isinstance(identity, dict) else {}


def _hashed(identity: Mapping[str, Any]) -> dict[str, str]:
    return {name: _hash(value) for name, value in identity.items()}


def _hash(value: Any) -> str:
    said = json.dumps(value, sort_keys=True).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(said, digest_size=16).hexdigest()
