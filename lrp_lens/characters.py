r"""Any text, shown as what it is: every string is a legal token, and whoever reads it must see all of it.

1. A character that has no picture (control, format, bidirectional control, surrogate, private use, unassigned, a
   space other than the plain one, an empty letter) is shown by Python's escape, `\u200b`.  Letters of every script,
   combining characters and emoji stay.
2. A token's own white space has marks: `·` for a space, `⏎` for a line break, `⇥` for a tab.  A combining character
   without a letter before it stands on `◌`.
3. HTML gets the same text with `& < > "` escaped (`lrp_lens.markup` puts it there).  Words that read from right to left
   are isolated, so that they do not turn the sentence around them about.

Everything that a page, a figure, a table or a terminal says goes through one of these functions.
"""

import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

_TOKEN_MARKS = {"\n": "⏎", "\r": "␍", "\t": "⇥", " ": "·", "\u00a0": "⍽"}
_EMPTY_LETTERS = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0d\uffa0\U000e0100-\U000e01ef]"
)
"""Printable by their category, but without any picture: fillers, joiners, variation selectors, the empty Braille."""
_PICTURE_STYLES = "\ufe0e\ufe0f"
"""They choose between a character's text and its emoji picture; alone they are nothing."""
_RIGHT_TO_LEFT = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
_RIGHT_TO_LEFT_WORDS = re.compile(f"[{_RIGHT_TO_LEFT}]+(?: +[{_RIGHT_TO_LEFT}]+)*")


def shown(text: str, keep: str = "\n\t") -> str:
    r"""Text with an escape in the place of every character that cannot be seen.

    Args:
        text: any string, lone surrogates included; the result can be encoded as UTF-8.
        keep: white space that stays as it is.

    Example:
        >>> shown("a\x1b[2J\u202eb\nc")
        'a\\x1b[2J\\u202eb\nc'
        >>> shown("e\u0301 👍🏽 سلام") == "e\u0301 👍🏽 سلام"
        True
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(said for said, _ in _pieces(text, dict(zip(keep, keep, strict=True))))


def visible_token(token: str) -> str:
    r"""A token with its white space made visible: ' John' becomes '·John', a newline '⏎'; empty becomes '∅'.

    Example:
        >>> visible_token(" a\n"), visible_token("\u200b")
        ('·a⏎', '\\u200b')
    """
    return "".join(said for said, _ in token_pieces(token))


def token_pieces(token: str) -> list[tuple[str, bool]]:
    r"""The parts of `visible_token`, and whether each is the token's own text (False: a mark or an escape).

    Example:
        >>> token_pieces(" to\n")
        [('·', False), ('to', True), ('⏎', False)]
    """
    if token == "":
        return [("∅", False)]
    pieces: list[tuple[str, bool]] = []
    for said, plain in _pieces(token, _TOKEN_MARKS):
        if plain and unicodedata.category(said[0]).startswith("M") and not (pieces and pieces[-1][1]):
            said = "◌" + said
        if plain and pieces and pieces[-1][1]:
            pieces[-1] = (pieces[-1][0] + said, True)
        else:
            pieces.append((said, plain))
    return pieces


def escape(text: str) -> str:
    r"""Text for an HTML page, as content or inside a quoted attribute.

    Example:
        >>> escape("<b>\u202e")
        '&lt;b&gt;\\u202e'
    """
    return html.escape(shown(text))


def by_direction(text: str) -> list[tuple[str, bool]]:
    """A sentence as it is shown, in parts, and whether each is words from right to left.

    Example:
        >>> by_direction("'שלום' 1") == [("'", False), ("שלום", True), ("' 1", False)]
        True
    """
    parts, behind = [], 0
    text = shown(text)
    for found in _RIGHT_TO_LEFT_WORDS.finditer(text):
        parts += [(text[behind : found.start()], False), (found[0], True)]
        behind = found.end()
    return [(part, turned) for part, turned in [*parts, (text[behind:], False)] if part]


def embedded(text: str) -> str:
    """The same for a figure, which knows no markup: the words stand between Unicode's own isolates, always in pairs.

    Example:
        >>> embedded("'שלום' - 'x'") == "'\u2068שלום\u2069' - 'x'"
        True
    """
    return _RIGHT_TO_LEFT_WORDS.sub("\u2068\\g<0>\u2069", shown(text))


def direction(texts: Iterable[str]) -> str:
    """'rtl' where the first letter is of a script that is read from right to left, else 'ltr'.

    Example:
        >>> direction(["1 ", "שלום", "a"]), direction(["a"])
        ('rtl', 'ltr')
    """
    classes = (unicodedata.bidirectional(one) for text in texts for one in text)
    return "rtl" if next((one for one in classes if one in ("L", "R", "AL")), "L") != "L" else "ltr"


def _pieces(text: str, marks: Mapping[str, str]) -> Iterator[tuple[str, bool]]:
    """Each character as it is shown, and whether it is itself."""
    before = ""
    for one in text:
        mark = marks.get(one)
        plain = mark is None and _seen(one, before)
        yield (one if plain else mark or one.encode("unicode_escape").decode("ascii")), plain
        before = one if plain else ""


def _seen(one: str, before: str) -> bool:
    """Whether a character has a picture of its own, or changes that of the plain character before it."""
    if one in _PICTURE_STYLES:
        return before not in ("", " ", *_PICTURE_STYLES)
    return one.isprintable() and not _EMPTY_LETTERS.match(one)


def signed(value: Any, form: str = "+.2f") -> str:
    """A number with a minus sign, not a hyphen, as plotly writes it on its axes; what rounds to 0 is not negative.

    Example:
        >>> signed(-1.5), signed(0.25, "+.1g"), signed(-0.001)
        ('−1.50', '+0.2', '+0.00')
    """
    text = format(value, form)
    if text.startswith("-") and not text.strip("-0.e+"):
        text = format(0.0, form)
    return text.replace("-", "−")
