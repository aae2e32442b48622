"""Logit-difference decomposition: what each component contributes directly, indirectly and in total."""

from lrp_lens.decomposition.component import Component
from lrp_lens.decomposition.result import Decomposition
from lrp_lens.decomposition.run import decompose

__all__ = ["Component", "Decomposition", "decompose"]
