"""What is said behind a prompt, and where that ends. Data only."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(eq=False)
class Rollout:
    """What is said behind one prompt; equal to itself alone."""

    ids: list[int] = field(default_factory=list)
    """The tokens, that which ended it included."""
    top_ids: list[Tensor] = field(default_factory=list)
    """Of each token's position the ids of the largest logits, largest first, [top_k]; the token that was said is the
    first, wherever it stands (`teach`).  Empty for rollouts of a trunk."""
    top_logits: list[Tensor] = field(default_factory=list)
    """Their logits, [top_k]."""
    log_norms: list[float] = field(default_factory=list)
    """log Σ exp of all logits there, so that exp(logit − this) is a probability."""
    stopped: str = "length"
    """Why it ended: "end" (a token that ends texts), "stop" (a stop text), "length", or "given" (by `teach`)."""


@dataclass(frozen=True)
class Until:
    """Where completions end."""

    max_new_tokens: int
    """How many tokens at most."""
    ends: Collection[int] = ()
    """Ids behind which a row ends."""
    stop: Callable[[Sequence[int]], bool] | None = None
    """Whether these tokens, all that the row has said so far, are enough."""

    def over(self, rollout: Rollout) -> bool:
        """Whether this one has ended, and why."""
        if rollout.ids[-1] in self.ends:
            rollout.stopped = "end"
        elif self.stop is not None and self.stop(rollout.ids):
            rollout.stopped = "stop"
        return rollout.stopped != "length" or len(rollout.ids) >= self.max_new_tokens
