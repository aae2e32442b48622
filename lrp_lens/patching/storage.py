"""Saving a Comparison: arrays as safetensors, words as JSON in the file's header.  Never pickle.

Arrays are numbered; the header says which score of which metric, site and method each one is.
"""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from lrp_lens.files import AnyPath
from lrp_lens.files.arrays import read, write
from lrp_lens.files.headers import understood
from lrp_lens.methods.facets import facet_of
from lrp_lens.patching.scored import Cost, Scores

if TYPE_CHECKING:
    from lrp_lens.patching.comparison import Comparison

KIND = "Comparison/1"
_OPTIONS = ("n_prompts", "length", "n_layers", "ks", "samples", "seed", "direction", "tokens", "floor")
_LATER: dict[str, Any] = {"pieces": ()}
"""What files written before do not have."""


def save(comparison: "Comparison", path: AnyPath) -> None:
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
                arrays[words[part]] = array
        entries.append(words)
    write(
        path,
        KIND,
        arrays,
        {"entries": entries} | {name: getattr(comparison, name) for name in (*_OPTIONS, *_LATER)},
    )


def load(path: AnyPath) -> dict[str, Any]:
    """The constructor arguments of a saved comparison.

    Raises:
        InputError: the file is missing, holds no comparison, or was changed.
    """
    arrays, header = read(path, KIND)
    with understood(path, KIND):
        return _fields(arrays, header)


def _fields(arrays: dict[str, np.ndarray], header: dict[str, Any]) -> dict[str, Any]:
    options = {name: (_LATER | header)[name] for name in (*_OPTIONS, *_LATER)}
    facets, exact, scores = {}, {}, {}
    for words in header["entries"]:
        metric, site, *method = words["key"]
        draws, values = arrays.get(words.get("draws", "")), arrays.get(words.get("values", ""))
        if draws is not None:
            values = np.broadcast_to(draws[0], (options["n_prompts"], *draws.shape[1:]))
        found = Scores(
            words["method"], values, Cost(**words["cost"]), words["why"], words["unsigned"], words["lrp"], draws
        )  # fmt: skip
        if method:
            scores[metric, site, found.method] = found
        else:
            exact[metric, site], facets[site] = found, facet_of(site)
    return options | {"facets": facets, "exact": exact, "scores": scores}
