"""Attribution graphs of any size without a model: relevance flows from the last token down, at random, nothing lost."""

import numpy as np

from lrp_lens.attribution_graphs.arrays import AttributionGraph, Boundary

WORDS = (
    " the",
    " key",
    " Anna",
    "\n",
    " is",
    " in",
    " box",
    ".",
    " שלום",
    "<b>&",
    " 東京都",
    " extraordinarily",
)


def flow_graph(tokens: int, layers: int, *, fan: int = 3, seed: int = 0) -> AttributionGraph:
    """A graph whose every node hands all of its relevance on: most to itself, some to earlier tokens, signs mixed.

    Args:
        tokens: how many; the first, and those of a chat template's turns, are special.
        layers: blocks, each with a state after attention.
        fan: moves into each node.
    """
    rng = np.random.default_rng(seed)
    words = ["<|im_start|>" if p in (0, tokens // 2) else WORDS[p % len(WORDS)] for p in range(tokens)]
    boundaries = [Boundary("embed", "embed", None)]
    for layer in range(layers):
        boundaries += [
            Boundary(f"mid {layer}", f"L{layer} mid", layer, mid=True),
            Boundary(f"post {layer}", f"L{layer}", layer),
        ]
    node = np.zeros((len(boundaries), tokens))
    node[-1, -1] = 4.0
    edges: dict[tuple[int, int, int], list[float]] = {}
    for t in reversed(range(len(boundaries) - 1)):
        for j in np.flatnonzero(node[t + 1]).tolist():
            moves = rng.integers(0, j, fan).tolist() if boundaries[t + 1].mid and j else []
            given = rng.normal(0.0, 0.3, len(moves)) * node[t + 1, j]
            for i, amount in zip(moves, given, strict=True):
                edges.setdefault((t, j, i), [0.0, 0.0, 0.0])[2] += amount
            edges[t, j, j] = [0.6 * (node[t + 1, j] - given.sum()), 0.4 * (node[t + 1, j] - given.sum()), 0.0]
        for (_, _, i), parts in ((key, edges[key]) for key in edges if key[0] == t):
            node[t, i] += sum(parts)
    keys, parts = np.array(sorted(edges)), np.array([edges[key] for key in sorted(edges)])
    return AttributionGraph(
        boundaries=tuple(boundaries),
        token_strings=tuple(words),
        special=np.array([word.startswith("<|") for word in words]),
        node_relevance=node,
        transition=keys[:, 0],
        target=keys[:, 1],
        source=keys[:, 2],
        relevance=parts.sum(axis=1),
        part_values=parts,
        parts=("residual", "MLP", "H1 OV"),
        sinks=np.zeros((len(boundaries) - 1, 1, tokens)),
        sink_kinds=("bias",),
        pruned=np.zeros((len(boundaries) - 1, tokens)),
        pruned_mass=np.zeros(len(boundaries) - 1),
        total_mass=np.bincount(keys[:, 0], weights=np.abs(parts.sum(axis=1))),
        metric_value=4.0,
        metric_text="LogitDiff(' Anna', ' Ben')",
        rules_text="made up",
        towards=(" Anna", " Ben"),
        target_positions=(tokens - 1,),
    )
