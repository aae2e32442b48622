"""Triage: from benchmark logs to verified explanations, row by row."""

from lrp_lens.failures.triage.batch import triage_batch
from lrp_lens.failures.triage.options import TriageOptions
from lrp_lens.failures.triage.row import TriageRow, read_rows, write_rows

__all__ = ["TriageOptions", "TriageRow", "read_rows", "triage_batch", "write_rows"]
