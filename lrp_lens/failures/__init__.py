"""Failure analysis: cases, and what goes wrong in them."""

from lrp_lens.cases import Case
from lrp_lens.failures.explain import explain
from lrp_lens.failures.explanation import Explanation

__all__ = ["Case", "Explanation", "explain"]
