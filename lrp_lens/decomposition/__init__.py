"""Logit-difference decomposition: what each component contributes directly, indirectly and in total."""

from lrp_lens.decomposition.result import Component, Decomposition
from lrp_lens.decomposition.run import decompose

__all__ = ["Component", "Decomposition", "decompose"]
