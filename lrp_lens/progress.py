"""progress_bar: the one progress bar of everything that may take long.

1. `show=None`, the default everywhere: a bar on a terminal or in a notebook, and only once two seconds have passed;
   nothing where nobody looks on, such as a log file.  It is taken away when it is done.
2. `show=True`: a bar at once, wherever stderr leads, and it stays.  `show=False`: none.
"""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import notebook_tqdm, tqdm
from tqdm.std import tqdm as plain_tqdm

from lrp_lens.errors import InputError

PATIENCE = 2.0
"""Seconds before a bar appears that nobody asked for."""


def watched() -> bool:
    """Whether somebody can see a bar: in a notebook, or where stderr is a terminal."""
    return notebook_tqdm is not plain_tqdm or (sys.stderr is not None and sys.stderr.isatty())


def require_show(show: Any) -> None:
    """Refuse what is no answer to whether a bar is shown.

    Raises:
        InputError: for anything but True, False and None.
    """
    if show is not None and not isinstance(show, bool):
        raise InputError(
            f"progress is True, False or None (shown on terminals and in notebooks); received {show!r}."
        )


def progress_bar(
    iterable: Iterable[Any] | None = None,
    total: int | None = None,
    what: str = "",
    show: bool | None = None,
    unit: str = "it",
) -> Any:
    """A bar around an iterable, or one that is moved by hand with `update`.

    Args:
        iterable: what is gone through; None to call `bar.update(n)` inside `with progress_bar(...) as bar`.
        total: how many steps there are; by default the iterable's length.
        what: what is being done, in front of the bar.
        show: True, False, or None for a bar where somebody looks on, after two seconds.
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
    return tqdm(
        iterable,
        total=total,
        desc=what or None,
        unit=unit,
        disable=not (watched() if show is None else show),
        delay=PATIENCE if show is None else 0,
        leave=bool(show),
    )
