"""circuit_curve: the best k % of edges (or nodes) of each method and ranking, run as circuits.

1. Rank edges by |score| ("absolute"), by score ("signed"), and at random (the control).
2. Take the best k % of them for MIB's ten k (Mueller et al. 2504.13151), prune to what is connected, and run each
   circuit.
3. Draw the prompts of the bootstrap once, for all methods.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lrp_lens.circuits import select
from lrp_lens.circuits.circuit import Circuit
from lrp_lens.circuits.curve import RANDOM, CircuitCurve
from lrp_lens.circuits.evaluate import run_circuits
from lrp_lens.circuits.result import ComponentEdges
from lrp_lens.errors import InputError
from lrp_lens.hosts.tokens import PaddingSide
from lrp_lens.metrics import MetricLike
from lrp_lens.run.pairs import Direction
from lrp_lens.views.statistics.intervals import bootstrap_weights

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's shares of edges."""
SELECTIONS = ("top", "greedy")


def circuit_curve(
    model: Any,
    edges: ComponentEdges | Mapping[str, ComponentEdges],
    clean: Any,
    corrupted: Any = None,
    metric: MetricLike | None = None,
    *,
    level: str = "edge",
    selection: str = "top",
    fractions: Sequence[float] = FRACTIONS,
    ablation: str = "corrupted",
    direction: Direction = "noising",
    reference: Any = None,
    padding_side: PaddingSide | None = None,
    prepend_bos: bool | None = None,
    random_controls: int = 1,
    seed: int = 0,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    max_rows: int | None = None,
    progress: bool | None = None,
) -> CircuitCurve:
    """Share of the metric that the best k % of edges or nodes recover, with CPR, CMD, a random control and intervals.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        edges: scores, or several under names, to be compared on the same prompts.
        clean: prompts, preferably not those the scores come from.
        corrupted: as in `run_circuits`.
        metric: as in `run_circuits`.
        level: "edge", or "node" for circuits of whole components with all edges between them.
        selection: "top", or "greedy" (edges only).
        fractions: shares of all edges (nodes), increasing.
        ablation: as in `run_circuits`.
        direction: as in `run_circuits`.
        reference: prompts of the mean.
        padding_side: of prompts of several lengths.
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
        random_controls: random rankings; their mean is one row of the curve.
        seed: of random rankings and of the bootstrap.
        n_resamples: bootstrap samples of the prompts.
        confidence: of the intervals.
        max_rows: circuits × prompts that go through the model at once.
        progress: as in `run_circuits`.

    Raises:
        InputError: for options out of range; and what `run_circuits` refuses.

    Example:
        >>> from lrp_lens import RELP, LogitDiff, load_demo_model
        >>> from lrp_lens.circuits import component_edges
        >>> model = load_demo_model(device="cpu")
        >>> clean = "then mary and john went to the park . john gave the key to"
        >>> corrupted = "then mary and john went to the park . mary gave the key to"
        >>> metric = LogitDiff("mary", "john")
        >>> edges = component_edges(model, clean, corrupted, metric, rules=RELP)
        >>> curve = circuit_curve(model, edges, clean, corrupted, metric)
        >>> list(curve.areas().columns)
        ['method', 'cpr', 'cpr_low', 'cpr_high', 'cmd', 'cmd_low', 'cmd_high']
    """
    if not isinstance(edges, ComponentEdges | Mapping):
        raise InputError(
            f"A curve is of ComponentEdges, or of several by name; received {type(edges).__name__}. Pass "
            '{"EAP": edges, ...}.'
        )
    named = {edges.method: edges} if isinstance(edges, ComponentEdges) else dict(edges)
    shares = _checked(named, level, selection, fractions, random_controls, n_resamples, confidence)
    generator = np.random.default_rng(seed)
    keys: list[tuple[str, str]] = []
    circuits: list[Circuit] = []
    for name, scored in named.items():
        for ranking in ("absolute", "signed"):
            keys.append((name, ranking))
            circuits += _circuits(scored, shares, level, selection, ranking == "absolute")
    some = next(iter(named.values()))
    for _ in range(random_controls):
        circuits += list(_random(some, shares, level, generator))
    found = run_circuits(
        model,
        circuits,
        clean,
        corrupted,
        metric,
        ablation=ablation,
        direction=direction,
        reference=reference,
        padding_side=padding_side,
        prepend_bos=prepend_bos,
        max_rows=max_rows,
        progress=progress,
    )
    values = found.values.reshape(-1, len(shares), found.values.shape[-1])
    sizes = found.sizes.reshape(-1, len(shares))
    if random_controls:
        keys.append((RANDOM, RANDOM))
        control = values[-random_controls:].mean(0, keepdims=True)
        values = np.concatenate([values[:-random_controls], control])
        mean_size = np.rint(sizes[-random_controls:].mean(0, keepdims=True)).astype(int)
        sizes = np.concatenate([sizes[:-random_controls], mean_size])
    n = values.shape[-1]
    return CircuitCurve(
        shares,
        tuple(name for name, _ in keys),
        tuple(ranking for _, ranking in keys),
        values,
        sizes,
        found.full,
        found.empty,
        bootstrap_weights(n, n_resamples if n > 1 else 0, seed)[1:],
        confidence,
        level,
        f"{ablation} ablation, {direction}, {selection}",
    )


def _checked(
    named: Mapping[str, ComponentEdges],
    level: str,
    selection: str,
    fractions: Sequence[float],
    random_controls: int,
    n_resamples: int,
    confidence: float,
) -> np.ndarray:
    """The fractions, after all options have been checked."""
    wrong = [name for name, edges in named.items() if not isinstance(edges, ComponentEdges)]
    if not named or wrong:
        raise InputError(
            f"Scores are ComponentEdges, or several of them under names; received {wrong or 'none'}. Make them with "
            "component_edges(...)."
        )
    if RANDOM in named:
        raise InputError(f"{RANDOM!r} is the name of the control; choose another name for the scores.")
    if level not in ("edge", "node"):
        raise InputError(f"level is 'edge' or 'node'; received {level!r}.")
    if selection not in SELECTIONS or (selection == "greedy" and level == "node"):
        raise InputError(f"selection is 'top', or 'greedy' for edges; received {selection!r} for {level}s.")
    shares = np.asarray(fractions, dtype=np.float64)
    if (
        shares.ndim != 1
        or len(shares) < 2
        or not ((shares > 0) & (shares <= 1)).all()
        or (np.diff(shares) <= 0).any()
    ):
        raise InputError(
            f"fractions are at least two increasing shares in (0, 1]; received {list(fractions)!r}. MIB's are "
            f"{FRACTIONS}."
        )
    if random_controls < 0 or n_resamples < 0 or not 0 < confidence < 1:
        raise InputError(
            f"random_controls and n_resamples are counts and confidence lies in (0, 1); received {random_controls}, "
            f"{n_resamples} and {confidence}."
        )
    return shares


def _circuits(
    edges: ComponentEdges, shares: np.ndarray, level: str, selection: str, absolute: bool
) -> list[Circuit]:
    if level == "node":
        total = int(np.isfinite(select.node_ranking(edges, absolute)).sum())
        return [select.top_nodes(edges, int(share * total), absolute=absolute) for share in shares]
    choose = select.greedy_edges if selection == "greedy" else select.top_edges
    total = int(np.isfinite(select.ranking(edges, absolute)).sum())
    return [choose(edges, int(share * total), absolute=absolute) for share in shares]


def _random(
    edges: ComponentEdges, shares: np.ndarray, level: str, generator: np.random.Generator
) -> Iterator[Circuit]:
    """Circuits of growing shares of one random ranking."""
    graph = edges.graph
    if level == "node":
        rows = np.flatnonzero(np.isfinite(select.node_ranking(edges, True)))
        order = generator.permutation(rows)
        for share in shares:
            names = [str(graph.writers[index]) for index in order[: int(share * len(order))]]
            yield Circuit.from_nodes(graph, names, RANDOM)
        return
    ranked = select.ranking(edges, True)
    order = generator.permutation(np.flatnonzero(np.isfinite(ranked)))
    for share in shares:
        mask = np.zeros(ranked.size, dtype=bool)
        mask[order[: int(share * len(order))]] = True
        yield Circuit(graph, mask.reshape(ranked.shape), RANDOM).pruned()
