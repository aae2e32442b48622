"""Saving a Comparison: arrays as safetensors, words as JSON in the file's header.  Never pickle.

Arrays are numbered; the header says which score of which metric, site and method each one is.
"""

import json
from dataclasses import asdict
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from lrp_lens.errors import InputError
from lrp_lens.patching.facets import facet_of

if TYPE_CHECKING:
    from lrp_lens.patching.comparison import Comparison

_KEY = "lrp_lens.comparison"
_OPTIONS = ("n_prompts", "length", "n_layers", "ks", "samples", "seed", "direction", "tokens", "floor")


def save(comparison: "Comparison", path: str | PathLike[str]) -> None:
    """See Comparison.save."""
    arrays: dict[str, np.ndarray] = {}
    entries = []
    for key, found in [*comparison.exact.items(), *comparison.scores.items()]:
        words: dict[str, Any] = {"key": key, "method": found.method, "cost": asdict(found.cost)}
        words |= {"why": found.why, "unsigned": found.unsigned, "lrp": found.lrp}
        for part in ("draws",) if found.draws is not None else ("values",):
            array = getattr(found, part)
            if array is not None:
                words[part] = f"{part}_{len(arrays)}"
                arrays[words[part]] = np.ascontiguousarray(array)
        entries.append(words)
    header = {"version": 1, "entries": entries} | {name: getattr(comparison, name) for name in _OPTIONS}
    try:
        save_file(arrays, fspath(path), metadata={_KEY: json.dumps(header)})
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"A comparison is saved to a path that can be written; {fspath(path)!r} cannot ({error})."
        ) from error


def load(path: str | PathLike[str]) -> "Comparison":
    """See Comparison.load."""
    from lrp_lens.patching.comparison import Comparison, Cost, Scores

    if not Path(path).is_file():
        raise InputError(f"A saved comparison is a file; nothing is at {fspath(path)!r}.")
    try:
        with safe_open(fspath(path), framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise InputError(
            f"A saved comparison is a safetensors file; {fspath(path)!r} is not ({error})."
        ) from error
    if header is None:
        raise InputError(f"{fspath(path)!r} holds no comparison; pass a file written by Comparison.save.")
    options = {name: header[name] for name in _OPTIONS}
    result = Comparison(**options | {name: tuple(options[name]) for name in ("ks", "tokens")})
    for words in header["entries"]:
        metric, site, *method = words["key"]
        draws, values = arrays.get(words.get("draws", "")), arrays.get(words.get("values", ""))
        if draws is not None:
            values = np.broadcast_to(draws[0], (result.n_prompts, *draws.shape[1:]))
        found = Scores(
            words["method"], values, Cost(**words["cost"]), tuple(words["why"]), words["unsigned"], words["lrp"], draws
        )  # fmt: skip
        if method:
            result.add(metric, facet_of(site), found)
        else:
            assert values is not None
            result.add_exact(metric, facet_of(site), values, found.cost)
    return result
