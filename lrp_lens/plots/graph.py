"""Static plotly figure of an attribution graph, for notebooks: layers upwards, tokens across.

1. At most `max_edges` edges are drawn, the strongest of each transition; of a long prompt only the tokens that carry
   most of them are columns.  The title says what is left out.
2. Edges of like width and sign are one trace (plotly has one width per trace), each broken into lines; an invisible
   marker in the middle of each edge carries its hover text.
3. Special tokens are grey and out of the scale.
"""

from typing import TYPE_CHECKING

import numpy as np
import plotly.graph_objects as go

from lrp_lens.attribution_graphs.arrays.nodes import answer_mark
from lrp_lens.attribution_graphs.arrays.text import CAUTION, cautions
from lrp_lens.characters import signed
from lrp_lens.errors import InputError
from lrp_lens.plots.figure import Figure
from lrp_lens.plots.graph_data import drawn, largest
from lrp_lens.plots.palette import (
    LIGHT,
    Palette,
    legend_words,
    negative_hue,
    plotly_text,
    positive_hue,
    visible_token,
)
from lrp_lens.plots.positions import LABEL_PIXELS, MOST, USUAL_WIDTH, position_ticks

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays import AttributionGraph

_WIDTHS = (0.6, 1.4, 2.6, 4.0, 5.6)
_GREY = "#a3abb5"
_SIGNS = ("plus", "minus", "special")


def plot_graph(
    graph: "AttributionGraph",
    *,
    max_edges: int = 1500,
    touched_only: bool | None = None,
    width: int | None = None,
    palette: Palette = "default",
) -> go.Figure:
    """The graph as a figure.

    Args:
        graph: any graph; `graph.prune(mass=0.85).subgraph()` keeps it legible.
        max_edges: how many edges to draw at most, the strongest of each transition.
        touched_only: True makes columns only of tokens that a drawn edge touches, at most the 32 with the strongest
            edges, each with its position; False shows every token; None shows every token of a prompt of up to 32.
        width: pixels; None fits what the figure is shown in. A label takes about 11: fewer pixels, fewer labels.
        palette: "default" (blue positive) or "lrp" (red positive).

    Raises:
        InputError: fewer than one edge, or an unknown palette.
    """
    if max_edges < 1:
        raise InputError(f"A figure draws one edge or more; received max_edges={max_edges!r}.")
    colours = {
        "plus": f"rgb{LIGHT[positive_hue(palette)]}",
        "minus": f"rgb{LIGHT[negative_hue(palette)]}",
        "special": _GREY,
    }
    shown = drawn(graph, max_edges)
    tokens = len(graph.token_strings)
    some = tokens > MOST if touched_only is None else touched_only
    places = _touched(graph, shown) if some else np.arange(tokens)
    shown = shown[np.isin(graph.source[shown], places) & np.isin(graph.target[shown], places)]
    column = np.full(tokens, -1)
    column[places] = np.arange(len(places))
    lines = _lines(graph, shown, column, colours)
    figure = Figure([*lines, _middles(graph, shown, column), _nodes(graph, shown, column, colours)])
    positive, negative = legend_words(graph, palette)
    words = "; ".join([f"{positive}, {negative}", *_left_out(graph, shown, places), *_cautions(graph)])
    boundaries, positions = len(graph.boundaries), len(places)
    levels = list(range(0, boundaries, max(1, -(-boundaries // 32))))
    labelled = list(range(0, positions, max(1, -(-positions * LABEL_PIXELS // (width or USUAL_WIDTH)))))
    ticks = position_ticks(graph.token_strings, places, longest=13)
    figure.update_layout(
        template="plotly_white",
        height=max(320, 22 * boundaries + 170),
        width=width,
        margin={"l": 10, "r": 20, "t": 60, "b": 10},
        showlegend=False,
        hovermode="closest",
        modebar={"orientation": "v"},
        title={
            "text": plotly_text(f"{graph.metric_text} = {signed(graph.metric_value, '+.4g')}")
            + f"<br><sup>{plotly_text(words)}</sup>",
            "font": {"size": 14},
            "x": 0,
            "xref": "paper",
        },
    )
    axis = {"tickmode": "array", "zeroline": False, "gridcolor": "#eef0f3", "automargin": True}
    figure.update_yaxes(
        **axis, tickvals=levels, ticktext=[plotly_text(graph.boundaries[one].label) for one in levels],
        tickfont={"size": 10}, range=[-0.6, boundaries - 0.4],
    )  # fmt: skip
    figure.update_xaxes(
        **axis,
        tickvals=labelled,
        ticktext=[_tick(ticks[one], bool(graph.special[places[one]])) for one in labelled],
        tickangle=-58,
        tickfont={"size": 10},
        range=[-0.7, positions - 0.3],
    )
    return figure


def _touched(graph: "AttributionGraph", shown: np.ndarray) -> np.ndarray:
    """The targets and the tokens that a drawn edge touches, those with the largest Σ|A| up to 32, ascending."""
    special = graph.special[graph.source] | graph.special[graph.target]
    mass, touched = np.zeros((2, len(graph.token_strings)))
    for end in (graph.source, graph.target):
        np.add.at(mass, end[shown], np.where(special, 0.0, np.abs(graph.relevance))[shown])
        touched[end[shown]] = 1
    if len(graph.target_positions) <= MOST:
        mass[list(graph.target_positions)] = np.inf
        touched[list(graph.target_positions)] = 1
    order = np.argsort(-mass, kind="stable")
    return np.sort(order[touched[order] > 0][:MOST])


def _left_out(graph: "AttributionGraph", shown: np.ndarray, places: np.ndarray) -> list[str]:
    """Which edges and tokens are not drawn, in words."""
    said, size = [], np.abs(graph.relevance)
    if len(shown) < len(size):
        share = 100 * size[shown].sum() / (size.sum() or 1.0)
        said.append(f"{len(shown):,} of {len(size):,} edges, {share:.0f} % of their Σ|A|")
    if len(places) < len(graph.token_strings):
        said.append(f"{len(places):,} of {len(graph.token_strings):,} tokens")
    return said


def _cautions(graph: "AttributionGraph") -> list[str]:
    """What a reader has to know first, without its details."""
    return [CAUTION + one.removeprefix(CAUTION).partition(":")[0] for one in cautions(graph)]


def _tick(label: str, special: bool) -> str:
    text = plotly_text(label)
    return f'<i style="color:{_GREY}">{text}</i>' if special else text


def _signs(values: np.ndarray, special: np.ndarray) -> np.ndarray:
    """Index into _SIGNS."""
    return np.where(special, 2, np.where(values < 0, 1, 0))


def _lines(
    graph: "AttributionGraph", shown: np.ndarray, column: np.ndarray, colours: dict[str, str]
) -> list[go.Scatter]:
    special = graph.special[graph.source] | graph.special[graph.target]
    size = np.minimum(np.sqrt(np.abs(graph.relevance) / largest(graph.relevance[~special])), 1.0)[shown]
    level = np.minimum((size * len(_WIDTHS)).astype(int), len(_WIDTHS) - 1)
    sign = _signs(graph.relevance, special)[shown]
    traces = []
    for width in range(len(_WIDTHS)):
        for kind in (2, 0, 1):
            edges = shown[(level == width) & (sign == kind)]
            if len(edges):
                traces.append(
                    _bundle(graph, edges, column, _WIDTHS[width], colours[_SIGNS[kind]], 0.3 + 0.14 * width)
                )
    return traces


def _bundle(
    graph: "AttributionGraph",
    edges: np.ndarray,
    column: np.ndarray,
    width: float,
    colour: str,
    opacity: float,
) -> go.Scatter:
    """Lines of one width and colour; a missing point ends each."""
    gap = np.full(len(edges), np.nan)
    below = graph.transition[edges]
    return go.Scatter(
        x=np.stack([column[graph.source[edges]], column[graph.target[edges]], gap], axis=1).ravel(),
        y=np.stack([below, below + 1, gap], axis=1).ravel(),
        mode="lines",
        line={"width": width, "color": colour},
        opacity=opacity,
        hoverinfo="skip",
        name="edges",
    )


def _middles(graph: "AttributionGraph", shown: np.ndarray, column: np.ndarray) -> go.Scatter:
    """Invisible markers that carry the edges' hover text."""
    labels = [one.label for one in graph.boundaries]
    texts = []
    for edge in shown.tolist():
        below, i, j = int(graph.transition[edge]), int(graph.source[edge]), int(graph.target[edge])
        part = graph.parts[int(np.abs(graph.part_values[edge]).argmax())]
        amount = signed(graph.relevance[edge], "+.4g")
        texts.append(
            f"<b>{_name(graph, i)} → {_name(graph, j)}</b><br>{plotly_text(labels[below])} → "
            f"{plotly_text(labels[below + 1])}<br>{amount}, most by {plotly_text(part)}"
        )
    return go.Scatter(
        x=(column[graph.source[shown]] + column[graph.target[shown]]) / 2,
        y=graph.transition[shown] + 0.5,
        mode="markers",
        marker={"size": 8, "opacity": 0},
        customdata=texts,
        hovertemplate="%{customdata}<extra></extra>",
        name="edge",
    )


def _nodes(
    graph: "AttributionGraph", shown: np.ndarray, column: np.ndarray, colours: dict[str, str]
) -> go.Scatter:
    """The nodes that a drawn edge touches, and the targets; targets have a ring."""
    touched = np.zeros(graph.node_relevance.shape, dtype=bool)
    touched[graph.transition[shown], graph.source[shown]] = True
    touched[graph.transition[shown] + 1, graph.target[shown]] = True
    ringed = np.zeros_like(touched)
    for node in graph.targets:
        touched[node] = ringed[node] = True
    touched &= column >= 0
    boundary, position = np.nonzero(touched)
    values = graph.node_relevance[touched]
    top = largest(graph.node_relevance[:, ~graph.special])
    sign = _signs(values, graph.special[position])
    labels = [one.label for one in graph.boundaries]
    return go.Scatter(
        x=column[position],
        y=boundary,
        mode="markers",
        marker={
            "size": 3 + 9 * np.minimum(np.sqrt(np.abs(values) / top), 1.0),
            "color": [colours[_SIGNS[one]] for one in sign],
            "line": {
                "color": np.where(ringed[touched], "#16191d", "white"),
                "width": 1,
            },
        },
        customdata=[
            f"<b>{_name(graph, int(p))}, {plotly_text(labels[b])}</b><br>{signed(value, '+.4g')} logits"
            for b, p, value in zip(boundary, position, values, strict=True)
        ],
        hovertemplate="%{customdata}<extra></extra>",
        name="nodes",
    )


def _name(graph: "AttributionGraph", position: int) -> str:
    word = f" of {visible_token(graph.words[position])}" if graph.words[position] else ""
    return plotly_text(
        f"{visible_token(graph.token_strings[position])} @{position}{word}{answer_mark(graph, position)}"
    )
