"""The verdict on a claim: does masking the blamed tokens lower the logit gap, more than masking random ones does?

With g(k) the gap (logit of the target − logit of the contrast) after masking the k most blamed tokens, k = 0 … K,
and g_d(k) the gap after masking the first k tokens of the random order d:

1. The claim's drop is the mean over its whole curve: a = mean_k (g(0) − g(k)); no single k decides.  (The area over
   the perturbation curve: Samek et al. 2017, arXiv 1509.06321.)
2. So is the drop of each of n random orders; where a prompt is long, each is run at one k only, which scatters more
   and so makes the verdict more careful.  Their mean is r, their standard deviation (n − 1) is s.  One more random
   order falls between r ± t s √(1 + 1/n) in 90 % of cases, were they normally distributed, t being Student's 95 %
   quantile for n − 1 degrees of freedom: the interval [low, high], and 5 % on either side of it.
3. f = 10 % of |g(0)| is the least change that counts.  Then the outcome is

   supported        a > high and a ≥ f
   contradicted     a < low, and r − a ≥ f (less than random) or a ≤ −f (the wrong way)
   not supported    otherwise, if a < f (hardly any drop) or a < r (no more than random)
   undecided        otherwise: more than the average random order, but within what random ones do; and wherever
                    nothing can be tested (no token to mask, no more maskable tokens than masked ones, n < 5)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import isfinite, isnan, sqrt
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtrit

from lrp_lens.characters import signed

LEAST = 0.1
"""Changes of the gap below this share of it do not count."""
MIN_DRAWS = 5
"""Fewer random orders have no interval worth the name."""


class Outcome(str, Enum):
    """What the check says about the claim."""

    SUPPORTED = "supported"
    NOT_SUPPORTED = "not supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Verdict:
    """An outcome with its numbers, in logits; NaN where there are none."""

    outcome: Outcome
    reading: str
    """The outcome in one sentence."""
    drop: float = float("nan")
    """Mean drop of the gap over the claim's curve (a)."""
    control: float = float("nan")
    """Mean drop of the gap over the random orders (r)."""
    low: float = float("nan")
    """Lower end of the interval of one random order's drop, 90 %."""
    high: float = float("nan")
    """Upper end of that interval."""
    draws: int = 0
    """Number of random orders (n)."""

    def __str__(self) -> str:
        return f"{self.outcome.value.capitalize()}. {self.reading}"

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for JSON; None where there is no number."""
        plain: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain = {
            name: None if isinstance(value, float) and not isfinite(value) else value
            for name, value in plain.items()
        }
        return plain | {"outcome": self.outcome.value}


def judge(
    gaps: Sequence[float],
    random: Sequence[Sequence[float]],
    maskable: int,
    *,
    deed: str = "",
    size: int | None = None,
    others: str | None = None,
    unit: str = "token",
) -> Verdict:
    """The verdict on one claim.

    Args:
        gaps: the gap after masking the k most blamed tokens, k = 0 … K.
        random: for each random order, the gaps after masking its first 1 … K tokens; NaN where it was not run.
        maskable: how many tokens may be masked.
        deed: what was done, where it is something else than masking tokens one after another.
        size: how many were taken at once, where the curve has that one point only.
        others: what the control did it to; None for random tokens, or whatever is masked.
        unit: what is masked, one after another: "token" or "word".

    Example:
        >>> draws = [[3.9, 4.0], [4.2, 3.8], [4.1, 4.1], [3.7, 3.9], [4.2, 4.0]]
        >>> verdict = judge([4.0, 1.0, -1.0], draws, maskable=9)
        >>> verdict.outcome.value, verdict.drop, round(verdict.high, 2)
        ('supported', 4.0, 0.3)
    """
    others = f"random {unit}s" if others is None else others
    steps = len(gaps) - 1
    count = steps if size is None else size
    if not steps:
        why = f"No {unit} that may be masked pushes towards the target, so there is nothing to mask."
        return Verdict(Outcome.UNDECIDED, why)
    drop = gaps[0] - fmean(gaps[1:])
    drops = [gaps[0] - fmean(gap for gap in draw if not isnan(gap)) for draw in random]
    if maskable <= count:
        limit = (
            f"Only {maskable} {unit}{'' if maskable == 1 else 's'} may be masked and the check masks {count}"
            if not deed
            else f"There are only {maskable} to draw from and the check takes {count}"
        )
        why = f"{limit}, so the {others} are the blamed ones and nothing is compared."
        return Verdict(Outcome.UNDECIDED, why, drop=drop, draws=len(drops))
    if len(drops) < MIN_DRAWS:
        why = (
            f"A control needs at least {MIN_DRAWS} random draws; there are {len(drops)}: ask for more seeds."
        )
        return Verdict(Outcome.UNDECIDED, why, drop=drop, draws=len(drops))
    mean, spread = fmean(drops), stdev(drops)
    half = float(stdtrit(len(drops) - 1, 0.95)) * spread * sqrt(1 + 1 / len(drops))
    low, high, least = mean - half, mean + half, LEAST * abs(gaps[0])
    if drop > high and drop >= least:
        outcome, words = Outcome.SUPPORTED, f"more than {others} do"
    elif drop <= -least and drop < low:
        outcome, words = Outcome.CONTRADICTED, f"the wrong way, unlike {others}"
    elif drop < low and mean - drop >= least:
        outcome, words = Outcome.CONTRADICTED, f"less than {others} do"
    elif drop < least:
        outcome = Outcome.NOT_SUPPORTED
        words = "too little to count" if abs(drop) < least else "where it should fall"
    elif drop < mean:
        outcome, words = Outcome.NOT_SUPPORTED, f"no more than {others} do"
    else:
        outcome, words = Outcome.UNDECIDED, f"which {others} may do as well"
    one = f"the blamed {unit}" if count == 1 else f"the {count} blamed {unit}s one after another"
    label = "" if others in words else f"{others}: "
    mean_of = "" if deed else " on average"
    reading = (
        f"{deed or f'Masking {one}'} changes the gap of {signed(gaps[0])} by {signed(-drop)}{mean_of}, {words} "
        f"({label}{signed(-mean)}; nine in ten draws between {signed(-high)} and {signed(-low)})."
    )
    return Verdict(outcome, reading, drop, mean, low, high, len(drops))
