"""Results by case, one CSV file for each part, model, task and half; what is there is not measured again.

Every file begins with a comment line that says how it was made: version, seed and counts, from which the tables give
the command.  A file that was made otherwise is refused, not mixed in.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lrp_lens import __version__
from lrp_lens.files.paths import replacing


@dataclass(frozen=True)
class Store:
    """A folder of results."""

    folder: Path

    def path(self, *keys: str) -> Path:
        """Where the rows of these keys lie."""
        return self.folder / ("--".join(key.replace(" ", "-") for key in keys) + ".csv")

    def rows(
        self, keys: tuple[str, ...], options: dict[str, Any], make: Callable[[], pd.DataFrame]
    ) -> pd.DataFrame:
        """The rows of these keys: read if they are there, else made and written.

        Raises:
            ValueError: the file was made with other options or another version.
        """
        there = self.known(keys, options)
        return self._written(keys, options, make()) if there is None else there

    def known(self, keys: tuple[str, ...], options: dict[str, Any]) -> pd.DataFrame | None:
        """The rows of these keys; None if there are none.

        Raises:
            ValueError: the file was made with other options or another version.
        """
        path, head = self.path(*keys), {"version": __version__, **options}
        if not path.exists():
            return None
        found = _head(path)
        if found != head:
            raise ValueError(
                f"{path} was made with {found}, this run has {head}. Delete it, or use another --out."
            )
        return pd.read_csv(path, skiprows=1)

    def add(self, keys: tuple[str, ...], options: dict[str, Any], row: dict[str, Any]) -> None:
        """One more row of these keys, at once complete on disk.

        Raises:
            ValueError: the file was made with other options or another version.
        """
        there = self.known(keys, options)
        fresh = pd.DataFrame([row])
        self._written(keys, options, fresh if there is None else pd.concat([there, fresh]))

    def _written(self, keys: tuple[str, ...], options: dict[str, Any], table: pd.DataFrame) -> pd.DataFrame:
        path, head = self.path(*keys), {"version": __version__, **options}
        with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            file.write(f"# {json.dumps(head, sort_keys=True)}\n")
            table.to_csv(file, index=False, float_format="%.5g")
        return pd.read_csv(path, skiprows=1)

    def every(self, part: str) -> pd.DataFrame:
        """All rows of a part, with its keys as columns."""
        paths = sorted(self.folder.glob(f"{part}--*.csv"))
        return pd.concat([pd.read_csv(path, skiprows=1) for path in paths]) if paths else pd.DataFrame()

    def options(self, part: str) -> list[dict[str, Any]]:
        """How the files of a part were made, each way once."""
        heads = [_head(path) for path in sorted(self.folder.glob(f"{part}--*.csv"))]
        return [head for index, head in enumerate(heads) if head not in heads[:index]]


def _head(path: Path) -> dict[str, Any]:
    with path.open(encoding="utf-8") as file:
        first = file.readline()
    return dict(json.loads(first.removeprefix("# ")))
