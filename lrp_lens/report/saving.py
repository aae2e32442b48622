"""A result in files: the page to read, the numbers as JSON, or both."""

import json
from collections.abc import Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrp_lens.errors import InputError
from lrp_lens.files import require_writable, write_text
from lrp_lens.plots import Palette
from lrp_lens.report.explanation import explanation_html
from lrp_lens.report.verification import verification_html

if TYPE_CHECKING:
    from lrp_lens.failures.explanation import Explanation
    from lrp_lens.failures.verification import Verification


_PAGE, _NUMBERS = (".html", ".htm"), ".json"


def save_explanation(
    explanation: "Explanation", path: str | PathLike[str], *, palette: Palette = "default"
) -> tuple[Path, ...]:
    """See Explanation.save."""
    pages, numbers = _files(path, "An explanation")
    page = explanation_html(explanation, palette=palette) if pages else ""
    return *(write_text(one, page) for one in pages), *(
        write_json(explanation.to_json_dict(), one) for one in numbers
    )


def save_verification(
    verification: "Verification", path: str | PathLike[str], *, palette: Palette = "default"
) -> tuple[Path, ...]:
    """See Verification.save."""
    pages, numbers = _files(path, "A verification")
    page = verification_html(verification, palette=palette) if pages else ""
    return *(write_text(one, page) for one in pages), *(
        write_json(verification.to_dict(), one) for one in numbers
    )


def _files(path: str | PathLike[str], what: str) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """The files of pages and those of numbers that a name stands for.

    Raises:
        InputError: another suffix, or a path that cannot be written.
    """
    base = require_writable(path)
    suffix = base.suffix.lower()
    if not suffix:
        page, numbers = (require_writable(base.with_suffix(one)) for one in (_PAGE[0], _NUMBERS))
        return (page,), (numbers,)
    if suffix not in (*_PAGE, _NUMBERS):
        raise InputError(
            f"{what} is written as .html, as .json, or as both where the name has no suffix; received "
            f"{fspath(path)!r}. Try {str(base.with_suffix('.html'))!r}."
        )
    return ((), (base,)) if suffix == _NUMBERS else ((base,), ())


def write_json(values: Mapping[str, Any], path: str | PathLike[str]) -> Path:
    """Write what `explanation.to_json_dict()` or `verification.to_dict()` says, and return the file's absolute path.

    Raises:
        InputError: the file cannot be written.
    """
    return write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")
