"""A result in one file: numpy arrays as safetensors, all else as JSON in the file's header.  Never pickle."""

from collections.abc import Mapping
from os import fspath
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from lrp_lens.files.headers import KEY, SAFETENSORS, opened, sealed, understood
from lrp_lens.files.paths import AnyPath, replacing


def write(path: AnyPath, kind: str, arrays: Mapping[str, np.ndarray], words: Any) -> None:
    """Write arrays and words.

    Args:
        path: the file; an existing one is replaced when the new one is complete.
        kind: names the class and the version of the format, e.g. "Decomposition/1".
        arrays: by name.
        words: anything that JSON can hold.

    Raises:
        InputError: the path cannot be written.
    """
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    with replacing(path) as part:
        save_file(plain, part, metadata={KEY: sealed(kind, words, described(plain))})


def read(path: AnyPath, kind: str, formats: str = SAFETENSORS) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays and words of a file written by `write`; `formats` says what else it might have been.

    Raises:
        InputError: nothing there, not a safetensors file, one of another kind, or one that was changed.
    """
    with understood(path, kind, formats):
        with safe_open(fspath(path), framework="numpy") as file:
            header = (file.metadata() or {}).get(KEY, "null")
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        return arrays, opened(path, kind, header, described(arrays))


def described(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, Any]]:
    """Each array with its bytes, for the checksum."""
    return {
        name: (array, np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        for name, array in arrays.items()
    }
