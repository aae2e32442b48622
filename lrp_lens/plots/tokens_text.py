"""Token heat map for terminals, as rich Text.

The map paints its own dark ground, so that it reads the same in light and dark terminals. Without colour
(a pipe, NO_COLOR) the tokens remain; print a table of the largest values beside it.
"""

from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from lrp_lens.characters import shown, signed
from lrp_lens.plots.palette import (
    DARK,
    RGB,
    Palette,
    answer_begins,
    legend_words,
    limit,
    negative_hue,
    positive_hue,
    require_dims,
    visible_token,
)
from lrp_lens.plots.wording import By, text_dims, worded

if TYPE_CHECKING:
    from lrp_lens.views import View

_GROUND: RGB = (27, 30, 36)
_INK = "rgb(240,242,245)"


def token_heatmap_text(
    view: "View", *, palette: Palette = "default", floor: float | None = None, by: By = "word"
) -> Text:
    """Coloured tokens that wrap at the terminal's width, with the legend in words below.

    Args:
        view: dims ("position",), ("word",) or ("sentence",).
        palette: "default" (blue positive) or "lrp" (red positive).
        floor: least value that may get full colour; None takes 0.1 for logits.
        by: "word" puts the tokens of a word together; "position" shows every token.

    Raises:
        InputError: other dims, or an unknown palette.
    """
    require_dims(view, text_dims(), "token_heatmap_text")
    view = worded(view, by).view
    top = limit(view, floor)
    hues = {True: DARK[positive_hue(palette)], False: DARK[negative_hue(palette)]}
    special = view.special_cells()
    text = Text()
    for position, (token, value) in enumerate(zip(view.axis_labels(view.dims[0]), view.values, strict=True)):
        if token == "" and value == 0 and special[position]:
            continue
        if begins := answer_begins(view, position):
            text.append(f"\n{begins}: ", style="dim")
        if special[position] or np.isnan(value):
            number = "n/a" if np.isnan(value) else signed(value)
            text.append(f"{visible_token(token)} {number}", style="dim italic")
        else:
            colour = _blend(hues[value >= 0], min(abs(float(value)) / top, 1.0))
            text.append(
                f"{visible_token(token)}", style=f"{_INK} on rgb({colour[0]},{colour[1]},{colour[2]})"
            )
        text.append("\n" if "\n" in token else " ")
    positive, negative = legend_words(view, palette)
    text.append("\n")
    for words, sign in ((positive, True), (negative, False)):
        colour = hues[sign]
        text.append(f" {words} ", style=f"{_INK} on rgb({colour[0]},{colour[1]},{colour[2]})")
        text.append(" ")
    text.append(f"full colour: {top:.3g} {shown(view.units)}", style="dim")
    for said in view.cautions:
        text.append(f"\ncaution: {shown(said)}" if said else "", style="yellow")
    return text


def _blend(colour: RGB, strength: float) -> RGB:
    """From the ground (strength 0) to the full colour (strength 1)."""
    red, green, blue = (
        round(low + (high - low) * strength) for low, high in zip(_GROUND, colour, strict=True)
    )
    return red, green, blue
