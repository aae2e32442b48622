"""Failure analysis: cases, and what goes wrong in them."""

from lrp_lens.cases import Case
from lrp_lens.failures.explain import explain
from lrp_lens.failures.explanation import Explanation
from lrp_lens.failures.logs import CaseLog, read_cases
from lrp_lens.failures.runs import RunComparison, compare_runs
from lrp_lens.failures.triage import Triage, TriageOptions, load_triage, triage
from lrp_lens.failures.verification import Verification, verify

__all__ = [
    "Case",
    "CaseLog",
    "Explanation",
    "RunComparison",
    "Triage",
    "TriageOptions",
    "Verification",
    "compare_runs",
    "explain",
    "load_triage",
    "read_cases",
    "triage",
    "verify",
]
