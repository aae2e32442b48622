"""lrp_lens: relevance at every TransformerLens hook point.

    logits, rel = run_with_relevance(model, prompt, LogitDiff(" Mary", " John"), rules=ATTN_LRP)
    rel["resid_pre", 5], rel.tokens(), rel.heads(), rel.ledger()

This module re-exports the public names, nothing else.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrp_lens.cache import RelevanceCache as RelevanceCache
    from lrp_lens.circuits import Circuit as Circuit
    from lrp_lens.circuits import ComponentEdges as ComponentEdges
    from lrp_lens.circuits import component_edges as component_edges
    from lrp_lens.circuits import evaluate_circuits as evaluate_circuits
    from lrp_lens.circuits import faithfulness_curve as faithfulness_curve
    from lrp_lens.decomposition import Decomposition as Decomposition
    from lrp_lens.decomposition import decompose as decompose
    from lrp_lens.demo import demo_cases as demo_cases
    from lrp_lens.demo import load_demo_model as load_demo_model
    from lrp_lens.edges import attribution_graph as attribution_graph
    from lrp_lens.errors import InputError, MetricError, RuleError, SiteError
    from lrp_lens.failures.case import Case as Case
    from lrp_lens.failures.explain import explain as explain
    from lrp_lens.failures.explanation import Explanation as Explanation
    from lrp_lens.graph import AttributionGraph as AttributionGraph
    from lrp_lens.hosts.loading import load_model as load_model
    from lrp_lens.ledger import Ledger as Ledger
    from lrp_lens.metrics import (
        Logit,
        LogitDiff,
        LogProb,
        MeanContrast,
        Metric,
        RunnerUp,
        SequenceLogit,
        SequenceLogitDiff,
        SequenceLogProb,
        TopKContrast,
    )
    from lrp_lens.patching import Comparison as Comparison
    from lrp_lens.patching import suggest_rules as suggest_rules
    from lrp_lens.patching.compare import compare as compare
    from lrp_lens.perturbation import Faithfulness as Faithfulness
    from lrp_lens.perturbation import faithfulness as faithfulness
    from lrp_lens.relevance import run_with_relevance as run_with_relevance
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
    from lrp_lens.site_coverage import Coverage as Coverage
    from lrp_lens.site_coverage import coverage as coverage
    from lrp_lens.views import View as View

__version__ = "0.1.0"

# Room → names, imported on first use: the command and the plots need no model library, and most sessions need
# nothing of the demo model.
_ROOMS = {
    "cache": ["RelevanceCache"],
    "circuits": ["Circuit", "ComponentEdges", "component_edges", "evaluate_circuits", "faithfulness_curve"],
    "decomposition": ["Decomposition", "decompose"],
    "demo": ["demo_cases", "load_demo_model"],
    "edges": ["attribution_graph"],
    "errors": ["InputError", "MetricError", "RuleError", "SiteError"],
    "failures": ["Case", "Explanation", "explain"],
    "graph": ["AttributionGraph"],
    "hosts.loading": ["load_model"],
    "ledger": ["Ledger"],
    "metrics": [
        "LogProb",
        "Logit",
        "LogitDiff",
        "MeanContrast",
        "Metric",
        "RunnerUp",
        "SequenceLogProb",
        "SequenceLogit",
        "SequenceLogitDiff",
        "TopKContrast",
    ],
    "patching": ["Comparison", "compare", "suggest_rules"],
    "perturbation": ["Faithfulness", "faithfulness"],
    "relevance": ["run_with_relevance"],
    "rules": [
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
        "Identity",
        "Plain",
        "ProductWeights",
        "RuleSet",
        "TemperedSoftmax",
    ],
    "site_coverage": ["Coverage", "coverage"],
    "views": ["View"],
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'lrp_lens' has no attribute {name!r}")
    value = getattr(import_module(f"lrp_lens.{_ROOM_OF[name]}"), name)
    globals()[name] = value
    return value


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
    "AttributionGraph",
    "Case",
    "Circuit",
    "Comparison",
    "ComponentEdges",
    "Coverage",
    "Decomposition",
    "Epsilon",
    "ExpertWeights",
    "Explanation",
    "Faithfulness",
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
    "SequenceLogProb",
    "SequenceLogit",
    "SequenceLogitDiff",
    "SiteError",
    "TemperedSoftmax",
    "TopKContrast",
    "View",
    "attribution_graph",
    "compare",
    "component_edges",
    "coverage",
    "decompose",
    "demo_cases",
    "evaluate_circuits",
    "explain",
    "faithfulness",
    "faithfulness_curve",
    "load_demo_model",
    "load_model",
    "run_with_relevance",
    "suggest_rules",
]
