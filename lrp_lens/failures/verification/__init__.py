"""Verification: what a failure comes from, by interventions on what relevance blames."""

from lrp_lens.failures.verification.check import Check, Reading, Step
from lrp_lens.failures.verification.criterion import CaseVerdict, Criterion, Pattern
from lrp_lens.failures.verification.edits import AttentionEdge, Edit, EditedRuns, Place
from lrp_lens.failures.verification.outcomes import Repair, Variant
from lrp_lens.failures.verification.result import Verification
from lrp_lens.failures.verification.verify import verify

__all__ = [
    "AttentionEdge",
    "CaseVerdict",
    "Check",
    "Criterion",
    "Edit",
    "EditedRuns",
    "Pattern",
    "Place",
    "Reading",
    "Repair",
    "Step",
    "Variant",
    "Verification",
    "verify",
]
