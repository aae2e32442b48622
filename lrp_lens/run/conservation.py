"""Whether the tokens account for the metric: what a view of tokens says where they hardly do, or more than do.

1. With t the tokens' sum and m the metric of an example, t / m below 1/2 or above 2 is worth a sentence; the ledger
   says where the rest is (sinks of the rules, biases, position embeddings).
2. The sentence names a preset under which nothing but biases takes relevance at any site of the model
   (`lrp_lens.rules.conserving`), unless it is the one in use.
"""

from collections.abc import Sequence

LEAST, MOST = 0.5, 2.0
"""Shares of the metric between which the tokens are said to account for it."""
_NOTHING = 1e-6
"""Share of Σ|R| below which a metric is 0."""


def caution(metric: float, tokens: Sequence[float], conserving: str, used: str) -> str:
    """A sentence on one example, "" where the tokens account for the metric; what is the matter, a colon, details.

    Args:
        metric: the metric's value.
        tokens: relevance of each token.
        conserving: name of a rule set that hands on all relevance but for biases; "" for none.
        used: name of the rule set in use.

    Example:
        >>> print(caution(2.0, [0.5, 0.1], "CP_LRP", "ATTN_LRP"))
        the tokens hold 30 % of the metric: +0.6 of +2; the ledger says where the rest is; under CP_LRP nothing but
        biases is lost
        >>> caution(2.0, [1.5, 0.1], "CP_LRP", "ATTN_LRP")
        ''
    """
    held = float(sum(tokens))
    if abs(metric) <= _NOTHING * sum(map(abs, tokens)) or LEAST <= held / metric <= MOST:
        return ""
    remedy = f"; under {conserving} nothing but biases is lost" if conserving not in ("", used) else ""
    return (
        f"the tokens hold {100 * held / metric:.0f} % of the metric: {held:+.3g} of {metric:+.3g}; the ledger says "
        f"where the rest is{remedy}"
    )
