"""What a comparison of runs keeps of each row: the outcome, numbers, and the profile of the prediction token.

The profile is the relevance of the residual stream at the last position, from the embedding through every layer,
divided by its largest |R| (arXiv 2604.17761, appendix I).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrp_lens.errors import InputError
from lrp_lens.failures.triage.load import load_triage
from lrp_lens.failures.triage.row import TriageRow
from lrp_lens.files import AnyPath
from lrp_lens.views import View


@dataclass(frozen=True)
class Held:
    """What is kept of a row."""

    prompt: str
    outcome: str
    pattern: str
    gap: float
    target: str
    contrast: str
    shares: dict[str, float]
    relevances: dict[str, float]
    """ΣR of each segment; empty in rows of versions that did not keep it."""
    layers: tuple[str, ...]
    """Of the profile; empty where the case was not explained."""
    profile: tuple[float, ...]


def rows_of(folder: AnyPath) -> dict[str, Held]:
    """Case → what is compared of it; rows that are no case are left out."""
    return {row.id: _held(row) for row in load_triage(folder).rows() if row.case}


def _held(row: TriageRow) -> Held:
    gap = row.metric_value if row.metric_value is not None else row.gap
    layers, profile = _profile(json.loads(row.explanation)) if row.explanation else ((), ())
    return Held(
        prompt=json.dumps(json.loads(row.case)["prompt"]),
        outcome=row.verdict or row.fate,
        pattern=row.pattern,
        gap=float("nan") if gap is None else gap,
        target=row.target,
        contrast=row.contrast,
        shares=json.loads(row.segment_shares) if row.segment_shares else {},
        relevances=json.loads(row.segment_relevance) if row.segment_relevance else {},
        layers=layers,
        profile=profile,
    )


def _profile(explained: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The last position's relevance at every layer, the largest |R| being 1; empty where all of it is 0."""
    stream = explained["views"]["layers"]
    values = np.array(stream["values"], dtype=np.float64).reshape(stream["shape"])[:, -1]
    top = float(np.abs(values).max(initial=0.0))
    return (tuple(stream["labels"]["layer"]), tuple((values / top).tolist())) if top > 0 else ((), ())


def profiles_of(held: Sequence[tuple[str, str, Held]]) -> dict[str, View]:
    """Run → the profiles of its explained cases, from (run, case, what is kept of its row)."""
    profiles = {}
    for run in dict.fromkeys(run for run, _, _ in held):
        some = [(case, one) for own, case, one in held if own == run and one.profile]
        if some:
            labels = {"batch": tuple(case for case, _ in some), "layer": some[0][1].layers}
            values = np.array([one.profile for _, one in some])
            profiles[run] = View(
                values, ("batch", "layer"), labels, f"profiles of {run}", "fraction of max |R|"
            )
    return profiles


def together(profiles: Mapping[str, View]) -> View:
    """The profiles of all runs in one matrix; see RunComparison.all_profiles."""
    layers = {view.axis_labels("layer") for view in profiles.values()}
    if len(layers) != 1:
        depths = {run: view.shape[1] for run, view in profiles.items()}
        raise InputError(
            f"Profiles stand in one matrix where runs have the same layers; received {depths or 'no profiles'} "
            "(layers of each run). Compare `profiles[run]` one by one."
        )
    names = tuple(f"{run}: {case}" for run, view in profiles.items() for case in view.axis_labels("batch"))
    values = np.concatenate([view.values for view in profiles.values()])
    labels = {"batch": names, "layer": layers.pop()}
    return View(values, ("batch", "layer"), labels, "relevance profiles", "fraction of max |R|")
