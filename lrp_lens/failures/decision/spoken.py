"""Spoken: what a model says in a case, with the keys and values kept, so that it can say something else.

1. The case's completion, if its log has one (one pass), else the model's greedy one.
2. A decision is handed on as text, in a `Case`.  So the tokens are those that the text has when it is read again; where
   a greedy completion is cut into other tokens then, these are taken, from one more pass, and a note tells it.
3. `told` is the text of some of its tokens, `writable` whether a token, as text, is this token again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lrp_lens.cases import Case
from lrp_lens.errors import InputError, LrpLensError
from lrp_lens.failures.decision.checker import Checker, settled
from lrp_lens.hosts.completions import place_of
from lrp_lens.hosts.generation import Trunk, end_ids, grow, teach
from lrp_lens.hosts.rollout import Until
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.hosts.vocabulary import span_ids, string_ids, token_id, token_strings
from lrp_lens.run.generation import spoken_text


@dataclass(frozen=True, eq=False)
class Spoken:
    """A case's completion, run when it is first needed."""

    model: Any
    case: Case
    top_k: int
    """How many of the largest logits are kept at each position."""
    max_new_tokens: int

    @cached_property
    def batch(self) -> TokenBatch:
        """The prompt."""
        batch = tokenize(self.model, self.case.prompt)
        if len(batch.ids) != 1:
            raise InputError(f"A case has one prompt; received {len(batch.ids)}.")
        return batch

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end a completion."""
        return end_ids(self.model)

    @cached_property
    def _made(self) -> tuple[Trunk, int, tuple[str, ...]]:
        """The trunk, how many tokens were run for it, and notes."""
        if self.case.completion:
            trunk = teach(self.model, self.batch, span_ids(self.model, self.case.completion), self.top_k)
            other = [
                at
                for at, logits in enumerate(trunk.said.top_logits)
                if float(logits[0]) < float(logits.max())
            ]
            told = (
                f"the completion is not this model's greedy one, from its token {other[0]} on"
                if other
                else ""
            )
            return trunk, trunk.past.forwarded, (told,) * bool(told)
        trunk = grow(self.model, self.batch, Until(self.max_new_tokens, self.ends), self.top_k)
        again = self._again(trunk.said.ids)
        if again == tuple(trunk.said.ids):
            return trunk, trunk.past.forwarded, ()
        other_trunk = teach(self.model, self.batch, again, self.top_k)
        told = "the completion's text has other tokens than those that were said; its text's are taken"
        return other_trunk, trunk.past.forwarded + other_trunk.past.forwarded, (told,)

    def _again(self, ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens that the completion's text has, its end included."""
        if getattr(self.model, "tokenizer", None) is None:
            return tuple(ids)
        last = ids[-1:] if ids[-1] in self.ends else []
        text = spoken_text(self.model, ids[: len(ids) - len(last)])
        return (*(string_ids(self.model, text) if text else ()), *last)

    @property
    def trunk(self) -> Trunk:
        """The completion's tokens, what else was likely at each, and keys and values."""
        return self._made[0]

    @property
    def forwarded(self) -> int:
        """How many tokens were run for it."""
        return self._made[1] if "_made" in vars(self) else 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the decision has to know of the completion."""
        return self._made[2] if "_made" in vars(self) else ()

    @property
    def ids(self) -> list[int]:
        """The completion's tokens, that which ended it included."""
        return self.trunk.said.ids

    @property
    def limit(self) -> int:
        """How many tokens a rollout has at most."""
        return max(self.max_new_tokens, len(self.ids))

    def told(self, ids: Sequence[int]) -> str:
        """Text of tokens of a completion."""
        return spoken_text(self.model, ids)

    def piece(self, token: int) -> str:
        """Text of one token."""
        return token_strings(self.model, [token])[0]

    def writable(self, token: int) -> bool:
        """Whether the token's text is this token again."""
        try:
            return token_id(self.model, self.piece(token)) == token
        except LrpLensError:
            return False

    def special(self, token: int) -> bool:
        """Whether this is a special token, other than one that ends texts."""
        tokenizer = getattr(self.model, "tokenizer", None)
        return token not in self.ends and token in set(getattr(tokenizer, "all_special_ids", ()))

    def gap(self, at: int, token: int) -> float:
        """How far a token's logit is behind that of the token that was said at a position."""
        logits: Float[Tensor, " d_vocab"] = self.trunk.logits(at)
        return float(logits[self.ids[at]] - logits[token])

    def known_position(self) -> int | None:
        """The decision's position, if the case says it."""
        if self.case.position is None:
            return None
        return place_of(self.case.position, token_strings(self.model, self.ids))

    def lost_at(self, checker: Checker, seconds: float | int) -> tuple[int | None, str]:
        """The token with which the completion is lost, and why the checker failed, if so."""
        for at in range(len(self.ids)):
            said, failure = settled(checker, self.told(self.ids[: at + 1]), seconds)
            if failure or said is False:
                return at, failure
        return None, ""

    def decided(self, at: int, contrast: int, gap: float) -> Case:
        """The case with the decision at one of the completion's tokens."""
        target = self.ids[at]
        last = self.piece(target) if at == len(self.ids) - 1 and target in self.ends else ""
        completion = self.case.completion or self.told(self.ids)
        return replace(
            self.case,
            completion=completion if completion.endswith(last) else completion + last,
            position=at,
            target=self.piece(target) if self.writable(target) else "",
            contrast=self.piece(contrast),
            logit_gap=gap,
        )
