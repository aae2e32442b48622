"""The report of one explanation: from the question to the check of the claim, in reading order."""

from os import PathLike
from pathlib import Path

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
from lrp_lens.plots.ledger import layer_name
from lrp_lens.plots.palette import negative_hue, positive_hue
from lrp_lens.plots.positions import touched_positions, touched_words
from lrp_lens.report.page import Section, figure_block, page_html, switch_block
from lrp_lens.views import View

_LABEL_PIXELS, _LAYER_PIXELS = 9, 56
"""Widths of the layer map: an upright label, and what the names of the layers take."""
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
    roles = explanation.roles
    title = f'<p class="eyebrow">{escape(explanation.title or explanation.model_name)}</p>'
    words = [_word(target.text, hues[0]), _word(contrast.text, hues[1])]
    first, second = words if explanation.metric_value >= 0 else reversed(words)
    return (
        f"{title}<h1>Why {first} and not {second}?</h1>"
        f'<div class="prompt" dir="auto">{escape(explanation.prompt)}</div>{_said(explanation)}'
        f'<div class="cards">{_card(roles[0], target, hues[0])}{_card(roles[1], contrast, hues[1])}'
        f'<div class="card"><span class="dim">preference</span><b>{explanation.metric_value:+.2f}</b>'
        f"<small>logits, target − contrast</small></div></div>"
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
        f"{_messages(explanation)}"
        f"<details><summary>Largest tokens</summary>{_table(head, rows)}</details>"
    )
    return Section("Which words of the prompt did it", body)


def _messages(explanation: Explanation) -> str:
    """Relevance of each message, of the template and of the completion; nothing for a plain prompt."""
    if explanation.segments is None:
        return ""
    rows = [
        [escape(str(row.segment)), f"{row.value:+.3f}"]
        for row in explanation.segments.to_dataframe().itertuples()
    ]
    table = _table(["message", "relevance"], rows)
    said = escape(explanation.shares())
    return f"<p>{said}</p><details><summary>By message</summary>{table}</details>"


def _said(explanation: Explanation) -> str:
    """The completion, the token in question marked."""
    if explanation.position is None:
        return ""
    said, at = explanation.completion, explanation.position
    before, after = "".join(said[:at]), "".join(said[at + 1 :])
    return (
        f'<div class="prompt" dir="auto"><small class="dim">completion, token {at}</small><br>{escape(before)}'
        f"<mark>{escape(said[at])}</mark>{escape(after)}</div>"
    )


def _check(explanation: Explanation) -> Section:
    check, verdict = explanation.masking, explanation.masking.verdict
    figure = plot_masking(
        check.to_dataframe(),
        target=explanation.target.text,
        contrast=explanation.contrast.text,
        random=[step.random for step in check.steps],
        interval=(check.steps[0].gap - verdict.high, check.steps[0].gap - verdict.low),
    )
    rows = [
        [
            str(step.masked),
            "" if step.position is None else f"<code>{escape(repr(step.token))}</code> at {step.position}",
            f"{step.gap:+.2f}",
            step.control_words,
            f"<code>{escape(repr(step.first_choice))}</code>",
        ]
        for step in check.steps
    ]
    head = ["k", "token masked", "gap", "random", "says now"]
    kind = verdict.outcome.name.lower().replace("_", "-")
    body = (
        f'<p class="verdict {kind}"><b>{escape(verdict.outcome.value.capitalize())}.</b> '
        f"{isolated(' '.join(filter(None, (verdict.reading, check.overtakes))))}</p>"
        f'<div class="columns"><div>{figure_block(figure, "masking")}</div>'
        f"<div>{_table(head, rows, numeric=(0, 2, 3))}</div></div>"
        f"<p><small>Gap: logit of the target − logit of the contrast. A masked token's embedding is replaced by the "
        f"{escape(check.baseline)}; its position stays, and the model runs again without any rule. Special tokens and "
        f"the last token, where the answer is read, are never masked. Random: {verdict.draws} random orders of the "
        f"{check.maskable} maskable tokens, mean ± standard deviation of their gaps. The verdict compares means over "
        "the whole curve, not single k: that of the blamed tokens is the dashed orange line, those of nine in ten "
        "random orders lie in the grey band.</small></p>"
    )
    return Section("Is it true? Mask those words and look again", body)


def _layers(explanation: Explanation, palette: Palette) -> Section:
    view = explanation.layers
    shown, tokens = touched_positions(view), view.shape[1]
    figure = _layer_map(view, palette, len(shown), "layers")
    if len(shown) < tokens:
        figure = switch_block(
            f"only the tokens that carry most of it: {touched_words(view, shown)}",
            figure,
            _layer_map(view, palette, tokens, "layers-of-all-tokens"),
        )
    said = f"Relevance of the residual stream at every layer and position: {_colours(explanation, palette)}."
    return Section("Where it travels: layer × position", f"<p>{said}</p>{figure}")


def _layer_map(view: View, palette: Palette, columns: int, name: str) -> str:
    """The map of so many positions, wide enough for a label each."""
    width = min(_LABEL_PIXELS * columns + _LAYER_PIXELS, _WIDEST)
    figure = plot_layers(view, touched_only=columns < view.shape[1], width=2 * width, palette=palette)
    return figure_block(figure, name, min_width=width)


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
            escape(layer_name(row.layer)),
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


def _about(explanation: Explanation) -> Section:
    facts = {
        "model": explanation.model_name,
        "rules": explanation.rules,
        "metric": explanation.metric,
        "prompt": f"{len(explanation.token_strings)} tokens",
        "first choices": ", ".join(f"{one.text!r} {one.probability:.3f}" for one in explanation.candidates),
        "seconds": f"{sum(explanation.seconds.values()):.2f}: "
        + ", ".join(f"{name} {value:.2f}" for name, value in explanation.seconds.items()),
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
