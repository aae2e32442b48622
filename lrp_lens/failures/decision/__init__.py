"""What to explain: the token that went wrong, and what it is compared with, found automatically."""

from lrp_lens.failures.decision.checker import Checker, Verdict, judge
from lrp_lens.failures.decision.code import HumanEval
from lrp_lens.failures.decision.find import find_decision
from lrp_lens.failures.decision.found import Attempt, Decision
from lrp_lens.failures.decision.harness import GSM8K, IFEval
from lrp_lens.failures.decision.texts import Contains, Exact, MultipleChoice, Number, Regex
from lrp_lens.failures.decision.trying import Pivot

__all__ = [
    "find_decision",
    "Decision",
    "Attempt",
    "Pivot",
    "Checker",
    "Verdict",
    "judge",
    "Exact",
    "Contains",
    "Regex",
    "Number",
    "MultipleChoice",
    "IFEval",
    "GSM8K",
    "HumanEval",
]
