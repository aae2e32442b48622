"""Where the decision of a case, or of what was explained, is among a model's tokens."""

import re
from typing import Any

from lrp_lens.cases import Case
from lrp_lens.errors import InputError
from lrp_lens.failures.explanation import Explanation
from lrp_lens.hosts.completions import Decision, decide
from lrp_lens.hosts.token_batch import Segment, TokenBatch
from lrp_lens.hosts.tokens import Row, padded


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


def explained_tokens(model: Any, explanation: Explanation) -> TokenBatch:
    """The tokens that were explained, with the messages and the template's stretches that they had then.

    Raises:
        InputError: an explanation without token ids, or ids that the model has not.
    """
    if not explanation.token_ids:
        raise InputError(
            "An explanation is verified from its token ids; this one has none. Make it with explain."
        )
    named = (explanation.tokens.spans or {}).get("message", {})
    segments = [
        Segment(name, re.sub(r" \d+$", "", name), *span) for name, spans in named.items() for span in spans
    ]
    row = Row(list(explanation.token_ids), tuple(sorted(segments, key=lambda one: one.start)))
    return padded(model, [row], False, True)
