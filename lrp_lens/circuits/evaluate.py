"""run_circuits: the metric of the model that only the edges of a circuit connect.

1. Run the prompts once for the replacements (`lrp_lens.circuits.reference`).
2. Run circuits × prompts as one batch, as many at once as fit (`lrp_lens.circuits.ablation`).
3. Noising runs the clean prompts and replaces every edge outside the circuit.  Denoising runs the corrupted prompts and
   puts the clean outputs into the circuit's edges.  Either way all edges give the clean metric and none the corrupted.
4. The control that every edit counts: with only the embedding's edges replaced, the run is the other run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from lrp_lens.characters import shown
from lrp_lens.checks import require_whole
from lrp_lens.circuits.ablation import AblatedRun
from lrp_lens.circuits.circuit import Circuit
from lrp_lens.circuits.components import ComponentGraph, component_graph
from lrp_lens.circuits.reference import outputs_of, replacements, require_ablation
from lrp_lens.circuits.writers import Writers
from lrp_lens.errors import InputError, SiteError
from lrp_lens.hosts import Sites
from lrp_lens.hosts.forward import input_vocabulary_size
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import PaddingSide
from lrp_lens.markup import Html, captioned, frame
from lrp_lens.metrics import BoundMetric, MetricLike
from lrp_lens.progress import progress_bar, require_show
from lrp_lens.run.pairs import Direction, Pair, plain_run, read_pair, require_direction
from lrp_lens.run.reading import unembedded
from lrp_lens.views import View

ROW_BYTES = 512 * 2**20
"""Memory for the writers' outputs of all rows of one pass."""
_checked: "WeakKeyDictionary[Any, Sites]" = WeakKeyDictionary()


@dataclass(frozen=True, eq=False, repr=False)
class CircuitValues:
    """The metric of each circuit on each prompt, between that of all edges and that of none."""

    values: np.ndarray
    """[circuit, batch]."""
    full: np.ndarray
    """With all edges: the clean metric, [batch]."""
    empty: np.ndarray
    """With no edge (corrupted: the corrupted metric), [batch]."""
    sizes: np.ndarray
    """Number of edges, [circuit]."""
    names: tuple[str, ...]
    ablation: str
    direction: Direction

    @property
    def recovered(self) -> np.ndarray:
        """(m(circuit) - m(∅)) / (m(full) - m(∅)) of means over prompts, which papers call faithfulness, [circuit]."""
        gap = self.full.mean() - self.empty.mean()
        return np.asarray((self.values.mean(1) - self.empty.mean()) / (gap if gap else np.nan))

    def to_dataframe(self) -> pd.DataFrame:
        """One row per circuit: circuit, edges, metric (mean over prompts), recovered."""
        return pd.DataFrame(
            {
                "circuit": self.names,
                "edges": self.sizes,
                "metric": self.values.mean(1),
                "recovered": self.recovered,
            }
        )

    def plot(self) -> Any:
        """The share that each circuit recovers, a bar each."""
        view = View(
            self.recovered, ("component",), {"component": self.names}, "metric recovered", "of the model"
        )
        return view.plot()

    def _repr_html_(self) -> Html:
        return captioned(frame(self.to_dataframe().round(4), border=0), repr(self).splitlines()[0])

    def __repr__(self) -> str:
        lines = [
            f"  {name}: {size} edges, metric {value:.4g}, recovered {share:.3f}"
            for name, size, value, share in zip(
                self.names, self.sizes, self.values.mean(1), self.recovered, strict=True
            )
        ]
        ends = f"all edges {self.full.mean():.4g}, none {self.empty.mean():.4g}"
        return shown("\n".join([f"CircuitValues({self.ablation}, {self.direction}; {ends})", *lines]))


def run_circuits(
    model: Any,
    circuits: Circuit | Sequence[Circuit],
    clean: Any,
    corrupted: Any = None,
    metric: MetricLike | None = None,
    *,
    ablation: str = "corrupted",
    direction: Direction = "noising",
    reference: Any = None,
    padding_side: PaddingSide | None = None,
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
    progress: bool | None = None,
) -> CircuitValues:
    """Run the model with every edge outside each circuit replaced.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        circuits: one or several circuits of this model.
        clean: prompts.
        corrupted: as many prompts of the same lengths; needed for ablation="corrupted" and for denoising.
        metric: logits → one number per prompt; default: the clean run's top token against the runner-up.
        ablation: what edges outside carry: "corrupted" run's outputs, "mean" over reference prompts, or "zero".
        direction: "noising" (the default, as circuits are evaluated in the literature) runs the clean prompts;
            "denoising" (with ablation="corrupted") the corrupted ones.
        reference: prompts of the mean, best none of the clean ones; needed for ablation="mean".
        padding_side: of prompts of several lengths.
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
        max_rows: circuits × prompts that go through the model at once; by default what fits in half a GiB.
        progress: show a bar of the circuits; None: on terminals and in notebooks, after two seconds.

    Raises:
        InputError: circuits of a graph with other components or another width, prompts that do not fit, an unknown
            ablation or direction.
        SiteError: if the host drops one of the edits.

    Example:
        >>> from lrp_lens import GRADIENT, LogitDiff, load_demo_model
        >>> from lrp_lens.circuits import component_edges
        >>> model = load_demo_model(device="cpu")
        >>> clean = "then mary and john went to the park . john gave the key to"
        >>> corrupted = "then mary and john went to the park . mary gave the key to"
        >>> metric = LogitDiff("mary", "john")
        >>> edges = component_edges(model, clean, corrupted, metric, rules=GRADIENT)
        >>> values = run_circuits(model, edges.top(200), clean, corrupted, metric)
        >>> values.values.shape
        (1, 1)
    """
    chosen = list(circuits) if isinstance(circuits, Sequence) else [circuits]
    if max_rows is not None:
        require_whole(max_rows, "max_rows", 1)
    require_show(progress)
    require_direction(direction)
    if direction == "denoising" and ablation != "corrupted":
        raise InputError(
            f"Denoising restores clean outputs in a corrupted run; received ablation={ablation!r}. Use "
            "ablation='corrupted', or direction='noising'."
        )
    pair = read_pair(model, clean, corrupted, metric, padding_side, prepend_bos)
    require_ablation(ablation, pair.corrupted, reference)
    graph = component_graph(model)
    _require_circuits(chosen, graph, pair.clean)
    writers = Writers(model, graph)
    _require_live(writers, pair)
    own, rows = outputs_of(writers, pair.clean, pair.bound)
    full = pair.bound.read(rows)
    if ablation == "corrupted":
        assert pair.corrupted is not None
        theirs, rows = outputs_of(writers, pair.corrupted, pair.bound)
        empty = pair.bound.read(rows)
        batch, other = (pair.clean, theirs) if direction == "noising" else (pair.corrupted, own)
    else:
        batch, other = pair.clean, replacements(writers, ablation, own, pair.clean, reference)
        empty = _values(writers, [Circuit.empty(graph)], batch, other, pair.bound, max_rows, progress)[0]
    run = [circuit.complement() for circuit in chosen] if direction == "denoising" else chosen
    values = _values(writers, run, batch, other, pair.bound, max_rows, progress)
    return CircuitValues(
        torch.stack(values).double().cpu().numpy(),
        full.double().cpu().numpy(),
        empty.double().cpu().numpy(),
        np.array([len(circuit) for circuit in chosen]),
        tuple(circuit.name for circuit in chosen),
        ablation,
        direction,
    )


def _require_circuits(circuits: list[Circuit], graph: ComponentGraph, batch: TokenBatch) -> None:
    if not circuits:
        raise InputError("There is at least one circuit to run; received none.")
    for circuit in circuits:
        if not isinstance(circuit, Circuit):
            raise InputError(
                f"A circuit is a Circuit, e.g. edges.top(100); received {type(circuit).__name__}."
            )
        if not circuit.graph.same_components(graph):
            raise InputError(
                f"A circuit is run on the model whose graph it is of; received a circuit of {circuit.graph} for a "
                f"model of {graph}."
            )
        if circuit.by_position and batch.branches:
            raise InputError(
                "A circuit by position is run on one row of tokens for each prompt; this metric appends two answers, "
                "two rows. Score the edges without positions."
            )
        if circuit.by_position and circuit.mask.shape[-1] != batch.ids.shape[1]:
            raise InputError(
                f"A circuit by position has the positions of the prompts, {batch.ids.shape[1]}; received one of "
                f"{circuit.mask.shape[-1]}."
            )


def _mask(circuit: Circuit, graph: ComponentGraph, length: int | None) -> Tensor:
    """Edges kept, fixed writers included, laid out for the model's own graph."""
    mask = circuit.mask
    if circuit.graph != graph:  # the same components, with other fixed writers
        rows = {str(writer): index for index, writer in enumerate(circuit.graph.writers)}
        mask = np.zeros((len(graph.writers), *circuit.mask.shape[1:]), dtype=bool)
        for index, writer in enumerate(graph.writers):
            if str(writer) in rows:
                mask[index] = circuit.mask[rows[str(writer)]]
    fixed = graph.connected & ~graph.free
    if length is None:
        return torch.from_numpy(mask | fixed)
    wide = mask if mask.ndim == 3 else np.repeat(mask[..., None], length, -1)
    return torch.from_numpy(wide | fixed[..., None])


def _values(
    writers: Writers,
    circuits: list[Circuit],
    batch: TokenBatch,
    other: Tensor,
    bound: BoundMetric,
    max_rows: int | None,
    progress: bool | None,
) -> list[Tensor]:
    """The metric of each circuit on each prompt, [batch] each."""
    n_prompts, length = batch.ids.shape
    graph, by_position = writers.graph, any(circuit.by_position for circuit in circuits)
    if max_rows is None:
        per_row = (len(graph.writers) + 3 * graph.n_heads) * length * other.shape[-1] * other.element_size()
        max_rows = ROW_BYTES // max(per_row, 1)
    size = max(1, max_rows // n_prompts)
    found: list[Tensor] = []
    with progress_bar(None, len(circuits), "circuits", progress, "circuit") as bar:
        for start in range(0, len(circuits), size):
            some = circuits[start : start + size]
            masks = torch.stack([_mask(circuit, graph, length if by_position else None) for circuit in some])
            logits = _logits(writers, masks.to(other.device), batch, other, bound)
            found += [bound.read(rows) for rows in logits.split(n_prompts)]
            bar.update(len(some))
    return found


def _logits(
    writers: Writers,
    masks: Bool[Tensor, "circuit writer reader ..."],
    batch: TokenBatch,
    other: Tensor,
    bound: BoundMetric,
) -> Tensor:
    """Logits at the positions the metric reads, circuit by circuit."""
    keep = unembedded(bound, len(masks))
    return AblatedRun(writers, masks, other).logits(batch, [(writers.sites.unembed_input.point, keep)])


def _require_live(writers: Writers, pair: Pair) -> None:
    """Replace all edges of one prompt's embedding by another's: the logits must be the other's, or an edit was dropped.

    Raises:
        SiteError: if they are not.
    """
    if _checked.get(writers.model) is writers.sites:
        return
    batch = pair.clean
    one = batch.example(0)
    another = replace(one, ids=(one.ids + 1) % input_vocabulary_size(writers.model))
    expected = plain_run(writers.model, another, ())[0]
    mask = torch.from_numpy(writers.graph.connected.copy())[None].to(expected.device)
    mask[:, 0] = False
    run = AblatedRun(writers, mask, outputs_of(writers, another)[0])
    error = (run.logits(one, []) - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
    if not error < max(2e-4, 40 * torch.finfo(expected.dtype).eps):
        raise SiteError(
            f"Every edit must reach the logits; with the embedding's edges replaced, {writers.sites.architecture} in "
            f"{writers.sites.host} differs from the run they come from by {error.item():.2g} of its logits. Use the "
            "other host for this model."
        )
    _checked[writers.model] = writers.sites
