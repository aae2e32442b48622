"""lrp_lens: relevance at every TransformerLens hook point."""

from lrp_lens.cache import RelevanceCache
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

__version__ = "0.1.0"
