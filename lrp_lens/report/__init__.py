"""One self-contained HTML file per analysis: opens without network, readable on a phone."""

from lrp_lens.report.explanation import explanation_html, write_report
from lrp_lens.report.page import Section, figure_block, page_html

__all__ = ["Section", "explanation_html", "figure_block", "page_html", "write_report"]
