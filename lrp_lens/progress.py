"""Progress of long work: a bar in notebooks and on terminals, a line now and then everywhere else.

1. Work that ends soon shows nothing: bars appear after a second, lines after ten.
2. In a notebook and on a terminal it is tqdm's bar, which goes away when the work is done.
3. Elsewhere (a log, a pipe) a bar would fill the file with control characters: one plain line every ten seconds.
"""

import os
import sys
from typing import Any

from tqdm.auto import tqdm as any_bar
from tqdm.std import tqdm as plain_bar

_BAR_AFTER = 1.0
_LINE_EVERY = 10.0


class _Lines(plain_bar):  # type: ignore[misc]
    """A progress bar that writes lines."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the present state as one line; tqdm asks for an empty one to wipe a bar away."""
        if msg == "":
            return
        self.fp.write(f"{self if msg is None else msg}\n")
        self.fp.flush()


def progress_bar(total: int, what: str, unit: str, show: bool | None = None, **options: Any) -> Any:
    """A bar to be used as `with progress_bar(...) as bar: ... bar.update(1)`, written to standard error.

    Args:
        total: number of units of work.
        what: name of the work, shown before the bar.
        unit: name of one unit.
        show: True shows it, False does not; None does unless the variable TQDM_DISABLE is set.
        options: more options of tqdm.

    Example:
        >>> with progress_bar(3, "counting", "number") as bar:
        ...     bar.update(2)
    """
    disabled = not show if show is not None else os.environ.get("TQDM_DISABLE", "") not in ("", "0")
    common = {"total": total, "desc": what, "unit": unit, "disable": disabled}
    if "ipykernel" in sys.modules or sys.stderr.isatty():
        return any_bar(**common, leave=False, delay=_BAR_AFTER, **options)
    every = {"mininterval": _LINE_EVERY, "maxinterval": _LINE_EVERY, "miniters": 1, "delay": _LINE_EVERY}
    form = "{desc}: {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} to go"
    return _Lines(**common, **every, bar_format=form, file=sys.stderr, leave=False, **options)
