"""Where the decision of a case is among a model's tokens."""

from typing import Any

from lrp_lens.cases import Case
from lrp_lens.hosts.completions import Decision, decide


def decision_of(model: Any, case: Case, prepend_bos: bool | None = None) -> Decision:
    """The prompt up to the decision, target and contrast as far as the case names them; raises as `decide`."""
    return decide(
        model,
        case.prompt,
        case.target or None,
        case.contrast or None,
        completion=case.completion or None,
        position=case.position,
        prepend_bos=prepend_bos,
    )
