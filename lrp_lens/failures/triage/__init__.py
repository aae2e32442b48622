"""Triage: from benchmark logs to verified explanations, row by row."""

from lrp_lens.failures.triage.row import TriageRow, read_rows, write_rows

__all__ = ["TriageRow", "read_rows", "write_rows"]
