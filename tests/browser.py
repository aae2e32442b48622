"""A headless Chromium for the tests of pages: pages without errors, nothing clipped, colours counted.

The browser is the system's (Debian: `apt-get install chromium`; CHROMIUM names another one); nothing is downloaded.
Tests that need it are skipped with that sentence where it is missing; `.ci/run` installs it.
"""

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

DESKTOP, PHONE = (1280, 900), (390, 844)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """The path of an installed Chromium, if there is one."""
    named = os.environ.get("CHROMIUM")
    return named or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def browser() -> Iterator[Any]:
    """A running browser (playwright's Browser); skips the test where none is installed."""
    path = chromium()
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium, or CHROMIUM=/path/to/it")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install '.[test]'")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=list(_OPTIONS))
        try:
            yield running
        finally:
            running.close()


@contextmanager
def opened(
    running: Any, page: Path | str, size: tuple[int, int] = DESKTOP
) -> Iterator[tuple[Any, list[str]]]:
    """A page, from a file or from HTML text, at a window size; and what went wrong on it so far.

    Yields:
        The page (playwright's Page), and its errors: messages of the console, exceptions, requests to a network.
    """
    context = running.new_context(viewport={"width": size[0], "height": size[1]})
    tab, errors = context.new_page(), []
    tab.on("console", lambda message: message.type == "error" and errors.append(message.text))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda request: request.url.startswith("http") and errors.append(request.url))
    try:
        if isinstance(page, Path):
            tab.goto(page.resolve().as_uri())
        else:
            tab.set_content(page)
        tab.wait_for_load_state("load")
        yield tab, errors
    finally:
        context.close()


def sticks_out(tab: Any) -> list[str]:
    """Elements that reach beyond the window's width without a box that scrolls: what a reader cannot see."""
    return tab.evaluate(
        """() => {
            const wide = document.documentElement.clientWidth, out = [];
            for (const element of document.querySelectorAll('body *')) {
                const box = element.getBoundingClientRect();
                if (!box.width || !box.height || box.right <= wide + 1) continue;
                let parent = element.parentElement, scrolls = false;
                for (; parent; parent = parent.parentElement)
                    if (/auto|scroll|hidden/.test(getComputedStyle(parent).overflowX)) { scrolls = true; break; }
                if (!scrolls) out.push(element.tagName + '.' + element.className + ' ' + Math.round(box.right));
            }
            return out;
        }"""
    )


def cut_off(tab: Any) -> list[str]:
    """What a box cuts: text of a plotly figure beyond its drawing, content that overflows a box that hides it, and
    boxes that scroll sideways without a hint (something that stands before their content)."""
    return tab.evaluate(
        """() => {
            const out = [], words = (element) => element.textContent.trim().slice(0, 60);
            for (const text of document.querySelectorAll('svg.main-svg text')) {
                const box = text.getBoundingClientRect(), all = text.closest('svg.main-svg').getBoundingClientRect();
                const inside = box.left > all.left - 1 && box.right < all.right + 1
                    && box.top > all.top - 1 && box.bottom < all.bottom + 1;
                if (box.width && words(text) && !inside) out.push('text ' + words(text));
            }
            for (const element of document.querySelectorAll('body *:not(svg *)')) {
                const flow = getComputedStyle(element).overflowX;
                if (flow === 'visible' || element.scrollWidth <= element.clientWidth + 1) continue;
                const hint = getComputedStyle(element, '::before').content;
                if (!/auto|scroll/.test(flow) || hint === 'none')
                    out.push(element.tagName + '.' + element.className + ' ' + words(element));
            }
            return out;
        }"""
    )


def colours_at(tab: Any, points: list[tuple[float, float]]) -> list[tuple[int, int, int]]:
    """The colours (RGB) that the window shows at these places, in pixels from its left upper corner."""
    shot = "data:image/png;base64," + base64.b64encode(tab.screenshot()).decode()
    found = tab.evaluate(
        """async ([shot, points]) => {
            const image = new Image();
            image.src = shot;
            await image.decode();
            const canvas = document.createElement('canvas');
            [canvas.width, canvas.height] = [image.width, image.height];
            const draw = canvas.getContext('2d');
            draw.drawImage(image, 0, 0);
            return points.map(([x, y]) => [...draw.getImageData(x, y, 1, 1).data].slice(0, 3));
        }""",
        [shot, points],
    )
    return [tuple(one) for one in found]


def cell_places(tab: Any, figure: str) -> list[list[tuple[float, float]]]:
    """Where the centres of a drawn heat map's cells lie in the window, [row][column].

    Args:
        tab: a page with plotly figures.
        figure: selector of the figure's box.
    """
    return tab.evaluate(
        """(figure) => {
            const box = document.querySelector(figure), {xaxis, yaxis} = box._fullLayout;
            box.scrollIntoView();
            const at = box.getBoundingClientRect(), trace = box._fullData[0];
            return trace.y.map((row) => trace.x.map((column) =>
                [at.left + xaxis._offset + xaxis.l2p(column), at.top + yaxis._offset + yaxis.l2p(row)]));
        }""",
        figure,
    )


def hover_text(tab: Any, place: tuple[float, float]) -> str:
    """What plotly says of a place; empty where it says nothing."""
    tab.mouse.move(1, 1)
    tab.wait_for_function("!document.querySelector('.hoverlayer .hovertext')")
    tab.mouse.move(*place)
    try:
        tab.wait_for_selector(".hoverlayer .hovertext", state="attached", timeout=2000)
    except Exception as error:
        if type(error).__name__ != "TimeoutError":
            raise
        return ""
    return tab.locator(".hoverlayer .hovertext").first.text_content()
