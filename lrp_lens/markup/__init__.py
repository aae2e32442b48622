"""Where text becomes HTML: templates that escape whatever is put into them, and one type for what is finished.

1. A page or a fragment is a template beside the code that fills it, e.g. `report/page.html`; `render` fills it.
2. Whatever a template puts in passes `lrp_lens.characters.escape`: it is text, and what cannot be seen is made visible.
   Only `Html` is put in as it is, and only this room makes it: from a template, from the project's own style sheets and
   scripts, or as JSON inside a script element.  `{{ text|isolated }}` keeps words from right to left apart.
3. A template is laid out in lines for its reader; a line break beside a tag or a brace is left out, any other is a
   space, so that fragments are compact.
4. Every table of a result is one function, `table`; a pandas table as pandas shows it is `frame`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lrp_lens.characters import by_direction, escape, shown

PACKAGE = Path(__file__).parent.parent
_BREAK_AT_TAG = re.compile(r"(?<=[>}])\s*\n\s*|\s*\n\s*(?=[<{])")
_BREAK = re.compile(r"\s*\n\s*")


class Html(str):
    """A string of HTML that is finished; as the last line of a notebook's cell it is drawn."""

    __slots__ = ()

    def __html__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return str(self)

    def __repr__(self) -> str:
        return f"Html of {len(self):,} characters"


@dataclass(frozen=True)
class Cell:
    """One cell of a table, where it is more than its text."""

    text: str
    style: str = ""
    """CSS of the cell."""
    kind: str = ""
    """CSS class of the cell."""
    code: bool = False
    """Whether the text is a token, shown as code."""
    after: str = ""
    """Plain words behind a token."""


def render(template: str, **values: Any) -> Html:
    """A template with these values in it, each escaped unless it is `Html`.

    Args:
        template: path inside the package, e.g. "markup/lines.html".
        values: the names that the template uses; a missing one is an error.

    Example:
        >>> print(render("markup/isolated.html", parts=[("<b> & 'c'", False)]))
        &lt;b&gt; &amp; &#x27;c&#x27;
    """
    return Html(_templates().get_template(template).render(values))


def table(head: Sequence[str | Cell], rows: Sequence[Sequence[str | Cell]]) -> Html:
    """A table under headings; cells are text, or `Cell`.

    Example:
        >>> print(table(["a"], [[Cell("<b>", code=True)]]).partition("<tbody>")[2])
        <tr><td><code>&lt;b&gt;</code></td></tr></tbody></table>
    """

    def whole(cells: Sequence[str | Cell]) -> list[Cell]:
        return [one if isinstance(one, Cell) else Cell(one) for one in cells]

    return render("markup/table.html", head=whole(head), rows=[whole(row) for row in rows])


def frame(table: Any, **options: Any) -> Html:
    """A pandas table as pandas itself writes it (which escapes it), what cannot be seen made visible."""
    return Html(shown(table.to_html(index=False, **options)))


def captioned(table: Html, *above: str, below: str = "", warning: str = "") -> Html:
    """A table with lines of plain text above and below it."""
    return render("markup/captioned.html", table=table, above=above, below=below, warning=warning)


def told(text: str, *parts: Html) -> Html:
    """What a result's repr says, its first line as title, and what stands below it.

    Example:
        >>> "<strong>Found &amp; kept</strong>" in told("Found & kept")
        True
    """
    title, *lines = text.splitlines()
    return render("markup/result.html", title=title, lines=lines, parts=parts)


def isolated(text: str) -> Html:
    """A sentence in which words from right to left are kept apart from what stands around them.

    Example:
        >>> print(isolated("'שלום' & 1"))
        &#x27;<bdi>שלום</bdi>&#x27; &amp; 1
    """
    return render("markup/isolated.html", parts=by_direction(text))


def asset(path: str) -> Html:
    """One of the project's own style sheets or scripts, by its path inside the package."""
    return Html((PACKAGE / path).read_text(encoding="utf-8"))


def trusted(text: str) -> Html:
    """Text that is markup by intent and holds nothing of a prompt or a model, as a library's script."""
    return Html(text)


def script_data(data: Any) -> Html:
    """Data as JSON for a script element, which no text in it can close.

    Args:
        data: plain lists, numbers and strings; or JSON text already.

    Example:
        >>> "<" in script_data(["</script>"])
        False
    """
    text = data if isinstance(data, str) else json.dumps(data, allow_nan=False)
    return Html(text.replace("<", "\\u003c"))


def hues(sheet: str, named: Mapping[str, str]) -> Html:
    """A style sheet with CSS declarations in the place of each comment `/* name hues */`."""
    for name, declarations in named.items():
        sheet = sheet.replace(f"/* {name} hues */", declarations)
    return Html(sheet)


@cache
def _templates() -> Any:
    """The templates of the package."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # on demand: takes 30 ms

    class Compact(FileSystemLoader):
        """Templates without the line breaks of their layout."""

        def get_source(self, environment: Any, template: str) -> Any:
            source, name, current = super().get_source(environment, template)
            return _BREAK.sub(" ", _BREAK_AT_TAG.sub("", source.strip())), name, current

    environment = Environment(
        loader=Compact(PACKAGE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if hasattr(value, "__html__") else Html(escape(str(value))),
    )
    environment.filters["isolated"] = isolated
    return environment
