"""The page of one verification, and its evidence: what was done, what the model said then, and what chance does.

1. Each check is one line in words, one axis of logit gaps (the blamed units as numbered dots, random draws as ticks),
   and a table of its runs.
2. What a check says is asked of `Check` and `Criterion`; nothing is judged here.
"""

from statistics import fmean
from typing import TYPE_CHECKING, Any

from lrp_lens.characters import signed
from lrp_lens.failures.verification.check import DEEDS
from lrp_lens.markup import Cell, Html, render, table
from lrp_lens.plots import Palette
from lrp_lens.report.page import Section, page_html
from lrp_lens.report.question import pair, question

if TYPE_CHECKING:
    from lrp_lens.failures.verification import Check, Reading, Repair, Verification


_ROLES = ("the model says", "it should say")


def verification_html(verification: "Verification", *, palette: Palette = "default") -> Html:
    """The whole report as one self-contained HTML page.

    Args:
        verification: what `lrp_lens.verify` returned.
        palette: "default" (blue is the target) or "lrp" (red is).

    Raises:
        InputError: an unknown palette.
    """
    target, contrast = verification.target, verification.contrast
    lead = question(
        target,
        contrast,
        _ROLES,
        verification.hide.steps[0].reading.gap,
        eyebrow=("verification", verification.rules),
        prompt=verification.prompt,
        said=None,
        palette=palette,
    )
    sections = [
        Section("Verification: where the failure comes from", evidence(verification, palette=palette)),
        Section("About this report", _about(verification)),
    ]
    return page_html(f"lrp-lens: verified, {target.text!r} against {contrast.text!r}", lead, sections)


def evidence(verification: "Verification", *, palette: Palette = "default") -> Html:
    """Verdict, checks beside their controls, stability and repairs, as a fragment.

    Args:
        verification: what `lrp_lens.verify` returned.
        palette: "default" (blue is the target) or "lrp" (red is).
    """
    return render(
        "report/evidence.html",
        verdict=str(verification.verdict),
        summary=verification.summary(),
        criterion=str(verification.criterion),
        pair=pair(verification.target, verification.contrast, palette),
        checks=[_check(verification, one) for one in verification.checks],
        variants=_variants(verification),
        stable=verification.stable,
        repairs=_repairs(verification),
        notes=verification.notes,
    )


def _check(verification: "Verification", check: "Check") -> dict[str, Any]:
    event = verification.criterion.event
    passes = verification.criterion.passes(check)
    return {
        "name": DEEDS[check.kind][0],
        "passes": passes,
        "told": check.words(event),
        "outcome": check.verdict.outcome.value,
        "axis": _axis(check) if check.units else None,
        "control": len(check.control),
        "size": check.control_size,
        "table": _runs(check),
    }


def _axis(check: "Check") -> dict[str, Any]:
    """Places along an axis of gaps, in percent of its width; 0 is always on it."""
    gaps = [step.reading.gap for step in check.steps]
    draws = [one.gap for one in check.control]
    low, high = min([0.0, *gaps, *draws]), max([0.0, *gaps, *draws])
    room = 0.06 * ((high - low) or 1.0)
    low, high = low - room, high + room

    def place(gap: float) -> str:
        return f"{100 * (gap - low) / (high - low):.2f}"

    return {
        "zero": place(0.0),
        "draws": [{"at": place(gap), "gap": signed(gap)} for gap in sorted(draws)],
        "steps": [
            {"at": place(gap), "gap": signed(gap), "size": step.size}
            for step, gap in zip(check.steps, gaps, strict=True)
        ],
    }


def _runs(check: "Check") -> Html:
    """Every size, then the random draws together."""
    answers = any(one.answer is not None for one in (*(step.reading for step in check.steps), *check.control))
    head: list[str | Cell] = [Cell("size", kind="n"), "new", Cell("gap", kind="n"), "first choice"]
    rows: list[list[str | Cell]] = [
        [
            Cell(str(step.size), kind="n"),
            ", ".join(step.units) or "nothing edited",
            Cell(signed(step.reading.gap), kind="n"),
            Cell(repr(step.reading.first_choice), code=True),
            *_answer(step.reading, answers),
        ]
        for step in check.steps
    ]
    if check.control:
        gaps = [one.gap for one in check.control]
        spread = f"{signed(min(gaps))} to {signed(max(gaps))}"
        flips, wins = (sum(getattr(one, name) for one in check.control) for name in ("flip", "win"))
        told = f"contrast ahead in {flips}, first choice in {wins}"
        taken = sum(one.happens("accepted") for one in check.control)
        rows.append(
            [
                Cell(str(check.control_size), kind="n"),
                f"{len(check.control)} random draws of {check.population}, {spread}",
                Cell(f"mean {signed(fmean(gaps))}", kind="n"),
                told,
                *([f"accepted in {taken}"] if answers else []),
            ]
        )
    return table([*head, *(["answer"] if answers else [])], rows)


def _answer(reading: "Reading", asked: bool) -> list[str | Cell]:
    if not asked:
        return []
    if reading.answer is None:
        return [""]
    return [Cell(repr(reading.answer), code=True, after=" accepted" if reading.happens("accepted") else "")]


def _variants(verification: "Verification") -> Html | None:
    if not verification.variants:
        return None
    rows: list[list[str | Cell]] = [
        [
            one.rules,
            one.replacement,
            one.verdict.value,
            one.pattern.value,
            Cell("" if one.overlap != one.overlap else f"{one.overlap:.0%}", kind="n"),
        ]
        for one in verification.variants
    ]
    head: list[str | Cell] = [
        "rules",
        "hidden tokens become",
        "verdict",
        "pattern",
        Cell("same tokens blamed", kind="n"),
    ]
    return table(head, rows)


def _repairs(verification: "Verification") -> list[dict[str, Any]]:
    """Every change that was run, the suggested one first."""
    best = verification.repair
    ordered: list[Repair] = [one for one in verification.repairs if one is best]
    ordered += [one for one in verification.repairs if one is not best]
    return [
        {"told": str(one), "prompt": one.prompt, "right": one.reading.right, "best": one is best}
        for one in ordered
    ]


def _about(verification: "Verification") -> Html:
    seconds = verification.seconds
    facts = {
        "rules": verification.rules,
        "a check passes by": str(verification.criterion),
        "hidden tokens become": verification.replacement,
        "values of amplified tokens": f"multiplied by {verification.factor:g}",
        "prompt": f"{len(verification.token_strings)} tokens",
        "seconds": f"{sum(seconds.values()):.2f}: {', '.join(f'{name} {one:.2f}' for name, one in seconds.items())}",
    }
    return render("report/about.html", facts=list(facts.items()), notes=())
