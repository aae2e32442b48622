"""A headless Chromium for the tests of pages: pages without errors, nothing clipped, colours counted.

The browser is the system's (Debian: `apt-get install chromium`; CHROMIUM names another one); nothing is downloaded.
Tests that need it are skipped with that sentence where it is missing; `.ci/run` installs it.
"""

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
