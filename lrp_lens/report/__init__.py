"""One self-contained HTML file per analysis: opens without network, readable on a phone."""

from lrp_lens.report.explanation import explanation_html, write_report
from lrp_lens.report.glance import explanation_glance, verification_glance
from lrp_lens.report.saving import write_json
from lrp_lens.report.triage import triage_html, write_triage_report
from lrp_lens.report.verification import verification_html

__all__ = [
    "explanation_glance",
    "explanation_html",
    "triage_html",
    "verification_glance",
    "verification_html",
    "write_json",
    "write_report",
    "write_triage_report",
]
