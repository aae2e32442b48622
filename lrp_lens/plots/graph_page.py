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

import json
from pathlib import Path
from typing import Any

import numpy as np

from lrp_lens.attribution_graphs.arrays import AttributionGraph
from lrp_lens.attribution_graphs.arrays.text import facts, short_rules
from lrp_lens.characters import escape
from lrp_lens.errors import InputError
from lrp_lens.plots.graph_data import drawn, graph_data
from lrp_lens.plots.palette import DARK, LIGHT, Palette, legend_words, negative_hue, positive_hue
from lrp_lens.views import View

_HERE = Path(__file__).parent
_SCRIPTS = ("graph_model", "graph_drawing", "graph_panel", "graph")
_ALL_TOKENS = 40
"""Up to so many tokens, the view opens with all of them as columns."""
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"


def graph_html(
    graph: AttributionGraph,
    *,
    mass: float | None = None,
    max_edges: int = 5000,
    palette: Palette = "default",
    title: str = "Attribution graph",
    page: bool = True,
) -> str:
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
    body = _fragment(graph, data, palette, title)
    if not page:
        return body
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>html {{ color-scheme: light dark; }} body {{ margin: 0; }} body > .lrp-graph {{ min-height: 100vh; }}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _fragment(graph: AttributionGraph, data: dict[str, Any], palette: Palette, title: str) -> str:
    stored = json.dumps(data, allow_nan=False).replace("<", "\\u003c")
    notes = "".join(f"<div>{escape(line)}</div>" for line in [*facts(graph), f"rules: {graph.rules_text}"])
    touched = " checked" if len(graph.token_strings) > _ALL_TOKENS else ""
    return f"""<div class="lrp-graph">
<style>{_style(palette)}</style>
<header>
<h1>{escape(title)}</h1>
<p class="lrp-what">{escape(graph.metric_text)} = <b>{graph.metric_value:+.4g}</b>, {escape(short_rules(graph))}</p>
<p class="lrp-legend">{_legend(graph, palette)}</p>
</header>
<div class="lrp-controls">
<label class="lrp-slide">Show <input type="range" min="0" max="0" step="1"> <output></output></label>
<label><input type="checkbox" class="lrp-touched"{touched}> touched tokens only</label>
<label><input type="checkbox" class="lrp-leading" checked> only what leads to the target</label>
<label>Zoom <select><option value="1">fit</option><option value="2">2 ×</option><option value="4">4 ×</option></select>
</label>
</div>
<p class="lrp-count" role="status"></p>
<div class="lrp-body">
<div class="lrp-scroll"></div>
<aside><section class="lrp-paths"></section><section class="lrp-detail" aria-live="polite"></section></aside>
</div>
<details><summary>About this graph</summary>{notes}{_left_out(graph, len(data["edges"][0]))}</details>
<noscript>This view needs JavaScript.</noscript>
<div class="lrp-tip" hidden></div>
<script type="application/json">{stored}</script>
<script>{_script()}</script>
</div>"""


def _left_out(graph: AttributionGraph, held: int) -> str:
    """A sentence on the edges that the page does not hold; empty if it holds all."""
    if held == len(graph.relevance):
        return ""
    size = np.abs(graph.relevance)
    share = size[drawn(graph, held)].sum() / (size.sum() or 1.0)
    return (
        f'<div class="lrp-cap">To stay small, this page holds {held:,} of the graph’s {len(size):,} edges, the '
        f"strongest of each layer; together they carry {100 * share:.1f} % of what all of its edges carry.</div>"
    )


def _script() -> str:
    """The parts of the page's program, in one function: nothing of it is seen from outside."""
    parts = [(_HERE / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS]
    return "(() => {\n" + "".join(parts) + "})();"


def _style(palette: Palette) -> str:
    """The style sheet, with the hues of the light and the dark page filled in."""
    css = (_HERE / "graph.css").read_text(encoding="utf-8")
    for name, hues in (("light", LIGHT), ("dark", _NIGHT)):
        signs = {"plus": hues[positive_hue(palette)], "minus": hues[negative_hue(palette)]}
        variables = "".join(f"--{sign}: rgb({','.join(map(str, rgb))});" for sign, rgb in signs.items())
        css = css.replace(f"/* {name} hues */", variables)
    return css


_NIGHT = {hue: tuple(min(255, round(part * 1.25) + 25) for part in rgb) for hue, rgb in DARK.items()}
"""Lines are thinner than the token map's areas, so they are brighter on a dark page."""


def _legend(graph: AttributionGraph, palette: Palette) -> str:
    words = legend_words(View(np.zeros(1), ("layer",), towards=graph.towards), palette)
    keys = zip(("plus", "minus"), words, strict=True)
    signs = "".join(
        f'<span><i style="background:var(--{sign})"></i>{escape(said)}</span>' for sign, said in keys
    )
    grey = '<span><i style="background:var(--grey)"></i>special tokens, out of the scale</span>'
    ring = "<span>dashed ring: the state that the metric reads</span>" if graph.targets else ""
    return f"{signs}{grey if graph.special.any() else ''}{ring}"
