"""Failure analysis: cases, and what goes wrong in them."""

from lrp_lens.cases import Case
from lrp_lens.failures.explain import explain
from lrp_lens.failures.explanation import Explanation
from lrp_lens.failures.logs import CaseLog, read_cases

__all__ = ["Case", "CaseLog", "Explanation", "explain", "read_cases"]
