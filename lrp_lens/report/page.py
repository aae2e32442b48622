"""The shell of a report: one HTML file with its style, its script and plotly.js inside.

1. Sections are templates of `report/`; figures are stored as JSON next to their box and drawn by one small script.
2. plotly.js is inlined once, and only where there is a figure. A content-security policy forbids every
   request: no network, ever.
3. Colours follow the reader's light or dark preference; wide figures scroll inside their own box, which says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from lrp_lens.markup import Html, asset, render, script_data, trusted
from lrp_lens.plots.tokens_html import STYLE

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; font-src data:"
)


@dataclass(frozen=True)
class Section:
    """One card of a report."""

    title: str
    """Plain text."""
    body: Html


def figure_block(figure: go.Figure, name: str, *, min_width: int = 0) -> Html:
    """A box for one figure, with the figure's JSON beside it.

    Args:
        figure: the plotly figure; the page sets its colours and drops its title (say it in the section).
        name: identifier, unique in the page, of letters, digits and dashes.
        min_width: pixels below which the box scrolls sideways instead of shrinking; 0 always shrinks.
    """
    return render("report/figure.html", name=name, min_width=min_width, data=script_data(figure.to_json()))


def switch_block(words: str, first: Html, second: Html) -> Html:
    """Two contents in one place and a checkbox: checked, as it is at first, it shows the first one.

    Args:
        words: what the checkbox says, plain text.
        first: what it shows at first.
        second: what it shows unchecked.
    """
    return render("report/switch.html", words=words, first=first, second=second)


def page_html(
    title: str,
    lead: Html,
    sections: list[Section],
    *,
    styles: Sequence[Html] = (),
    scripts: Sequence[Html] = (),
) -> Html:
    """A whole page.

    Args:
        title: plain text, for the browser's tab.
        lead: what stands above the first section (heading, cards).
        sections: the cards, in order.
        styles: more style sheets.
        scripts: more scripts, run when everything before them is there.
    """
    figures = any('data-figure="' in one.body for one in sections)
    return render(
        "report/page.html",
        title=title,
        policy=trusted(_POLICY),
        styles=[asset("report/page.css"), STYLE, *styles],
        lead=lead,
        sections=sections,
        scripts=[*([trusted(get_plotlyjs())] if figures else []), asset("report/draw.js"), *scripts],
    )
