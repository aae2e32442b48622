"""The terminal: everything printed on it is text, whatever the prompt, the model or a file name says.

A hook of rich shows every control, format and bidirectional character of what is printed by its escape; the codes for
colours are rich's own and are added later.
"""

from collections.abc import Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment

from lrp_lens.characters import shown


def terminal(*, stderr: bool = False, **options: Any) -> Console:
    """A console that prints nothing but text.

    Args:
        stderr: print on standard error.
        options: more options of rich's Console.
    """
    console = Console(stderr=stderr, **options)
    console.push_render_hook(_Literal())
    return console


class _Literal(RenderHook):
    """Wraps whatever is printed."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Called by rich for every print."""
        return [_Shown(one) for one in renderables]


class _Shown:
    """A renderable whose text is escaped, segment by segment."""

    def __init__(self, inner: ConsoleRenderable) -> None:
        self.inner = inner

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for text, style, control in console.render(self.inner, options):
            yield Segment(text if control else shown(text), style, control)
