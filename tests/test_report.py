"""The report: one file, no network, everything escaped, every part there."""

import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from lrp_lens.cli.terminal import print_explanation
from lrp_lens.errors import InputError
from lrp_lens.failures.explanation import Choice, Explanation
from lrp_lens.markup import Html
from lrp_lens.masking.check import MaskingCheck, MaskingStep
from lrp_lens.report import explanation_html, write_report
from lrp_lens.report.page import Section, page_html
from lrp_lens.views import View
from tests.browser import DESKTOP, PHONE, browser, opened, sticks_out

EVIL = "</script><script>alert(1)</script>"
TOKENS = ("<bos>", "John", EVIL, "John", "gave")
WORDS = ("<John>", "Mary")


def example(**changes: object) -> Explanation:
    special = np.array([True, False, False, False, False])
    position = {"position": TOKENS}
    steps = (
        MaskingStep(0, (), "", 2.5, "John", (2.5,) * 5),
        MaskingStep(1, (1,), "John", -0.5, EVIL, (2.0, 2.5, 1.5, 2.2, 1.9)),
    )
    ledger = pd.DataFrame(
        {
            "layer": [np.nan, 0.0],
            "name": ["tokens", EVIL],
            "kind": ["tokens", "bias"],
            "amount": [2.0, 0.5],
            "share": [0.8, 0.2],
        }
    )
    given = dict(
        prompt=f"John {EVIL} John gave",
        model_name="tiny <model>",
        token_strings=TOKENS,
        target=Choice("<John>", 1, 5.0, 0.75, 1),
        contrast=Choice("Mary", 2, 2.5, 0.125, 2),
        candidates=(Choice("<John>", 1, 5.0, 0.75, 1), Choice(EVIL, 2, 2.5, 0.125, 2)),
        metric="logit of '<John>' − logit of 'Mary'",
        metric_value=2.5,
        rules="ATTN_LRP",
        tokens=View(
            np.array([7.0, 1.5, -0.5, 0.25, np.nan]),
            ("position",),
            position,
            "tokens",
            special=special,
            towards=WORDS,
        ),
        layers=View(
            np.ones((3, 5)), ("layer", "position"), position, "layers", special=special, towards=WORDS
        ),
        heads=View(np.array([[0.5, -2.0], [1.0, 0.0]]), ("layer", "head"), name="heads", towards=WORDS),
        components=View(
            np.array([0.5, 1.0, -3.0]),
            ("component",),
            {"component": ("embed", "L0H0", "L0 MLP")},
            "components",
        ),
        ledger=ledger,
        remainder=1e-9,
        masking=MaskingCheck(steps, maskable=4),
        correct=False,
        title="IOI <b>",
        notes=(EVIL,),
        seconds={"relevance": 0.5},
    )
    return Explanation(**(given | changes))


class Tags(HTMLParser):
    """Collects tags, their attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.silent = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.silent = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self.silent = False

    def handle_data(self, data: str) -> None:
        if not self.silent:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page() -> str:
    return explanation_html(example())


def test_nothing_is_loaded_from_anywhere(page: str) -> None:
    for tag, attributes in Tags(page).tags:
        assert tag not in ("link", "img", "iframe", "object", "embed", "base"), tag
        assert not {"src", "href", "srcset", "action"} & set(attributes), (tag, attributes)
    assert "default-src 'none'" in page
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", page.split("<script>")[0])
    assert not re.search(r"@import|url\(\s*['\"]?http", page.split("<script>")[0])


def test_plotly_is_inlined_once(page: str) -> None:
    scripts = [attributes for tag, attributes in Tags(page).tags if tag == "script"]
    assert sum("type" not in attributes for attributes in scripts) == 2  # plotly.js and the drawing script
    assert page.count("plotly.js v") == 1
    assert len(page) < 6_000_000


def test_tokens_cannot_break_out(page: str) -> None:
    own = re.sub(r"<script>.*", "", page, flags=re.DOTALL)
    assert "alert(1)</script>" not in own
    assert "&lt;script&gt;alert(1)" in own
    for data in re.findall(
        r'<script type="application/json" id="[\w-]+">(.*?)</script>', own, flags=re.DOTALL
    ):
        assert set(json.loads(data)) == {"data", "layout"}


def test_every_part_is_there(page: str) -> None:
    parsed = Tags(page)
    for words in (
        "Why '<John>' and not 'Mary' ?",
        "target (wrong)",
        "contrast (right)",
        "logit 5.00 · p = 0.750 · rank 1",
        "+2.50 logits, target − contrast",
        "Towards '<John>' push most: 'John' (position 1, +1.50)",
        "Supported. Masking the blamed token changes the gap of +2.50 by −3.00 on average, more than random tokens do",
        "The contrast is ahead after k = 1 (of 1 to 1).",
        "1 'John' at 1 −0.50 +2.02 ± 0.33",
        "5 random orders of the 4 maskable tokens",
        "Heads: L0H1 (−2.00)",
        "MLPs: L0 MLP (−3.00)",
        "what they leave unexplained is +1.0e−09 logits",
        "mean embedding over the vocabulary",
        "tiny <model>",
        "ATTN_LRP",
        "grey: special, out of the scale (76 % of Σ|R|)",
    ):
        assert words in parsed.text, words
    figures = {attributes["data-figure"] for _, attributes in parsed.tags if "data-figure" in attributes}
    ids = {attributes["id"] for tag, attributes in parsed.tags if tag == "script" and "id" in attributes}
    assert figures == ids == {"masking", "layers", "heads", "components", "ledger"}


def test_readable_on_a_phone_and_at_night(page: str) -> None:
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in page
    assert page.count("prefers-color-scheme") >= 2
    assert "@media (max-width:720px)" in page
    assert 'data-figure="layers" style="min-width:101px"' in page


def test_right_and_wrong_only_where_a_case_knows() -> None:
    right = Tags(explanation_html(example(correct=True))).text
    assert "target (right)" in right and "contrast (wrong)" in right
    unknown = Tags(explanation_html(example(correct=None, notes=())))
    assert not re.search(r"\b(wrong|right)\b", unknown.text)


def test_the_question_follows_the_sign() -> None:
    assert "Why 'Mary' and not '<John>' ?" in Tags(explanation_html(example(metric_value=-1.0))).text


STEADY = (2.4, 2.6, 2.5, 2.45, 2.55)
OUTCOMES = {
    "supported": ((2.5, -0.5, -1.0), STEADY),
    "contradicted": ((2.5, 4.0, 5.0), STEADY),
    "not supported": ((2.5, 2.45, 2.52), STEADY),
    "undecided": ((2.5, 1.0, 0.5), (2.0, -3.0, 4.0, 1.0, 3.0)),
}


def outcome(name: str, **changes: object) -> Explanation:
    gaps, random = OUTCOMES[name]
    steps = tuple(
        MaskingStep(k, (k,) if k else (), "John" if k else "", gap, "Mary", random if k else (gap,) * 5)
        for k, gap in enumerate(gaps)
    )
    return example(masking=MaskingCheck(steps, maskable=9), **changes)


@pytest.mark.parametrize("name", OUTCOMES)
def test_each_outcome_on_the_terminal_and_in_json(name: str) -> None:
    explanation = outcome(name)
    console = Console(
        width=100, record=True, file=io.StringIO(), color_system="truecolor", force_terminal=True
    )
    print_explanation(explanation, console)
    shown = " ".join(console.export_text(styles=False, clear=False).split())
    assert f"{name.capitalize()}. {explanation.masking.verdict.reading}" in shown
    styled = console.export_text(styles=True)
    green, red = f"\x1b[1;32m{name.capitalize()}", f"\x1b[1;31m{name.capitalize()}"
    assert (green in styled, red in styled) == (name == "supported", name == "contradicted")
    data = json.loads(json.dumps(explanation.to_json_dict(), allow_nan=False))["masking"]
    assert data["verdict"]["outcome"] == name and data["verdict"]["reading"] in data["summary"]
    assert name.capitalize() in repr(explanation)


@pytest.mark.full
def test_each_outcome_in_a_browser(tmp_path: Path) -> None:
    bars = {}
    with browser() as running:
        for name in OUTCOMES:
            path = write_report(outcome(name), tmp_path / "report.html")
            for size in (DESKTOP, PHONE):
                with opened(running, path, size) as (tab, errors):
                    verdict = tab.locator(".verdict")
                    assert verdict.inner_text().startswith(
                        f"{name.capitalize()}. Masking the 2 blamed tokens"
                    )
                    assert not errors and not sticks_out(tab)
                    bars[name] = verdict.evaluate("one => getComputedStyle(one).borderLeftColor")
                    drawn = tab.locator("[data-figure=masking] .scatterlayer .trace")
                    assert drawn.count() == 5  # band, draws, their mean, the claim's mean, the claim
    assert bars["undecided"] == bars["not supported"]
    assert len({bars[name] for name in ("supported", "contradicted", "undecided")}) == 3


def test_palette_swaps_the_words() -> None:
    html = explanation_html(example(), palette="lrp")
    assert '<span class="red-word">&#x27;&lt;John&gt;&#x27;</span>' in html
    assert "red: towards &#x27;&lt;John&gt;&#x27;" in html


def test_write_report(tmp_path: Path) -> None:
    path = write_report(example(), tmp_path / "report.html")
    assert path.is_absolute() and path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(InputError, match="Cannot write to"):
        write_report(example(), tmp_path / "none" / "report.html")


def test_page_escapes_titles() -> None:
    html = page_html("<t>", Html(), [Section("<s>", Html("<p>kept</p>"))])
    assert "<title>&lt;t&gt;</title>" in html and "<h2>&lt;s&gt;</h2>" in html and "<p>kept</p>" in html


def test_json_is_complete_and_plain() -> None:
    data = json.loads(json.dumps(example().to_json_dict(), allow_nan=False))
    assert data["schema"] == "lrp_lens.explanation/4"
    assert data["target"] == {"text": "<John>", "id": 1, "logit": 5.0, "probability": 0.75, "rank": 1}
    assert data["views"]["tokens"]["values"] == [7.0, 1.5, -0.5, 0.25, None]
    assert data["views"]["tokens"]["special"] == [True, False, False, False, False]
    assert data["views"]["heads"]["shape"] == [2, 2]
    assert data["ledger"][0] == {
        "layer": None,
        "name": "tokens",
        "kind": "tokens",
        "amount": 2.0,
        "share": 0.8,
    }
    assert next(iter(data)) == "schema"
    assert data["masking"]["overtaken"] == [1] and data["masking"]["steps"][1]["positions"] == [1]
    assert data["masking"]["steps"][1]["random"] == [2.0, 2.5, 1.5, 2.2, 1.9]
    assert data["correct"] is False and "wrong" not in data


def test_repr_is_the_short_answer() -> None:
    text = repr(example())
    assert "= +2.500" in text and "target (wrong): '<John>' (logit 5.00, p = 0.750, rank 1)" in text
    assert "Supported. Masking the blamed token" in text


def test_a_notebook_shows_the_essentials() -> None:
    """One compact box without a script, so that it also shows where scripts are stripped."""
    shown = example()._repr_html_()
    page = Tags(shown)
    assert not {"script", "img", "iframe"} & {tag for tag, _ in page.tags} and EVIL not in shown
    for part in (
        "Why '<John>' and not 'Mary' ?",
        "p = 0.750, rank 1",
        "ahead by +2.50 logits",
        "'John' (position 1, +1.50)",
        "L0H1 −2.00, L1H0 +1.00",
        "L0 MLP −3.00",
        "tokens +2.00 (80 % of the difference), bias +0.50",
        str(example().masking),
        "IOI <b>",
    ):
        assert part in page.text, part
    assert len(shown) < 12_000
    assert "of the difference" not in example(metric_value=0.0)._repr_html_()


def test_the_glance_fits_a_phone_and_a_desktop() -> None:
    long = example(title="t" * 300, prompt=EVIL * 9)
    with browser() as running:
        for size in (PHONE, DESKTOP):
            with opened(running, f"<body>{long._repr_html_()}</body>", size) as (tab, errors):
                assert errors == [] and sticks_out(tab) == []


def test_saving_by_suffix(tmp_path: Path) -> None:
    one = example()
    (page,) = one.save(tmp_path / "a.html", palette="lrp")
    assert page.read_text(encoding="utf-8") == explanation_html(one, palette="lrp")
    (numbers,) = one.save(str(tmp_path / "b.JSON"))
    assert json.loads(numbers.read_text(encoding="utf-8")) == json.loads(json.dumps(one.to_json_dict()))
    both = one.save(tmp_path / "c")
    assert [path.name for path in both] == ["c.html", "c.json"] and all(path.is_file() for path in both)
    for path, message in (
        ("d.pdf", r"written as \.html, as \.json, .*received '.*d\.pdf'. Try '.*d\.html'"),
        ("none/e.json", "Cannot write to"),
        ("none/e.html", "Cannot write to"),
    ):
        with pytest.raises(InputError, match=message):
            one.save(str(tmp_path / path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.JSON", "c.html", "c.json"]


@pytest.mark.parametrize(
    ("values", "claim"),
    [
        (
            (0, -1, -3, 0, 0),
            "No token of the prompt pushes towards {0}. Against it pushes most: {2} (position 2, −3.00).",
        ),
        (
            (0, 1, -2, 0, 0),
            "Towards {0} push most: {1} (position 1, +1.00). Against it pushes harder: {2} (position 2, −2.00).",
        ),
        ((0, 2, -2, 0, 0), "Towards {0} push most: {1} (position 1, +2.00)."),
    ],
)
def test_the_word_that_pushes_hardest_is_said_whichever_way(values: tuple[float, ...], claim: str) -> None:
    tokens = View(np.array(values, dtype=float), ("position",), {"position": TOKENS})
    assert example(tokens=tokens).claim() == claim.format("'<John>'", *map(repr, TOKENS[1:]))
