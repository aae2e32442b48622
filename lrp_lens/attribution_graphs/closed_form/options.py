"""How a graph is made: which states, which edges, which method; checked before anything runs."""

from dataclasses import dataclass
from os import PathLike
from typing import Literal

from lrp_lens.attribution_graphs.arrays.pruning import check_share, check_threshold
from lrp_lens.attribution_graphs.closed_form.stream import Pruning
from lrp_lens.errors import InputError
from lrp_lens.progress import require_show

Split = Literal["mid"] | None
Method = Literal["closed_form", "batch_packed"]


@dataclass(frozen=True)
class Options:
    """How a graph is made; see `attribution_graph`."""

    split: Split = "mid"
    method: Method = "closed_form"
    node_threshold: float | int = 0.01
    edge_threshold: float | int = 0.0
    mass: float | int = 0.85
    max_edges: int | None = 200_000
    block: int | None = None
    checkpoint: str | PathLike[str] | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.split not in ("mid", None):
            raise InputError(f"split is 'mid' or None; received {self.split!r}.")
        if self.method not in ("closed_form", "batch_packed"):
            raise InputError(f"method is 'closed_form' or 'batch_packed'; received {self.method!r}.")
        require_show(self.progress)
        check_share(self.mass)
        check_threshold("node_threshold", self.node_threshold)
        check_threshold("edge_threshold", self.edge_threshold)
        for name in ("max_edges", "block"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"{name} is a number of 1 or more, or None; received {value!r}.")

    def pruning(self, metric: float) -> Pruning:
        """In the metric's units."""
        size = abs(metric)
        return Pruning(self.node_threshold * size, self.edge_threshold * size, self.mass, self.max_edges)

    def words(self, metric: float) -> tuple[str, ...]:
        """What was kept, for the graph's notes."""
        most = "" if self.max_edges is None else f", at most {self.max_edges} edges a transition"
        kept = (
            f"kept: nodes with |R| > {self.node_threshold:g}·|metric|, edges with |A| > {self.edge_threshold:g}·"
            f"|metric|, the strongest edges that hold {100 * self.mass:g} % of each transition's mass{most}"
        )
        return (kept,) if metric else (kept, "the metric is 0: thresholds relative to it keep everything")
