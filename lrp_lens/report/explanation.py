"""The report of one explanation: from the question to the check of the claim, in reading order."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from lrp_lens.characters import signed
from lrp_lens.files import require_writable, write_text
from lrp_lens.markup import Cell, Html, render, table
from lrp_lens.plots import (
    Palette,
    plot_components,
    plot_heads,
    plot_layers,
    plot_ledger,
    plot_masking,
    token_heatmap_html,
)
from lrp_lens.plots.ledger import layer_name
from lrp_lens.plots.positions import touched_positions, touched_words
from lrp_lens.plots.wording import worded
from lrp_lens.report.page import Section, figure_block, page_html, switch_block
from lrp_lens.report.question import pair, question
from lrp_lens.views import View

if TYPE_CHECKING:
    from lrp_lens.failures.explanation import Explanation


_LABEL_PIXELS, _LAYER_PIXELS = 9, 56
"""Widths of the layer map: an upright label, and what the names of the layers take."""
_WIDEST = 8000


def write_report(
    explanation: "Explanation", path: str | PathLike[str], *, palette: Palette = "default"
) -> Path:
    """Write the report and return its absolute path.

    Raises:
        InputError: the file cannot be written, or the palette is unknown.
    """
    require_writable(path)
    return write_text(path, explanation_html(explanation, palette=palette))


def explanation_html(explanation: "Explanation", *, palette: Palette = "default") -> Html:
    """The whole report as one self-contained HTML page.

    Args:
        explanation: what `lrp_lens.explain` returned.
        palette: "default" (blue pushes towards the target) or "lrp" (red does).
    """
    sections = [
        _tokens(explanation, palette),
        _check(explanation),
        _layers(explanation, palette),
        _components(explanation, palette),
        _ledger(explanation, palette),
        _about(explanation),
    ]
    return page_html(
        f"lrp-lens: {explanation.target.text!r} against {explanation.contrast.text!r}",
        _lead(explanation, palette),
        sections,
    )


def _lead(explanation: "Explanation", palette: Palette) -> Html:
    return question(
        explanation.target,
        explanation.contrast,
        explanation.roles,
        explanation.metric_value,
        eyebrow=(explanation.title, explanation.model_name, explanation.rules),
        prompt=explanation.prompt,
        said=_said(explanation),
        palette=palette,
    )


def _tokens(explanation: "Explanation", palette: Palette) -> Section:
    rows = [
        [
            Cell(str(row.positions)),
            Cell(repr(row.text), code=True),
            Cell(signed(row.value, "+.3f"), kind="n"),
        ]
        for row in explanation.top_words(6).itertuples()
    ]
    unit = worded(explanation.tokens).unit
    body = render(
        "report/tokens.html",
        claim=explanation.claim(),
        unit=unit,
        heat_map=token_heatmap_html(explanation.tokens, palette=palette, style=False),
        shares=explanation.shares() if explanation.segments is not None else "",
        messages=_messages(explanation),
        table=table(["position", unit, Cell("relevance", kind="n")], rows),
    )
    return Section("Which words of the prompt did it", body)


def _messages(explanation: "Explanation") -> Html | None:
    """Relevance of each message, of the template and of the completion; None for a plain prompt."""
    if explanation.segments is None:
        return None
    rows = [
        [Cell(str(row.segment)), Cell(signed(row.value, "+.3f"), kind="n")]
        for row in explanation.segments.to_dataframe().itertuples()
    ]
    return table(["message", Cell("relevance", kind="n")], rows)


def _said(explanation: "Explanation") -> dict[str, Any] | None:
    """The completion, the token in question apart; None without one."""
    if explanation.position is None:
        return None
    said, at = explanation.completion, explanation.position
    return {"at": at, "before": "".join(said[:at]), "token": said[at], "after": "".join(said[at + 1 :])}


def _check(explanation: "Explanation") -> Section:
    check, verdict = explanation.masking, explanation.masking.verdict
    figure = plot_masking(
        check.to_dataframe(),
        target=explanation.target.text,
        contrast=explanation.contrast.text,
        random=[step.random for step in check.steps],
        unit=check.unit,
        interval=(check.steps[0].gap - verdict.high, check.steps[0].gap - verdict.low),
    )
    head: list[str | Cell] = [
        Cell("k", kind="n"), "word masked", Cell("gap", kind="n"), Cell("random", kind="n"), "says now"
    ]  # fmt: skip
    rows = [
        [
            Cell(str(step.masked), kind="n"),
            Cell(repr(step.text), code=True, after=f" at {step.where}") if step.positions else "",
            Cell(signed(step.gap), kind="n"),
            Cell(step.control_words, kind="n"),
            Cell(repr(step.first_choice), code=True),
        ]
        for step in check.steps
    ]
    body = render(
        "report/check.html",
        kind=verdict.outcome.name.lower().replace("_", "-"),
        outcome=verdict.outcome.value.capitalize(),
        reading=" ".join(filter(None, (verdict.reading, check.overtakes))),
        figure=figure_block(figure, "masking"),
        table=table(head, rows),
        baseline=check.baseline,
        draws=verdict.draws,
        unit=check.unit,
        maskable=check.maskable,
    )
    return Section("Is it true? Mask those words and look again", body)


def _layers(explanation: "Explanation", palette: Palette) -> Section:
    columns = worded(explanation.layers)
    shown, count = touched_positions(columns.view), columns.view.shape[1]
    figure = _layer_map(explanation.layers, palette, len(shown), len(shown) < count, "layers")
    if len(shown) < count:
        figure = switch_block(
            f"only the {columns.unit}s that carry most of it: {touched_words(columns.view, shown)}",
            figure,
            _layer_map(explanation.layers, palette, count, False, "layers-of-all-tokens"),
        )
    body = render(
        "report/layers.html", pair=pair(explanation.target, explanation.contrast, palette), figure=figure
    )
    return Section("Where it travels: layer × position", body)


def _layer_map(view: View, palette: Palette, columns: int, touched: bool, name: str) -> Html:
    """The map of so many columns, wide enough for a label each."""
    width = min(_LABEL_PIXELS * columns + _LAYER_PIXELS, _WIDEST)
    figure = plot_layers(view, touched_only=touched, width=2 * width, palette=palette)
    return figure_block(figure, name, min_width=width)


def _components(explanation: "Explanation", palette: Palette) -> Section:
    heads = [f"{row.label} ({signed(row.value)})" for row in explanation.top_heads(3).itertuples()]
    mlps = [f"{row.component} ({signed(row.value)})" for row in explanation.top_mlps(3).itertuples()]
    body = render(
        "report/components.html",
        heads=", ".join(heads),
        mlps=", ".join(mlps),
        pair=pair(explanation.target, explanation.contrast, palette),
        head_figure=figure_block(plot_heads(explanation.heads, palette=palette), "heads"),
        component_figure=figure_block(plot_components(explanation.components, palette=palette), "components"),
    )
    return Section("Which heads and MLPs", body)


def _ledger(explanation: "Explanation", palette: Palette) -> Section:
    rows = [
        [
            *map(Cell, (layer_name(row.layer), str(row.name), str(row.kind))),
            Cell(signed(row.amount, "+.4f"), kind="n"),
        ]
        for row in explanation.ledger[["layer", "name", "kind", "amount"]].itertuples(index=False, name="Row")
    ]
    figure: go.Figure = plot_ledger(explanation.ledger, palette=palette)
    body = render(
        "report/ledger.html",
        metric=explanation.metric,
        remainder=signed(explanation.remainder, "+.1e"),
        figure=figure_block(figure, "ledger"),
        count=len(rows),
        table=table(["layer", "name", "kind", Cell("logits", kind="n")], rows),
    )
    return Section("The ledger: where every logit went", body)


def _about(explanation: "Explanation") -> Section:
    seconds = explanation.seconds
    steps = ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    facts = {
        "model": explanation.model_name,
        "rules": explanation.rules,
        "metric": explanation.metric,
        "prompt": f"{len(explanation.token_strings)} tokens",
        "first choices": ", ".join(f"{one.text!r} {one.probability:.3f}" for one in explanation.candidates),
        "seconds": f"{sum(seconds.values()):.2f}: {steps}",
    }
    told = [(name, text) for name, text in facts.items() if text]
    return Section("About this report", render("report/about.html", facts=told, notes=explanation.notes))
