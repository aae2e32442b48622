"""The graph's page in a browser: it opens on the strongest path, fits, and every control changes what is drawn."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from lrp_lens import LogitDiff, attribution_graph, load_demo_model
from lrp_lens.attribution_graphs.arrays import AttributionGraph
from lrp_lens.plots import graph_html
from tests.browser import DESKTOP, PHONE, browser, opened, sticks_out
from tests.flow_graph import flow_graph

EVIL = "</script><img src=x onerror=window.broken=1>\u202e\u2066"
DRAWN = "[...document.querySelectorAll('.edge:not(.off)')]"


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with browser() as one:
        yield one


def chat() -> AttributionGraph:
    """A prompt of the shape of a chat: special tokens open it and its second turn."""
    model = load_demo_model()
    first, second = (
        model.to_tokens(one, prepend_bos=True)
        for one in ("then mary and john went to the park .", "john gave the key to")
    )
    return attribution_graph(
        model, torch.cat([first, second], dim=1), LogitDiff("mary", "john"), rules="ATTN_LRP"
    ).detached()


GRAPHS = {
    "chat": chat,
    "15 tokens": lambda: flow_graph(15, 4),
    "83 tokens, 24 layers": lambda: flow_graph(83, 24),
    "300 tokens": lambda: flow_graph(300, 12),
}


def set_slider(tab: Any, value: int) -> None:
    tab.eval_on_selector(
        "input[type=range]",
        "(one, value) => { one.value = value; one.dispatchEvent(new Event('input')); }",
        value,
    )


def count(tab: Any, selector: str) -> int:
    return int(tab.evaluate("(one) => document.querySelectorAll(one).length", selector))


def drawn_edges(tab: Any) -> set[tuple[int, int, int]]:
    """(transition, target, source) of the edges that are drawn."""
    rows = tab.evaluate(
        f"""() => {{
            const [t, i, j] = JSON.parse(document.querySelector('script[type="application/json"]').textContent).edges;
            return {DRAWN}.map((one) => one.dataset.edge).map((e) => [t[e], j[e], i[e]]);
        }}"""
    )
    return {tuple(one) for one in rows}


def edges_of(graph: AttributionGraph) -> set[tuple[int, int, int]]:
    return set(zip(graph.transition.tolist(), graph.target.tolist(), graph.source.tolist(), strict=True))


def outside(tab: Any, selector: str) -> list[list[float]]:
    """Boxes of elements that are not wholly in the window, or cut by the picture's frame."""
    return tab.evaluate(
        """(selector) => {
            const frame = document.querySelector('.lrp-scroll').getBoundingClientRect();
            return [...document.querySelectorAll(selector)].map((one) => one.getBoundingClientRect()).filter((box) =>
                box.left < frame.left - 1 || box.right > Math.min(frame.right, innerWidth) + 1 ||
                box.top < 0 || box.bottom > innerHeight + 1).map((box) => [box.left, box.top, box.right, box.bottom]);
        }""",
        selector,
    )


@pytest.mark.parametrize("name", GRAPHS)
def test_the_page_opens_on_its_strongest_path_and_fits(running: Any, name: str) -> None:
    graph = GRAPHS[name]()
    page = graph_html(graph)
    best = graph.paths(1).iloc[0]
    for size in (DESKTOP, PHONE):
        with opened(running, page, size) as (tab, errors):
            assert errors == [] and sticks_out(tab) == []
            assert count(tab, ".route") == len(graph.boundaries) - 1
            assert count(tab, ".node.hot:not(.off)") == len(graph.boundaries)
            assert outside(tab, ".node.hot, .route, .carrier, .lrp-picture text, .edge:not(.off)") == []
            frame = "document.querySelector('.lrp-scroll')"
            assert tab.evaluate(f"{frame}.scrollWidth <= {frame}.clientWidth && {frame}.scrollLeft === 0")
            pressed = tab.locator(".lrp-paths button[aria-pressed=true]")
            assert pressed.count() == 1 and count(tab, ".carrier") == best["moves"]
            assert f"@{best['positions'][0]}" in pressed.inner_text()
            assert tab.locator(".lrp-paths li").count() == len(graph.paths(8))
            assert tab.is_checked(".lrp-touched") == (len(graph.token_strings) > 40)
            other = tab.locator(".lrp-paths button").nth(1)
            other.click()
            assert other.get_attribute("aria-pressed") == "true"
            assert errors == []


def test_every_step_of_the_slider_changes_what_is_drawn(running: Any) -> None:
    graph = flow_graph(83, 6).prune(mass=0.98)
    assert len(graph.relevance) > 300
    with opened(running, graph_html(graph, max_edges=300)) as (tab, errors):
        for leading in (True, False):
            tab.set_checked(".lrp-leading", leading)
            top = int(tab.get_attribute("input[type=range]", "max"))
            numbers = []
            for step in range(top + 1):
                set_slider(tab, step)
                numbers.append(count(tab, ".edge:not(.off)"))
                assert tab.inner_text("output").startswith(f"{numbers[-1]} of ")
            assert len(numbers) > 20 and all(a < b for a, b in pairwise(numbers))
            assert tab.inner_text("output") == f"{numbers[-1]} of {numbers[-1]} edges"
            assert numbers[-1] == 300 if not leading else numbers[-1] <= 300
        said = tab.inner_text(".lrp-count")
        assert "% of all relevance handed on" in said and "dropped as weak" in said and "slider" not in said
        assert errors == []


@pytest.mark.parametrize("mass", [0.3, 0.6, 0.85, 1.0])
def test_the_slider_opens_at_the_edges_that_pruning_keeps(running: Any, mass: float) -> None:
    graph = flow_graph(40, 3)
    kept = graph.prune(mass=mass)
    with opened(running, graph_html(graph, mass=mass)) as (tab, _):
        assert drawn_edges(tab) == edges_of(kept.subgraph())
    alone = graph_html(graph, mass=mass).replace('class="lrp-leading" checked', 'class="lrp-leading"')
    with opened(running, alone) as (tab, _):
        assert drawn_edges(tab) == edges_of(kept)
        tab.set_checked(".lrp-leading", True)
        assert drawn_edges(tab) == edges_of(kept.subgraph())


def test_columns_are_the_touched_tokens_or_all(running: Any) -> None:
    graph = flow_graph(83, 3).prune(mass=0.5).subgraph()
    touched = {*graph.source.tolist(), *graph.target.tolist(), *graph.target_positions}
    touched |= {one for positions in graph.paths(8)["positions"] for one in positions}
    assert len(touched) < 40
    ticks = "[...document.querySelectorAll('.tick')].map((one) => +one.dataset.tick)"
    with opened(running, graph_html(graph)) as (tab, errors):
        assert set(tab.evaluate(ticks)) == touched
        tab.set_checked(".lrp-touched", False)
        every = set(tab.evaluate(ticks))
        assert every - touched and max(every) == 82 and sticks_out(tab) == []
        tab.select_option("select", "4")
        assert set(tab.evaluate(ticks)) == set(range(83)) and sticks_out(tab) == [] and errors == []


def test_it_works_by_keyboard(running: Any) -> None:
    with opened(running, graph_html(flow_graph(20, 3))) as (tab, errors):
        active = "document.activeElement"
        seen = []
        for _ in range(40):
            tab.keyboard.press("Tab")
            name = tab.evaluate(f"{active}.getAttribute('class') || {active}.tagName")
            seen.append(name.split()[0])
            if seen[-1] == "lrp-picture":
                break
        assert {"INPUT", "lrp-touched", "lrp-leading", "SELECT", "lrp-picture"} <= set(seen)
        first = tab.inner_text(".lrp-detail h2")
        tab.keyboard.press("ArrowDown")
        node = tab.inner_text(".lrp-detail h2")
        assert node != first and "@19" in node and "L2" in node and count(tab, ".ring:not(.off)") == 1
        tab.keyboard.press("ArrowDown")
        assert "L2 mid" in tab.inner_text(".lrp-detail h2")
        tab.locator(".lrp-detail button").first.focus()
        tab.keyboard.press("Enter")  # the button goes, the arrows go on from where it led
        assert "L1" in tab.inner_text(".lrp-detail h2")
        tab.keyboard.press("ArrowUp")
        assert "L2 mid" in tab.inner_text(".lrp-detail h2")
        tab.keyboard.press("Escape")
        assert tab.inner_text(".lrp-detail h2") == "How to read this" and count(tab, ".route") == 0
        tab.keyboard.press("Tab")
        tab.keyboard.press("Tab")
        tab.keyboard.press("Enter")
        chosen = tab.locator(".lrp-paths button").nth(1)
        assert chosen.get_attribute("aria-pressed") == "true" and count(tab, ".route") == 6
        tab.keyboard.press("Shift+Tab")
        tab.keyboard.press("Space")
        assert chosen.get_attribute("aria-pressed") == "false" and errors == []


@pytest.mark.parametrize("finger", [False, True])
def test_hovering_or_tapping_tells_details(running: Any, finger: bool) -> None:
    graph = flow_graph(30, 3)
    with opened(running, graph_html(graph), PHONE if finger else DESKTOP) as (tab, errors):
        box = tab.locator(".node.hot").last.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        if finger:  # 6 pixels off: a finger is not precise
            tab.eval_on_selector(
                ".lrp-picture",
                """(one, [clientX, clientY]) => {
                    one.dispatchEvent(new PointerEvent('pointerdown', {pointerType: 'touch', clientX, clientY}));
                    one.dispatchEvent(new MouseEvent('click', {clientX, clientY, bubbles: true}));
                }""",
                [x, y + 6],
            )
            assert tab.inner_text(".lrp-detail h2").startswith("\u2068")
        else:
            tab.mouse.move(x, y)
        tip = tab.locator(".lrp-tip")
        assert tip.is_visible() and "of the metric" in tip.inner_text() and sticks_out(tab) == []
        if not finger:
            tab.mouse.move(5, 5)
            assert tip.is_hidden()
        assert errors == []


def test_odd_graphs_and_hostile_words_draw(running: Any) -> None:
    graph = flow_graph(12, 2)
    evil = (EVIL, *graph.token_strings[1:])
    hostile = {"token_strings": evil, "metric_text": EVIL, "rules_text": EVIL, "towards": (EVIL, EVIL)}
    odd = {
        "hostile": replace(graph, **hostile),
        "no target": replace(graph, target_positions=()),
        "empty": graph.prune(edge_threshold=1e9),
        "one token": flow_graph(1, 1),
        "all targets": replace(graph, target_positions=tuple(range(12))),
    }
    fragments = [graph_html(one, page=False, title=EVIL) for one in odd.values()]
    with opened(running, f"<main>{''.join(fragments)}</main>", PHONE) as (tab, errors):
        assert errors == [] and sticks_out(tab) == []
        assert count(tab, ".lrp-picture") == len(odd) and tab.evaluate("window.broken === undefined")
        words = tab.locator(".lrp-paths").all_inner_texts()
        assert (
            "names no target" in words[1] and "No chain of kept edges" in words[2] and "stays at" in words[3]
        )
        assert tab.locator("input[type=range]").nth(2).is_disabled()


def test_a_dark_page_is_dark(running: Any) -> None:
    with opened(running, graph_html(flow_graph(12, 2))) as (tab, _):
        shade = "getComputedStyle(document.querySelector('.lrp-graph')).backgroundColor.match(/\\d+/g).map(Number)"
        assert min(tab.evaluate(shade)) > 200
        tab.emulate_media(color_scheme="dark")
        assert max(tab.evaluate(shade)) < 60
