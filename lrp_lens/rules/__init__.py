"""Rules and rule sets: frozen data that becomes ordinary TransformerLens forward hooks."""

from lrp_lens.rules.presets import ATTN_LRP, CP_LRP, GIM, GRADIENT, PRESETS, RELP
from lrp_lens.rules.rule import (
    AttentionWeights,
    Epsilon,
    ExpertWeights,
    FrozenNorm,
    FrozenPattern,
    Hook,
    Identity,
    Plain,
    ProductWeights,
    TemperedSoftmax,
)
from lrp_lens.rules.ruleset import Override, Rule, RuleSet

__all__ = [
    "ATTN_LRP",
    "CP_LRP",
    "GIM",
    "GRADIENT",
    "PRESETS",
    "RELP",
    "AttentionWeights",
    "Epsilon",
    "ExpertWeights",
    "FrozenNorm",
    "FrozenPattern",
    "Hook",
    "Identity",
    "Override",
    "Plain",
    "ProductWeights",
    "Rule",
    "RuleSet",
    "TemperedSoftmax",
]
