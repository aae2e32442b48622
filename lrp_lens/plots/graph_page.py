"""Interactive view of an attribution graph: one self-contained HTML page, no library, no network.

1. Layers upwards, tokens across, all of it fitted into the window.  Blue and red say the sign, width and opacity the
   size of an edge; widths are on the scale of the moves between tokens, and what stays at a token is drawn faintly.
   Special tokens are grey and out of the scale.
2. The strongest paths are listed, the first is lit up; a click (or Tab and Enter) lights up another.
3. Hover or tap an edge or a node for its numbers, click (or use the arrow keys) for its account: in-edges, out-edges,
   sinks, what was pruned, and the refinements made with `graph.refine`.
4. The slider shows fewer edges or all that the page holds, by mass in each transition; its steps are made from the
   edges that are there, so that each changes the picture.  Columns are all tokens, or those that are touched.
5. All words from the prompt travel as JSON and are set as text, never as markup.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from lrp_lens.attribution_graphs.arrays.text import cautions, facts, short_rules
from lrp_lens.characters import signed
from lrp_lens.errors import InputError
from lrp_lens.markup import Html, asset, hues, render, script_data, trusted
from lrp_lens.plots.graph_data import drawn, graph_data
from lrp_lens.plots.palette import DARK, LIGHT, Palette, legend_words, negative_hue, positive_hue

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays import AttributionGraph

_SCRIPTS = ("graph_model", "graph_drawing", "graph_panel", "graph")
_ALL_TOKENS = 40
"""Up to so many tokens, the view opens with all of them as columns."""
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def graph_html(
    graph: "AttributionGraph",
    *,
    mass: float | None = None,
    max_edges: int = 5000,
    palette: Palette = "default",
    title: str = "Attribution graph",
    page: bool = True,
) -> Html:
    """The interactive view as one string of HTML; write it to a file and open it.

    Args:
        graph: any graph; prune it first if it is large.
        mass: where the slider starts: at the edges of `graph.prune(mass=mass)`; None starts with all edges, or the 300
            strongest of a larger graph.
        max_edges: how many edges to embed at most, the strongest of each transition; the page says what it leaves out.
        palette: "default" (blue positive) or "lrp" (red positive).
        title: of the page.
        page: False gives a fragment to embed in a page of your own, once or several times.

    Example:
        >>> from lrp_lens import LogitDiff, attribution_graph, load_demo_model
        >>> prompt = "then mary and john went to the park . john gave the key to"
        >>> graph = attribution_graph(load_demo_model(), prompt, LogitDiff("mary", "john"))
        >>> graph_html(graph)[:15]
        '<!DOCTYPE html>'

    Raises:
        InputError: a mass outside 0 to 1, fewer than one edge, or an unknown palette.
    """
    if mass is not None and not 0 <= mass <= 1:
        raise InputError(f"The slider starts at a share from 0 to 1; received {mass!r}. Try 0.85.")
    if max_edges < 1:
        raise InputError(f"The view embeds one edge or more; received max_edges={max_edges!r}.")
    data = graph_data(graph, max_edges) | {"start": mass}
    body = _fragment(graph, data, palette, title, alone=True)
    if not page:
        return body
    return render("plots/graph_page.html", title=title, policy=trusted(_POLICY), body=body)


def graph_part(graph: "AttributionGraph", *, max_edges: int, palette: Palette = "default") -> Html:
    """One of many views of a page that has `graph_style` and `graph_script` once: markup and data, nothing drawn yet.

    Args:
        graph: any graph.
        max_edges: how many edges to embed at most.
        palette: "default" (blue positive) or "lrp" (red positive).
    """
    return _fragment(graph, graph_data(graph, max_edges) | {"start": None}, palette, "", alone=False)


def graph_script(function: str) -> Html:
    """The script of the view, as a JavaScript function of this name that draws every view not drawn yet."""
    return trusted(
        f"const {function} = () => {{\n{''.join(asset(f'plots/{name}.js') for name in _SCRIPTS)}}};"
    )


def _fragment(
    graph: "AttributionGraph", data: dict[str, Any], palette: Palette, title: str, *, alone: bool
) -> Html:
    plus, minus = legend_words(graph, palette)
    return render(
        "plots/graph.html",
        title=title,
        metric=graph.metric_text,
        value=signed(graph.metric_value, "+.4g"),
        rules=short_rules(graph),
        plus=plus,
        minus=minus,
        has_special=bool(graph.special.any()),
        has_target=bool(graph.targets),
        touched=len(graph.token_strings) > _ALL_TOKENS,
        cautions=cautions(graph),
        notes=[*facts(graph), f"rules: {graph.rules_text}"],
        left_out=_left_out(graph, len(data["edges"][0])),
        style=graph_style(palette) if alone else "",
        data=script_data(data),
        script=trusted(f"(() => {{\n{graph_script('draw')}\ndraw();\n}})();") if alone else "",
    )


def _left_out(graph: "AttributionGraph", held: int) -> str:
    """A sentence on the edges that the page does not hold; empty if it holds all."""
    if held == len(graph.relevance):
        return ""
    size = np.abs(graph.relevance)
    share = size[drawn(graph, held)].sum() / (size.sum() or 1.0)
    return (
        f"To stay small, this page holds {held:,} of the graph’s {len(size):,} edges, the strongest of each layer; "
        f"together they carry {100 * share:.1f} % of what all of its edges carry."
    )


def graph_style(palette: Palette = "default") -> Html:
    """The style sheet of the view, with the hues of the light and the dark page filled in."""
    named = {}
    for name, colours in (("light", LIGHT), ("dark", _NIGHT)):
        signs = {"plus": colours[positive_hue(palette)], "minus": colours[negative_hue(palette)]}
        named[name] = "".join(f"--{sign}: rgb({','.join(map(str, rgb))});" for sign, rgb in signs.items())
    return hues(asset("plots/graph.css"), named)


_NIGHT = {hue: tuple(min(255, round(part * 1.25) + 25) for part in rgb) for hue, rgb in DARK.items()}
"""Lines are thinner than the token map's areas, so they are brighter on a dark page."""
