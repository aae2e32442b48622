"""TriageRow: what became of one row of a log, flat enough for a table, with everything that was found as JSON.

1. The first columns are plain texts, numbers and truth values, or None where there is none: pandas and any other reader
   of parquet sort and count them.
2. The last columns hold everything that was found: case, decision, explanation and verification as JSON texts, "" where
   there is none, and the pruned graph as the bytes of its file.
3. Lone surrogates, which UTF-8 does not have, stand as escapes in plain columns; the JSON keeps them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any, Literal, get_args, get_type_hints

import pandas as pd

from lrp_lens.attribution_graphs.arrays import AttributionGraph
from lrp_lens.errors import InputError
from lrp_lens.files import AnyPath, parquet
from lrp_lens.views.table import table_of

Fate = Literal[
    "explained",
    "excluded",
    "not a failure",
    "error",
    "bad row",
    "duplicate",
    "other filter",
    "no answer",
    "empty file",
    "no log",
]
"""What became of a row: explained and verified; a failure that is not explained, for the reason given; an answer that
is right; a case at which something failed; and rows that are no case, as `CaseLog` tells them."""
FATES: tuple[Fate, ...] = get_args(Fate)
KIND = "TriageRows/1"
"""What a file of rows says it is, with the version of its columns."""


@dataclass(frozen=True, kw_only=True)
class TriageRow:
    """One row of a log, and what was found.

    Raises:
        InputError: a fate other than "explained" without a reason.

    Example:
        >>> row = TriageRow(id="sum", number=0, fate="excluded", reason="the logit gap is 0.20, not above 1", gap=0.2)
        >>> row.gap, row.verdict, row.flipped
        (0.2, '', None)
    """

    id: str
    """The case's id; of a row that is no case, its file's name and line."""
    number: int
    """Its place among all rows, in the order in which they were read, from 0."""
    fate: Fate
    reason: str = ""
    """Why it was not explained; "" where it was."""
    file: str = ""
    line: int = 0
    suite: str = ""
    """The kind of task, as the log says."""
    way: str = ""
    """Which way led to the decision: "given", "choice", "pivot", "answer", "contrast model" or "runner-up"."""
    checked: bool | None = None
    """Whether the contrast is known to be right; None without a decision."""
    target: str = ""
    """The token that the model says."""
    contrast: str = ""
    """The token that it is compared with."""
    position: str = ""
    """Which of the completion's tokens is decided: its index or its text; "" for the one behind the prompt."""
    gap: float | None = None
    """Logit of the target minus logit of the contrast, as the search for the decision found it."""
    metric_value: float | None = None
    """The same of the relevance pass; what the relevances add up to, sinks included."""
    target_rank: int | None = None
    """1 is the model's first choice."""
    contrast_rank: int | None = None
    verdict: str = ""
    """Where the failure can be seen: "input", "graph" or "none"; "" where it was not verified."""
    pattern: str = ""
    """"overweighted irrelevant tokens", "underweighted relevant tokens", "both" or "neither"."""
    confidence: float | None = None
    """1 − the chance that random tokens or places do the same."""
    stable: bool | None = None
    """Whether other rules and another replacement give the same verdict."""
    flipped: int | None = None
    """The smallest number of hidden tokens after which the contrast is ahead; None if it never is."""
    random_share: float | None = None
    """Share of the random draws, as many tokens hidden, that do the same."""
    repair: str = ""
    """The change of the prompt that made the answer right, in words."""
    n_tokens: int | None = None
    """Tokens up to the decision, BOS included."""
    bos_share: float | None = None
    """Share of Σ|R| on the token that begins the text; None where there is none."""
    segment_shares: str = ""
    """JSON: name of a segment → its share of Σ|R| without special tokens."""
    segment_relevance: str = ""
    """JSON: name of a segment → ΣR of its tokens in logits, towards the target, without special tokens."""
    forwarded: int | None = None
    """Tokens that were run to find the decision."""
    seconds: str = ""
    """JSON: part of the work → wall-clock seconds."""
    seconds_total: float | None = None
    rules: str = ""
    """Name of the rule set."""
    content: str = ""
    """SHA-256 of what the case asks."""
    case: str = ""
    """JSON of `Case.to_dict`: as it was decided, as it was read where it was not."""
    decision: str = ""
    """JSON of `Decision.to_dict`."""
    explanation: str = ""
    """JSON of `Explanation.to_json_dict`."""
    verification: str = ""
    """JSON of `Verification.to_dict`."""
    graph: bytes = b""
    """The pruned attribution graph as `AttributionGraph.to_bytes` gives it; `attribution_graph` reads it."""

    def __post_init__(self) -> None:
        if not self.reason and self.fate != "explained":
            raise InputError(
                f"A row has a reason unless it is explained; row {self.id!r} is {self.fate!r} without one."
            )
        for name in TEXTS:
            object.__setattr__(self, name, in_utf8(getattr(self, name)))

    def attribution_graph(self) -> AttributionGraph | None:
        """The pruned graph, which needs no model; None where none was made."""
        return AttributionGraph.from_bytes(self.graph) if self.graph else None

    def without_time(self) -> "TriageRow":
        """The row without what differs from run to run: the seconds, in its own columns and in its JSON texts.

        Example:
            >>> TriageRow(id="a", number=0, fate="error", reason="no", seconds_total=1.5).without_time().seconds_total
        """
        values = {name: getattr(self, name) for name in COLUMNS}
        for name in JSONS:
            if values[name]:
                held = json.loads(values[name])
                held.pop("seconds", None)
                values[name] = written(held)
        return TriageRow(**(values | {"seconds": "", "seconds_total": None}))


COLUMNS = tuple(one.name for one in fields(TriageRow))
"""The columns, in order."""
_ARROW = {str: "string", int: "int64", float: "float64", bool: "bool", bytes: "binary", Fate: "string"}
_TYPES = {
    name: next(of for kind, of in _ARROW.items() if kind in (held, *get_args(held)))
    for name, held in get_type_hints(TriageRow).items()
}
"""Column → pyarrow's name of its type."""
TEXTS = tuple(name for name, of in _TYPES.items() if of == "string")
_ALWAYS = ("id", "number", "fate", "reason")
JSONS = ("case", "decision", "explanation", "verification")
"""The columns that hold what was found as JSON."""


def in_utf8(text: str) -> str:
    r"""A text as plain columns have it, ids among them: lone surrogates, which UTF-8 does not have, as escapes.

    Example:
        >>> in_utf8("case \ud800")
        'case \\ud800'
    """
    return text.encode("utf-8", "backslashreplace").decode()


def written(value: Any) -> str:
    r"""Strict JSON in ASCII, so that lone surrogates stay; null for what is no finite number; "" for None.

    Example:
        >>> written({"token": "\ud800", "gap": float("nan")}), written(None)
        ('{"token": "\\ud800", "gap": null}', '')
    """
    return "" if value is None else json.dumps(_finite(value), ensure_ascii=True, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): _finite(one) for name, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, list | tuple) else value


def table(rows: Iterable[TriageRow]) -> pd.DataFrame:
    """One line for each row, with the columns of `TriageRow`."""
    kept = list(rows)
    return table_of({name: [getattr(row, name) for row in kept] for name in COLUMNS})


def write_rows(path: AnyPath, rows: Iterable[TriageRow]) -> None:
    """Write rows as one parquet file, which appears when it is complete.

    Raises:
        InputError: the path cannot be written, or pyarrow is not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_rows(f"{folder}/rows.parquet", [TriageRow(id="a", number=0, fate="bad row", reason="no prompt")])
        ...     [row.reason for row in read_rows(f"{folder}/rows.parquet")]
        ['no prompt']
    """
    kept = list(rows)
    parquet.write(
        path, KIND, {name: (of, [getattr(row, name) for row in kept]) for name, of in _TYPES.items()}
    )


def read_rows(path: AnyPath, columns: Sequence[str] = COLUMNS) -> list[TriageRow]:
    """The rows of a file that `write_rows` wrote.

    Args:
        path: of the file.
        columns: which to read, besides those that every row has; the others stay empty.

    Raises:
        InputError: nothing there, or no file of rows.
    """
    return [TriageRow(**one) for one in parquet.read(path, KIND, list(dict.fromkeys((*_ALWAYS, *columns))))]
