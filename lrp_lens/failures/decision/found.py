"""Decision: what was found for a case, in which way, and what it cost. Data only."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lrp_lens.cases import Case
from lrp_lens.characters import shown
from lrp_lens.failures.decision.trying import Pivot
from lrp_lens.markup import Html, told

Way = Literal["given", "choice", "pivot", "answer", "contrast model", "runner-up"]


@dataclass(frozen=True)
class Attempt:
    """One way to a decision that was gone, or the completion that the ways need."""

    way: str
    """"completion", or one of the ways."""
    forwarded: int
    """Tokens that were run for it, over all models."""
    found: bool
    """Whether it led to a decision."""
    reason: str = ""
    """Why not; or what has to be known of it."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Where a model went wrong in a case, and with what it is compared there.

    `case` is what `explain` takes.  A decision whose gap is too small, or a case without one, keeps the reason.
    """

    case: Case
    """The case with completion, position, target and contrast; as it was where nothing was found."""
    way: Way | None = None
    """Which way found it, None for none."""
    attempts: tuple[Attempt, ...] = ()
    """What was tried, in order, with its cost."""
    completion: str = ""
    """What the model says, without special tokens; "" if it was not needed."""
    gap: float = float("nan")
    """Logit of the target minus logit of the contrast at the decision."""
    sequence_gap: float | None = None
    """Log-probability of the chosen option minus that of the right one, where they have several tokens; None else."""
    min_gap: float = 1.0
    """What `gap` has to be above."""
    accepted: str = ""
    """The rollout that the checker accepted, up to where it had settled; "" for none."""
    pivots: tuple[Pivot, ...] = ()
    """All that were found, the chosen one first."""
    excluded: str = ""
    """Why the case should not be explained; "" where nothing speaks against it."""
    right: bool = False
    """Whether the answer turned out to be right: there is no failure to explain."""
    notes: tuple[str, ...] = ()
    """What a reader has to know."""

    @property
    def usable(self) -> bool:
        """Whether there is a decision, with a gap that is large enough."""
        return not self.excluded

    @property
    def checked(self) -> bool:
        """Whether the contrast is known to be right: named by the case, or accepted by the checker when rolled out."""
        return self.way in ("given", "choice", "answer") or bool(self.accepted)

    @property
    def position(self) -> int | str | None:
        """Which of the completion's tokens is decided; None for the one behind the prompt."""
        return self.case.position

    @property
    def target(self) -> str:
        """What the model said; "" if the completion's token has no text of its own."""
        return self.case.target

    @property
    def contrast(self) -> str:
        """What it is compared with."""
        return self.case.contrast

    @property
    def forwarded(self) -> int:
        """Tokens that were run in all."""
        return sum(one.forwarded for one in self.attempts)

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, for JSON."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return plain | {
            "case": self.case.to_dict(),
            "attempts": [asdict(one) for one in self.attempts],
            "pivots": [asdict(one) for one in self.pivots],
            "notes": list(self.notes),
        }

    def _repr_html_(self) -> Html:
        return told(repr(self))

    def __repr__(self) -> str:
        lines = [f"Decision ({self.way or 'none'}; {self.forwarded} tokens run)"]
        if self.way:
            where = "behind the prompt" if self.position is None else f"at token {self.position}"
            lines.append(f"  {where}: {self.target!r} rather than {self.contrast!r}, gap {self.gap:.2f}")
        lines += [f"  {one.way}: {one.forwarded} tokens; {one.reason or 'found'}" for one in self.attempts]
        lines += [f"  excluded: {self.excluded}"] * bool(self.excluded)
        return shown("\n".join(lines + [f"  note: {one}" for one in self.notes]))


def judged(decision: Decision) -> Decision:
    """The decision with the reason for which it is excluded, if there is one."""
    if decision.excluded:
        return decision
    reason = ""
    if decision.way is None:
        reason = "no decision was found"
    elif decision.sequence_gap is not None and not decision.sequence_gap > 0:
        reason = f"the model does not prefer the chosen option: log-probabilities differ by {decision.sequence_gap:.2f}"
    elif not decision.gap > decision.min_gap:
        reason = f"the logit gap is {decision.gap:.2f}, not above {decision.min_gap:g}"
    return replace(decision, excluded=reason)
