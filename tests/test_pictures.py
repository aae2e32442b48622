"""Figures and reports as a browser shows them: columns counted by their colour, what hovering says, nothing clipped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from lrp_lens.plots import plot_components, plot_layers, plot_ledger, plot_sources
from lrp_lens.plots.palette import GREY
from lrp_lens.plots.positions import touched_positions
from lrp_lens.plots.wording import worded
from lrp_lens.report import explanation_html
from lrp_lens.views import View
from tests.browser import (
    DESKTOP,
    PHONE,
    browser,
    cell_places,
    colours_at,
    cut_off,
    hover_text,
    opened,
    sticks_out,
)
from tests.explanations import HEAVY, chat_explanation, long_explanation

CHAT = (
    "<|im_start|>",
    "user",
    "\n",
    "hi",
    "<|im_end|>",
    "\n",
    "<|im_start|>",
    "assistant",
    "\n",
    " $x$ & $y$",
)
SPECIAL = np.array([one.startswith("<|") for one in CHAT])


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with browser() as one:
        yield one


def page_of(*figures: go.Figure, before: str = "") -> str:
    """Figures in boxes #f0, #f1, … of one page, plotly's script once."""
    boxes = [
        one.to_html(full_html=False, include_plotlyjs=not index, div_id=f"f{index}")
        for index, one in enumerate(figures)
    ]
    return f"<!DOCTYPE html><meta charset='utf-8'><body>{before}{''.join(boxes)}</body>"


def write(folder: Path, html: str) -> Path:
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    return path


def kind(colour: tuple[int, int, int]) -> str:
    red, _, blue = colour
    if max(colour) - min(colour) <= 12:
        return (
            "grey" if np.allclose(colour, [int(GREY[i : i + 2], 16) for i in (1, 3, 5)], atol=3) else "pale"
        )
    return "blue" if blue > red else "red"


def test_every_column_has_its_own_colour_and_its_own_words(running: Any, tmp_path: Path) -> None:
    """Special tokens at several places: their columns are grey, all others coloured, in both maps of tokens."""
    labels = {"position": CHAT}
    layers = View(np.ones((3, 10)), ("layer", "position"), labels, special=SPECIAL)
    sources = View(-np.ones((1, 3, 10)), ("layer", "head", "position"), labels, special=SPECIAL)
    long = long_explanation().layers
    figures = (
        plot_layers(layers),
        plot_sources(sources),
        plot_layers(long),
        plot_layers(long, touched_only=False),
    )
    page = write(tmp_path, page_of(*figures))
    with opened(running, page) as (tab, errors):
        for figure, hue in (("#f0", "blue"), ("#f1", "red")):
            tab.wait_for_selector(f"{figure} .hm image")
            places = cell_places(tab, figure)
            for row in places:
                found = [kind(one) for one in colours_at(tab, row)]
                assert found == ["grey" if one else hue for one in SPECIAL]
            for column, token in enumerate(CHAT):
                said = hover_text(tab, places[1][column])
                assert f"position {column}: " in said and token.strip().replace(" ", "·") in said, (
                    column,
                    said,
                )
                assert ("special token" in said) == SPECIAL[column]
        assert cut_off(tab) == [] and errors == []


MATHJAX = """<script>
window.formulas = [];
const set = (tex) => {
    window.formulas.push(tex);
    const box = document.createElement("div");
    box.className = "MathJax";
    box.append(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
    return box;
};
const mathjax = {document: () => ({convert: set}), handleRetriesFor: (make) => Promise.resolve(make())};
window.MathJax = {version: "3.2", config: {}, startup: {}, _: {output: {svg_ts: {SVG: class {}}}, mathjax: {mathjax}}};
</script>"""
"""As much of MathJax as plotly asks for: it keeps what it is to set as a formula."""


def test_dollars_are_no_formulas(running: Any, tmp_path: Path) -> None:
    """Notebooks have MathJax, and plotly gives it every text between dollars; ours show as typed."""
    name = "$x$ & $y$"
    labels = {"layer": (name,), "position": (name, "b")}
    layers = plot_layers(View(np.ones((1, 2)), ("layer", "position"), labels, towards=(name, "z")))
    bars = plot_components(View(np.ones(1), ("component",), {"component": (name,)}, units=name))
    raw = go.Figure(go.Bar(x=[1], y=[0]), {"title": {"text": "$raw$"}})
    with opened(running, write(tmp_path, page_of(raw, layers, bars, before=MATHJAX))) as (tab, errors):
        tab.wait_for_selector("#f2 .bars path")
        assert set(tab.evaluate("window.formulas")) == {"raw"}
        texts = tab.evaluate(
            """[...document.querySelectorAll('#f1 text, #f2 text')]
                .filter((one) => getComputedStyle(one).display !== 'none').map((one) => one.textContent)"""
        )
        for words, times in ((name, 3), ("$x$·&·$y$", 1), ("blue: towards '$x$ & $y$', red: towards 'z'", 1)):
            assert texts.count(words) == times, words
        assert errors == []


@pytest.mark.parametrize(
    ("length", "size"),
    [
        pytest.param("chat", DESKTOP, id="chat-desktop"),
        pytest.param("chat", PHONE, id="chat-phone", marks=pytest.mark.full),
        pytest.param("long", DESKTOP, id="long-desktop", marks=pytest.mark.full),
        pytest.param("long", PHONE, id="long-phone"),
    ],
)
def test_the_report_shows_all_of_itself(
    running: Any, tmp_path: Path, length: str, size: tuple[int, int]
) -> None:
    """No errors, nothing clipped, each special column grey and no other, a switch to all tokens of a long prompt."""
    explanation = chat_explanation() if length == "chat" else long_explanation()
    columns = worded(explanation.layers).view  # of the long one, words of several tokens
    special, tokens = columns.special, columns.shape[1]
    assert (tokens < len(explanation.token_strings)) == (length == "long")
    assert special is not None and special.sum() >= 5
    with opened(running, write(tmp_path, explanation_html(explanation)), size) as (tab, errors):
        tab.wait_for_selector("[data-figure=ledger] .bars")
        assert sticks_out(tab) == [] and cut_off(tab) == []
        (first,) = cell_places(tab, "[data-figure=layers]")[:1]
        seen = [kind(one) for one in colours_at(tab, first)]
        assert "grey" not in seen and len(seen) <= 32
        if length == "long":
            assert (
                len(seen) == len(touched_positions(columns)) > HEAVY / 2
                and tab.locator(".scroll.wide").count() == 0
            )
        tab.locator(".switch input").click()
        tab.wait_for_selector("[data-figure=layers-of-all-tokens] .hm image")
        assert not tab.locator("[data-figure=layers]").is_visible()
        (first,) = cell_places(tab, "[data-figure=layers-of-all-tokens]")[:1]
        assert len(first) == tokens
        edge = tab.locator("[data-figure=layers-of-all-tokens]").locator("..").bounding_box()
        here = [place for place in first if place[0] < edge["x"] + edge["width"] - 5]
        seen = [kind(one) for one in colours_at(tab, here)]
        assert [one == "grey" for one in seen] == special[: len(here)].tolist()
        if length == "long":
            assert tab.locator("[data-figure=layers-of-all-tokens] .xtick").count() == tokens
        assert sticks_out(tab) == [] and cut_off(tab) == []
        for one in tab.locator("summary").all():
            one.click()
        assert sticks_out(tab) == [] and cut_off(tab) == []
        tab.locator(".switch input").click()
        assert tab.locator("[data-figure=layers]").is_visible() and errors == []


def test_hovering_over_the_ledger_says_the_layer(running: Any, tmp_path: Path) -> None:
    figure = plot_ledger(long_explanation().ledger)
    with opened(running, write(tmp_path, page_of(figure)), PHONE) as (tab, errors):
        tab.wait_for_selector("#f0 .bars path")
        box = tab.locator("#f0 .bars .point").nth(1).bounding_box()
        said = hover_text(tab, (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2))
        assert "L29 b_out: −0.406" in said and errors == []
        assert cut_off(tab) == []
