"""The manual as `make docs` builds it: strictly, complete, readable at both widths, with nothing taken from a network.

Skipped where MkDocs is not installed; `make docs` installs it.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import lrp_lens
from tests.browser import DESKTOP, PHONE, browser, opened, sticks_out

ROOT = Path(__file__).parent.parent
NEEDED = ("mkdocs", "material", "mkdocstrings")
pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, NEEDED)), reason="needs pip install '.[docs]': make docs"
    ),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    built = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(built)]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PATH": path, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return built


def test_the_site_holds_every_page_and_every_public_name(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert all((site / page).is_file() for page in (*pages, "index.html", "CHANGELOG.html"))
    assert not list(site.rglob("*.py"))
    reference = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    described = {name.rpartition(".")[2] for name in re.findall(r'id="(lrp_lens\.[\w.]+)"', reference)}
    names = {name for name in lrp_lens.__all__ if not isinstance(getattr(lrp_lens, name), ModuleType)}
    assert names <= described
    assert "&gt;&gt;&gt; </span>" in reference and "<blockquote>" not in reference  # examples are examples
    assert "Example:" not in reference and "Raises:" in reference


def test_pages_read_at_both_widths_without_a_network(site: Path) -> None:
    shown = sorted(site.rglob("*.html"))
    assert len(shown) > 35
    for path in shown:
        links = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?(https?:[^\"> ]*)", path.read_text("utf-8")
        )
        assert links == [], path.name
    with browser() as running:
        for name in ("index", "attribution_graphs", "faithfulness", "models", "api/rules", "api/patching"):
            for size in (DESKTOP, PHONE):
                with opened(running, site / f"{name}.html", size) as (tab, errors):
                    assert (errors, sticks_out(tab)) == ([], []), (name, size)


def test_search_finds_pages_of_a_site_opened_from_its_files(site: Path) -> None:
    with browser() as running, opened(running, site / "index.html") as (tab, errors):
        tab.fill("input[name=query]", "RelevanceCache")
        tab.wait_for_selector(".md-search-result__item a", timeout=20_000)
        found = tab.eval_on_selector_all(".md-search-result__item a", "all => all.map((one) => one.href)")
        assert any("api/cache.html" in link for link in found) and errors == []
