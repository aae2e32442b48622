"""A View: one labelled array, the common currency of relevance, patching and decomposition.

1. The values are a numpy array; every axis has a name (`dims`) and a label per index (`labels`).
2. Axis labels are `L3`, `L3H5` and the token strings. A token is keyed by its position, never by its text:
   repeated tokens stay apart everywhere (tables, selections, plots).
3. Special tokens (BOS, EOS, padding) are marked, left out of the scale by `normalise`, and never dropped:
   their share of Σ|R| is always reported.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any, overload

import numpy as np
import pandas as pd

from lrp_lens.markup import Html
from lrp_lens.views import groups, indexing, storage, table, text
from lrp_lens.views.axes import axes_within_example, check, check_pieces, complete_labels, special_cells

Labels = tuple[str, ...] | tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False, repr=False)
class View:
    """An array with named, labelled axes, units, and words for its sign.

    Example:
        >>> view = View(np.array([0.1, 2.0, -1.0]), ("position",), {"position": ("<bos>", "John", "Mary")},
        ...             "tokens", special=np.array([True, False, False]), towards=("John", "Mary"))
        >>> view.normalise().values.tolist()
        [0.05, 1.0, -0.5]

    Raises:
        InputError: dims, labels, special mask and values do not fit together.
    """

    values: np.ndarray
    """The numbers, one axis per entry of `dims`; NaN means "missing", infinities are refused."""
    dims: tuple[str, ...]
    """Axis names, e.g. ("position",), ("batch", "position"), ("layer", "head"); batch first."""
    labels: Mapping[str, Labels] = field(default_factory=dict)
    """One label per index of each dim. With a batch dim, labels["position"] may be one tuple per example;
    padding positions are then "" with value 0. Omitted dims get L0, L1, … / H0, … / tok_0, … / 0, 1, …"""
    name: str = "relevance"
    """What the numbers are, e.g. "tokens" or "heads"."""
    units: str = "logits"
    """Units of the values; after `normalise`, "fraction of max |R|"."""
    special: np.ndarray | None = None
    """True where a token is special (BOS, EOS, padding): shape [position] or [batch, position]."""
    answer: np.ndarray | None = None
    """Word for the answer that a token belongs to ("answer", "target", "contrast"), "" in the prompt: text of the same
    shape. None where a metric appended no answer."""
    towards: tuple[str, str] | None = None
    """Positive values push towards the first token, negative values towards the second."""
    notes: tuple[str, ...] = ()
    """Provenance in words: rule set, metric, normalisation."""
    pieces: Labels | None = None
    """What each token adds to the text of those before it, "" where it ends inside a character; laid out as
    labels["position"]. Words and sentences come from it; None where it is not known."""
    spans: Any = None
    """Spans that came with the prompt, {"message": {"user 1": ((3, 9),)}, "role": {...}}; one such mapping per example
    of a batch."""
    cautions: tuple[str, ...] = ()
    """What a reader has to know before reading the numbers, a sentence per example, "" for nothing; said wherever the
    view is shown."""

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float64)
        dims = tuple(self.dims)
        labels = complete_labels(values.shape, dims, self.labels)
        special = None if self.special is None else np.asarray(self.special, dtype=bool)
        answer = None if self.answer is None else np.asarray(self.answer, dtype=str)
        for mark, what in ((special, "special"), (answer, "answer")):
            check(self.name, values, dims, labels, mark, what)
        checked = {"values": values, "dims": dims, "labels": labels, "special": special, "answer": answer}
        for key, value in checked.items():
            object.__setattr__(self, key, value)
        object.__setattr__(self, "notes", tuple(self.notes))
        check_pieces(self.name, self.pieces, labels, dims)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of `values`."""
        return self.values.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.values)

    def axis_labels(self, dim: str) -> tuple[str, ...]:
        """The labels of one axis, one string per index.

        Raises:
            InputError: no such dim, or the examples of a batch have labels of their own.
        """
        return indexing.axis_labels(self, dim)

    def special_cells(self) -> np.ndarray:
        """Boolean array of the shape of `values`: True where the cell lies at a special token."""
        return special_cells(self.values, self.dims, self.special)

    @property
    def special_share(self) -> float | np.ndarray | None:
        """Share of Σ|R| that lies on special tokens (BOS, …), per example ([batch]) in a batch.

        None if the view has no special mask; 0 where all values are 0.
        """
        if self.special is None:
            return None
        magnitude = np.nan_to_num(np.abs(self.values))
        axes = axes_within_example(self.dims)
        total = magnitude.sum(axis=axes)
        share = np.where(self.special_cells(), magnitude, 0).sum(axis=axes) / np.where(total > 0, total, 1)
        return share if "batch" in self.dims else float(share)

    def normalise(self, exclude_special: bool = True) -> "View":
        """The paper's normalisation: divide by max |R| over the non-special tokens, per example.

        Special tokens keep their values on the same scale (they may exceed 1). The scale and the special
        tokens' share of Σ|R| are written into `notes`. An example whose values are all 0 stays as it is.

        Args:
            exclude_special: False takes the maximum over all tokens.
        """
        magnitude = np.nan_to_num(np.abs(self.values))
        if exclude_special:
            magnitude = np.where(self.special_cells(), 0, magnitude)
        axes = axes_within_example(self.dims)
        scale = magnitude.max(axis=axes, keepdims=True, initial=0)
        over = "non-special tokens" if exclude_special and self.special is not None else "all values"
        note = f"divided by max |R| over {over} = {text.numbers(scale)} {self.units}"
        share = self.special_share
        if share is not None:
            note += (
                f"; special tokens hold {text.numbers(100 * np.asarray(share), '.1f')} % of the sum of |R|"
            )
        return replace(
            self,
            values=self.values / np.where(scale > 0, scale, 1),
            units="fraction of max |R|",
            notes=(*self.notes, note),
        )

    @overload
    def sum(self) -> float: ...

    @overload
    def sum(self, dim: str) -> "View": ...

    def sum(self, dim: str | None = None) -> "View | float":
        """Sum over one axis, or over all of them: then a number (missing values make a sum missing).

        Example:
            >>> heads = View(np.arange(4.0).reshape(2, 2), ("layer", "head"))
            >>> heads.sum(), heads.sum("head").values.tolist()
            (6.0, [1.0, 5.0])

        Raises:
            InputError: no such dim, or summing over examples whose tokens differ.
        """
        return float(self.values.sum()) if dim is None else indexing.sum_over(self, dim)

    def by(self, parts: "str | Mapping[str, Any]") -> "View":
        """Tokens put together: a dim of words, sentences, messages, roles or named parts in the place of "position".

        Each value is the sum of its tokens' values, in float64.  A special token is a word and a sentence of its own;
        of a chat it belongs to whoever writes it, most often the "template", as in `cache.segments()`.  A role holds
        all messages of that role.  Named parts hold what they name, and `(rest)` the rest.

        Args:
            parts: "word", "sentence", "message" or "role" (where the prompt was a chat), or name → (start, stop) or a
                list of such spans of tokens.

        Returns:
            Dims with "word", "sentence", "message", "role" or "segment" instead of "position".

        Raises:
            InputError: the view has no tokens, does not know their text, has no messages, or spans that overlap or lie
                outside.

        Example:
            >>> view = View(np.array([1.0, 2.0, -1.0]), ("position",), {"position": (" multi", "ple", " .")},
            ...             pieces=(" multi", "ple", " ."))
            >>> view.by("word").labels["word"], view.by("word").values.tolist()
            ((' multiple', ' .'), [3.0, -1.0])
            >>> view.by({"end": (1, 3)}).values.tolist()
            [1.0, 1.0]
        """
        return groups.by(self, parts)

    def select(self, **index: int | str | slice | list[int]) -> "View":
        """Pick along named axes: an int drops the axis, a slice or a list keeps it.

        A label works in place of an int (`select(layer="L3")`) where it is unique: tokens repeat.

        Example:
            >>> View(np.eye(2), ("layer", "head")).select(layer="L1").values.tolist()
            [0.0, 1.0]
        """
        return indexing.select(self, index)

    def __getitem__(self, labels: str | tuple[str, ...]) -> "View | float":
        """What stands at a label, or at one label for each of several axes: a number, or a view of the other axes.

        Example:
            >>> heads = View(np.arange(4.0).reshape(2, 2), ("layer", "head"))
            >>> heads["L1H0"], heads["L1"].values.tolist()
            (2.0, [2.0, 3.0])

        Raises:
            InputError: no such label (with the nearest), a token that stands at several positions (with these), or a
                number; numbers pick by `select(position=3)`.
        """
        return indexing.at_labels(self, labels)

    __iter__ = None  # an array of labelled numbers is no sequence: iterate over `values` or `to_dataframe()`

    def plot(self, **options: Any) -> Any:
        """The figure that shows a view of these axes: see `lrp_lens.plots.plot_view`.

        Args:
            options: those of the plot function that draws it, e.g. `palette="lrp"`.

        Returns:
            A plotly figure; of tokens, the heat map of the text (a string of HTML that a notebook shows).

        Raises:
            InputError: no figure shows these axes, or an unknown palette.
        """
        from lrp_lens.plots.choose import plot_view

        return plot_view(self, **options)

    def to_dataframe(self) -> pd.DataFrame:
        """Tidy long form: one row per cell, an index column per dim, its label, value, special.

        Columns: batch; position and token; layer and layer_label; head; label ("L3H5"); component; value;
        special (with a dim of text: position, word, sentence; the label of the last two is text). Padding positions are
        left out.
        """
        return table.to_dataframe(self)

    def top(self, k: int = 10, *, exclude_special: bool = False) -> pd.DataFrame:
        """The k rows of `to_dataframe` with the largest |value|, largest first, without missing values."""
        rows = self.to_dataframe().dropna(subset=["value"])
        if exclude_special and "special" in rows:
            rows = rows[~rows["special"]]
        order = np.argsort(-rows["value"].abs().to_numpy(), kind="stable")[: max(k, 0)]
        return rows.iloc[order].reset_index(drop=True)

    def save(self, path: str | PathLike[str]) -> None:
        """Write values, mask and labels to one safetensors file (labels as JSON in its header; no pickle)."""
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "View":
        """Read a view written by `save`.

        Raises:
            InputError: the file is missing or is not a saved view.
        """
        return cls(**storage.load(path))

    def __repr__(self) -> str:
        return text.describe(self)

    def _repr_html_(self) -> Html:
        return text.describe_html(self)
