"""Slow, literal, independent answers to compare lrp_lens with: neither lrp_lens nor autograd is used.

    weights = from_hooked_transformer(model)        # TransformerLens 3.9
    weights = from_hugging_face(model)              # any transformers model of tests/zoo.py
    answer = compute_relevance(weights, tokens[0], metric, "ATTN_LRP")
    answer.relevance["blocks.0.attn.hook_q"], answer.coefficients[...], answer.sinks[0, "softmax"]

The algorithm is in recursion.py, the rules in rules.py, the sinks in ledger.py.
"""

from tests.oracles.forward import run_forward
from tests.oracles.hooked import from_hooked_transformer
from tests.oracles.hugging_face import from_hugging_face
from tests.oracles.ledger import Relevance, Site
from tests.oracles.recursion import compute_relevance
from tests.oracles.rules import ATTN_LRP, CP_LRP, GIM, GRADIENT, PRESETS, RELP, VARIANTS, Rules

__all__ = [
    "ATTN_LRP",
    "CP_LRP",
    "GIM",
    "GRADIENT",
    "PRESETS",
    "RELP",
    "VARIANTS",
    "Relevance",
    "Rules",
    "Site",
    "compute_relevance",
    "from_hooked_transformer",
    "from_hugging_face",
    "run_forward",
]
