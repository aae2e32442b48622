"""Token heat map as plain escaped HTML: no JavaScript, no network, readable in a notebook and on a phone.

Each token is a span whose background is blue or red with an opacity proportional to |value|. Hovering (or
tapping) shows token, position, value and share. Special tokens are grey, out of the scale, with their value.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from lrp_lens.characters import direction, escape, isolated, token_pieces
from lrp_lens.errors import InputError
from lrp_lens.plots.html import Html
from lrp_lens.plots.palette import (
    DARK,
    LIGHT,
    Palette,
    legend_words,
    limit,
    positive_hue,
    require_dims,
)
from lrp_lens.views import View


def _style() -> str:
    """The style sheet, with the hues of the light and the dark page filled in."""
    css = (Path(__file__).parent / "token_heatmap.css").read_text(encoding="utf-8")
    for name, hues in (("light", LIGHT), ("dark", DARK)):
        variables = "".join(f"--lrp-{hue}: {','.join(map(str, rgb))};" for hue, rgb in hues.items())
        css = css.replace(f"/* {name} hues */", variables)
    return f"<style>{css}</style>"


STYLE = _style()


def token_heatmap_html(
    view: View | Sequence[View] | Mapping[str, View],
    *,
    palette: Palette = "default",
    floor: float | None = None,
    style: bool = True,
) -> Html:
    """Coloured, wrapped tokens as an HTML fragment: a string, which a notebook draws.

    Args:
        view: dims ("position",) or ("batch", "position"); several views (methods) give one row each, with its
            name and its own scale, so that methods of unlike magnitude can be compared.
        palette: "default" (blue positive) or "lrp" (red positive).
        floor: least value that may get full colour; None takes 0.1 for logits.
        style: False leaves the <style> block out (a page with several maps needs it once).

    Raises:
        InputError: other dims, no view at all, or an unknown palette.
    """
    rows = _rows(view)
    for one in rows.values():
        require_dims(one, (("position",),), "token_heatmap_html")
    parts = [STYLE if style else "", '<div class="lrp-heat">']
    same_words = len({legend_words(one, palette) for one in rows.values()}) == 1
    for i, (name, one) in enumerate(rows.items()):
        top = limit(one, floor)
        if len(rows) > 1:
            parts.append(f'<div class="lrp-name">{escape(name)}</div>')
        words = legend_words(one, palette) if i == 0 or not same_words else None
        parts.append(_legend(one, top, palette, words))
        way = direction(_ordinary(one))
        parts.append(f'<div class="lrp-tokens" dir="{way}">{_tokens(one, top, palette)}</div>')
    return Html("".join([*parts, "</div>"]))


def _rows(view: View | Sequence[View] | Mapping[str, View]) -> dict[str, View]:
    """Row name to view; a batch becomes one row per example, repeated names get a number."""
    if isinstance(view, View):
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


def _ordinary(view: View) -> list[str]:
    """The tokens that are not special: they say which way the prompt is read."""
    labels, special = view.axis_labels("position"), view.special_cells()
    return [token for token, marked in zip(labels, special, strict=True) if not marked]


def _legend(view: View, top: float, palette: Palette, words: tuple[str, str] | None) -> str:
    """Scale bar from -limit to +limit, with the meaning of the two colours where words are given."""
    hues = [positive_hue(palette), "red" if positive_hue(palette) == "blue" else "blue"]
    plus, minus = [f"rgb(var(--lrp-{hue},{','.join(map(str, LIGHT[hue]))}))" for hue in hues]
    bar = (
        f'<span class="lrp-bar" style="background:linear-gradient(90deg,{minus},transparent,{plus})"></span>'
    )
    unit = "of max |R|" if view.units == "fraction of max |R|" else view.units
    scale = f"−{top:.3g}{bar}+{top:.3g} {escape(unit)}"
    said = "" if words is None else f"<b>{isolated(words[0])}</b>, <b>{isolated(words[1])}</b> &nbsp; "
    share = view.special_share
    grey = f" &nbsp; grey: special, out of the scale ({100 * share:.0f} % of Σ|R|)" if share else ""
    return f'<div class="lrp-legend">{said}<span style="white-space:nowrap">{scale}</span>{grey}</div>'


def _tokens(view: View, top: float, palette: Palette) -> str:
    total = float(np.nansum(np.abs(view.values))) or 1.0
    special = view.special_cells()
    spans = []
    for position, (token, value) in enumerate(zip(view.axis_labels("position"), view.values, strict=True)):
        if token == "" and value == 0 and special[position]:
            continue
        spans.append(
            _span(position, token, float(value), bool(special[position]), view.units, total, top, palette)
        )
        if "\n" in token:
            spans.append("<br>")
    return "<wbr>".join(spans) or "<em>no tokens</em>"


def _span(
    position: int,
    token: str,
    value: float,
    special: bool,
    units: str,
    total: float,
    top: float,
    palette: Palette,
) -> str:
    missing = np.isnan(value)
    told = "missing" if missing else f"{value:+.4g} {units} · {100 * abs(value) / total:.1f} % of Σ|R|"
    title = f"token {token!r} · position {position} · {told}" + (" · special token" if special else "")
    attributes = f'tabindex="0" title="{escape(title)}"'
    text = _visible(token)
    if special:
        shown = "n/a" if missing else f"{value:+.2g}"
        return f'<span class="lrp-t lrp-s" {attributes}>{text}<small>{shown}</small></span>'
    if missing:
        return f'<span class="lrp-t lrp-m" {attributes}>{text}</span>'
    hue = positive_hue(palette) if value >= 0 else ("red" if positive_hue(palette) == "blue" else "blue")
    strength = min(abs(value) / top, 1.0)
    colour = f"background-color:rgba(var(--lrp-{hue},{','.join(map(str, LIGHT[hue]))}),{strength:.3f})"
    return f'<span class="lrp-t" {attributes} style="{colour}">{text}</span>'


def _visible(token: str) -> str:
    """Escaped token; marks for white space and escapes are faint."""
    return "".join(
        escape(said) if plain else f'<span class="lrp-w">{escape(said)}</span>'
        for said, plain in token_pieces(token)
    )
