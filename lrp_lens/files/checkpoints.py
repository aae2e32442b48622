"""Interrupted work goes on: a folder of the caller's with one file for each finished part.

1. A part is written as a whole, under a name.
2. The next call of the same inputs and options takes the parts that are there.
3. A part is used only if it was written for the same inputs and options (`identity`); any other is an error.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.files import tensors as tensor_files
from lrp_lens.files.paths import AnyPath


class CheckpointFolder:
    """Finished parts of one piece of work.

    Args:
        folder: made if it does not exist.
        kind: names what a part is and the version of its format, e.g. "Layer/1".
        identity: everything that a part depends on, as JSON.
        of: what the parts make together, for messages.

    Raises:
        InputError: if the path is a file, or cannot be made.
    """

    def __init__(self, folder: AnyPath, kind: str, identity: Any, of: str) -> None:
        self.folder, self.kind, self.of = Path(folder), kind, of
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"A checkpoint is a folder; {str(folder)!r} is a file. Pass another path.")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"A checkpoint is a folder that can be made; {str(folder)!r} cannot: {error.strerror}."
            ) from error
        self.identity = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def path(self, name: str) -> Path:
        """The file of a part."""
        return self.folder / f"{name}.safetensors"

    def write(self, name: str, tensors: Mapping[str, Tensor], words: Mapping[str, Any]) -> None:
        """Write one part; the file appears only when it is complete."""
        tensor_files.write(self.path(name), self.kind, tensors, {"identity": self.identity, **words})

    def read(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """A finished part; None if there is none.

        Raises:
            InputError: if the file is damaged or belongs to other work.
        """
        path = self.path(name)
        if not path.is_file():
            return None
        try:
            tensors, words = tensor_files.read(path, self.kind)
        except InputError as error:
            raise InputError(f"A checkpoint holds finished parts; one cannot be read: {error}") from error
        if words.get("identity") != self.identity:
            raise InputError(
                f"A checkpoint goes on with the prompt, metric, rules and options it was written for; {str(path)!r} "
                f"belongs to another {self.of}. Pass another folder."
            )
        return tensors, words
