"""The shell of a report: one HTML file with its style, its script and plotly.js inside.

1. Sections are escaped HTML; figures are stored as JSON next to their box and drawn by one small script.
2. plotly.js is inlined once. A content-security policy forbids every request: no network, ever.
3. Colours follow the reader's light or dark preference; wide figures scroll inside their own box, which says so.
"""

from dataclasses import dataclass
from pathlib import Path

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lrp_lens.characters import escape
from lrp_lens.plots.tokens_html import STYLE

_HERE = Path(__file__).parent
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)
MARK = '<meta name="generator" content="lrp-lens">'
"""How a page of ours is recognised."""
_WITHOUT_SCRIPT = "The figures need JavaScript; text, tables and the token heat map do not."


@dataclass(frozen=True)
class Section:
    """One card of a report."""

    title: str
    """Plain text; escaped by the page."""
    body: str
    """HTML, already escaped where it quotes a prompt or a token."""


def figure_block(figure: go.Figure, name: str, *, min_width: int = 0) -> str:
    """A box for one figure, with the figure's JSON beside it.

    Args:
        figure: the plotly figure; the page sets its colours and drops its title (say it in the section).
        name: identifier, unique in the page, of letters, digits and dashes.
        min_width: pixels below which the box scrolls sideways instead of shrinking; 0 always shrinks.
    """
    data = figure.to_json().replace("<", "\\u003c")
    width = f' style="min-width:{min_width}px"' if min_width else ""
    return (
        f'<div class="scroll"><div class="figure" data-figure="{escape(name)}"{width}></div></div>'
        f'<script type="application/json" id="{escape(name)}">{data}</script>'
    )


def switch_block(words: str, first: str, second: str) -> str:
    """Two contents in one place and a checkbox: checked, as it is at first, it shows the first one.

    Args:
        words: what the checkbox says, plain text.
        first: HTML, already escaped.
        second: HTML, already escaped.
    """
    box = f'<label><input type="checkbox" checked> {escape(words)}</label>'
    return f'<div class="switch">{box}<div>{first}</div><div hidden>{second}</div></div>'


def page_html(title: str, lead: str, sections: list[Section]) -> str:
    """A whole page.

    Args:
        title: plain text, for the browser's tab.
        lead: HTML above the first section (heading, cards), already escaped.
        sections: the cards, in order.
    """
    cards = "\n".join(f"<section><h2>{escape(one.title)}</h2>\n{one.body}</section>" for one in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{MARK}
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{(_HERE / "page.css").read_text(encoding="utf-8")}</style>
{STYLE}
</head>
<body>
<main>
{lead}
{cards}
<noscript><p class="dim">{_WITHOUT_SCRIPT}</p></noscript>
</main>
<script>{get_plotlyjs()}</script>
<script>{(_HERE / "draw.js").read_text(encoding="utf-8")}</script>
</body>
</html>
"""
