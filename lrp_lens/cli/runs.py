"""`lrp-lens report` and `lrp-lens compare-runs`: what triages wrote, shown."""

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from lrp_lens.characters import shown
from lrp_lens.cli.console import terminal
from lrp_lens.cli.inputs import require_outputs
from lrp_lens.failures.runs import RunComparison, compare_runs
from lrp_lens.failures.triage.load import load_triage
from lrp_lens.report import write_triage_report


def run_report(folder: str, out: str | None, force: bool) -> Path:
    """Write the report of a triage.

    Raises:
        InputError: no folder with rows, or a file that cannot be written.
    """
    load_triage(folder)
    path = str(Path(folder) / "report.html") if out is None else out
    require_outputs(path, None, force)
    with terminal(stderr=True).status("reading the cases …"):
        written = write_triage_report(folder, path)
    _said(written)
    return written


def run_comparison(folders: Sequence[str], out: str | None, force: bool) -> RunComparison:
    """Print how runs compare, and write the page where one is asked for.

    Raises:
        InputError: fewer than two folders, no common case, or a file that cannot be written.
    """
    if out is not None:
        require_outputs(out, None, force)
    comparison, console = compare_runs(*folders), terminal()
    console.print(Text(repr(comparison)), soft_wrap=True)
    tables = {"Verdicts": comparison.transitions(), "Logit gaps": comparison.gaps().round(3)}
    if len(comparison.segments):
        tables["Segments"] = comparison.segment_shares().round(3)
    for name, found in tables.items():
        console.print(Text(f"\n{name}", style="bold"))
        console.print(Text(found.to_string(index=name == "Verdicts")), soft_wrap=True)
    if out is not None:
        _said(comparison.save(out))
    return comparison


def _said(written: Path) -> None:
    terminal().print(Text.assemble(("Report:", "bold"), f" {shown(str(written))}"), soft_wrap=True)
