"""The two tokens of an explanation: given, or chosen from the logits of the relevance pass itself.

1. A missing target is the model's first choice; a missing contrast is its best choice besides the target.
2. `Pair` is a metric whose tokens are fixed when the logits are there, before the backward pass: no extra forward.
3. Notes say what was chosen for the caller, and where the model prefers something else.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.failures.explanation import Choice
from lrp_lens.metrics import LogitDiff, RunnerUp


@dataclass(frozen=True)
class Pair(RunnerUp):
    """Logit of the target minus logit of the contrast at the last position.

    Raises:
        InputError: target and contrast are the same token, when the logits are there.
    """

    contrast: int | None = None
    """Token id; None is the model's best choice besides the target."""
    text_of: Callable[[int], str] = field(default=str, compare=False, repr=False)
    """Token id to its text, for messages."""

    def concrete(self, rows: Float[Tensor, "batch read d_vocab"]) -> LogitDiff:
        """The LogitDiff of these logits."""
        best = rows[0, 0].topk(2).indices.tolist()
        target = best[0] if self.target is None else self.target
        contrast = next(one for one in best if one != target) if self.contrast is None else self.contrast
        if target == contrast:
            chosen = "the model's first choice already is" if self.target is None else "both are"
            raise InputError(
                f"An explanation compares two tokens, a target and a contrast, but {chosen} "
                f"{self.text_of(target)!r}. Pass another target."
            )
        return LogitDiff(target, contrast, self.pos)

    def notes(self, best: int) -> tuple[str, ...]:
        """What was chosen for the caller, `best` being the model's first choice."""
        said = []
        if self.target is None:
            said.append("target: the model's first choice")
        if self.contrast is None:
            said.append("contrast: the model's best choice besides the target")
        if self.target not in (None, best):
            said.append(f"the model's first choice is {self.text_of(best)!r}, not the target")
        return tuple(said)


def choice(logits: Float[Tensor, " d_vocab"], token: int, text_of: Callable[[int], str]) -> Choice:
    """One candidate for the next token, with its probability and rank."""
    return Choice(
        text=text_of(token),
        id=token,
        logit=float(logits[token]),
        probability=float(torch.softmax(logits.double(), -1)[token]),
        rank=1 + int((logits > logits[token]).sum()),
    )
