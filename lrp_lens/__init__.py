"""lrp_lens: relevance at every TransformerLens hook point.

    logits, rel = run_with_relevance(model, prompt, LogitDiff(" Mary", " John"), rules=ATTN_LRP)
    rel["resid_pre", 5], rel.tokens(), rel.heads(), rel.ledger()

This module re-exports the public names, nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lrp_lens.cache import RelevanceCache
from lrp_lens.coverage import Coverage, coverage
from lrp_lens.errors import InputError, MetricError, RuleError, SiteError
from lrp_lens.ledger import Ledger
from lrp_lens.metrics import (
    Logit,
    LogitDiff,
    LogProb,
    MeanContrast,
    Metric,
    RunnerUp,
    SequenceLogit,
    SequenceLogitDiff,
    TopKContrast,
)
from lrp_lens.relevance import run_with_relevance
from lrp_lens.rules import (
    ATTN_LRP,
    CP_LRP,
    GIM,
    GRADIENT,
    PRESETS,
    RELP,
    AttentionWeights,
    Epsilon,
    ExpertWeights,
    FrozenNorm,
    FrozenPattern,
    Identity,
    Plain,
    ProductWeights,
    RuleSet,
    TemperedSoftmax,
)
from lrp_lens.views import View

if TYPE_CHECKING:
    from lrp_lens.demo import demo_cases, load_demo_model
    from lrp_lens.failures import Case as Case
    from lrp_lens.failures import Explanation as Explanation
    from lrp_lens.failures.explain import explain as explain
    from lrp_lens.hosts.loading import load_model

__version__ = "0.1.0"

# Imported on first use: they bring in parts of transformers that most sessions have no need of.
_ON_FIRST_USE = {
    "Case": "lrp_lens.failures",
    "Explanation": "lrp_lens.failures",
    "demo_cases": "lrp_lens.demo",
    "explain": "lrp_lens.failures",
    "load_demo_model": "lrp_lens.demo",
    "load_model": "lrp_lens.hosts.loading",
}


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        return getattr(import_module(_ON_FIRST_USE[name]), name)
    raise AttributeError(f"module 'lrp_lens' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "ATTN_LRP",
    "CP_LRP",
    "GIM",
    "GRADIENT",
    "PRESETS",
    "RELP",
    "AttentionWeights",
    "Case",
    "Coverage",
    "Epsilon",
    "ExpertWeights",
    "Explanation",
    "FrozenNorm",
    "FrozenPattern",
    "Identity",
    "InputError",
    "Ledger",
    "LogProb",
    "Logit",
    "LogitDiff",
    "MeanContrast",
    "Metric",
    "MetricError",
    "Plain",
    "ProductWeights",
    "RelevanceCache",
    "RuleError",
    "RuleSet",
    "RunnerUp",
    "SequenceLogit",
    "SequenceLogitDiff",
    "SiteError",
    "TemperedSoftmax",
    "TopKContrast",
    "View",
    "coverage",
    "demo_cases",
    "explain",
    "load_demo_model",
    "load_model",
    "run_with_relevance",
]
