"""`lrp-lens report` and `lrp-lens compare-runs`: what triages wrote, shown."""

from pathlib import Path

from rich.text import Text

from lrp_lens.characters import shown
from lrp_lens.cli.console import terminal
from lrp_lens.cli.inputs import require_outputs
from lrp_lens.failures.triage.folder import shards
from lrp_lens.report import write_triage_report


def run_report(folder: str, out: str | None, force: bool) -> Path:
    """Write the report of a triage.

    Raises:
        InputError: no folder with rows, or a file that cannot be written.
    """
    shards(folder)
    path = str(Path(folder) / "report.html") if out is None else out
    require_outputs(path, None, force)
    with terminal(stderr=True).status("reading the cases …"):
        written = write_triage_report(folder, path)
    _said(written)
    return written


def _said(written: Path) -> None:
    terminal().print(Text.assemble(("Report:", "bold"), f" {shown(str(written))}"), soft_wrap=True)
