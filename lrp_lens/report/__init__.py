"""One self-contained HTML file per analysis: opens without network, readable on a phone."""

from lrp_lens.report.explanation import explanation_html, write_report

__all__ = ["explanation_html", "write_report"]
