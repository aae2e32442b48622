"""What a page begins with: the question, the prompt, and the two tokens with their numbers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lrp_lens.characters import signed
from lrp_lens.markup import Html, render
from lrp_lens.plots.palette import Palette, negative_hue, positive_hue

if TYPE_CHECKING:
    from lrp_lens.failures.explanation import Choice


def pair(target: "Choice", contrast: "Choice", palette: Palette) -> list[dict[str, str]]:
    """Target and contrast as words in their colours."""
    hues = positive_hue(palette), negative_hue(palette)
    return [{"text": repr(one.text), "hue": hue} for one, hue in zip((target, contrast), hues, strict=True)]


def question(
    target: "Choice",
    contrast: "Choice",
    roles: tuple[str, str],
    gap: float,
    *,
    eyebrow: Sequence[str],
    prompt: str,
    said: dict[str, Any] | None,
    palette: Palette,
) -> Html:
    """Why the one and not the other?

    Args:
        target: the token in question.
        contrast: what it is compared with.
        roles: what the two are called.
        gap: logit of the target minus logit of the contrast.
        eyebrow: what stands above, empty texts left out.
        prompt: the prompt's text.
        said: the completion in parts, the token in question apart; None without one.
        palette: "default" or "lrp".
    """
    words = pair(target, contrast, palette)
    first, second = words if gap >= 0 else reversed(words)
    cards = [
        word
        | {
            "role": role,
            "logit": f"{choice.logit:.2f}",
            "probability": f"{choice.probability:.3f}",
            "rank": choice.rank,
        }
        for word, role, choice in zip(words, roles, (target, contrast), strict=True)
    ]
    return render(
        "report/lead.html",
        eyebrow=" · ".join(filter(None, eyebrow)),
        first=first,
        second=second,
        prompt=prompt,
        said=said,
        cards=cards,
        preference=signed(gap),
    )
