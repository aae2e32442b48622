"""Do these arrays describe one graph?  Shapes, order, positions in range, parts that sum to their edge."""

from typing import TYPE_CHECKING, Any

import numpy as np

from lrp_lens.errors import InputError
from lrp_lens.files.shapes import require_shapes

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays.contents import GraphContents

_DTYPES = {
    "special": np.bool_,
    "node_relevance": np.float64,
    "transition": np.int32,
    "target": np.int32,
    "source": np.int32,
    "relevance": np.float64,
    "sinks": np.float64,
    "pruned": np.float64,
    "pruned_mass": np.float64,
    "total_mass": np.float64,
}
_SUM_OF_PARTS = 1e-4
"""Share of the largest part by which parts may miss their edge: rounding of float32 passes, a wrong part fails."""


def checked(graph: "GraphContents") -> dict[str, Any]:
    """The fields in their final types.

    Raises:
        InputError: they do not fit together.
    """
    fields: dict[str, Any] = {
        name: np.asarray(getattr(graph, name), dtype=dtype) for name, dtype in _DTYPES.items()
    }
    parts = np.asarray(graph.part_values)
    fields["part_values"] = parts if parts.dtype == np.float32 else parts.astype(np.float64)
    for name in ("boundaries", "token_strings", "parts", "sink_kinds", "notes"):
        fields[name] = tuple(getattr(graph, name))
    fields["answers"] = tuple(graph.answers)
    if len(fields["answers"]) not in (0, len(fields["token_strings"])):
        raise InputError(
            f"A graph says of each of its {len(fields['token_strings'])} tokens which answer it belongs to, or of "
            f"none; received {len(fields['answers'])} answers."
        )
    fields["pieces"] = tuple(graph.pieces)
    if len(fields["pieces"]) not in (0, len(fields["token_strings"])):
        raise InputError(
            f"A graph has a piece of text for each of its {len(fields['token_strings'])} tokens, or none; received "
            f"{len(fields['pieces'])}. Leave them out where they are not known."
        )
    fields["target_positions"] = tuple(int(one) for one in graph.target_positions)
    fields["refinements"] = dict(graph.refinements)
    fields["metric_value"] = float(graph.metric_value)
    _check_shapes(fields)
    _check_edges(fields)
    _check_names(fields)
    return fields


def _check_shapes(fields: dict[str, Any]) -> None:
    boundaries, positions = len(fields["boundaries"]), len(fields["token_strings"])
    if boundaries < 2 or positions < 1:
        raise InputError(
            f"A graph has two boundaries or more and a token or more; received {boundaries} and {positions}."
        )
    edges, transitions = len(fields["relevance"]), boundaries - 1
    expected = {
        "special": (positions,),
        "node_relevance": (boundaries, positions),
        "transition": (edges,),
        "target": (edges,),
        "source": (edges,),
        "relevance": (edges,),
        "part_values": (edges, len(fields["parts"])),
        "sinks": (transitions, len(fields["sink_kinds"]), positions),
        "pruned": (transitions, positions),
        "pruned_mass": (transitions,),
        "total_mass": (transitions,),
    }
    require_shapes("AttributionGraph", fields, expected)


def _check_edges(fields: dict[str, Any]) -> None:
    positions = len(fields["token_strings"])
    for name, stop in (
        ("transition", len(fields["boundaries"]) - 1),
        ("target", positions),
        ("source", positions),
    ):
        values = fields[name]
        if values.size and not (values.min() >= 0 and values.max() < stop):
            raise InputError(
                f"AttributionGraph.{name} lies in 0 … {stop - 1}; received {values.min()} … {values.max()}."
            )
    place = (fields["transition"].astype(np.int64) * positions + fields["target"]) * positions + fields[
        "source"
    ]
    if (np.diff(place) <= 0).any():
        raise InputError(
            "The edges of a graph are sorted by transition, target, source, each once; received another order or a "
            "repeated edge. Sort with np.lexsort((source, target, transition))."
        )
    values = fields["part_values"]
    off = np.abs(values.sum(axis=1, dtype=np.float64) - fields["relevance"])
    scale = max(float(np.abs(values).max(initial=0.0)), float(np.abs(fields["relevance"]).max(initial=0.0)))
    if (off > _SUM_OF_PARTS * scale).any():
        raise InputError(
            f"The parts of an edge sum to its relevance; edge {int(off.argmax())} is off by {off.max():.3g}. Pass all "
            "parts, or one part 'all paths'."
        )


def _check_names(fields: dict[str, Any]) -> None:
    labels = [one.label for one in fields["boundaries"]]
    for what, names in (
        ("boundaries", labels),
        ("parts", fields["parts"]),
        ("sink_kinds", fields["sink_kinds"]),
    ):
        if len(set(names)) != len(names):
            raise InputError(f"The labels of {what} are distinct; received {names}.")
    positions = len(fields["token_strings"])
    for position in fields["target_positions"]:
        if not 0 <= position < positions:
            raise InputError(f"Target positions lie in 0 … {positions - 1}; received {position}.")
