"""Verification: what a failure comes from, by interventions on what relevance blames.

`verify.verify` makes it, with the interventions of `edits`; here is what it returns.
"""

from lrp_lens.failures.verification.check import Check, Reading, Step
from lrp_lens.failures.verification.criterion import CaseVerdict, Criterion, Pattern
from lrp_lens.failures.verification.outcomes import Repair, Variant
from lrp_lens.failures.verification.result import Verification

__all__ = [
    "CaseVerdict",
    "Check",
    "Criterion",
    "Pattern",
    "Reading",
    "Repair",
    "Step",
    "Variant",
    "Verification",
]
