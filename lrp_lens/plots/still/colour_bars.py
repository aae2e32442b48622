"""Colour bars: at the right of the plotting area, from the lowest value up, or lying above it."""

from typing import Any

from lrp_lens.plots.still.heat import SHADES, Shades
from lrp_lens.plots.still.words import number_text, put, width_of


def lies(bar: Any) -> bool:
    """Whether a colour bar is horizontal."""
    return bool(bar.orientation == "h")


def bar_width(bar: Any) -> float:
    """Pixels that a standing colour bar takes to the right of the plotting area."""
    size = float(bar.tickfont.size or 12)
    widest = max((width_of(text, size) for text in bar.ticktext or ()), default=3 * size)
    title = width_of(bar.title.text, float(bar.title.font.size or 12))
    return 26 + max(float(bar.thickness or 20) + 6 + 1.1 * widest, title)


def _marks(shades: Shades) -> list[tuple[float, str]]:
    """(share of the bar, words) of each tick."""
    bar, span = shades.bar, (shades.high - shades.low) or 1.0
    values = [shades.low, shades.high] if bar.tickvals is None else [float(one) for one in bar.tickvals]
    texts = [f"{one:.3g}" for one in values] if bar.ticktext is None else [str(one) for one in bar.ticktext]
    return [((value - shades.low) / span, text) for value, text in zip(values, texts, strict=False)]


def standing_bar(shades: Shades, left: float, top: float, height: float) -> str:
    """A column, with its title above and its ticks on the right."""
    bar, thick = shades.bar, float(shades.bar.thickness or 20)
    title, size, parts = bar.title.text, float(bar.title.font.size or 12), []
    if title:
        parts.append(put(left, top + size, title, size))
        top, height = top + 2.2 * size, height - 2.2 * size
    for number in range(SHADES):
        y = top + height * (1 - (number + 1) / SHADES)
        parts.append(_block(shades.colour(number), left, y, thick, height / SHADES + 0.3))
    size = float(bar.tickfont.size or 12)
    for share, text in _marks(shades):
        parts.append(put(left + thick + 5, top + height * (1 - share) + 0.35 * size, text, size))
    return "".join(parts)


def lying_bar(shades: Shades, left: float, bottom: float, width: float) -> str:
    """A row whose ticks stand below it, just above the plotting area."""
    bar, thick, size = shades.bar, float(shades.bar.thickness or 20), float(shades.bar.tickfont.size or 12)
    top = bottom - float(bar.ypad or 0) - 1.3 * size - thick
    parts = [
        _block(shades.colour(number), left + width * number / SHADES, top, width / SHADES + 0.3, thick)
        for number in range(SHADES)
    ]
    for share, text in _marks(shades):
        anchor = "start" if share < 0.02 or (share > 0.98 and len(text) > 5) else "middle"
        parts.append(put(left + width * share, top + thick + 1.1 * size, text, size, anchor=anchor))
    return "".join(parts)


def _block(colour: str, left: float, top: float, across: float, down: float) -> str:
    corner = f"{number_text(left)} {number_text(top)}"
    wide = number_text(across)
    return f'<path d="M{corner}h{wide}v{number_text(down)}h-{wide}z" fill="{colour}"/>'
