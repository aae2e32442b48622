"""Rules and rule sets: frozen data that becomes ordinary TransformerLens forward hooks, and answers for itself.

A rule says how relevance passes one kind of operation.  Every other room asks it and never looks at its class:

    operation   base class       acts by                     answers
    norm        NormRule         hooks, or transpose         conserves, transpose, derivative, kept
    activation  ActivationRule   gate (or hooks)             conserves
    product     ProductRule      its shares                  conserves, share("gate" | "up")
    attention   AttentionRule    row_gradients (or hooks)    sinks, share("q" | "k" | "v" | "pattern"), row_gradients
    softmax     SoftmaxRule      at_scores (or hooks)        conserves, at_scores
    softcap     SoftcapRule      hooks                       conserves, slope
    experts     ExpertsRule      its shares                  conserves, share("router" | "expert")
    linear      LinearRule       hooks                       conserves, factor, absorbed

1. A rule of your own derives from one of these classes, in a file of yours, and goes into a rule set like any other:
   `RELP.replace(softmax=Mine())`.  Only what makes it act is needed to run it.
2. What it does not answer, an analysis that asks refuses with RuleError, which names rule, question and analysis,
   before any work.  Who asks what:

    run_with_relevance, faithfulness, patching    nothing (patching the pattern: attention share)
    cache.ledger()          conserves, sinks; kept (norms), absorbed (linear)
    decompose               conserves and absorbed of what follows the stream: soft-cap and unembedding
    component_edges         transpose (norms), factor (linear)
    attribution_graph       conserves, sinks; derivative and kept (norms), factor (linear), share and row_gradients
                            (attention), at_scores (softmax), slope (soft-cap).  method="batch_packed" asks nothing.

3. A class that acts differently from its base (its own `hooks` or `gate`) does not inherit the base's answers.
4. Answers are checked where a pass can contradict them: edges against the gradients that were recorded, the ledger by
   its remainder.

docs/write_your_own_rule.md has a complete example.
"""

from lrp_lens.rules.activations import (
    ActivationRule,
    Identity,
    ProductRule,
    ProductWeights,
    SoftcapRule,
)
from lrp_lens.rules.attention import (
    AttentionRows,
    AttentionRule,
    AttentionWeights,
    ConservingAttention,
    FrozenPattern,
)
from lrp_lens.rules.experts import ExpertsRule, ExpertWeights
from lrp_lens.rules.linear import Epsilon, LinearRule
from lrp_lens.rules.norms import FrozenNorm, NormRule
from lrp_lens.rules.override import Override
from lrp_lens.rules.plain import Plain
from lrp_lens.rules.presets import (
    ATTN_LRP,
    CP_LRP,
    DEFAULT_RULES,
    GIM,
    GRADIENT,
    PRESETS,
    RELP,
    RELP_FROZEN_PATTERN,
    VARIANTS,
    as_rule_set,
    conserves,
    conserving,
    holds_patterns,
)
from lrp_lens.rules.rule import Hook, Rule, scaled
from lrp_lens.rules.ruleset import RuleSet
from lrp_lens.rules.softmax import SecantSoftmax, SoftmaxRows, SoftmaxRule, TemperedSoftmax

__all__ = [
    "ATTN_LRP",
    "CP_LRP",
    "DEFAULT_RULES",
    "GIM",
    "GRADIENT",
    "PRESETS",
    "RELP",
    "RELP_FROZEN_PATTERN",
    "VARIANTS",
    "ActivationRule",
    "AttentionRows",
    "AttentionRule",
    "AttentionWeights",
    "ConservingAttention",
    "Epsilon",
    "ExpertWeights",
    "ExpertsRule",
    "FrozenNorm",
    "FrozenPattern",
    "Hook",
    "Identity",
    "LinearRule",
    "NormRule",
    "Override",
    "Plain",
    "ProductRule",
    "ProductWeights",
    "Rule",
    "RuleSet",
    "SecantSoftmax",
    "SoftcapRule",
    "SoftmaxRows",
    "SoftmaxRule",
    "TemperedSoftmax",
    "as_rule_set",
    "conserves",
    "conserving",
    "holds_patterns",
    "scaled",
]
