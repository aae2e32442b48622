"""ComponentEdges: a score for every pair of writer and reader.

1. Scores of each prompt, [batch, writer, reader] or [batch, writer, reader, position]; `scores` is their mean.
2. What arrives at each reader is measured on its own, from the stream: the edges into a reader sum to it.
3. Rankings become circuits (`top`, `above`, `greedy`, `top_nodes`: see `lrp_lens.circuits.select`).
"""

import os
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd

from lrp_lens.characters import shown
from lrp_lens.circuits import select, storage
from lrp_lens.circuits.circuit import Circuit
from lrp_lens.circuits.components import ComponentGraph
from lrp_lens.errors import InputError
from lrp_lens.markup import Html, captioned, frame
from lrp_lens.views import View
from lrp_lens.views.table import table_of


@dataclass(frozen=True, eq=False, repr=False)
class ComponentEdges:
    """Edges of the component graph, scored; made by `component_edges`."""

    graph: ComponentGraph
    """Writers, readers, and which of them connect."""
    values: np.ndarray
    """[batch, writer, reader], or [batch, writer, reader, position]; 0 where a writer does not feed a reader."""
    arriving: np.ndarray
    """What arrives at each reader's input, from the stream itself, [batch, reader]."""
    metric: np.ndarray
    """The metric of each clean prompt, [batch]."""
    corrupted_metric: np.ndarray | None
    """The metric of each corrupted prompt, [batch]; None without corrupted prompts."""
    method: str
    """What the scores are, in words: rules, runs, steps."""
    metric_text: str
    rules_text: str
    token_strings: tuple[tuple[str, ...], ...]
    """Tokens of each clean prompt; "" at padding."""
    towards: tuple[str, str] | None = None
    """Words for the sign."""

    def __post_init__(self) -> None:
        expected = (len(self.graph.writers), len(self.graph.readers))
        if self.values.ndim not in (3, 4) or self.values.shape[1:3] != expected:
            raise InputError(
                f"Edges of this graph are [batch, {expected[0]} writers, {expected[1]} readers] or these and "
                f"positions; received {self.values.shape}."
            )

    @property
    def by_position(self) -> bool:
        """Whether there is a score for every position."""
        return self.values.ndim == 4

    @cached_property
    def scores(self) -> np.ndarray:
        """Mean over prompts, [writer, reader], or [writer, reader, position]."""
        return np.asarray(self.values.mean(axis=0))

    @cached_property
    def summed(self) -> np.ndarray:
        """Mean over prompts, summed over positions, [writer, reader]."""
        return np.asarray(self.scores.sum(-1)) if self.by_position else self.scores

    @property
    def error(self) -> float:
        """Largest difference between the sum of the edges into a reader and what arrives there, in metric units."""
        total = self.values.sum(-1) if self.by_position else self.values
        return float(np.abs(total.sum(1) - self.arriving).max())

    def edge(self, writer: str, reader: str) -> float | np.ndarray:
        """One score by labels, e.g. edge("L0H1", "L1H0 q"); by position an array [position].

        Raises:
            InputError: if there is no such writer or reader, or the first does not feed the second.
        """
        row, column = self.graph.writer(writer), self.graph.reader(reader)
        if not self.graph.connected[row, column]:
            raise InputError(
                f"An edge leads forward; {writer} does not feed {reader}. Name a later reader, or swap them."
            )
        found = self.scores[row, column]
        return np.asarray(found) if self.by_position else float(found)

    @cached_property
    def node_scores(self) -> np.ndarray:
        """Sum of each writer's outgoing edges, [writer]: its relevance, or its attribution patching score."""
        return np.asarray(self.summed.sum(1))

    def view(self, layer: int | None = None) -> View:
        """Labelled array [writer, reader], NaN where nothing connects; with `layer`, that layer's readers only.

        Raises:
            InputError: if there is no such layer.
        """
        if layer is not None and not 0 <= layer < self.graph.n_layers:
            raise InputError(f"A layer lies in [0, {self.graph.n_layers}); received {layer!r}.")
        chosen = [i for i, reader in enumerate(self.graph.readers) if layer in (None, reader.layer)]
        values = np.where(self.graph.connected, self.summed, np.nan)[:, chosen]
        rows = slice(0, max(self.graph.stops[index] for index in chosen))
        return View(
            values[rows],
            ("writer", "reader"),
            {
                "writer": tuple(map(str, self.graph.writers[rows])),
                "reader": tuple(str(self.graph.readers[index]) for index in chosen),
            },
            "component edges",
            towards=self.towards,
            notes=(self.method, self.metric_text),
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row per edge (and position), strongest first.

        Columns: writer, writer_kind, writer_layer, reader, reader_kind, reader_layer, [position, token,] score.
        """
        index = np.argwhere(self.graph.connected)
        if self.by_position:
            n = self.scores.shape[-1]
            index = np.concatenate(
                [np.repeat(index, n, 0), np.tile(np.arange(n), len(index))[:, None]], axis=1
            )
        table = {}
        for what, items, column in (
            ("writer", self.graph.writers, index[:, 0]),
            ("reader", self.graph.readers, index[:, 1]),
        ):
            table[what] = np.array([str(item) for item in items], dtype=object)[column]
            table[f"{what}_kind"] = np.array([item.kind for item in items], dtype=object)[column]
            layers = np.array([-1 if item.layer is None else item.layer for item in items])
            table[f"{what}_layer"] = layers[column]
        if self.by_position:
            table["position"] = index[:, 2]
            if len(self.token_strings) == 1:
                table["token"] = np.array(self.token_strings[0], dtype=object)[index[:, 2]]
        table["score"] = self.scores[tuple(index.T)]
        rows = table_of(table)
        order = np.argsort(-rows["score"].abs().to_numpy(), kind="stable")
        return rows.iloc[order].reset_index(drop=True)

    def plot(self, layer: int | None = None, *, palette: Literal["default", "lrp"] = "default") -> Any:
        """Writers × readers as a heat map, a plotly figure; with `layer`, that layer's readers only.

        Args:
            layer: one layer of a large model; None shows all.
            palette: "default" (blue positive) or "lrp" (red positive).

        Raises:
            InputError: no such layer, or an unknown palette.
        """
        from lrp_lens.plots.circuits import plot_component_edges

        return plot_component_edges(self.view(layer), palette=palette)

    def top(self, n: int, *, absolute: bool = True, prune: bool = True) -> Circuit:
        """The circuit of the n strongest edges: see `lrp_lens.circuits.select.top_edges`."""
        return select.top_edges(self, n, absolute=absolute, prune=prune)

    def above(self, threshold: float, *, absolute: bool = True, prune: bool = True) -> Circuit:
        """The circuit of all edges of at least this score: see `lrp_lens.circuits.select.edges_above`."""
        return select.edges_above(self, threshold, absolute=absolute, prune=prune)

    def greedy(self, n: int, *, absolute: bool = True, prune: bool = True) -> Circuit:
        """The circuit grown from the logits, edge by edge: see `lrp_lens.circuits.select.greedy_edges`."""
        return select.greedy_edges(self, n, absolute=absolute, prune=prune)

    def top_nodes(self, n: int, *, absolute: bool = True) -> Circuit:
        """The circuit of the n strongest nodes: see `lrp_lens.circuits.select.top_nodes`."""
        return select.top_nodes(self, n, absolute=absolute)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to one safetensors file; nothing is pickled."""
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "ComponentEdges":
        """Read what `save` wrote.

        Raises:
            InputError: if there is no file, or it is not such a file.
        """
        return cls(**storage.load(cls.__name__, path))

    def __repr__(self) -> str:
        rows = self.to_dataframe().head(8)
        lines = [f"  {row.score:+.4g}  {row.writer} → {row.reader}" for row in rows.itertuples()]
        return shown("\n".join([self._headline(), *lines]))

    def _headline(self) -> str:
        prompts = f"{len(self.values)} prompt{'s' if len(self.values) > 1 else ''}"
        where = ", by position" if self.by_position else ""
        return f"ComponentEdges({self.method}{where}; {prompts}, {self.metric_text}; {self.graph})"

    def _repr_html_(self) -> Html:
        table = frame(self.to_dataframe().head(20), float_format="{:+.4g}".format, border=0)
        return captioned(table, f"{self._headline()}; the 20 strongest edges:")
