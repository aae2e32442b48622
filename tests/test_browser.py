"""The browser tests' own instruments: they see an error, a request and a clipped element."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser import PHONE, browser, opened, sticks_out


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with browser() as one:
        yield one


def test_a_quiet_page_has_no_errors_and_nothing_sticks_out(running: Any) -> None:
    with opened(running, "<p>fine</p>", PHONE) as (tab, errors):
        assert errors == [] and sticks_out(tab) == []


def test_errors_and_wide_elements_are_seen(running: Any) -> None:
    page = "<script>throw new Error('broken')</script><div style='width:900px;height:9px'></div>"
    with opened(running, page, PHONE) as (tab, errors):
        assert any("broken" in one for one in errors)
        assert sticks_out(tab)
        tab.evaluate("fetch('http://nowhere.invalid/x').catch(() => 0)")
        assert any("nowhere.invalid" in one for one in errors)
