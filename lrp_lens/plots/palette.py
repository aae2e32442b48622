"""Colour and words that every plot shares.

1. Diverging blue-white-red, safe for colour-blind readers; white is 0 and both signs share one scale.
2. The scale's limit is max |value| over what is not special, but never below an absolute floor: evidence of a
   tenth of a logit stays pale instead of being blown up to full colour.
3. The legend is in words: "blue: towards ' Mary', red: towards ' John'".
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from lrp_lens.characters import embedded, signed
from lrp_lens.characters import visible_token as visible_token
from lrp_lens.errors import InputError

if TYPE_CHECKING:
    from lrp_lens.attribution_graphs.arrays import AttributionGraph
    from lrp_lens.views import View

Palette = Literal["default", "lrp"]
"""default: blue is positive (as plotly and captum); lrp: red is positive (as in the LRP literature)."""

RGB = tuple[int, int, int]

FLOOR = 0.1
"""Smallest limit of a colour scale, for views in logits."""

LIGHT: dict[str, RGB] = {"blue": (67, 147, 195), "red": (214, 96, 77)}
DARK: dict[str, RGB] = {"blue": (38, 110, 186), "red": (192, 48, 52)}
GREY = "#c9cdd3"
CATEGORIES = (
    "#5b7894", "#e0a83e", "#7fbc8f", "#a3abb5", "#8d6bb8", "#c9b28f", "#4fb3ad", "#c27ba0", "#8c6d4f", "#b9cf6a",
)  # fmt: skip
"""Colours of kinds; none of them the blue or red that say a sign elsewhere."""
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "%{": "&#37;{"}
"""What plotly would not show as it is, `&` first."""
_SCALE = (
    (0.0, "#b2182b"),
    (0.25, "#ef8a62"),
    (0.45, "#fbe3d8"),
    (0.5, "#f7f7f7"),
    (0.55, "#dceaf3"),
    (0.75, "#67a9cf"),
)


def positive_hue(palette: Palette) -> Literal["blue", "red"]:
    """The hue of positive values.

    Raises:
        InputError: the palette is neither "default" nor "lrp".
    """
    if palette not in ("default", "lrp"):
        raise InputError(
            f"A palette is 'default' (blue positive) or 'lrp' (red positive); received {palette!r}."
        )
    return "blue" if palette == "default" else "red"


def negative_hue(palette: Palette) -> Literal["blue", "red"]:
    """The hue of negative values."""
    return "red" if positive_hue(palette) == "blue" else "blue"


def colorscale(palette: Palette) -> list[list[float | str]]:
    """plotly colour scale from the most negative to the most positive value, white in the middle."""
    stops = [*_SCALE, (1.0, "#2166ac")]
    if positive_hue(palette) == "red":
        stops = [(1.0 - at, colour) for at, colour in reversed(stops)]
    return [[at, colour] for at, colour in stops]


def limit(view: "View", floor: float | None = None) -> float:
    """Upper end of the symmetric colour scale: max |value| where not special, at least the floor.

    Args:
        view: any dims.
        floor: None takes 0.1 for a view in logits and 0 for any other units.
    """
    ordinary = np.nan_to_num(np.abs(view.values[~view.special_cells()]))
    lowest = (FLOOR if view.units == "logits" else 0.0) if floor is None else floor
    return max(float(ordinary.max(initial=0.0)), lowest) or 1.0


def scale_ticks(top: float) -> dict[str, list[float] | list[str]]:
    """Ticks of a colour bar from -top to top, its ends named; plotly would write the middle as +0.

    Example:
        >>> scale_ticks(2.0)["ticktext"]
        ['−2', '−1', '0', '+1', '+2']
    """
    values = [-top, -top / 2, 0.0, top / 2, top]
    return {
        "tickvals": values,
        "ticktext": [signed(float(one), "+.2g") if one else "0" for one in values],
    }


def colour_axis(top: float, height: int, palette: Palette = "default") -> dict[str, Any]:
    """The colours of several heat maps, from -top to top, with one bar beside a figure of that height."""
    bar = {"thickness": 10, "x": 1.01, "len": min(1.0, 400 / height), **scale_ticks(top)}
    return {"colorscale": colorscale(palette), "cmin": -top, "cmax": top, "cmid": 0, "colorbar": bar}


def legend_words(shown: "View | AttributionGraph", palette: Palette = "default") -> tuple[str, str]:
    """What positive and what negative colour mean, e.g. ("blue: towards ' Mary'", "red: towards ' John'")."""
    first, second = (
        ("positive", "negative") if shown.towards is None else [f"towards {one!r}" for one in shown.towards]
    )
    return f"{positive_hue(palette)}: {first}", f"{negative_hue(palette)}: {second}"


def answer_begins(view: "View", position: int) -> str:
    """The word for the answer that begins at this position of a view [position] (answer, target, contrast), or ""."""
    if view.answer is None or (position and view.answer[position - 1] == view.answer[position]):
        return ""
    return str(view.answer[position])


def plotly_text(text: str) -> str:
    r"""Text that plotly shows literally, what cannot be seen as an escape.

    It reads <…> as markup, so a token '<bos>' would vanish; $…$ as a formula wherever the page has MathJax, as
    notebooks have; and %{…} in a hover template as a variable.

    Example:
        >>> plotly_text("<b> $x$ 5 %")
        '&lt;b&gt; &#36;x&#36; 5 %'
    """
    text = embedded(text)
    for plain, entity in _ENTITIES.items():
        text = text.replace(plain, entity)
    return text


def require_table(table: object, columns: tuple[str, ...], what: str, remedy: str) -> None:
    """Raise InputError unless this is a table with these columns.

    Args:
        table: what the user passed.
        columns: names that have to be there.
        what: name of the plot function.
        remedy: what to do instead where this is no table at all, e.g. the result object itself.
    """
    if not isinstance(table, pd.DataFrame):
        raise InputError(f"{what} draws a table; received a {type(table).__name__}. {remedy}")
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise InputError(
            f"{what} draws a table with the columns {', '.join(columns)}; {missing} are missing."
        )


def require_dims(view: "View", allowed: tuple[tuple[str, ...], ...], what: str) -> None:
    """Raise InputError unless the view has one of these sets of dims."""
    if view.dims in allowed:
        return
    wanted = " or ".join(str(one) for one in allowed)
    remedy = (
        "Pick one example with .select(batch=0)." if "batch" in view.dims else "Use .select or .sum first."
    )
    raise InputError(
        f"{what} shows a view with dims {wanted}; received {view.dims} ({view.name!r}). {remedy}"
    )
