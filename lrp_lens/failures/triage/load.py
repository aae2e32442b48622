"""load_triage: what a triage left in its folder, read a file at a time and only as far as it is asked for."""

import json
from collections.abc import Iterator, Sequence
from os import fspath
from pathlib import Path
from typing import Any

import pandas as pd

from lrp_lens.cases import Case
from lrp_lens.errors import InputError
from lrp_lens.failures.explanation import Explanation
from lrp_lens.failures.triage.folder import read_manifest, rows_in
from lrp_lens.failures.triage.row import COLUMNS, JSONS, TriageRow, table
from lrp_lens.files import AnyPath
from lrp_lens.markup import Html, frame, told
from lrp_lens.views.table import table_of

_SMALL = tuple(name for name in COLUMNS if name not in (*JSONS, "graph"))


class Triage:
    """The rows of a folder, in the order in which they were read; make it with `load_triage`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings: dict[str, str] = read_manifest(path)["settings"]
        """By name, what the rows depend on."""

    def rows(self, columns: Sequence[str] = COLUMNS) -> Iterator[TriageRow]:
        """Every row, a file at a time; those of one file are in order.

        Args:
            columns: what is read of it, besides what every row has; by default everything.
        """
        return rows_in(self.path, columns)

    def to_dataframe(self, *, details: bool = False) -> pd.DataFrame:
        """One line for each row, in the order in which they were read.

        Args:
            details: whether the JSON texts and the graph are columns, too.
        """
        columns = COLUMNS if details else _SMALL
        rows = sorted(rows_in(self.path, columns), key=lambda row: row.number)
        return table(rows)[list(columns)]

    def cases(self) -> Iterator[Case]:
        """The cases, each as it was decided; as it was read where it was not."""
        for row in rows_in(self.path, ("case",)):
            if row.case:
                yield case_of(row)

    def explanations(self) -> Iterator[tuple[str, Explanation]]:
        """The id of each explained case, and its explanation."""
        for row in rows_in(self.path, ("explanation",)):
            if row.explanation:
                yield row.id, Explanation.from_json_dict(json.loads(row.explanation))

    def coverage(self) -> pd.DataFrame:
        """How many rows had each fate, most first, and the first reason: fate, rows, share, reason."""
        frame = self.to_dataframe()
        groups = [(fate, rows) for fate, rows in frame.groupby("fate", sort=False)]
        groups.sort(key=lambda one: -len(one[1]))
        return table_of(
            {
                "fate": [fate for fate, _ in groups],
                "rows": [len(rows) for _, rows in groups],
                "share": [len(rows) / len(frame) for _, rows in groups],
                "reason": [rows["reason"].iloc[0] for _, rows in groups],
            }
        )

    def verdicts(self) -> pd.DataFrame:
        """How many explained cases had each verdict, most first: verdict, cases, share, stable."""
        frame = self.to_dataframe()
        frame = frame[frame["verdict"] != ""]
        counts = frame["verdict"].value_counts()
        stable = [frame.loc[frame["verdict"] == one, "stable"].eq(True).sum() for one in counts.index]
        return table_of(
            {
                "verdict": counts.index.tolist(),
                "cases": counts.tolist(),
                "share": [int(one) / len(frame) for one in counts],
                "stable": [int(one) for one in stable],
            }
        )

    def _repr_html_(self) -> Html:
        return told(repr(self), frame(self.coverage().round(3), border=0))

    def __repr__(self) -> str:
        told = ", ".join(f"{row.rows} {row.fate}" for row in self.coverage().itertuples())
        return f"Triage in {fspath(self.path)!r}: {told or 'no rows'}"


def load_triage(path: AnyPath) -> Triage:
    """What a triage left in its folder.

    Args:
        path: the folder, `out` of `triage`.

    Raises:
        InputError: no folder of a triage.

    Example:
        >>> load_triage("/nowhere")
        Traceback (most recent call last):
        lrp_lens.errors.InputError: The folder of a triage is a folder; there is none at '/nowhere'.
    """
    if not Path(path).is_dir():
        raise InputError(f"The folder of a triage is a folder; there is none at {fspath(path)!r}.")
    return Triage(Path(path))


def case_of(row: TriageRow) -> Case:
    """The case of a row; what was not measured is missing in its JSON."""
    held: dict[str, Any] = json.loads(row.case)
    return Case.from_dict({name: one for name, one in held.items() if one is not None or name != "logit_gap"})
