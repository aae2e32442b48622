"""An explanation in files: the page to read, the numbers as JSON, or both."""

import json
from os import PathLike, fspath
from pathlib import Path

from lrp_lens.errors import InputError
from lrp_lens.failures.explanation import Explanation
from lrp_lens.files import require_writable, write_text
from lrp_lens.plots import Palette
from lrp_lens.report.explanation import write_report

_PAGE, _NUMBERS = (".html", ".htm"), ".json"


def save_explanation(
    explanation: Explanation, path: str | PathLike[str], *, palette: Palette = "default"
) -> tuple[Path, ...]:
    """See Explanation.save."""
    base = require_writable(path)
    suffix = base.suffix.lower()
    if suffix in _PAGE:
        return (write_report(explanation, base, palette=palette),)
    if suffix == _NUMBERS:
        return (write_json(explanation, base),)
    if suffix:
        raise InputError(
            f"An explanation is written as .html, as .json, or as both where the name has no suffix; received "
            f"{fspath(path)!r}. Try {str(base.with_suffix('.html'))!r}."
        )
    page, numbers = (require_writable(base.with_suffix(one)) for one in (_PAGE[0], _NUMBERS))
    return write_report(explanation, page, palette=palette), write_json(explanation, numbers)


def write_json(explanation: Explanation, path: str | PathLike[str]) -> Path:
    """Write `explanation.to_json_dict()` and return the file's absolute path.

    Raises:
        InputError: the file cannot be written.
    """
    return write_text(path, json.dumps(explanation.to_json_dict(), indent=1, allow_nan=False) + "\n")
