"""The result of `decompose`: one table over components, and views of it.

metric = Σ direct (components) + Σ residuals (+ remainder, which is rounding, or a bug, and is printed)
indirect = total - direct, per component and position
"""

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal

import numpy as np
import pandas as pd

from lrp_lens.decomposition import storage
from lrp_lens.decomposition.component import Component
from lrp_lens.decomposition.text import describe, describe_html
from lrp_lens.decomposition.validation import checked, require_index
from lrp_lens.errors import InputError
from lrp_lens.views import View
from lrp_lens.views.table import table_of

Part = Literal["direct", "indirect", "total"]
PARTS: tuple[Part, ...] = ("direct", "indirect", "total")


@dataclass(frozen=True, eq=False, repr=False)
class Decomposition:
    """Direct, indirect and total contributions of every component to a metric; arrays are float64."""

    components: tuple[Component, ...]
    """The rows, in the order of the forward pass; residuals last."""
    direct: np.ndarray
    """Through the frozen final norm and the unembedding, [batch, component, pos]; residuals left out."""
    total: np.ndarray
    """Relevance along all paths, [batch, component, pos]; residuals left out."""
    residuals: Mapping[str, np.ndarray]
    """What linearising leaves, [batch] each; they belong to no position."""
    metric: np.ndarray
    """[batch]."""
    stages: tuple[str, ...]
    """`embed`, `L0 mid`, `L0`, ...: states of the residual stream."""
    frozen: np.ndarray
    """The metric read off at each stage through the last stage's norm scale, [batch, stage]."""
    recomputed: np.ndarray | None
    """The same with the scale of each stage itself, [batch, stage]; None where the readout is not linear."""
    sources: np.ndarray | None
    """Direct contribution of each head by source token, [batch, layer, head, pos]."""
    without_sources: str
    """Why there are no sources; empty if there are."""
    token_strings: tuple[tuple[str, ...], ...]
    special: np.ndarray
    """True at BOS, EOS and padding, [batch, pos]."""
    pieces: tuple[tuple[str, ...], ...] | None
    """What each token adds to the text of those before it (`View.pieces`); None where that is not known."""
    answers: tuple[tuple[str, ...], ...]
    """Of each token, the word for the answer that a metric appended (answer, target, contrast); "" in the prompt."""
    single: bool
    towards: tuple[str, str] | None
    metric_text: str
    rules_text: str

    def __post_init__(self) -> None:
        checked(self)

    @property
    def indirect(self) -> np.ndarray:
        """total - direct, [batch, component, pos]: what reaches the metric through other components."""
        return self.total - self.direct

    @property
    def remainder(self) -> np.ndarray:
        """metric - Σ direct - Σ residuals, [batch]: rounding, or a bug."""
        return self.metric - self.direct.sum((1, 2)) - sum(self.residuals.values())

    def table(self) -> pd.DataFrame:
        """One row per component: component, layer, head, kind, direct, indirect, total; and example for a batch.

        `direct` sums to the metric.  Totals overlap (what a head passes on has come from the embeddings).
        """
        parts: dict[str, np.ndarray] = {part: self._summed(part) for part in PARTS}
        frames = []
        for example in range(len(self.metric)):
            frame = pd.DataFrame(
                {
                    "example": example,
                    "component": [one.label for one in self.components],
                    "layer": pd.array([one.layer for one in self.components], dtype="Int64"),
                    "head": pd.array([one.head for one in self.components], dtype="Int64"),
                    "kind": [one.kind for one in self.components],
                    **{part: values[example] for part, values in parts.items()},
                }
            )
            frames.append(frame)
        table = pd.concat(frames, ignore_index=True)
        return table.drop(columns="example") if self.single else table

    def to_dataframe(self) -> pd.DataFrame:
        """One row per component and position: component, position, token, special, direct, indirect, total.

        With `example` for a batch.  Padding is left out, and so are residuals, which belong to no position.
        """
        example, component, position = (axis.ravel() for axis in np.indices(self.direct.shape))
        tokens = np.array(self.token_strings, dtype=object)
        labels = np.array([one.label for one in self.components], dtype=object)
        parts: dict[str, np.ndarray] = {part: self._part(part).ravel() for part in PARTS}
        table = table_of(
            {
                "example": example,
                "component": labels[component],
                "position": position,
                "token": tokens[example, position],
                "special": self.special[example, position],
                **parts,
            }
        )
        padding = self.special & (tokens == "") & ~np.any(self.total, axis=1)
        table = table[~padding[example, position]].reset_index(drop=True)
        return table.drop(columns="example") if self.single else table

    def by_component(self, part: Part = "direct") -> View:
        """One part of every component, [component]; residuals included, so `direct` sums to the metric."""
        labels = {"component": tuple(one.label for one in self.components)}
        return self._view(self._summed(part), ("component",), f"{part} contribution", labels)

    def by_position(self, part: Part = "direct") -> View:
        """One part of every component per position, [component, pos]; residuals have none and are left out.

        `direct` is 0 but at the positions that the metric reads.
        """
        values = self._part(part)
        labels = {"component": tuple(one.label for one in self.components[: values.shape[1]])}
        return self._view(values, ("component", "position"), f"{part} contribution", labels)

    def heads(self, part: Part = "direct") -> View:
        """One part of every head, [layer, head]."""
        index = [i for i, one in enumerate(self.components) if one.kind == "head"]
        layers = max(self.components[i].layer or 0 for i in index) + 1
        values = self._part(part)[:, index].sum(-1).reshape(len(self.metric), layers, -1)
        return self._view(values, ("layer", "head"), f"{part} contribution of heads", {})

    def by_source(self, layer: int | None = None, head: int | None = None) -> View:
        """Direct contribution of each head by source token (whose value it moved), [layer, head, pos].

        Args:
            layer: one layer only; negative counts from the last.
            head: one head only.

        Raises:
            InputError: no such layer or head; a metric that does not name its positions; or a host that does not
                show the attention patterns it used.
        """
        if self.sources is None:
            raise InputError(
                "A split by source token needs the attention pattern where the metric reads; there is none: "
                f"{self.without_sources}."
            )
        for name, key in (("layer", layer), ("head", head)):
            require_index(name, key)
        view = self._view(self.sources, ("layer", "head", "position"), "direct contribution by source", {})
        chosen = {name: key for name, key in (("layer", layer), ("head", head)) if key is not None}
        return view.select(**chosen)

    def cumulative(self, norm: Literal["frozen", "recomputed"] = "frozen") -> View:
        """The metric read off after the embedding, each attention (mid) and each block, [layer].

        Args:
            norm: "frozen" applies the last stage's norm scale everywhere, so differences between stages are direct
                contributions; "recomputed" normalises each stage by itself (the logit lens).  Both end at the metric.
                Biases behind the last block, and residuals, are in every stage.

        Raises:
            InputError: "recomputed" for a soft-capped or nonlinear readout, which no linear map gives.
        """
        if norm not in ("frozen", "recomputed"):
            raise InputError(f"norm is 'frozen' or 'recomputed'; received {norm!r}.")
        values = self.frozen if norm == "frozen" else self.recomputed
        if values is None:
            raise InputError(
                "The logit lens with recomputed norms needs a linear readout; this one leaves a residual "
                f"({', '.join(self.residuals)}). Use norm='frozen', or LogitDiff on a model without soft-cap."
            )
        return self._view(values, ("layer",), f"metric by layer, norm {norm}", {"layer": self.stages})

    def plot(
        self, *, show: int = 16, example: int | None = None, palette: Literal["default", "lrp"] = "default"
    ) -> Any:
        """Waterfall of the direct contributions beside bars of the indirect ones, a plotly figure.

        Args:
            show: how many components to show at most.
            example: which prompt of a batch.
            palette: "default" (blue positive) or "lrp" (red positive).

        Raises:
            InputError: a batch without `example`, no such example, or an unknown palette.
        """
        from lrp_lens.plots.decomposition import plot_decomposition

        chosen, table = self._example(example), self.table()
        table = table if self.single else table[table["example"] == chosen]
        return plot_decomposition(table, show=show, towards=self.towards, palette=palette)

    def plot_cumulative(self, *, example: int | None = None) -> Any:
        """The metric after each layer, with frozen and (where the readout is linear) recomputed norms, plotly.

        Args:
            example: which prompt of a batch.

        Raises:
            InputError: a batch without `example`, or no such example.
        """
        from lrp_lens.plots.cumulative import plot_cumulative

        chosen = self._example(example)
        views = [self.cumulative()] + ([] if self.recomputed is None else [self.cumulative("recomputed")])
        return plot_cumulative([view if self.single else view.select(batch=chosen) for view in views])

    def plot_sources(
        self, *, show: int = 24, example: int | None = None, palette: Literal["default", "lrp"] = "default"
    ) -> Any:
        """Heads × source tokens: whose value each head moved, and what that adds directly, a plotly figure.

        Args:
            show: how many heads to show at most, those with the largest Σ |contribution|.
            example: which prompt of a batch.
            palette: "default" (blue positive) or "lrp" (red positive).

        Raises:
            InputError: as `by_source`; a batch without `example`, or no such example.
        """
        from lrp_lens.plots.maps import plot_sources

        chosen, view = self._example(example), self.by_source()
        return plot_sources(view if self.single else view.select(batch=chosen), show=show, palette=palette)

    def _example(self, example: int | None) -> int:
        count = len(self.metric)
        require_index("example", example)
        if example is None and count > 1:
            raise InputError(f"A figure shows one example; received a batch of {count}. Pass example=0.")
        if not -count <= (example or 0) < count:
            raise InputError(f"The batch has the examples 0 to {count - 1}; received {example}.")
        return (example or 0) % count

    def _part(self, part: Part) -> np.ndarray:
        if part not in PARTS:
            raise InputError(f"A part is 'direct', 'indirect' or 'total'; received {part!r}.")
        values: np.ndarray = getattr(self, part)
        return values

    def _summed(self, part: Part) -> np.ndarray:
        """[batch, component], residuals included: they are direct, and all of their total."""
        values = [self._part(part).sum(-1)]
        values += [(amount * (part != "indirect"))[:, None] for amount in self.residuals.values()]
        return np.concatenate(values, axis=1)

    def _view(self, values: np.ndarray, dims: tuple[str, ...], name: str, labels: dict[str, Any]) -> View:
        special = self.special if "position" in dims else None
        answer = np.array(self.answers) if special is not None and any(map(any, self.answers)) else None
        pieces = self.pieces if "position" in dims else None
        if "position" in dims:
            labels = labels | {"position": self.token_strings[0] if self.single else self.token_strings}
        return View(
            values=values[0] if self.single else values,
            dims=dims if self.single else ("batch", *dims),
            labels=labels,
            name=name,
            special=special[0] if self.single and special is not None else special,
            answer=answer[0] if self.single and answer is not None else answer,
            towards=self.towards,
            notes=(f"metric: {self.metric_text}", f"rules: {self.rules_text}"),
            pieces=pieces[0] if self.single and pieces is not None else pieces,
        )

    def save(self, path: str | PathLike[str]) -> None:
        """Write everything to one safetensors file (words as JSON in its header; no pickle)."""
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Decomposition":
        """Read a decomposition written by `save`.

        Raises:
            InputError: the file is missing or is not a saved decomposition.
        """
        fields = storage.load(path)
        return cls(**fields | {"components": tuple(Component(**one) for one in fields["components"])})

    def __repr__(self) -> str:
        return describe(self)

    def _repr_html_(self) -> str:
        return describe_html(self)
