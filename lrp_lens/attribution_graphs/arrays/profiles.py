"""The prediction token through the layers: its relevance, what it consists of, and profiles of many graphs.

1. Profile: the relevance of the node at the target position, at every boundary (arXiv 2604.17761, appendix I).
2. Composition: that relevance split by where it goes: into the state itself (residual, MLP, its own attention), BOS,
   other context, sinks, pruned edges.  The split closes: its parts sum to the node's relevance.
3. Profiles of several graphs are rows of one matrix, to be clustered or reduced (`graph.clusters`).
4. The peak transition is the one at which a profile moves most.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from lrp_lens.errors import InputError
from lrp_lens.views import View

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays.attribution_graph import AttributionGraph

Scale = Literal["max", "metric"] | None
"""Divide a profile by its largest |R|, by |metric|, or not at all."""
_POSITION_WISE = ("residual", "MLP")


def prediction_position(graph: "AttributionGraph", position: int | None) -> int:
    """The position asked for, or the one target of the metric.

    Raises:
        InputError: out of range, or the metric reads several positions or none that is known.
    """
    positions = len(graph.token_strings)
    if position is None:
        if len(graph.target_positions) != 1:
            raise InputError(
                "The prediction token is the one position that the metric reads; this metric reads "
                f"{list(graph.target_positions)}. Say position=..."
            )
        return graph.target_positions[0]
    if not -positions <= position < positions:
        raise InputError(f"A position lies in the {positions} tokens of the graph; received {position}.")
    return int(position) % positions


def relevance_profile(
    graph: "AttributionGraph", *, position: int | None = None, normalise: Scale = None
) -> View:
    """Relevance of the prediction token's node at every boundary.

    Args:
        graph: any graph; pruning does not matter.
        position: another token instead of the metric's.
        normalise: "max" divides by the largest |R| of the profile, "metric" by |metric|.

    Returns:
        A View with dims ("layer",), labelled by boundary.

    Raises:
        InputError: no such position, no single target, an unknown scale, or a scale of 0.
    """
    at = prediction_position(graph, position)
    values, units, notes = graph.node_relevance[:, at], "logits", graph.notes
    if normalise is not None:
        if normalise not in ("max", "metric"):
            raise InputError(f"A profile is normalised by 'max', 'metric' or None; received {normalise!r}.")
        scale = float(np.abs(values).max()) if normalise == "max" else abs(graph.metric_value)
        if scale == 0:
            raise InputError(f"A profile is divided by its {normalise}, which is 0 here. Use normalise=None.")
        values, units = (
            values / scale,
            "fraction of max |R|" if normalise == "max" else "fraction of |metric|",
        )
        notes = (*notes, f"divided by {normalise} = {scale:.4g} logits")
    return View(
        values,
        ("layer",),
        {"layer": tuple(one.label for one in graph.boundaries)},
        f"relevance of {graph.token_strings[at]!r}@{at}",
        units,
        towards=graph.towards,
        notes=notes,
    )


def composition(graph: "AttributionGraph", *, position: int | None = None) -> View:
    """What the prediction token's relevance consists of at every boundary after the first.

    Components: "residual" (the skip connection of the same token), "MLP", "own attention" (attention to itself, and the
    query path), "BOS" (edges from other special tokens), "other context" (all other edges), one "… (sink)" per kind,
    "pruned", "remainder" (rounding).  A graph whose edges have no parts says "self" for the first three.

    Args:
        graph: any graph; edges that were pruned count as "pruned".
        position: another token instead of the metric's.

    Returns:
        A View with dims ("layer", "component"); each row sums to the node's relevance.

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model
        >>> from lrp_lens.attribution_graphs.closed_form import attribution_graph
        >>> prompt = "then mary and john went to the park . john gave the key to"
        >>> graph = attribution_graph(load_demo_model(), prompt, LogitDiff("mary", "john"))
        >>> split = composition(graph)
        >>> bool(np.allclose(split.values.sum(axis=1), graph.node_relevance[1:, 14]))
        True

    Raises:
        InputError: no such position, or no single target.
    """
    at = prediction_position(graph, position)
    transitions = len(graph.boundaries) - 1
    own = (graph.target == at) & (graph.source == at)
    other = (graph.target == at) & ~own

    def summed(weights: np.ndarray) -> np.ndarray:
        return np.bincount(graph.transition, weights=weights, minlength=transitions)

    columns: dict[str, np.ndarray] = {}
    if "residual" in graph.parts:
        rest = [i for i, name in enumerate(graph.parts) if name not in _POSITION_WISE]
        for name in _POSITION_WISE:
            if name in graph.parts:
                columns[name] = summed(own * graph.part_values[:, graph.parts.index(name)])
        columns["own attention"] = summed(own * graph.part_values[:, rest].sum(axis=1, dtype=np.float64))
    else:
        columns["self"] = summed(own * graph.relevance)
    columns["BOS"] = summed((other & graph.special[graph.source]) * graph.relevance)
    columns["other context"] = summed((other & ~graph.special[graph.source]) * graph.relevance)
    for number, kind in enumerate(graph.sink_kinds):
        columns[f"{kind} (sink)"] = graph.sinks[:, number, at]
    columns["pruned"] = graph.pruned[:, at]
    columns["remainder"] = graph.node_relevance[1:, at] - np.sum(list(columns.values()), axis=0)
    labels = {"layer": tuple(one.label for one in graph.boundaries[1:]), "component": tuple(columns)}
    return View(
        np.stack(list(columns.values()), axis=1),
        ("layer", "component"),
        labels,
        f"composition of {graph.token_strings[at]!r}@{at}",
        towards=graph.towards,
        notes=graph.notes,
    )


def profiles(
    graphs: Sequence["AttributionGraph"] | Mapping[str, "AttributionGraph"], *, normalise: Scale = "max"
) -> View:
    """The profiles of several graphs with the same boundaries, one row each.

    Args:
        graphs: graphs, or name → graph; each with one target position.
        normalise: as in `relevance_profile`.

    Returns:
        A View with dims ("batch", "layer").

    Raises:
        InputError: no graph, or graphs with different boundaries.
    """
    named = dict(graphs) if isinstance(graphs, Mapping) else {str(i): one for i, one in enumerate(graphs)}
    if not named:
        raise InputError("Profiles need one graph or more; received none.")
    rows = [relevance_profile(one, normalise=normalise) for one in named.values()]
    layers = {row.labels["layer"] for row in rows}
    if len(layers) > 1:
        raise InputError(
            f"Profiles in one matrix have the same boundaries; received {len(layers)} different sets. Make the graphs "
            "with the same layers and split, from models of the same depth."
        )
    labels = {"batch": tuple(named), "layer": rows[0].labels["layer"]}
    values = np.stack([row.values for row in rows])
    return View(values, ("batch", "layer"), labels, "relevance profiles", rows[0].units)


def transition_steps(profile: View) -> View:
    """How far profiles move at each transition: R at the later boundary − R at the earlier one.

    Args:
        profile: dims ("layer",) or ("batch", "layer").

    Returns:
        The same dims, one label per transition ("L2 → L3").

    Example:
        >>> profile = View(np.array([0.0, 1.0, 5.0]), ("layer",), {"layer": ("embed", "L0", "L1")})
        >>> peak_transition(profile)
        ['L0 → L1']

    Raises:
        InputError: other dims.
    """
    if profile.dims not in (("layer",), ("batch", "layer")):
        raise InputError(f"Profiles have the dims ('layer',) or ('batch', 'layer'); received {profile.dims}.")
    names = profile.axis_labels("layer")
    crossings = tuple(f"{a} → {b}" for a, b in pairwise(names))
    labels = {**profile.labels, "layer": crossings}
    return View(np.diff(profile.values, axis=-1), profile.dims, labels, "steps of the profile", profile.units)


def peak_transition(profile: View) -> list[str]:
    """The transition at which each profile moves most (the first of equals), one label per profile."""
    steps = transition_steps(profile)
    names = steps.axis_labels("layer")
    return [names[one] for one in np.atleast_1d(np.abs(steps.values).argmax(axis=-1))]
