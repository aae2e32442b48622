"""Heat maps: layer × position, layer × head and head × source token, as plotly figures.

All share one look: diverging and symmetric about 0, special positions grey and out of the scale, axes
keyed by position or index (repeated tokens stay apart), hover text with every coordinate.  Of a long prompt the tokens
that carry most of the relevance are shown, unless all are asked for.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from lrp_lens.characters import signed
from lrp_lens.plots.heat_map import draw_heat_map, label_axis
from lrp_lens.plots.palette import Palette, limit, plotly_text, require_dims, visible_token
from lrp_lens.plots.positions import (
    LABEL_PIXELS,
    USUAL_WIDTH,
    position_ticks,
    touched_positions,
    touched_words,
)
from lrp_lens.plots.wording import By, headline, text_dims, worded

if TYPE_CHECKING:
    from lrp_lens.views import View

_CELLS_WITH_NUMBERS = 120


def plot_layers(
    view: "View",
    *,
    touched_only: bool | None = None,
    width: int | None = None,
    palette: Palette = "default",
    floor: float | None = None,
    by: By = "word",
) -> go.Figure:
    """Relevance of the residual stream: layers upwards, positions to the right.

    Args:
        view: dims ("layer", "position"), or with "word" or "sentence" in its place.
        touched_only: True shows only the tokens that carry most of the relevance (at most 32, each with its position),
            False shows every token; None shows every token of a prompt of up to 32.
        width: pixels; None fits what the figure is shown in. A label takes about 11: fewer pixels, fewer labels.
        palette: "default" (blue positive) or "lrp" (red positive).
        floor: least value that may get full colour; None takes 0.1 for logits.
        by: "word" puts the tokens of a word together, each with its value on hover; "position" shows every token.

    Raises:
        InputError: other dims, or an unknown palette.

    Example:
        >>> from lrp_lens.views import View
        >>> view = View(np.eye(2, 3), ("layer", "position"))
        >>> plot_layers(view, touched_only=True).layout.xaxis.ticktext
        ('tok_0 0', 'tok_1 1')
    """
    require_dims(view, text_dims("layer"), "plot_layers")
    return _position_map(view, touched_only, palette, floor, width=width, by=by)


def plot_heads(view: "View", *, palette: Palette = "default", floor: float | None = None) -> go.Figure:
    """Relevance of each attention head: layers upwards, heads to the right; small maps show the numbers.

    Args:
        view: dims ("layer", "head").
        palette: "default" (blue positive) or "lrp" (red positive).
        floor: least value that may get full colour; None takes 0.1 for logits.

    Raises:
        InputError: other dims, or an unknown palette.
    """
    require_dims(view, (("layer", "head"),), "plot_heads")
    heads = list(view.axis_labels("head"))
    figure = draw_heat_map(view, [plotly_text(one) for one in heads], palette, limit(view, floor))
    crowded = len(heads) > 12
    label_axis(figure.update_xaxes, heads, tickangle=-90 if crowded else 0, every=max(1, len(heads) // 64))
    if view.values.size <= _CELLS_WITH_NUMBERS:
        numbers = [["" if np.isnan(one) else signed(float(one)) for one in row] for row in view.values]
        figure.update_traces(text=numbers, texttemplate="%{text}", selector={"name": plotly_text(view.name)})
    return figure


def plot_sources(
    view: "View",
    *,
    show: int = 24,
    touched_only: bool | None = None,
    width: int | None = None,
    palette: Palette = "default",
    floor: float | None = None,
    by: By = "word",
) -> go.Figure:
    """Which source tokens each head moved, and what that adds: heads upwards, source tokens to the right.

    Args:
        view: dims ("layer", "head", "position"), as `decompose(...).by_source()` gives it.
        show: how many heads to show at most, those with the largest Σ |value|, in the order of the layers.
        touched_only: True shows only the tokens that carry most of it (at most 32, each with its position), False
            shows every token; None shows every token of a prompt of up to 32.
        width: pixels; None fits what the figure is shown in. A label takes about 11: fewer pixels, fewer labels.
        palette: "default" (blue positive) or "lrp" (red positive).
        floor: least value that may get full colour; None takes 0.1 for logits.
        by: "word" puts the tokens of a word together, each with its value on hover; "position" shows every token.

    Raises:
        InputError: other dims, or an unknown palette.

    Example:
        >>> from lrp_lens.views import View
        >>> view = View(np.array([[[0.1, 0.0], [3.0, -1.0]]]), ("layer", "head", "position"))
        >>> plot_sources(view, show=1).layout.yaxis.ticktext
        ('L0H1',)
    """
    require_dims(view, text_dims("layer", "head"), "plot_sources")
    names = [one + other for one in view.axis_labels("layer") for other in view.axis_labels("head")]
    values = view.values.reshape(len(names), -1)
    size = np.nansum(np.abs(values), axis=1)
    kept = np.sort(np.argsort(-size, kind="stable")[:show])
    text = view.dims[-1]
    labels = {"layer": tuple(names[i] for i in kept), text: view.axis_labels(text)}
    heads = replace(view, values=values[kept], dims=("layer", text), labels=labels)
    note = f"the largest {len(kept)} of {len(names)} heads" if len(kept) < len(names) else ""
    return _position_map(heads, touched_only, palette, floor, note, width, by)


def _position_map(
    view: "View",
    touched_only: bool | None,
    palette: Palette,
    floor: float | None,
    note: str = "",
    width: int | None = None,
    by: By = "word",
) -> go.Figure:
    """A map whose columns are words or positions, all of them or the touched ones."""
    columns = worded(view, by)
    view = columns.view
    tokens, shown = view.axis_labels(columns.dim), touched_positions(view, touched_only)
    part = view if len(shown) == len(tokens) else view.select(**{columns.dim: shown.tolist()})
    where = [
        f", {columns.place(one)}: <b>{plotly_text(visible_token(tokens[one]))}</b>" for one in shown.tolist()
    ]
    notes = "; ".join(one for one in (note, touched_words(view, shown), headline(view)) if one)
    every = max(1, -(-len(shown) * LABEL_PIXELS // (width or USUAL_WIDTH)))

    def pieces(row: int, column: int) -> str:
        told = columns.pieces(int(shown[column]), row)
        return f"<br>tokens {plotly_text(', '.join(told))}" if told else ""

    figure = draw_heat_map(part, where, palette, limit(view, floor), notes, pieces)
    if every > 1:
        figure.update_traces(xgap=0)  # lines between thin columns would outweigh them
    ticks = position_ticks(tokens, shown, positions=[one[0] for one in columns.members])
    label_axis(
        figure.update_xaxes, ticks, tickangle=-90 if any(len(one) > 2 for one in ticks) else 0, every=every
    )
    return figure.update_layout(width=width)
