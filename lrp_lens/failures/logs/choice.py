"""A multiple choice as a decision: the chosen option against the right one.

1. A failure compares what the model chose with what is right, a correct answer with the strongest wrong option, if
   the log says how strong they are.
2. Options of which one begins the other never part at a token: such a case stays undecided, and answers are compared as
   wholes.
"""

from collections.abc import Sequence
from typing import Any


def decision(
    choices: Sequence[str], chosen: int | None, right: int | None, scores: Sequence[float] | None = None
) -> dict[str, Any]:
    """`target` and `contrast` of a case, as far as the log has them.

    Args:
        choices: the options as they stand behind the prompt.
        chosen: index of the model's.
        right: index of the right one.
        scores: how strong each option is, e.g. its log-probability.

    Example:
        >>> decision([" Paris", " Rome"], 1, 0)
        {'target': ' Rome', 'contrast': ' Paris'}
        >>> decision([" a", " b", " c"], 0, 0, [-1.0, -3.0, -2.0])
        {'target': ' a', 'contrast': ' c'}
        >>> decision([" York", " Yorkshire"], 1, 0)
        {}
    """
    if chosen is None or right is None:
        return {}
    against: int | None = right
    if chosen == right:
        others = [index for index in range(len(choices)) if index != chosen]
        against = max(others, key=lambda index: scores[index]) if scores is not None and others else None
    if against is None:
        return {}
    target, contrast = choices[chosen], choices[against]
    if target.startswith(contrast) or contrast.startswith(target):
        return {}
    return {"target": target, "contrast": contrast}
