"""A decided case, ready to be run under edits: its tokens, target and contrast, the checker, and what may be edited."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lrp_lens.cases import Case
from lrp_lens.errors import InputError
from lrp_lens.failures.decided import decision_of, explained_tokens
from lrp_lens.failures.decision.checker import Checker, as_checker
from lrp_lens.failures.explanation import Explanation
from lrp_lens.failures.masked import maskable
from lrp_lens.hosts.generation import end_ids
from lrp_lens.hosts.rollout import Until
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.masking.replacement import Replacement, make_replacement
from lrp_lens.metrics import LogitDiff
from lrp_lens.run.generation import spoken_text


@dataclass(frozen=True, eq=False)
class Asked:
    """A decided case."""

    model: Any
    batch: TokenBatch
    """The prompt, with what has been said since."""
    prompt_length: int
    target: int
    contrast: int
    checker: Checker | None = None
    max_new_tokens: int = 50

    @classmethod
    def of(
        cls,
        model: Any,
        case: Case | Explanation,
        checker: Any,
        max_new_tokens: int,
        prepend_bos: bool | None,
    ) -> "Asked":
        """The case, or what an explanation explains.

        Raises:
            InputError: something else, a case without target or contrast, or what is no checker.
        """
        checker = None if checker is None else as_checker(checker)
        if isinstance(case, Explanation):
            batch = explained_tokens(model, case)
            ids = case.target.id, case.contrast.id
            return cls(model, batch, case.prompt_length, *ids, checker, max_new_tokens)
        if not isinstance(case, Case):
            raise InputError(
                f"A Case or an Explanation is verified; received {type(case).__name__}. Write Case(prompt=..., "
                "target=..., contrast=...)."
            )
        decision = decision_of(model, case, prepend_bos)
        if decision.target is None or decision.contrast is None:
            raise InputError(
                "A case is verified when it is decided: it needs a target and a contrast; received "
                f"{case.target!r} and {case.contrast!r}."
            )
        return cls(
            model,
            decision.batch,
            decision.prompt_length,
            decision.target,
            decision.contrast,
            checker,
            max_new_tokens,
        )

    @property
    def metric(self) -> LogitDiff:
        """Target against contrast."""
        return LogitDiff(self.target, self.contrast)

    @property
    def length(self) -> int:
        """Number of tokens."""
        return int(self.batch.ids.shape[1])

    @property
    def until(self) -> Until:
        """Where regenerated answers end."""
        return Until(self.max_new_tokens, end_ids(self.model))

    @property
    def maskable(self) -> list[int]:
        """Positions that may be edited: no special tokens, no template's, and not that of the decision."""
        found: list[int] = maskable(self.batch, self.metric).tolist()
        return found

    def replacement(self, name: str, seed: int) -> tuple[Replacement, Float[Tensor, "pos d_model"]]:
        """What hidden embeddings become, in words and at each position.

        Raises:
            InputError: an unknown name, or one that the model has not.
        """
        made = make_replacement(self.model, name, self.batch.ids[0, self.maskable])
        return made, made.rows(self.model, self.length, np.random.default_rng([seed, 1]))

    def token(self, position: int) -> str:
        """A token with its position, in words."""
        return f"{self.batch.strings[0][position]!r} at {position}"

    def said(self, new: Sequence[int]) -> str:
        """The completion: what was said before the decision, and these tokens."""
        return spoken_text(self.model, [*self.batch.ids[0, self.prompt_length :].tolist(), *new])

    def judged(self, answer: str) -> float:
        """What the checker says of an answer.

        Raises:
            InputError: no number from 0 to 1.
        """
        assert self.checker is not None
        found: Any = self.checker.score(answer)
        if not isinstance(found, Real | np.bool_) or not 0 <= float(found) <= 1:
            raise InputError(
                f"A checker says True or False, or a number from 0 to 1; received {found!r} for {answer!r}."
            )
        return float(found)
