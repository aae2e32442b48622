"""A method of attribution: one frozen object that scores sites, tokens, or both.

1. `sites` makes a pass of the run that is patched; `score` reads the scores of one facet from it.  `compare` holds them
   against activation patching.
2. `tokens` scores every token of a question, positive where the token pushes the metric up.  `faithfulness` masks the
   tokens in that order.
3. A method that lacks one of the two is refused where it would be needed, before any work.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from lrp_lens.errors import InputError
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.methods.attribution import PatchingPass, reasons
from lrp_lens.methods.facets import Facet
from lrp_lens.methods.inputs import PatchingMetric
from lrp_lens.methods.question import TokenQuestion


def plain(passed: PatchingPass, source: Any, facet: Facet) -> Tensor:
    """What the pass itself says of every patch of a facet."""
    return passed.scores(source, facet)


@dataclass(frozen=True)
class Method:
    """A way to score sites, tokens, or both; `compare` and `faithfulness` take it.

    Example:
        >>> Method("first", tokens=lambda question: [1.0] + [0.0] * (len(question.tokens) - 1)).name
        'first'
    """

    name: str
    """Name in tables."""
    sites: Callable[[Any, TokenBatch, TokenBatch, PatchingMetric], PatchingPass] | None = None
    """(model, patched run, other run, metric) → pass; None if it has no scores of sites."""
    tokens: Callable[[Any], Any] | None = None
    """question → scores [pos], a tensor or an array, signed; values at special tokens are ignored.  None if it has no
    scores of tokens."""
    score: Callable[[PatchingPass, Any, Facet], Tensor] = plain
    """(pass, clean tokens, facet) → scores of sites [batch, layer, *axes]; by default what the pass says."""
    cost: str = "?"
    """Passes per prompt of the token scores: F forward, B backward, n the number of tokens.  Passes of site scores are
    counted."""
    requires: Callable[[Any], object] | None = None
    """model → anything; raises where tokens of that model cannot be scored, before any work."""
    unsigned: bool = False
    """Whether scores have no sign: those of sites are compared with |exact|."""
    lrp: bool = False
    """Whether LRP rules are at work."""
    words: str = ""
    """What the scores of sites depend on besides the name: rules, number of steps."""
    forwards: int = 1
    """Forward passes for sites besides those of the pass: the clean run."""
    draws: int = 0
    """Random rankings of sites in place of scores, without running the model: statistics are means over so many."""
    aliases: Sequence[str] = ()
    """Further names under which a registered method is found."""
    together: Callable[[Sequence[Any]], Sequence[Any]] | None = None
    """Questions → scores of each, where several are quicker at once than one by one; else None."""
    masks: Callable[[Any], Bool[np.ndarray, "rows pos"]] | None = None
    """question → the masks whose runs its scores are made of, so that they can run beside others'; else None."""

    def __post_init__(self) -> None:
        if self.sites is None and self.tokens is None:
            raise InputError(
                f"A method scores sites or tokens; {self.name!r} scores neither. Pass sites=, tokens=, or both."
            )

    def why_missing(self, passed: PatchingPass, facet: Facet) -> tuple[str, ...]:
        """Why layers of a facet are NaN."""
        return reasons(passed, facet)

    def token_scores(self, question: TokenQuestion) -> Float[np.ndarray, " pos"]:
        """The scores of tokens in float64, checked.

        Raises:
            InputError: not one finite number per token, or a method without token scores.
        """
        return self.scores_of([question])[0]

    def scores_of(self, questions: Sequence[TokenQuestion]) -> list[Float[np.ndarray, " pos"]]:
        """`token_scores` of several questions of one model.

        Raises:
            InputError: as there.
        """
        if self.tokens is None:
            raise InputError(f"{self.name} scores sites, not tokens. Pass a method with tokens=.")
        if self.together is None or len(questions) == 1:
            found: Sequence[Any] = [self.tokens(question) for question in questions]
        else:
            found = self.together(questions)
        return [self._checked(*one) for one in zip(questions, found, strict=True)]

    def _checked(self, question: TokenQuestion, scores: Any) -> Float[np.ndarray, " pos"]:
        """Scores as numbers.

        Raises:
            InputError: not one finite number per token.
        """
        scores = scores.detach().cpu().double().numpy() if isinstance(scores, Tensor) else np.asarray(scores)
        scores = scores.astype(np.float64)
        if scores.shape != (len(question.tokens),) or not np.isfinite(scores).all():
            raise InputError(
                f"A token method returns one finite number per token, shape ({len(question.tokens)},); "
                f"{self.name!r} returned shape {scores.shape}"
                + ("." if np.isfinite(scores).all() else " with NaN or infinite values.")
            )
        return scores
