"""Failure analysis: cases and what goes wrong in them."""

from lrp_lens.failures.case import Case

__all__ = ["Case"]
