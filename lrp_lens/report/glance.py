"""An explanation at a glance, for a notebook: question, words, heads, ledger and verdict, without any script.

1. Everything from the prompt or the model is escaped; there is nothing to run and nothing to load, so that the output
   also shows on a page that strips scripts.
2. The whole report is a file of its own: `explanation.save("report.html")`.
"""

import pandas as pd

from lrp_lens.characters import escape
from lrp_lens.failures.explanation import Choice, Explanation
from lrp_lens.plots.html import Html
from lrp_lens.plots.palette import LIGHT, Palette, negative_hue, positive_hue, signed
from lrp_lens.plots.tokens_html import token_heatmap_html

_DIM = "opacity:.7"


def explanation_glance(explanation: Explanation, *, palette: Palette = "default") -> Html:
    """The essentials of an explanation as a fragment of HTML.

    Args:
        explanation: what `lrp_lens.explain` returned.
        palette: "default" (blue pushes towards the target) or "lrp" (red does).
    """
    hues = positive_hue(palette), negative_hue(palette)
    target, contrast = explanation.target, explanation.contrast
    title = explanation.title or explanation.model_name
    lines = [
        f'<div style="{_DIM};font-size:.85em">{escape(title)} · {escape(explanation.rules)}</div>',
        f'<div style="font-size:1.15em;font-weight:600">Why {_word(target, hues[0])} and not '
        f"{_word(contrast, hues[1])}?</div>",
        f"<div>{_numbers(target)}; {_numbers(contrast)}; the first is ahead by "
        f"<b>{signed(explanation.metric_value)}</b> logits.</div>",
        token_heatmap_html(explanation.tokens, palette=palette),
        f"<div>{escape(explanation.claim())}</div>",
        _line("Heads", explanation.top_heads(4)),
        _line("MLPs", explanation.top_mlps(3)),
        _ledger(explanation),
        f'<div style="border-left:4px solid #9aa3ad;padding-left:.7em;margin:.4em 0"><b>Is it true?</b> '
        f"{escape(str(explanation.masking))}</div>",
        f'<div style="{_DIM};font-size:.85em">The whole report: <code>.save("report.html")</code></div>',
    ]
    return Html(f'<div style="max-width:62em;line-height:1.6;overflow-wrap:anywhere">{"".join(lines)}</div>')


def _word(choice: Choice, hue: str) -> str:
    colour = ",".join(map(str, LIGHT["blue" if hue == "blue" else "red"]))
    return f'<span style="border-bottom:3px solid rgb({colour})">{escape(repr(choice.text))}</span>'


def _numbers(choice: Choice) -> str:
    return f"{escape(repr(choice.text))}: p = {choice.probability:.3f}, rank {choice.rank}"


def _line(what: str, largest: pd.DataFrame) -> str:
    """Names from the first column, values from the second."""
    told = ", ".join(f"{escape(str(name))} {signed(float(value))}" for name, value in largest.to_numpy())
    return f"<div><b>{what}</b> {told}</div>" if told else ""


def _ledger(explanation: Explanation) -> str:
    """How much of the metric the words hold: far from 100 % their numbers are to be read with care."""
    parts = explanation.ledger.groupby("kind", sort=False)["amount"].sum()
    tokens, metric = float(parts.get("tokens", 0.0)), explanation.metric_value
    share = f" ({100 * tokens / metric:.0f} % of the difference)" if metric else ""
    rest = [(str(kind), float(amount)) for kind, amount in parts.drop("tokens", errors="ignore").items()]
    largest = sorted((one for one in rest if abs(one[1]) >= 0.005), key=lambda one: -abs(one[1]))[:3]
    others = "".join(f", {escape(kind)} {signed(amount)}" for kind, amount in largest)
    return f"<div><b>Ledger</b> tokens {signed(tokens)}{share}{others}</div>"
