"""The presets: which rule each method of the literature uses for each operation."""

from types import MappingProxyType

from lrp_lens.rules.rule import (
    AttentionWeights,
    ExpertWeights,
    FrozenNorm,
    Identity,
    ProductWeights,
    TemperedSoftmax,
)
from lrp_lens.rules.ruleset import RuleSet

HALF = ProductWeights(0.5, 0.5)
UNIFORM_ATTENTION = AttentionWeights(0.25, 0.25, 0.5)

ATTN_LRP = RuleSet(
    name="ATTN_LRP",
    norm=FrozenNorm(),
    activation=Identity(),
    product=HALF,
    attention=UNIFORM_ATTENTION,
    softcap=Identity(),
    experts=ExpertWeights(0.5, 0.5),
)
"""AttnLRP (Achtibat et al. 2024, 2402.05602): LN-rule, identity rule, half rule on products, uniform rule on both
attention products, plain softmax.  Not conservative: the softmax absorbs relevance, which the ledger shows."""

CP_LRP = RuleSet(
    name="CP_LRP",
    norm=FrozenNorm(),
    activation=Identity(),
    product=ProductWeights(0.0, 1.0),
    attention=AttentionWeights(0.0, 0.0, 1.0),
    softcap=Identity(),
    experts=ExpertWeights(0.0, 1.0),
)
"""CP-LRP (Ali et al. 2022, 2202.07304, extended to gated MLPs): attention patterns, gates and routing are constants.
Conservative up to biases."""

RELP = RuleSet(
    name="RELP",
    norm=FrozenNorm(),
    activation=Identity(),
    product=HALF,
    softcap=Identity(),
    experts=ExpertWeights(0.5, 0.5),
)
"""RelP (Jafari et al. 2025, 2508.21258): LN-rule, identity rule, half rule; attention keeps its gradient (for the
AH-rule use RELP.replace(attention=AttentionWeights(0, 0, 1)))."""

GIM = RuleSet(
    name="GIM",
    norm=FrozenNorm(),
    attention=UNIFORM_ATTENTION,
    softmax=TemperedSoftmax(2.0),
)
"""GIM (Edin et al. 2025, 2505.17630): its three modifications, i.e. normaliser frozen, q, k, v weighted ¼, ¼, ½,
softmax backward at temperature 2; MLPs keep their gradient.  Needs a host that computes attention patterns."""

GRADIENT = RuleSet(name="GRADIENT")
"""Gradient × activation, no rule at all: the control."""

PRESETS = MappingProxyType({rules.name: rules for rules in (ATTN_LRP, CP_LRP, RELP, GIM, GRADIENT)})
"""Name → preset."""
