"""Any string is a legal token: every renderer shows it, none breaks on it, and none passes a control character on."""

import json
import re
import unicodedata
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from lrp_lens.attribution_graphs.arrays import AttributionGraph
from lrp_lens.characters import direction, escape, shown, token_pieces, visible_token
from lrp_lens.failures.explanation import Choice
from lrp_lens.markup import isolated
from lrp_lens.plots import (
    graph_html,
    plot_components,
    plot_cumulative,
    plot_graph,
    plot_heads,
    plot_layers,
    plot_segments,
    plot_sources,
    token_heatmap_html,
    token_heatmap_text,
)
from lrp_lens.report import explanation_html
from lrp_lens.run.ledger import Ledger, LedgerRow
from lrp_lens.views import View
from tests.frozen_network import FrozenNetwork
from tests.test_report import example

HOSTILE = (
    "", " ", "\n", "\t", "\r", "\x00", "\x07", "\x0c", "\x1b[2J", "\x1b]0;title\x07", "\x7f", "\x9b31m", "\x85",
    "\u00ad", "\u00a0", "\u034f", "\u061c", "\u115f", "\u200b", "\u200d", "\u200e", "\u2028", "\u202e", "\u2066",
    "\u2069", "\u2800", "\u3000", "\u3164", "\ufe0f", "\ufeff", "\ufff9", "\ufffe", "\ue000", "\U000e0041",
    "\ud800", "\udfff",
    "\u0301", "e\u0301", "👩\u200d👧", "❤\ufe0f", "سلام", "שלום", "<b>", "</script><script>alert(1)</script>", "&lt;",
    "'\"`", "$x$", "%{y}", "<!--", "]]>",
)  # fmt: skip
ANY = st.one_of(st.text(st.characters(exclude_categories=()), max_size=6), st.sampled_from(HOSTILE))
TEXTS = st.lists(ANY, min_size=5, max_size=5, unique=True)
QUICK = (Phase.explicit, Phase.generate)
"""Rendering a page many times to shrink an example takes minutes; the words are few and short as it is."""
NETWORK = FrozenNetwork(positions=5, layers=1)


def unsafe(text: str, allowed: str = "\n\t") -> set[str]:
    """The characters that a reader cannot see or that move others."""
    return {
        one
        for one in text
        if (unicodedata.category(one)[0] == "C" or unicodedata.category(one) in ("Zl", "Zp"))
        and one not in allowed
    }


class Words(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def require_page(html: str, blank: str) -> None:
    """No control characters, and the same tags as the page of harmless words has."""
    html.encode()
    own = re.sub(r"<script>.*?</script>|<style>.*?</style>", "", html, flags=re.DOTALL)
    assert not unsafe(own)
    assert set(Words(own).tags) <= set(Words(blank).tags) | {"bdi", "br", "span"}


def require_figure(figure: object) -> None:
    def strings(value: object) -> list[str]:
        if isinstance(value, str):
            return [value]
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return [one for part in parts for one in strings(part)]

    text = figure.to_json()
    text.encode()
    for one in strings(json.loads(text)):
        one = re.sub("\u2068([^\u2068\u2069]*)\u2069", r"\1", one)  # figures isolate words from right to left
        assert not unsafe(one), one
        assert not re.search(r"<(?!/?(?:b|br|sup|extra|i)\b)", one), one


def texts_of(words: list[str]) -> list[str]:
    return [f"w{i}" for i in range(len(words))]


def views(words: list[str]) -> dict[str, View]:
    """Views of every kind in which all words are the user's."""
    said = dict(name=words[0], units=words[1], towards=(words[2], words[3]), notes=(words[4],))
    special = np.array([True, False, False, False, False])
    numbers = np.array([3.0, -1.0, 0.0, np.nan, 0.5])
    labels, grid = tuple(words), np.arange(10.0).reshape(2, 5)
    return {
        "position": View(numbers, ("position",), {"position": labels}, special=special, **said),
        "layers": View(grid, ("layer", "position"), {"position": labels}, special=special, **said),
        "heads": View(grid, ("layer", "head"), {"head": labels}, **said),
        "sources": View(grid[None], ("layer", "head", "position"), {"position": labels}, **said),
        "component": View(numbers, ("component",), {"component": labels}, **said),
        "segment": View(numbers, ("segment",), {"segment": labels}, **said),
        "layer": View(numbers, ("layer",), {"layer": labels}, **said),
    }


def ledger(words: list[str]) -> Ledger:
    one = np.ones(1)
    rows = tuple(LedgerRow(0, shown(word, ""), "bias", one) for word in words)
    return Ledger(6 * one, one, 0 * one, rows, np.ones((1, 2)), 6 * one, words[0], (words[1], words[2]))


def graph(words: list[str]) -> AttributionGraph:
    return NETWORK.graph(
        token_strings=tuple(words),
        metric_text=words[0],
        rules_text=words[1],
        notes=(words[2],),
        towards=(words[3], words[4]),
    )


@given(ANY)
@settings(max_examples=150)
def test_nothing_unseen_passes(text: str) -> None:
    for said, allowed in ((shown(text), "\n\t"), (visible_token(text), ""), (escape(text), "\n\t")):
        said.encode()
        assert not unsafe(said, allowed), (text, said)
    assert shown(shown(text)) == shown(text)
    assert "".join(said for said, _ in token_pieces(text)) == visible_token(text) != ""
    assert not set("<>") & set(escape(text))
    assert Words(isolated(text).replace("\r", "")).text == shown(text)


def test_every_code_point_is_seen_or_escaped() -> None:
    unseen = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
    everywhere = (*range(0x3100), *range(0xD7A0, 0x11000), *range(0x11000, 0x110000, 97))
    text = "".join(one for one in map(chr, everywhere) if unicodedata.category(one) in unseen and one != " ")
    said = shown(text, keep="")
    assert said.isascii() and said.count("\\") == len(text) > 10_000
    assert [visible_token(one) for one in (" ", "\n", "\t", "\r", "\u00a0", "")] == list("·⏎⇥␍⍽∅")


@pytest.mark.parametrize(
    "text",
    ["e\u0301tude", "नमस्ते", "👍🏽", "❤\ufe0f", "🇫🇷", "สวัสดี", "سلام", "שָׁלוֹם", "漢字", "ﬁ", "ø", "한국어"],
)
def test_letters_combining_characters_and_emoji_stay(text: str) -> None:
    assert shown(text) == visible_token(text) == text


def test_marks_do_not_join_what_they_do_not_belong_to() -> None:
    assert visible_token("\u0301a") == "◌\u0301a" and visible_token(" \u0301") == "·◌\u0301"
    assert visible_token("\ufe0f") == "\\ufe0f" and visible_token("a\ufe0f\ufe0f") == "a\ufe0f\\ufe0f"
    assert visible_token("\u3164\u2800\u115f") == "\\u3164\\u2800\\u115f"


def test_words_from_right_to_left_are_isolated() -> None:
    assert isolated("'שלום', 'سلام عليكم' 3") == (
        "&#x27;<bdi>שלום</bdi>&#x27;, &#x27;<bdi>سلام عليكم</bdi>&#x27; 3"
    )
    assert (
        direction(["<1", " سلام", "x"]) == "rtl" and direction(["12", "x", "سلام"]) == direction([]) == "ltr"
    )


@given(TEXTS)
@settings(max_examples=10, phases=QUICK)
def test_views_show_any_text(words: list[str]) -> None:
    plain = views(texts_of(words))
    for name, view in views(words).items():
        assert str(view).encode() and not unsafe(str(view)), name
        require_page(view._repr_html_(), plain[name]._repr_html_())
    kinds = views(words)
    require_page(token_heatmap_html(kinds["position"]), token_heatmap_html(plain["position"]))
    twice = {words[0]: kinds["position"], words[1]: kinds["position"]}
    require_page(token_heatmap_html(twice), token_heatmap_html(dict(zip("ab", twice.values(), strict=True))))
    text = token_heatmap_text(kinds["position"]).plain
    assert text.encode() and not unsafe(text)
    for plot, name in (
        (plot_layers, "layers"),
        (plot_heads, "heads"),
        (plot_sources, "sources"),
        (plot_components, "component"),
        (plot_segments, "segment"),
        (plot_cumulative, "layer"),
    ):
        require_figure(plot(kinds[name]))


def test_figures_isolate_words_from_right_to_left_once() -> None:
    words = ["<bos>", " سلام", " שלום", "x", " عليكم"]
    kinds = views(words)
    for figure in (
        plot_layers(kinds["layers"]),
        plot_components(kinds["component"]),
        plot_graph(graph(words)),
    ):
        text = json.dumps(figure.to_plotly_json(), default=str, ensure_ascii=False)
        assert "\u2068سلام\u2069" in text and "\\u2068" not in text and "\u2068\u2068" not in text


@given(TEXTS)
@settings(max_examples=10, phases=QUICK)
def test_ledgers_and_graphs_show_any_text(words: list[str]) -> None:
    plain, own = texts_of(words), ledger(words)
    assert str(own).encode() and not unsafe(str(own))
    require_page(own._repr_html_(), ledger(plain)._repr_html_())
    require_figure(own.plot())
    small = graph(words)
    assert str(small).encode() and not unsafe(str(small))
    require_page(small._repr_html_(), graph(plain)._repr_html_())
    require_figure(plot_graph(small))
    require_page(graph_html(small, title=words[0]), graph_html(graph(plain)))


@given(TEXTS)
@settings(max_examples=4, phases=QUICK)
def test_reports_show_any_text(words: list[str]) -> None:
    """The page with every word hostile has the tags of the page with none."""

    def page(words: list[str]) -> str:
        kinds = views(words)
        table = pd.DataFrame(
            {
                "layer": [0],
                "name": [shown(words[0])],
                "kind": [shown(words[1])],
                "amount": [1.0],
                "share": [1.0],
            }
        )
        return explanation_html(
            example(
                prompt="".join(words),
                model_name=words[0],
                token_strings=tuple(words),
                target=Choice(words[1], 1, 1.0, 0.5, 1),
                contrast=Choice(words[2], 2, 0.5, 0.25, 2),
                tokens=kinds["position"],
                layers=kinds["layers"],
                heads=kinds["heads"],
                components=kinds["component"],
                ledger=table,
                metric=words[3],
                title=words[4],
                notes=tuple(words),
            )
        )

    require_page(page(words), page(texts_of(words)))


def test_only_one_room_escapes() -> None:
    """Whoever writes HTML takes `escape` from lrp_lens.characters."""
    from tests.test_layering import FILES, PACKAGE

    for path in FILES:
        if path.as_posix() != "characters.py":
            source = (PACKAGE / path).read_text(encoding="utf-8")
            assert not re.search(r"^\s*(from html import|import html\b)", source, re.MULTILINE), path
