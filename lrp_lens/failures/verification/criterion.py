"""What the checks of a case say together: where the failure can be seen, and which pattern it has.

A check passes if

1. its event happens at some size, for tokens one of at most `most_tokens`, and not without the edit;
2. among random draws of that size it happens at no more than `most_random` of them;
3. with `supported`, the gap falls by more than nine in ten random draws make it fall
   (`lrp_lens.views.statistics.verdict`).

Then, in the words of Contrastive Attribution in the Wild (arXiv 2604.17761), there read off by annotators:

    input    hiding the target's supporters passes, or amplifying the contrast's does (M-IA)
    graph    neither does, and silencing the heads and MLPs that support the target does, or cutting the attention edges
             (NC-IA + M-AG)
    none     no check passes (NC)

    overweighted irrelevant tokens (OIT)   hiding the target's supporters passes
    underweighted relevant tokens (URT)    amplifying the contrast's supporters passes
"""

from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError
from lrp_lens.failures.verification.check import EVENTS, Check, Event
from lrp_lens.views.statistics.verdict import Outcome


class CaseVerdict(str, Enum):
    """Where the cause of a failure was found, by intervention."""

    INPUT = "input"
    GRAPH = "graph"
    NONE = "none"

    def __str__(self) -> str:
        return self.value


class Pattern(str, Enum):
    """What was wrong with how tokens were weighted."""

    UNDERWEIGHTED = "underweighted relevant tokens"
    OVERWEIGHTED = "overweighted irrelevant tokens"
    BOTH = "both"
    NEITHER = "neither"

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True)
class Criterion:
    """When a check passes.

    Event, number of tokens and `supported` are what `python -m benchmarks verdicts` chose on half of the demo model's
    failures.  It would set no limit to random draws; 0.4 costs 0.01 of its F½ and keeps the control in the verdict.

    Raises:
        InputError: an unknown event, a share outside [0, 1], or a number of tokens below 1.
    """

    event: Event = "flip"
    """What has to happen."""
    most_random: float | int = 0.4
    """The largest share of random draws at which it may happen, too."""
    supported: bool = False
    """Whether the gap has to fall by more than random draws make it fall."""
    most_tokens: int = 1
    """The largest number of hidden or amplified tokens at which it may first happen."""

    def __post_init__(self) -> None:
        number = isinstance(self.most_random, int | float) and not isinstance(self.most_random, bool)
        tokens = is_whole(self.most_tokens) and self.most_tokens >= 1
        if self.event not in EVENTS or not number or not 0 <= self.most_random <= 1 or not tokens:
            raise InputError(
                f"A criterion has an event, one of {', '.join(EVENTS)}, a share of random draws from 0 to 1, and a "
                f"number of tokens from 1 on; received {self.event!r}, {self.most_random!r} and {self.most_tokens!r}."
            )

    def passes(self, check: Check | None) -> bool:
        """Whether a check passes; one that was not run does not.

        Raises:
            InputError: the control was run at another size than that of this event.
        """
        if check is None:
            return False
        size = check.first(self.event)
        if size is None:
            return False
        if size != check.control_size:
            raise InputError(
                f"Random draws are compared at the size at which the event happens, {size} for {self.event!r}; the "
                f"control has {check.control_size} (run for {check.event!r}). Verify with this criterion."
            )
        if check.kind in ("hide", "amplify") and size > self.most_tokens:
            return False
        share = check.random_share(self.event)[0]
        if not share <= self.most_random:
            return False
        return not self.supported or check.verdict.outcome == Outcome.SUPPORTED

    def confidence(self, check: Check | None) -> float:
        """1 − the chance that random units of that size do it, (r + 1) / (n + 2) after r of n draws; 0 if it fails.

        (Laplace's rule of succession.)  It is about chance, and no probability that the named units are the cause:
        measured, it is 0.26 above the share of claims that are right (docs/verification.md).
        """
        if check is None or not self.passes(check):
            return 0.0
        happened = sum(one.happens(self.event) for one in check.control)
        return 1 - (happened + 1) / (len(check.control) + 2)

    def verdict(self, hide: Check | None, amplify: Check | None, *inside: Check | None) -> CaseVerdict:
        """Where the failure can be seen.

        Args:
            hide: the target's supporters, hidden.
            amplify: the contrast's supporters, amplified.
            inside: what was silenced and cut inside the model, as far as it was run.
        """
        if self.passes(hide) or self.passes(amplify):
            return CaseVerdict.INPUT
        return CaseVerdict.GRAPH if any(map(self.passes, inside)) else CaseVerdict.NONE

    def pattern(self, hide: Check | None, amplify: Check | None) -> Pattern:
        """Which pattern it has."""
        over, under = self.passes(hide), self.passes(amplify)
        if over and under:
            return Pattern.BOTH
        return Pattern.OVERWEIGHTED if over else Pattern.UNDERWEIGHTED if under else Pattern.NEITHER

    def __str__(self) -> str:
        tokens = "one token" if self.most_tokens == 1 else f"at most {self.most_tokens} tokens"
        gap = ", and the gap falls by more than theirs" if self.supported else ""
        return f"{self.event} with {tokens}, in at most {self.most_random:.0%} of random draws{gap}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)
