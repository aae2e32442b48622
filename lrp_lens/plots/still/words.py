"""Text of a figure as SVG: plotly's markup to `<tspan>`s, widths by estimate, everything escaped."""

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from unicodedata import east_asian_width

from lrp_lens.characters import escape

INK = "#2a3f5f"
Number = float | int
"""A coordinate or a size in pixels."""
_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NARROW, _USUAL, _WIDE = 0.3, 0.57, 1.0
_SMALL = 0.75


@dataclass(frozen=True)
class Run:
    """Words in one style."""

    text: str
    bold: bool = False
    italic: bool = False
    small: bool = False


class _Reader(HTMLParser):
    """Lines of runs from plotly's text, which is HTML with a few tags."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.lines: list[list[Run]] = [[]]
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "br":
            self.lines.append([])
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            self.open.remove(tag)

    def handle_data(self, data: str) -> None:
        self.lines[-1].append(Run(data, "b" in self.open, "i" in self.open, "sup" in self.open))


def lines_of(text: str | None) -> list[list[Run]]:
    """The lines of a text; none for none."""
    return _Reader(text).lines if text else []


def width_of(text: str | None, size: Number) -> float:
    """Pixels of the longest line, by estimate."""
    return max((sum(_run_width(run, size) for run in line) for line in lines_of(text)), default=0.0)


def _run_width(run: Run, size: Number) -> float:
    ems = (
        _WIDE if east_asian_width(one) in "WF" else _NARROW if one in "iljtf.,:;|'()[]· " else _USUAL
        for one in run.text
    )
    return sum(ems) * size * (_SMALL if run.small else 1.0)


def put(
    x: Number,
    y: Number,
    text: str | None,
    size: Number,
    *,
    anchor: str = "start",
    angle: Number = 0.0,
    colour: str = INK,
) -> str:
    """Text whose first baseline starts (or ends, or has its middle) at a point; further lines below."""
    parts = []
    for number, line in enumerate(lines_of(text)):
        runs = "".join(_span(run, size) for run in line)
        turned = f' transform="rotate({number_text(angle)} {at(x, y)})"' if angle else ""
        parts.append(
            f'<text x="{number_text(x)}" y="{number_text(y + 1.25 * size * number)}" font-size="{number_text(size)}" '
            f'text-anchor="{anchor}" fill="{escape(colour)}"{turned}>{runs}</text>'
        )
    return "".join(parts)


def _span(run: Run, size: Number) -> str:
    text = escape(_FORBIDDEN.sub("\ufffd", run.text))
    style = ' font-weight="bold"' if run.bold else ""
    style += ' font-style="italic"' if run.italic else ""
    style += f' font-size="{number_text(_SMALL * size)}"' if run.small else ""
    return f"<tspan{style}>{text}</tspan>" if style else text


def number_text(value: Number) -> str:
    """A coordinate: a tenth of a pixel is enough."""
    return f"{value:.1f}".removesuffix(".0")


def at(x: Number, y: Number) -> str:
    """A point, as SVG writes it in a path or a transformation."""
    return f"{number_text(x)} {number_text(y)}"
