"""The ledger as a table: metric = tokens + positions + sinks + remainder, overall and per layer."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd

from lrp_lens.characters import shown
from lrp_lens.errors import InputError
from lrp_lens.markup import Html, captioned, frame

ROUNDING = {"float64": 1e-5, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest |remainder| / Σ|R| that rounding explains, by the dtype of the activations (measured on a model of 30 layers:
3e-8, 9e-7, 1e-3, 1e-2; a host may compute parts of a float64 model in float32)."""


@dataclass(frozen=True, eq=False)
class LedgerRow:
    """What one operation absorbed."""

    layer: int | None
    name: str
    """Within the layer: `b_V`, `softmax`, `ln1 bias`, ..."""
    kind: str
    """`bias`, `softmax`, `soft-cap`, `router`, `norm`, `activation`, `epsilon` or `metric`."""
    amount: np.ndarray
    """Relevance absorbed, in units of the metric, [batch]."""

    @property
    def label(self) -> str:
        """Name with its layer, e.g. `L3 b_V`."""
        return self.name if self.layer is None else f"L{self.layer} {self.name}"


@dataclass(frozen=True, eq=False)
class Ledger:
    """metric = tokens + positions + sinks + remainder, overall and per layer; all arrays are float64, [batch]."""

    metric: np.ndarray
    tokens: np.ndarray
    positions: np.ndarray
    rows: tuple[LedgerRow, ...]
    """The sinks, final operations first, then layer by layer."""
    stream: np.ndarray
    """Relevance of the residual stream at each boundary (0 = embedding, l + 1 = after block l), [batch, layer + 1]."""
    magnitude: np.ndarray
    """Σ|R| over tokens, positions and sinks: the scale against which the remainder is judged."""
    title: str = ""
    """Rule set and metric."""
    towards: tuple[str, str] | None = None
    """Words for the sign: positive pushes towards the first, negative towards the second."""
    rounding: float = ROUNDING["float32"]
    """Largest |remainder| / Σ|R| that rounding in the model's precision explains."""

    @property
    def warning(self) -> str:
        """What is wrong with a remainder above rounding, in words; empty if it is rounding.

        Rounding leaves up to 0.001 % of Σ|R| in float64, 0.01 % in float32, 2 % in float16 and 10 % in bfloat16.
        """
        share = self.relative_remainder
        if share <= self.rounding:
            return ""
        return (
            f"the account does not close: a remainder of {100 * share:.3g} % of Σ|R| is more than rounding leaves "
            f"({100 * self.rounding:.3g} %). Does a hook of yours cut or change what passes (detach, an edit)? Remove "
            "it (model.reset_hooks()); else report the architecture."
        )

    @property
    def sinks(self) -> np.ndarray:
        """Everything absorbed, [batch]."""
        return np.sum([row.amount for row in self.rows], axis=0) if self.rows else np.zeros_like(self.metric)

    @property
    def remainder(self) -> np.ndarray:
        """What no row explains, [batch]: rounding, or a bug (see `warning`)."""
        return self.metric - self.tokens - self.positions - self.sinks

    @property
    def relative_remainder(self) -> float:
        """Largest |remainder| / Σ|R| of the batch."""
        return float(np.max(np.abs(self.remainder) / np.maximum(self.magnitude, np.finfo(float).tiny)))

    def example(self, index: int) -> "Ledger":
        """That of one example of a batch."""
        one = slice(index, index + 1)
        arrays = {
            name: getattr(self, name)[one]
            for name in ("metric", "tokens", "positions", "stream", "magnitude")
        }
        rows = tuple(replace(row, amount=row.amount[one]) for row in self.rows)
        return replace(self, **arrays, rows=rows)

    def of_layer(self, layer: int | None) -> tuple[LedgerRow, ...]:
        """The sinks of one layer (None: what lies outside the blocks)."""
        return tuple(row for row in self.rows if row.layer == layer)

    def layers(self) -> pd.DataFrame:
        """Per layer: relevance that enters (after the block), leaves (before it), its sinks and the remainder.

        Columns: layer, entering, leaving, sinks, remainder; and example for a batch.
        """
        records = []
        for example in range(len(self.metric)):
            for layer in [None, *reversed(range(self.stream.shape[1] - 1))]:
                if layer is None:
                    entering, leaving = self.metric[example], self.stream[example, -1]
                else:
                    entering, leaving = self.stream[example, layer + 1], self.stream[example, layer]
                sinks = float(sum(row.amount[example] for row in self.of_layer(layer)))
                records.append(
                    {
                        "example": example,
                        "layer": "final" if layer is None else f"L{layer}",
                        "entering": entering,
                        "leaving": leaving,
                        "sinks": sinks,
                        "remainder": entering - leaving - sinks,
                    }
                )
        frame = pd.DataFrame.from_records(records)
        return frame if len(self.metric) > 1 else frame.drop(columns="example")

    def to_dataframe(self) -> pd.DataFrame:
        """One row per entry: layer, name, kind, amount, share of the metric; and example for a batch."""
        entries = [
            (None, "tokens", "tokens", self.tokens),
            (None, "positions", "positions", self.positions),
            *((row.layer, row.name, row.kind, row.amount) for row in self.rows),
            (None, "remainder", "remainder", self.remainder),
        ]
        records = [
            {
                "example": example,
                "layer": layer,
                "name": name,
                "kind": kind,
                "amount": float(amount[example]),
                "share": float(amount[example] / self.metric[example])
                if self.metric[example]
                else float("nan"),
            }
            for example in range(len(self.metric))
            for layer, name, kind, amount in entries
        ]
        frame = pd.DataFrame.from_records(records).astype({"layer": "Int64"})
        return frame if len(self.metric) > 1 else frame.drop(columns="example")

    def by_kind(self) -> dict[str, np.ndarray]:
        """Sinks summed per kind, [batch] each."""
        totals: dict[str, np.ndarray] = {}
        for row in self.rows:
            totals[row.kind] = totals.get(row.kind, np.zeros_like(self.metric)) + row.amount
        return totals

    def plot(self, *, example: int | None = None, palette: Literal["default", "lrp"] = "default") -> Any:
        """Waterfall from the metric's parts to the metric, a plotly figure.

        Args:
            example: which prompt of a batch.
            palette: "default" (blue positive) or "lrp" (red positive).

        Raises:
            InputError: a batch without `example`, no such example, or an unknown palette.
        """
        from lrp_lens.plots.ledger import plot_ledger

        table, count = self.to_dataframe(), len(self.metric)
        if count > 1:
            if example not in range(count):
                raise InputError(
                    f"A figure shows one example of the batch, 0 to {count - 1}; received example={example!r}."
                )
            table = table[table["example"] == example]
        return plot_ledger(table, towards=self.towards, palette=palette)

    def __str__(self) -> str:
        """The first example in full; of a batch, the range of the others' remainders."""
        lines = [f"Ledger  {self.title}", f"  {'metric':<28}{self.metric[0]:>12.5f}"]
        entries = [("tokens", self.tokens[0]), ("positions", self.positions[0])]
        entries += [(f"sink: {row.label}", row.amount[0]) for row in self.rows if row.amount[0]]
        entries.append(("remainder", self.remainder[0]))
        for name, amount in entries:
            share = f"{100 * amount / self.metric[0]:9.2f} %" if self.metric[0] else ""
            number = f"{amount:>12.2g}" if name == "remainder" else f"{amount:>12.5f}"
            lines.append(
                f"  = {name:<26}{number}{share}" if name == "tokens" else f"  + {name:<26}{number}{share}"
            )
        if len(self.metric) > 1:
            lines.append(
                f"  (example 0 of {len(self.metric)}; largest |remainder|/Σ|R| {self.relative_remainder:.2g})"
            )
        if self.warning:
            lines.append(f"  WARNING: {self.warning}")
        return shown("\n".join(lines))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> Html:
        table = frame(self.to_dataframe(), float_format=lambda value: f"{value:.5g}", na_rep="")
        return captioned(table, warning=self.warning)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and strings, for JSON."""
        arrays = {
            name: getattr(self, name).tolist()
            for name in ("metric", "tokens", "positions", "stream", "magnitude")
        }
        rows = [{**vars(row), "amount": row.amount.tolist()} for row in self.rows]
        return {
            **arrays,
            "rows": rows,
            "title": self.title,
            "towards": self.towards,
            "rounding": self.rounding,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Ledger":
        """The inverse of `to_dict`."""
        fields: dict[str, Any] = {
            name: np.asarray(data[name]) for name in ("metric", "tokens", "positions", "stream", "magnitude")
        }
        rows = tuple(LedgerRow(**{**row, "amount": np.asarray(row["amount"])}) for row in data["rows"])
        towards = tuple(data["towards"]) if data.get("towards") else None
        fields |= {"title": data["title"], "rounding": data["rounding"]}
        return cls(**fields, rows=rows, towards=towards)
