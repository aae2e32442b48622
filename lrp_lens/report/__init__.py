"""One self-contained HTML file per analysis: opens without network, readable on a phone."""

from lrp_lens.report.explanation import explanation_html, write_report
from lrp_lens.report.glance import explanation_glance
from lrp_lens.report.saving import write_json

__all__ = ["explanation_glance", "explanation_html", "write_json", "write_report"]
