"""A verification read back from JSON, its page, and what a notebook shows of it."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.errors import InputError
from lrp_lens.failures.verification import Check, Reading, Repair, Step, Verification
from lrp_lens.failures.verification.verify import verify
from lrp_lens.report import verification_html
from lrp_lens.report.verification import evidence
from tests.browser import DESKTOP, PHONE, browser, opened, sticks_out

EVIL = "</script><img src=x onerror=window.broken=1>\u202e\x1b\ud800'\"&"


@pytest.fixture(scope="module")
def found() -> Verification:
    return verify(load_demo_model(device="cpu"), demo_cases("ioi_second_pair_last")[0], draws=8)


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with browser() as one:
        yield one


def hostile(found: Verification) -> Verification:
    """The same, with markup and characters without a picture wherever text comes from a prompt or a model."""
    reading = Reading(-1.0, EVIL, True, EVIL, 1.0)
    step = Step(1, (EVIL,), (3,), reading)
    return replace(
        found,
        prompt=EVIL,
        target=replace(found.target, text=EVIL),
        contrast=replace(found.contrast, text=EVIL + "b"),
        hide=replace(found.hide, steps=(found.hide.steps[0], step), control_size=1),
        repairs=(Repair("hide", EVIL, EVIL, 1, reading),),
        notes=(EVIL,),
    )


def test_json_gives_the_same_verification_back(found: Verification) -> None:
    for one in (found, replace(found, silence=None, variants=(), repairs=()), hostile(found)):
        again = Verification.from_dict(json.loads(json.dumps(one.to_dict(), allow_nan=False)))
        assert again == one and again.verdict == one.verdict and again.repair == one.repair
    unknown = replace(found, variants=(replace(found.variants[0], overlap=float("nan")),))
    again = Verification.from_dict(unknown.to_dict())
    assert again.to_dict() == unknown.to_dict() and again.variants[0].overlap != again.variants[0].overlap


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": "lrp_lens.explanation/2"}, "received 'lrp_lens.explanation/2'"),
        ({"target": {"text": "a"}}, "TypeError"),
        ({"criterion": {"events": "flip"}}, "TypeError"),
        ({"checks": [{"kind": "hide"}]}, "KeyError: 'steps'"),
        ({"checks": None}, "TypeError"),
        ({"variants": [{"overlap": 1.0}]}, "KeyError"),
    ],
)
def test_what_is_no_verification_is_refused(found: Verification, change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        Verification.from_dict({**found.to_dict(), **change})


def test_a_list_is_no_verification_and_red_no_palette(
    unchecked: None, found: Verification, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="palette"):
        found.save(tmp_path / "e.html", palette="red")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="received 'list'"):
        Verification.from_dict([])  # type: ignore[arg-type]


def test_the_page_says_what_was_found(found: Verification) -> None:
    page = re.sub(r"<[^>]+>", "", evidence(found)).replace("&#x27;", "'")
    assert found.summary() in page and all(one.words("flip") in page for one in found.checks)
    assert page.count("does not pass") == sum(not found.criterion.passes(one) for one in found.checks)
    assert all(one.rules in page and one.replacement in page for one in found.variants)
    assert "another verdict" in page and found.stable is False
    assert "suggested" in page and str(found.repair) in page
    shorter = evidence(replace(found, variants=(), repairs=(), silence=None, notes=("a note",)))
    assert "Stability" not in shorter and "Repairs" not in shorter and "a note" in shorter
    assert evidence(replace(found, variants=found.variants[:1])).count("the same verdict") == 1


def test_dots_and_ticks_stand_where_the_gaps_are(found: Verification) -> None:
    """Each place is a linear function of its gap, the same one for dots, ticks and the line at 0."""
    page = str(evidence(found)).partition('class="check"')[2].partition('class="ends')[0]
    check, place = found.hide, r'style="left:([\d.]+)%"'
    steps = [float(one) for one in re.findall(rf'class="step[^"]*" {place}', page)]
    draws = [float(one) for one in re.findall(rf'class="draw" {place}', page)]
    (zero,) = [float(one) for one in re.findall(rf'class="zero" {place}', page)]
    gaps = [one.reading.gap for one in check.steps]
    assert len(steps) == len(gaps) == 6 and len(draws) == len(check.control) == 8
    slope = (steps[1] - steps[0]) / (gaps[1] - gaps[0])
    assert slope > 0 and zero == pytest.approx(steps[0] - slope * gaps[0], abs=0.05)
    assert steps == pytest.approx([zero + slope * gap for gap in gaps], abs=0.05)
    assert draws == pytest.approx(
        [zero + slope * one.gap for one in sorted(check.control, key=lambda r: r.gap)], abs=0.05
    )
    assert all(0 <= one <= 100 for one in (*steps, *draws, zero))


def test_a_check_without_units_or_draws_is_shown(found: Verification) -> None:
    nothing = replace(found.hide, steps=found.hide.steps[:1], control=(), control_size=0)
    page = evidence(replace(found, hide=nothing, amplify=replace(found.amplify, control=())))
    assert "relevance blames nothing that could be edited" in page
    assert page.count('class="axis"') == len(found.checks) - 1


def test_pages_in_a_browser(running: Any, found: Verification) -> None:
    for one in (found, hostile(found)):
        for size in (DESKTOP, PHONE):
            with opened(running, verification_html(one), size) as (tab, errors):
                tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
                assert errors == [] and sticks_out(tab) == []
                assert tab.evaluate("window.broken === undefined")
                assert tab.locator(".axis").count() == len(one.checks)
                assert tab.evaluate("typeof Plotly") == "undefined"  # a page without figures is light
    assert "onerror" in verification_html(hostile(found))  # shown as text


def test_saving(found: Verification, tmp_path: Path) -> None:
    assert found.save(tmp_path / "a.htm") == (tmp_path / "a.htm",)
    page, numbers = found.save(tmp_path / "b")
    assert Verification.from_dict(json.loads(numbers.read_text())) == found == Verification.load(numbers)
    for other, words in ((page, "is read as JSON, and is none"), (tmp_path / "none", "Cannot read .*none")):
        with pytest.raises(InputError, match=words):
            Verification.load(other)
    assert page.read_text() == str(verification_html(found))
    for path, words in (("c.pdf", "A verification is written as .html"), ("none/d.json", "Cannot write to")):
        with pytest.raises(InputError, match=words):
            found.save(tmp_path / path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.htm", "b.html", "b.json"]


def test_a_notebook_shows_the_essentials(found: Verification) -> None:
    said = re.sub(r"<[^>]+>", "", found._repr_html_()).replace("&#x27;", "'")
    assert found.summary() in said and said.count("Does not pass: Hiding") == 1 and str(found.repair) in said
    assert "Passes: Silencing" in said and "verification · ATTN_LRP" in said
    shown = hostile(found)._repr_html_()
    assert "<img" not in shown and "\u202e" not in shown and "\\u202e" in shown
    assert "Repair:" not in replace(found, repairs=())._repr_html_()


def test_a_check_of_another_case_is_not_taken(found: Verification) -> None:
    """The page asks the check itself: made to pass nothing, it says so."""
    control = tuple(Reading(-1.0, "x", False) for _ in range(8))
    silence: Check = replace(found.checks[2], control=control)
    assert "does not pass" not in evidence(found).partition("Silencing")[2].partition("Every run")[0]
    changed = evidence(replace(found, silence=silence)).partition("Silencing")[2].partition("Every run")[0]
    assert "does not pass" in changed
