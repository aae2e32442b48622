"""The report of one explanation: from the question to the check of the claim, in reading order."""

from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from lrp_lens.characters import escape, isolated
from lrp_lens.failures.explanation import Choice, Explanation
from lrp_lens.files import require_writable, write_text
from lrp_lens.plots import (
    Palette,
    plot_components,
    plot_heads,
    plot_layers,
    plot_ledger,
    plot_masking,
    token_heatmap_html,
)
from lrp_lens.plots.palette import negative_hue, positive_hue
from lrp_lens.report.page import Section, figure_block, page_html

_TOKEN_PIXELS = 20
_WIDEST = 8000


def write_report(
    explanation: Explanation, path: str | PathLike[str], *, palette: Palette = "default"
) -> Path:
    """Write the report and return its absolute path.

    Raises:
        InputError: the file cannot be written, or the palette is unknown.
    """
    require_writable(path)
    return write_text(path, explanation_html(explanation, palette=palette))


def explanation_html(explanation: Explanation, *, palette: Palette = "default") -> str:
    """The whole report as one self-contained HTML page.

    Args:
        explanation: what `lrp_lens.explain` returned.
        palette: "default" (blue pushes towards the wrong token) or "lrp" (red does).
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
        f"lrp-lens: {explanation.target.text!r} instead of {explanation.contrast.text!r}",
        _lead(explanation, palette),
        sections,
    )


def _word(text: str, hue: str) -> str:
    return f'<span class="{hue}-word">{escape(repr(text))}</span>'


def _colours(explanation: Explanation, palette: Palette) -> str:
    """The legend sentence."""
    positive, negative = positive_hue(palette), negative_hue(palette)
    first, second = _word(explanation.target.text, positive), _word(explanation.contrast.text, negative)
    return (
        f'<span class="{positive}-word">{positive}</span> pushes towards {first}, '
        f'<span class="{negative}-word">{negative}</span> towards {second}'
    )


def _lead(explanation: Explanation, palette: Palette) -> str:
    hues = positive_hue(palette), negative_hue(palette)
    target, contrast = explanation.target, explanation.contrast
    wrong, right = explanation.roles
    title = f'<p class="eyebrow">{escape(explanation.title or explanation.model_name)}</p>'
    return (
        f"{title}<h1>Why {_word(target.text, hues[0])} and not {_word(contrast.text, hues[1])}?</h1>"
        f'<div class="prompt" dir="auto">{escape(explanation.prompt)}</div>'
        f'<div class="cards">{_card(f"It says ({wrong})", target, hues[0])}'
        f"{_card(f'instead of ({right})', contrast, hues[1])}"
        f'<div class="card"><span class="dim">Preference</span><b>{explanation.metric_value:+.2f}</b>'
        f"<small>logits, {wrong} − {right}</small></div></div>"
    )


def _card(title: str, choice: Choice, hue: str) -> str:
    return (
        f'<div class="card {hue}"><span class="dim">{title}</span><b>{escape(repr(choice.text))}</b>'
        f"<small>logit {choice.logit:.2f} · p = {choice.probability:.3f} · rank {choice.rank}</small></div>"
    )


def _tokens(explanation: Explanation, palette: Palette) -> Section:
    top = explanation.top_tokens(6)
    head = ["position", "token", "relevance"]
    rows = [
        [str(row.position), f"<code>{escape(repr(row.token))}</code>", f"{row.value:+.3f}"]
        for row in top.itertuples()
    ]
    body = (
        f"<p>{isolated(explanation.claim())} "
        "<span class='dim'>Tap or hover over a token for its numbers.</span></p>"
        f"{token_heatmap_html(explanation.tokens, palette=palette, style=False)}"
        f"<details><summary>Largest tokens</summary>{_table(head, rows)}</details>"
    )
    return Section("Which words of the prompt did it", body)


def _check(explanation: Explanation) -> Section:
    check = explanation.masking
    frame = pd.DataFrame([asdict(step) for step in check.steps])
    figure = plot_masking(frame, target=explanation.target.text, contrast=explanation.contrast.text)
    rows = [
        [
            str(step.masked),
            "" if step.position is None else f"<code>{escape(repr(step.token))}</code> at {step.position}",
            f"{step.gap:+.2f}",
            f"{step.control:+.2f} ± {step.control_spread:.2f}",
            f"<code>{escape(repr(step.first_choice))}</code>",
        ]
        for step in check.steps
    ]
    head = ["k", "token masked", "gap", "random", "says now"]
    body = (
        f'<p class="verdict{" good" if check.confirmed else ""}">{isolated(str(check))}</p>'
        f'<div class="columns"><div>{figure_block(figure, "masking")}</div>'
        f"<div>{_table(head, rows, numeric=(0, 2, 3))}</div></div>"
        f"<p><small>A masked token's embedding is replaced by the {escape(check.baseline)}; its position "
        f"stays, and the model runs again without any rule. Random: {check.seeds} draws of non-special "
        "tokens, mean ± standard deviation.</small></p>"
    )
    return Section("Is it true? Mask those words and look again", body)


def _layers(explanation: Explanation, palette: Palette) -> Section:
    width = min(_TOKEN_PIXELS * explanation.layers.shape[1] + 130, _WIDEST)
    figure = figure_block(plot_layers(explanation.layers, palette=palette), "layers", min_width=width)
    said = f"Relevance of the residual stream at every layer and position: {_colours(explanation, palette)}."
    said += '<span class="narrow dim"> Swipe sideways for all positions.</span>'
    return Section("Where it travels: layer × position", f"<p>{said}</p>{figure}")


def _components(explanation: Explanation, palette: Palette) -> Section:
    heads = _wrap("Attention heads", figure_block(plot_heads(explanation.heads, palette=palette), "heads"))
    bars = _wrap(
        "Largest components",
        figure_block(plot_components(explanation.components, palette=palette), "components"),
    )
    best = ", ".join(f"{row.label} ({row.value:+.2f})" for row in explanation.top_heads(3).itertuples())
    mlps = ", ".join(f"{row.component} ({row.value:+.2f})" for row in explanation.top_mlps(3).itertuples())
    said = f"Heads: {escape(best)}. MLPs: {escape(mlps)}. Colours: {_colours(explanation, palette)}."
    return Section("Which heads and MLPs", f'<p>{said}</p><div class="columns">{heads}{bars}</div>')


def _wrap(title: str, body: str) -> str:
    return f"<div><b>{title}</b>{body}</div>"


def _ledger(explanation: Explanation, palette: Palette) -> Section:
    rows = [
        [
            _layer(row.layer),
            escape(str(row.name)),
            escape(str(row.kind)),
            f"{row.amount:+.4f}",
        ]
        for row in explanation.ledger[["layer", "name", "kind", "amount"]].itertuples(index=False, name="Row")
    ]
    figure: go.Figure = plot_ledger(explanation.ledger, palette=palette)
    body = (
        f"<p>The metric, {isolated(explanation.metric)}, is the sum of these parts; what they leave "
        f"unexplained is {explanation.remainder:+.1e} logits.</p>{figure_block(figure, 'ledger')}"
        f"<details><summary>All {len(rows)} entries</summary>"
        f"{_table(['layer', 'name', 'kind', 'logits'], rows, numeric=(3,))}</details>"
    )
    return Section("The ledger: where every logit went", body)


def _layer(layer: Any) -> str:
    """A ledger row's layer: L3, or nothing outside the blocks."""
    if isinstance(layer, str):
        return escape(layer)
    return "" if pd.isna(layer) else f"L{int(layer)}"


def _about(explanation: Explanation) -> Section:
    facts = {
        "model": explanation.model_name,
        "rules": explanation.rules,
        "metric": explanation.metric,
        "prompt": f"{len(explanation.token_strings)} tokens",
        "first choices": ", ".join(f"{one.text!r} {one.probability:.3f}" for one in explanation.candidates),
        "seconds": ", ".join(f"{name} {value:.2f}" for name, value in explanation.seconds.items()),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{isolated(text)}</dd>" for name, text in facts.items() if text)
    notes = "".join(f"<li>{isolated(note)}</li>" for note in explanation.notes)
    return Section(
        "About this report", f"<dl>{rows}</dl>" + (f"<ul class='dim'>{notes}</ul>" if notes else "")
    )


def _table(head: list[str], rows: list[list[str]], numeric: tuple[int, ...] | None = None) -> str:
    """Rows of escaped HTML; numeric columns (by default the last) are right-aligned."""
    right = (len(head) - 1,) if numeric is None else numeric
    mark = ["" if i not in right else ' class="n"' for i in range(len(head))]
    titles = "".join(f"<th{mark[i]}>{escape(title)}</th>" for i, title in enumerate(head))
    lines = "".join(
        "<tr>" + "".join(f"<td{mark[i]}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{lines}</tbody></table></div>'
