"""A result in one file: arrays as safetensors, all else as JSON in the file's header. Never pickle."""

import json
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lrp_lens.errors import InputError


def write(path: str | PathLike[str], kind: str, arrays: Mapping[str, np.ndarray], words: Any) -> None:
    """Write arrays and words; `kind` names the class and the version of the format, e.g. "Decomposition/1"."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header = json.dumps({"kind": kind, "words": words}, ensure_ascii=False)
    save_file(contiguous, fspath(path), metadata={"lrp_lens": header})


def read(path: str | PathLike[str], kind: str) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays and words of a file written by `write`.

    Raises:
        InputError: nothing there, not a safetensors file, or one of another kind.
    """
    name = kind.partition("/")[0]
    if not Path(path).is_file():
        raise InputError(f"A saved {name} is a file; nothing is at {fspath(path)!r}.")
    try:
        with safe_open(fspath(path), framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("lrp_lens", "{}"))
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(
            f"A saved {name} is a safetensors file; {fspath(path)!r} is not ({error})."
        ) from error
    if header.get("kind") != kind:
        raise InputError(
            f"A saved {name} is of the kind {kind!r}; {fspath(path)!r} is of the kind {header.get('kind')!r}. "
            f"Pass a file written by {name}.save."
        )
    return arrays, header["words"]
