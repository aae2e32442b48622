"""Token heat map as plain escaped HTML: no JavaScript, no network, readable in a notebook and on a phone.

Each token is a span whose background is blue or red with an opacity proportional to |value|. Hovering (or
tapping) shows token, position, value and share. Special tokens are grey, out of the scale, with their value.
Answers that a metric appended stand behind the prompt, each after its word (answer, target, contrast).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrp_lens.characters import direction, signed, token_pieces
from lrp_lens.errors import InputError
from lrp_lens.markup import Html, asset, hues, render
from lrp_lens.plots.palette import (
    DARK,
    LIGHT,
    Palette,
    answer_begins,
    legend_words,
    limit,
    negative_hue,
    positive_hue,
    require_dims,
)
from lrp_lens.plots.wording import By, Worded, text_dims, worded

if TYPE_CHECKING:
    from lrp_lens.views import View


def _style() -> Html:
    """The style sheet, with the hues of the light and the dark page filled in."""
    named = {
        name: "".join(f"--lrp-{hue}: {','.join(map(str, rgb))};" for hue, rgb in colours.items())
        for name, colours in (("light", LIGHT), ("dark", DARK))
    }
    return hues(asset("plots/token_heatmap.css"), named)


STYLE = _style()


def token_heatmap_html(
    view: "View | Sequence[View] | Mapping[str, View]",
    *,
    palette: Palette = "default",
    floor: float | None = None,
    style: bool = True,
    by: By = "word",
) -> Html:
    """Coloured, wrapped tokens as an HTML fragment: a string, which a notebook draws.

    Args:
        view: dims ("position",), ("word",) or ("sentence",), with or without a batch; several views (methods) give one
            row each, with its name and its own scale, so that methods of unlike magnitude can be compared.
        palette: "default" (blue positive) or "lrp" (red positive).
        floor: least value that may get full colour; None takes 0.1 for logits.
        style: False leaves the style sheet out (a page with several maps needs it once).
        by: "word" puts the tokens of a word together, each with its value on hover; "position" shows every token.

    Raises:
        InputError: other dims, no view at all, or an unknown palette.
    """
    rows = _rows(view)
    for one in rows.values():
        require_dims(one, text_dims(), "token_heatmap_html")
    shown_rows = {name: worded(one, by) for name, one in rows.items()}
    rows = {name: one.view for name, one in shown_rows.items()}
    same_words = len({legend_words(one, palette) for one in rows.values()}) == 1
    shown = [
        {
            "name": name if len(rows) > 1 else "",
            "legend": _legend(one, palette, floor) | {"words": i == 0 or not same_words},
            "direction": direction(_ordinary(one)),
            "tokens": list(_tokens(shown_rows[name], limit(one, floor), palette)),
            "cautions": [said for said in one.cautions if said],
        }
        for i, (name, one) in enumerate(rows.items())
    ]
    return render("plots/token_heatmap.html", style=STYLE if style else "", rows=shown)


def _rows(view: "View | Sequence[View] | Mapping[str, View]") -> "dict[str, View]":
    """Row name to view; a batch becomes one row per example, repeated names get a number."""
    if not isinstance(view, Iterable):
        if "batch" not in view.dims:
            return {view.name: view}
        return {f"example {i}": view.select(batch=i) for i in range(view.shape[0])}
    named = view.items() if isinstance(view, Mapping) else [(one.name, one) for one in view]
    rows: dict[str, View] = {}
    for name, one in named:
        rows[name if name not in rows else f"{name} ({len(rows) + 1})"] = one
    if not rows:
        raise InputError("token_heatmap_html shows at least one view; received none.")
    return rows


def _ordinary(view: "View") -> list[str]:
    """The tokens that are not special: they say which way the prompt is read."""
    labels, special = view.axis_labels(view.dims[0]), view.special_cells()
    return [token for token, marked in zip(labels, special, strict=True) if not marked]


def _legend(view: "View", palette: Palette, floor: float | None) -> dict[str, Any]:
    """The meaning of the two colours in words, the scale from -limit to +limit, and what the grey tokens hold."""
    share = view.special_share
    return {
        "meaning": legend_words(view, palette),
        "limit": f"{limit(view, floor):.3g}",
        "unit": "of max |R|" if view.units == "fraction of max |R|" else view.units,
        "plus": f"rgb({_hue(positive_hue(palette))})",
        "minus": f"rgb({_hue(negative_hue(palette))})",
        "special": f"{100 * share:.0f} %" if share else "",
    }


def _hue(hue: str) -> str:
    return f"var(--lrp-{hue},{','.join(map(str, LIGHT['blue' if hue == 'blue' else 'red']))})"


def _tokens(shown: Worded, top: float, palette: Palette) -> Iterator[dict[str, Any]]:
    view = shown.view
    total = float(np.nansum(np.abs(view.values))) or 1.0
    special = view.special_cells()
    for position, (token, value) in enumerate(zip(view.axis_labels(shown.dim), view.values, strict=True)):
        if token == "" and value == 0 and special[position]:
            continue
        missing, number = bool(np.isnan(value)), float(value)
        told = (
            "missing"
            if missing
            else f"{signed(number, '+.4g')} {view.units} · {100 * abs(number) / total:.1f} % of Σ|R|"
        )
        aside = " · special token" if special[position] else ""
        if parts := shown.pieces(position):
            aside += f" · tokens {', '.join(parts)}"
        unit = "token" if len(shown.members[position]) == 1 and shown.tokens is not None else shown.unit
        hue = positive_hue(palette) if number >= 0 else negative_hue(palette)
        colour = f"background-color:rgba({_hue(hue)},{min(abs(number) / top, 1.0):.3f})"
        plain = not special[position] and not missing
        yield {
            "answer": answer_begins(view, position),
            "kind": " lrp-s" if special[position] else " lrp-m" if missing else "",
            "title": f"{unit} {token!r} · {shown.place(position)} · {told}{aside}",
            "style": colour if plain else "",
            "pieces": token_pieces(token),
            "value": ("n/a" if missing else signed(number, "+.2g")) if special[position] else "",
            "breaks": "\n" in token,
        }
