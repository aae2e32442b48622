"""Triage: from benchmark logs to a folder of verified explanations, at any scale.

1. `run.triage` reads logs row by row, finds, explains and verifies the decision of each failure, and keeps a row for
   each.
2. `load_triage` gives rows, cases and explanations back; `coverage` counts what became of the rows.
3. `batch.triage_batch` is the core: cases → rows, in this process, without files.
"""

from lrp_lens.failures.triage.load import Triage, load_triage
from lrp_lens.failures.triage.row import TriageRow, read_rows, write_rows

__all__ = ["Triage", "TriageRow", "load_triage", "read_rows", "write_rows"]
