"""SmolLM2's report of a long chat, in a browser; skipped where model or browser is not installed."""

from pathlib import Path
from typing import Any

from lrp_lens import explain
from lrp_lens.report import write_report
from tests.browser import DESKTOP, PHONE, browser, opened, sticks_out

STORY = (
    "Whenever the lighthouse keeper's granddaughter unpacked her watercolours, the seagulls misbehaved: number {} "
    "stole an unattended sandwich, and number {} its wrapping. "
)
TOKENS = 300


def chat(tokenizer: Any, tokens: int = TOKENS) -> list[dict[str, str]]:
    """A conversation of at least so many tokens, words of several pieces among them."""
    said, number = "", 0
    while len(tokenizer(said).input_ids) < tokens - 60:
        said, number = said + STORY.format(number, number + 1), number + 2
    return [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": f"{said}Who misbehaved?"},
    ]


def test_the_report_of_a_long_chat_opens_without_errors(smollm2: Any, tmp_path: Path) -> None:
    """At both widths nothing is clipped, words are whole, and the check masks words."""
    messages = chat(smollm2.tokenizer)
    why = explain(smollm2, messages, seeds=5, top_k=2)
    assert TOKENS - 40 < len(why.token_strings) < TOKENS + 60 and why.masking.unit == "word"
    page = write_report(why, tmp_path / "report.html")
    with browser() as running:
        for size in (DESKTOP, PHONE):
            with opened(running, page, size) as (tab, errors):
                tab.wait_for_selector("[data-figure=ledger] .bars")
                assert errors == [] and sticks_out(tab) == []
                words = tab.locator(".lrp-heat").first.inner_text()
                assert "watercolours" in words and "granddaughter" in words
                assert "blamed word" in tab.locator(".verdict").inner_text()
