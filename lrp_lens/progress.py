"""progress_bar: the one progress bar of everything that may take long.

1. `show=None`, the default everywhere: on a terminal or in a notebook a bar, once two seconds have passed, which goes
   away when the work is done; elsewhere (a log, a pipe), where a bar would fill the file with control characters, one
   plain line every ten seconds.  Work that ends sooner shows nothing.
2. `show=True`: at once, and what is shown stays.  `show=False`: nothing.
3. The variable TQDM_DISABLE, if set, means nothing where nobody asked.
"""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import notebook_tqdm, tqdm
from tqdm.std import tqdm as plain_tqdm

from lrp_lens.errors import InputError

PATIENCE = 2.0
"""Seconds before a bar appears that nobody asked for."""
LINE_EVERY = 10.0
"""Seconds between lines where no bar can be shown, and before the first that nobody asked for."""
_LINE = "{desc}: {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} to go"


class _Lines(plain_tqdm):  # type: ignore[misc]
    """Progress as lines."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write the present state as one line; tqdm asks for an empty one to wipe a bar away."""
        if msg != "":
            self.fp.write(f"{self if msg is None else msg}\n")
            self.fp.flush()

    def close(self) -> None:
        """End with a line of the whole, if there was one before."""
        if not self.disable and self.n > self.last_print_n and (self.last_print_n or not self.delay):
            self.display()
        super().close()


def watched() -> bool:
    """Whether a bar can be shown: in a notebook, or where stderr is a terminal."""
    return notebook_tqdm is not plain_tqdm or (sys.stderr is not None and sys.stderr.isatty())


def require_show(show: Any) -> None:
    """Refuse what is no answer to whether progress is shown.

    Raises:
        InputError: for anything but True, False and None.
    """
    if show is not None and not isinstance(show, bool):
        raise InputError(
            f"progress is True, False or None (a bar on terminals and in notebooks, a line now and then elsewhere); "
            f"received {show!r}."
        )


def progress_bar(
    iterable: Iterable[Any] | None = None,
    total: int | None = None,
    what: str = "",
    show: bool | None = None,
    unit: str = "it",
) -> Any:
    """A bar around an iterable, or one that is moved by hand with `update`; written to standard error.

    Args:
        iterable: what is gone through; None to call `bar.update(n)` inside `with progress_bar(...) as bar`.
        total: how many steps there are; by default the iterable's length.
        what: what is being done, in front of the bar.
        show: True, False, or None for work that takes long.
        unit: what is counted.

    Returns:
        The tqdm bar: iterable, and a context manager.

    Raises:
        InputError: for another value of `show`.

    Example:
        >>> sum(progress_bar([1, 2, 3], what="adding", show=False))
        6
    """
    require_show(show)
    unwanted = os.environ.get("TQDM_DISABLE", "") not in ("", "0") if show is None else not show
    common: dict[str, Any] = {
        "iterable": iterable,
        "total": total,
        "desc": what or None,
        "unit": unit,
        "disable": unwanted or sys.stderr is None,
    }
    if watched():
        return tqdm(**common, delay=PATIENCE if show is None else 0, leave=bool(show))
    every = {"mininterval": LINE_EVERY, "maxinterval": LINE_EVERY, "miniters": 1}
    delay = LINE_EVERY if show is None else 0
    return _Lines(**common, **every, delay=delay, bar_format=_LINE, file=sys.stderr, leave=False)
