"""circuit_curve: how much of the metric the best k % of edges (or nodes) carry, for every k, method and ranking.

1. Rank edges by |score| ("absolute"), by score ("signed"), and at random (the control).
2. Take the best k % of them for MIB's ten k, prune to what is connected, and run each circuit.
3. f(k) = (m(C_k) - m(∅)) / (m(full) - m(∅)), means over prompts.
4. CPR = ∫ f dk over the signed ranking, CMD = ∫ |1 - f| dk over the absolute one, by trapezoids from the smallest k
   to the largest (Mueller et al. 2504.13151).  CPR is best large, CMD best 0.
5. Intervals: bootstrap over prompts, which are drawn once for all methods.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from lrp_lens.characters import shown
from lrp_lens.circuits import select
from lrp_lens.circuits.circuit import Circuit
from lrp_lens.circuits.evaluate import run_circuits
from lrp_lens.circuits.result import ComponentEdges
from lrp_lens.errors import InputError
from lrp_lens.hosts.tokens import PaddingSide
from lrp_lens.markup import Html, captioned, frame
from lrp_lens.metrics import MetricLike
from lrp_lens.views.statistics.intervals import percentile_interval

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""MIB's shares of edges."""
RANDOM = "random"
SELECTIONS = ("top", "greedy")


@dataclass(frozen=True, eq=False, repr=False)
class CircuitCurve:
    """Faithfulness of circuits of growing size."""

    fractions: np.ndarray
    """Shares of all edges (nodes), [size]."""
    methods: tuple[str, ...]
    """One per row of `values`."""
    rankings: tuple[str, ...]
    """ "absolute", "signed" or "random", one per row."""
    values: np.ndarray
    """The metric of each circuit on each prompt, [row, size, batch]."""
    sizes: np.ndarray
    """Edges of each circuit after pruning, [row, size]."""
    full: np.ndarray
    """With all edges, [batch]."""
    empty: np.ndarray
    """With none, [batch]."""
    resamples: np.ndarray
    """Prompts of each bootstrap sample, [sample, batch]."""
    confidence: float
    level: str
    text: str
    """Ablation, direction, selection."""

    def _ratio(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """f from means over weighted prompts, [..., size] for weights [batch], or with samples in front."""
        full, empty = weights @ self.full, weights @ self.empty
        gap = np.where(np.abs(full - empty) > 0, full - empty, np.nan)
        return np.asarray((np.moveaxis(values @ weights.T, -1, 0).T - empty).T / gap[:, None, None])

    @property
    def faithfulness(self) -> np.ndarray:
        """f(k), [row, size]."""
        n = len(self.full)
        return self._ratio(self.values, np.full((1, n), 1 / n))[0]

    def _samples(self) -> np.ndarray:
        n = len(self.full)
        weights = np.array([np.bincount(sample, minlength=n) / n for sample in self.resamples]).reshape(-1, n)
        return self._ratio(self.values, weights)

    def interval(self) -> np.ndarray:
        """Bootstrap interval of f(k), [bound, row, size]; NaN for a single prompt."""
        return percentile_interval(self._samples(), self.confidence)

    def areas(self) -> pd.DataFrame:
        """One row per method: cpr (signed ranking) and cmd (absolute ranking), each with its bootstrap interval."""
        point, samples = self.faithfulness, self._samples()
        rows: list[dict[str, Any]] = []
        for method in dict.fromkeys(self.methods):
            row: dict[str, Any] = {"method": method}
            for name, ranking, area in (("cpr", "signed", cpr), ("cmd", "absolute", cmd)):
                index = self._row(method, ranking)
                low, high = percentile_interval(area(self.fractions, samples[:, index]), self.confidence)
                row |= {name: float(area(self.fractions, point[index]))}
                row |= {f"{name}_low": float(low), f"{name}_high": float(high)}
            rows.append(row)
        return pd.DataFrame(rows)

    def _row(self, method: str, ranking: str) -> int:
        for index, key in enumerate(zip(self.methods, self.rankings, strict=True)):
            if key in ((method, ranking), (method, RANDOM)):
                return index
        raise InputError(
            f"This curve has no {ranking} ranking of {method!r}; it has {', '.join(self.methods)}."
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per method, ranking and size: fraction, edges, metric, faithfulness, low, high."""
        point, (low, high) = self.faithfulness, self.interval()
        rows = [
            {
                "method": method,
                "ranking": ranking,
                "fraction": float(fraction),
                "edges": int(self.sizes[row, size]),
                "metric": float(self.values[row, size].mean()),
                "faithfulness": float(point[row, size]),
                "low": float(low[row, size]),
                "high": float(high[row, size]),
            }
            for row, (method, ranking) in enumerate(zip(self.methods, self.rankings, strict=True))
            for size, fraction in enumerate(self.fractions)
        ]
        return pd.DataFrame(rows)

    def plot(
        self,
        ranking: Literal["absolute", "signed"] = "absolute",
        *,
        methods: Sequence[str] | None = None,
    ) -> Any:
        """Faithfulness against size, one line per method, a plotly figure.

        Args:
            ranking: "absolute" (CMD's) or "signed" (CPR's); a random control is shown with either.
            methods: the methods to show, in this order; None shows all.

        Raises:
            InputError: no such method or ranking.
        """
        from lrp_lens.plots.circuits import plot_circuit_curve

        return plot_circuit_curve(self.to_dataframe(), ranking, methods=methods, level=self.level)

    def _headline(self) -> str:
        return (
            f"CircuitCurve({self.level}s, {self.text}; {len(self.full)} prompt{'s' * (len(self.full) > 1)}; metric "
            f"{self.full.mean():.4g} with all edges, {self.empty.mean():.4g} with none)"
        )

    def __repr__(self) -> str:
        table = self.areas().to_string(index=False, float_format="{:.3f}".format)
        return shown(f"{self._headline()}\n{table}")

    def _repr_html_(self) -> Html:
        return captioned(frame(self.areas(), float_format="{:.3f}".format, border=0), self._headline())


def cpr(fractions: np.ndarray, faithfulness: np.ndarray) -> np.ndarray:
    """∫ f dk, circuit performance ratio, over the last axis.

    Example:
        >>> float(cpr(np.array([0.0, 1.0]), np.array([0.0, 1.0])))
        0.5
    """
    return np.asarray(np.trapezoid(faithfulness, fractions, axis=-1))


def cmd(fractions: np.ndarray, faithfulness: np.ndarray) -> np.ndarray:
    """∫ |1 - f| dk, circuit-model distance, over the last axis.

    Example:
        >>> float(cmd(np.array([0.0, 1.0]), np.array([1.0, 1.0])))
        0.0
    """
    return np.asarray(np.trapezoid(np.abs(1 - faithfulness), fractions, axis=-1))


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
    direction: str = "noising",
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
    """Faithfulness of the best k % of edges or nodes, with CPR, CMD, a random control and bootstrap intervals.

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
        generator.integers(0, n, size=(n_resamples if n > 1 else 0, n)),
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
