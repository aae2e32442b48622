"""The report of a triage: what became of every row, what went wrong in the failures, and each case to unfold.

1. Numbers over all rows: coverage, verdicts, patterns, segments, gaps (`triage_numbers`).
2. A table of the cases, to be sorted and filtered by a small script; it is read without one, too.
3. The fold-outs (`triage_case`) are packed into the page as inert JSON and drawn when a row is unfolded, so that 500
   cases open as fast as 5.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from os import fspath
from pathlib import Path
from typing import Any

from lrp_lens.characters import signed
from lrp_lens.failures.triage.load import load_triage
from lrp_lens.failures.triage.row import FATES, TriageRow
from lrp_lens.files import AnyPath, require_writable, write_text
from lrp_lens.markup import Html, asset, render, script_data
from lrp_lens.plots import Palette
from lrp_lens.plots.graph_page import graph_script, graph_style
from lrp_lens.report.page import Section, page_html
from lrp_lens.report.triage_case import case_html, packed
from lrp_lens.report.triage_numbers import PATTERNS, VERDICTS, Numbers

MOST = 2000
"""Rows of the table; what is explained comes first."""
_SNIPPET, _SEARCHED = 110, 4000


def write_triage_report(
    folder: AnyPath, path: AnyPath, *, palette: Palette = "default", most: int = MOST
) -> Path:
    """Write the report of a folder that triage wrote, and return the file's absolute path.

    Args:
        folder: with the rows.
        path: e.g. "report.html".
        palette: "default" (blue pushes towards the target) or "lrp" (red does).
        most: rows of the table.

    Raises:
        InputError: no folder with rows, a file that cannot be written, or an unknown palette.
    """
    require_writable(path)
    rows = load_triage(folder).rows()
    return write_text(path, triage_html(rows, title=fspath(folder), palette=palette, most=most))


def triage_html(
    rows: Iterable[TriageRow], *, title: str = "", palette: Palette = "default", most: int = MOST
) -> Html:
    """The whole report as one self-contained HTML page.

    Args:
        rows: of any fate; they are gone through once and not kept.
        title: what was triaged, in plain text.
        palette: "default" (blue pushes towards the target) or "lrp" (red does).
        most: rows of the table; the page says how many it leaves out.

    Example:
        >>> from lrp_lens.failures.triage.row import TriageRow
        >>> row = TriageRow(id="sum", number=0, fate="excluded", reason="the logit gap is 0.20, not above 1", gap=0.2)
        >>> triage_html([row], title="a log")[:15]
        '<!DOCTYPE html>'
    """
    numbers, lines, names = Numbers(), list[_Line](), set[str]()
    for row in rows:
        numbers.add(row)
        names.add(row.rules)
        if row.fate == "explained" or len(lines) < most:
            lines.append(_line(row, palette))
    lines.sort(key=lambda one: (one.row["fate"] != "explained", one.number))
    left_out = sum(numbers.fates.values()) - len(lines[:most])
    eyebrow = " · ".join(("triage", *sorted(filter(None, names))))
    lead = render("report/triage_lead.html", eyebrow=eyebrow, title=title or "Triage", cards=numbers.cards())
    outcomes = render("report/outcomes.html", verdicts=numbers.outcomes(), patterns=numbers.patterns())
    told = {
        "What became of each row": numbers.coverage(),
        "Where failures can be seen": outcomes if numbers.verdicts else None,
        "Which segments relevance falls on": numbers.segments(),
        "How far the wrong token was ahead": numbers.gaps(),
        "The cases": _table(lines[:most], left_out),
    }
    sections = [Section(words, body) for words, body in told.items() if body is not None]
    return page_html(
        f"lrp-lens triage: {title}",
        lead,
        sections,
        styles=[asset("report/triage.css"), graph_style(palette)],
        scripts=[graph_script("drawGraphs"), asset("report/triage.js")],
    )


@dataclass(frozen=True)
class _Line:
    """A row of the table."""

    number: int
    row: dict[str, Any]
    """What its cells say."""
    keys: list[Any]
    """What it is sorted and filtered by, in the order of `KEYS`."""
    folded: str
    """Its fold-out, packed."""


KEYS = ("number", "id", "suite", "fate", "verdict", "pattern", "gap", "confidence", "text")
"""What the script knows of each row; "text" is what it searches."""


def _line(row: TriageRow, palette: Palette) -> _Line:
    gap = row.metric_value if row.metric_value is not None else row.gap
    case = json.loads(row.case) if row.case else {}
    prompt = case.get("prompt", "")
    text = prompt if isinstance(prompt, str) else " ".join(one.get("content", "") for one in prompt)
    shown = {
        "id": row.id,
        "snippet": ("…" if len(text) > _SNIPPET else "") + " ".join(text[-_SNIPPET:].split()),
        "target": repr(row.target) if row.target else "",
        "contrast": repr(row.contrast) if row.contrast else "",
        "suite": row.suite,
        "fate": row.fate,
        "verdict": row.verdict,
        "pattern": row.pattern,
        "reason": row.reason,
        "gap": "" if gap is None else signed(gap),
        "confidence": "" if row.confidence is None or row.verdict == "none" else f"{row.confidence:.2f}",
        "marks": [
            *(["unstable"] if row.stable is False else []),
            *(["repaired"] if row.repair else []),
            *(["contrast not checked"] if row.checked is False else []),
        ],
    }
    words = " ".join(
        (row.id, text[-_SEARCHED:], row.target, row.contrast, row.reason, row.repair, *shown["marks"])
    )
    keys = [
        row.number,
        row.id,
        row.suite,
        row.fate,
        row.verdict,
        row.pattern,
        gap,
        row.confidence,
        words.lower(),
    ]
    return _Line(row.number, shown, keys, packed(case_html(row, palette=palette)))


def _table(lines: list[_Line], left_out: int) -> Html:
    suites = sorted({one.row["suite"] for one in lines if one.row["suite"]})
    choices = {
        "verdict": [one for one in VERDICTS if any(line.row["verdict"] == one for line in lines)],
        "pattern": [one for one in PATTERNS if any(line.row["pattern"] == one for line in lines)],
        "suite": suites,
        "fate": [one for one in FATES if any(line.row["fate"] == one for line in lines)],
    }
    return render(
        "report/triage_table.html",
        choices=[(name, some) for name, some in choices.items() if some],
        lines=[one.row for one in lines],
        has_suites=bool(suites),
        left_out=left_out,
        keys=script_data({"names": list(KEYS), "rows": [one.keys for one in lines]}),
        folded=[script_data([one.folded]) for one in lines],
    )
