"""Nothing unescaped slips into a page: a hostile token in every fragment, and no HTML outside templates."""

import ast
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from jinja2 import UndefinedError

from lrp_lens.attribution_graphs.arrays.text import describe_html
from lrp_lens.markup import Cell, Html, asset, captioned, frame, isolated, render, script_data, table
from lrp_lens.plots import graph_html, plot_layers, token_heatmap_html
from lrp_lens.plots.still import still_svg
from lrp_lens.report import explanation_html
from lrp_lens.run.ledger import Ledger, LedgerRow
from lrp_lens.views import View
from lrp_lens.views.table import table_of
from tests.frozen_network import FrozenNetwork
from tests.test_report import example

NETWORK = FrozenNetwork(positions=5, layers=1)
PACKAGE = Path(__file__).parent.parent / "lrp_lens"
TEMPLATES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.html"))
EVIL = ("<script>alert(1)</script>", '" onload="alert(2)" x=\'', "' style='x' \"", "</title><b>", "a")
"""Tokens that would open an element or add an attribute."""


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(sorted(name for name, _ in attrs))))
        self.attributes += [value or "" for _, value in attrs]


def view(words: tuple[str, ...]) -> View:
    special = np.array([True, False, False, False, False])
    answer = np.array(["", "", "", words[2], words[2]])
    said = dict(name=words[0], units=words[1], towards=(words[2], words[3]), notes=(words[1],))
    values = np.array([3.0, -1.0, 0.5, np.nan, 0.25])
    return View(values, ("position",), {"position": words}, special=special, answer=answer, **said)


def fragments(words: tuple[str, ...]) -> dict[str, str]:
    """Every page and fragment there is, with these words wherever a prompt's or a user's text stands."""
    tokens, one = view(words), np.ones(1)
    rows = tuple(LedgerRow(0, word, "bias", one) for word in words)
    ledger = Ledger(6 * one, one, 0 * one, rows, np.ones((1, 2)), 6 * one, words[0], (words[1], words[2]))
    graph = NETWORK.graph(
        token_strings=words, metric_text=words[0], rules_text=words[1], towards=(words[2], words[3])
    )
    explanation = example(prompt=words[0], title=words[1], notes=words, tokens=tokens, rules=words[2])
    return {
        "view": tokens._repr_html_(),
        "heat map": token_heatmap_html(tokens),
        "heat maps": token_heatmap_html({words[0]: tokens, words[1]: tokens}),
        "ledger": ledger._repr_html_(),
        "graph": describe_html(graph),
        "graph page": graph_html(graph, title=words[1], max_edges=3),
        "report": explanation_html(explanation),
        "glance": explanation._repr_html_(),
        "table": table(words, [[Cell(word, kind="n", code=True, after=word)] for word in words]),
        "captioned": captioned(frame(table_of({words[0]: words})), *words, below=words[0], warning=words[1]),
        "isolated": isolated(words[0]),
        "still": still_svg(plot_layers(View(np.eye(2, 5), ("layer", "position"), {"position": words}))) or "",
    }


PLAIN = tuple(re.sub(r"[^ ]", "a", word) for word in EVIL)


def test_hostile_tokens_change_no_element_and_no_attribute() -> None:
    hostile, plain = fragments(EVIL), fragments(PLAIN)
    for name, page in hostile.items():
        assert Parsed(page).tags == Parsed(plain[name]).tags, name
    assert any(
        "alert(2)" in value for value in Parsed(hostile["heat map"]).attributes
    )  # the title tells it whole


def test_the_comparison_sees_what_slips_in() -> None:
    for word in EVIL[:4]:
        unescaped = f'<p title="{word}">{word}</p>'
        assert Parsed(unescaped).tags != Parsed('<p title="a">a</p>').tags, word


def test_only_html_is_put_in_as_it_is() -> None:
    assert render("markup/small.html", line="<i>") == "<div><small>&lt;i&gt;</small></div>"
    assert render("markup/small.html", line=Html("<i>")) == "<div><small><i></small></div>"
    assert render("markup/small.html", line="a\u202e\x00") == "<div><small>a\\u202e\\x00</small></div>"
    with pytest.raises(UndefinedError, match="line"):
        render("markup/small.html")
    assert "</script>" not in script_data({"a": ["</script><!--"]}) and "<!--" not in script_data(["<!--"])
    with pytest.raises(ValueError, match="Out of range float"):
        script_data([float("nan")])
    assert repr(asset("report/draw.js")).startswith("Html of ")


# ------------------------------------------------------------------------- HTML stands in templates alone
ELEMENTS = """a aside body bdi br b button code dd details div dl dt em form h1 h2 h3 head header hr html i iframe
img input label li link main meta noscript ol option output p pre script section select small span strong style
sub summary sup svg path text tspan rect circle table tbody td th thead title tr ul wbr""".split()
TAG = re.compile(rf"</?({'|'.join(ELEMENTS)})(?=[\s/>{{]|$)[^<>]*/?>?", re.IGNORECASE)
PLOTLY = {"b", "br", "i", "sup"}
"""What plotly reads in its own texts, where `plotly_text` stands for escaping."""
SVG = {"svg", "path", "text", "tspan", "rect", "circle"}
"""Still pictures: text goes through `words.put`, colours through `heat.paint`."""


def docstrings(tree: ast.AST) -> set[int]:
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def html_faults(source: str, path: Path) -> Iterator[str]:
    """Text outside templates that spells an element, and Html made outside markup/."""
    tree = ast.parse(source)
    spared = docstrings(tree)
    spelled = SVG if path.parts[:2] == ("plots", "still") else PLOTLY if "plotly" in source else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in spared:
            found = {one.lower() for one in TAG.findall(node.value)} - spelled
            if found:
                yield f"{path}:{node.lineno}: HTML stands in templates, found {', '.join(sorted(found))}"
        elif (
            isinstance(node, ast.Call)
            and path.parts[0] != "markup"
            and getattr(node.func, "id", "") in ("Html", "Markup")
        ):
            yield f"{path}:{node.lineno}: finished HTML comes from lrp_lens.markup"


def test_no_html_outside_templates() -> None:
    files = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
    faults = [
        one for path in files for one in html_faults((PACKAGE / path).read_text(encoding="utf-8"), path)
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("source", "faults"),
    [
        ('x = f"<td>{value}</td>"', 2),
        ("x = f'<span class=\"{kind}\">'", 1),
        ('x = "".join(["<div ", more])', 1),
        ('x = f"<b>{plotly_text(a)}</b>"; import plotly', 0),
        ('x = f"<p>{a}"; import plotly', 1),
        ('x = Html("a")', 1),
        ('"""<b>"""\nx = "a0.h1->a1.h0<q>"; y = "<bos>"; z = f"<{index}>"; k = a < b > c', 0),
    ],
)
def test_the_html_check_itself(source: str, faults: int) -> None:
    assert len(list(html_faults(source, Path("run/cache.py")))) == faults


def test_trusted_text_is_named() -> None:
    """What is put in as it is without a template: a library's script, the project's scripts, policies."""
    found = {
        (
            path.relative_to(PACKAGE).as_posix(),
            len(re.findall(r"\btrusted\(", path.read_text(encoding="utf-8"))),
        )
        for path in PACKAGE.rglob("*.py")
    }
    assert {one for one in found if one[1]} == {
        ("markup/__init__.py", 1), ("plots/graph_page.py", 3), ("report/page.py", 2)
    }  # fmt: skip


@pytest.mark.parametrize("path", TEMPLATES)
def test_templates_neither_switch_escaping_off_nor_build_tags(path: str) -> None:
    text = (PACKAGE / path).read_text(encoding="utf-8")
    assert not re.search(r"\|\s*(safe|join|format|replace|tojson|xmlattr|urlize)|autoescape|Markup", text)
    for attribute in re.findall(r"[\w-]+=\S*?\{\{", text):  # a value that is put in stands in double quotes
        assert re.match(r'[\w-]+="', attribute), attribute
