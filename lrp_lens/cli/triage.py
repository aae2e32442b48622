"""`lrp-lens triage`: logs in, a folder of rows out, what became of them on the terminal."""

import shlex
from functools import partial
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lrp_lens.cli.console import terminal
from lrp_lens.cli.inputs import TriageRequest
from lrp_lens.cli.loading import loaded
from lrp_lens.failures.triage import Triage
from lrp_lens.failures.triage.options import TriageOptions
from lrp_lens.failures.triage.run import triage

_REASON = 80


def run(request: TriageRequest) -> Triage:
    """Answer one request: the rows in their folder, coverage and verdicts on the terminal.

    Raises:
        InputError, RuleError: what was asked cannot be done; see the message.
    """
    options = TriageOptions(
        task=request.task,  # type: ignore[arg-type]  # its values are checked there
        allow_code_execution=request.allow_code_execution,
        rules=request.rules,
        min_gap=request.min_gap,
    )

    def load(name: str | None) -> Any:
        with terminal(stderr=True).status("loading the model …"):
            return loaded(name, request.device, request.dtype)

    second = None if request.contrast_model is None else partial(load, request.contrast_model)
    found = triage(
        list(request.files),
        partial(load, request.model),
        out=request.out,
        options=options,
        contrast_model=second,
        limit=request.limit,
        columns=request.column_of,
        chat=request.chat,
        workers=request.workers,
        retry_errors=request.retry_errors,
    )
    print_triage(found, request.out, terminal())
    return found


def print_triage(found: Triage, out: str, console: Console) -> None:
    """Coverage, verdicts, and the next command."""
    coverage, verdicts = found.coverage(), found.verdicts()
    console.print(_table(coverage, "What became of the rows", "reason"))
    if len(verdicts):
        console.print(_table(verdicts, "Where the failure can be seen"))
    told = Text.assemble(("Next:", "bold"), f" lrp-lens report {shlex.quote(out)}")
    console.print(told, soft_wrap=True)


def _table(rows: pd.DataFrame, title: str, *texts: str) -> Table:
    made = Table(box=box.SIMPLE_HEAD, title=title, title_style="bold", title_justify="left", pad_edge=False)
    for name in rows.columns:
        made.add_column(str(name), justify="left" if rows[name].dtype == object or name in texts else "right")
    for row in rows.to_dict("records"):
        cells = {**row, "share": f"{row['share']:.0%}"}
        if "reason" in cells:
            reason = str(cells["reason"])
            cells["reason"] = reason if len(reason) <= _REASON else f"{reason[:_REASON]}…"
        made.add_row(*(Text(str(cells[name])) for name in rows.columns))
    return made
