"""A result at a glance, for a notebook, without any script: what an explanation says, or a verification.

1. Everything from the prompt or the model is escaped (`glance.html`); there is nothing to run and nothing to load, so
   that the output also shows on a page that strips scripts.
2. The whole report is a file of its own: `result.save("report.html")`.
"""

from typing import TYPE_CHECKING

import pandas as pd

from lrp_lens.characters import signed
from lrp_lens.markup import Html, render
from lrp_lens.plots.palette import LIGHT, Palette, negative_hue, positive_hue
from lrp_lens.plots.tokens_html import token_heatmap_html

if TYPE_CHECKING:
    from lrp_lens.failures.explanation import Choice, Explanation
    from lrp_lens.failures.verification import Verification


def explanation_glance(explanation: "Explanation", *, palette: Palette = "default") -> Html:
    """The essentials of an explanation as a fragment of HTML.

    Args:
        explanation: what `lrp_lens.explain` returned.
        palette: "default" (blue pushes towards the target) or "lrp" (red does).
    """
    largest = {
        "Heads": _names(explanation.top_heads(4)),
        "MLPs": _names(explanation.top_mlps(3)),
        "Ledger": _ledger(explanation),
    }
    return render(
        "report/glance.html",
        eyebrow=f"{explanation.title or explanation.model_name} · {explanation.rules}",
        target=_choice(explanation.target, LIGHT[positive_hue(palette)]),
        contrast=_choice(explanation.contrast, LIGHT[negative_hue(palette)]),
        gap=signed(explanation.metric_value),
        heat_map=token_heatmap_html(explanation.tokens, palette=palette),
        claim=explanation.claim(),
        largest=[(name, told) for name, told in largest.items() if told],
        asked="Is it true?",
        check=str(explanation.masking),
    )


def verification_glance(verification: "Verification", *, palette: Palette = "default") -> Html:
    """The essentials of a verification as a fragment of HTML.

    Args:
        verification: what `lrp_lens.verify` returned.
        palette: "default" (blue is the target) or "lrp" (red is).
    """
    criterion = verification.criterion
    told = [
        ("Passes:" if criterion.passes(one) else "Does not pass:", one.words(criterion.event))
        for one in verification.checks
    ]
    return render(
        "report/glance.html",
        eyebrow=f"verification · {verification.rules}",
        target=_choice(verification.target, LIGHT[positive_hue(palette)]),
        contrast=_choice(verification.contrast, LIGHT[negative_hue(palette)]),
        gap=signed(verification.hide.steps[0].reading.gap),
        heat_map="",
        claim="",
        largest=[*told, *([("Repair:", str(verification.repair))] if verification.repair else [])],
        asked="Where does it come from?",
        check=verification.summary(),
    )


def _choice(choice: "Choice", colour: tuple[int, int, int]) -> dict[str, str]:
    return {
        "text": repr(choice.text),
        "probability": f"{choice.probability:.3f}",
        "rank": str(choice.rank),
        "colour": ",".join(map(str, colour)),
    }


def _names(largest: pd.DataFrame) -> str:
    """Names from the first column, values from the second."""
    return ", ".join(f"{name} {signed(float(value))}" for name, value in largest.to_numpy())


def _ledger(explanation: "Explanation") -> str:
    """How much of the metric the words hold: far from 100 % their numbers are to be read with care."""
    parts = explanation.ledger.groupby("kind", sort=False)["amount"].sum()
    tokens, metric = float(parts.get("tokens", 0.0)), explanation.metric_value
    share = f" ({100 * tokens / metric:.0f} % of the difference)" if metric else ""
    rest = [(str(kind), float(amount)) for kind, amount in parts.drop("tokens", errors="ignore").items()]
    largest = sorted((one for one in rest if abs(one[1]) >= 0.005), key=lambda one: -abs(one[1]))[:3]
    others = "".join(f", {kind} {signed(amount)}" for kind, amount in largest)
    return f"tokens {signed(tokens)}{share}{others}"
