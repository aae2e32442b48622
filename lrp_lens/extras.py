"""Optional libraries, which are extras: imported when they are asked for, and one error where one is missing."""

import importlib
from typing import Any

from lrp_lens.errors import InputError


def require_extra(extra: str, *modules: str, use: str, otherwise: str = "") -> Any:
    """Import what an extra of lrp_lens brings.

    Args:
        extra: its name in `pip install 'lrp-lens[…]'`.
        modules: what is needed, dotted; the first is what is wanted.
        use: what it is for, up to the verb: "parquet files are read".
        otherwise: what else a user can do, after "or".

    Returns:
        The first module.

    Raises:
        InputError: one of them cannot be imported; names the packages, the extra and the command.

    Example:
        >>> require_extra("parquet", "no_such_arrow.parquet", use="parquet files are read")
        Traceback (most recent call last):
        lrp_lens.errors.InputError: parquet files are read with no_such_arrow, which is not installed: run
        `pip install 'lrp-lens[parquet]'`
    """
    found, missing, cause = [], {}, None
    for name in modules:
        try:
            found.append(importlib.import_module(name))
        except ImportError as error:
            missing[(error.name or name).partition(".")[0]] = cause = error
    if missing:
        which = "which is" if len(missing) == 1 else "which are"
        raise InputError(
            f"{use} with {', '.join(missing)}, {which} not installed: run `pip install 'lrp-lens[{extra}]'`"
            f"{otherwise and ', or '}{otherwise}"
        ) from cause
    return found[0]
