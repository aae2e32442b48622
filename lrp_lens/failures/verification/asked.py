"""A decided case, ready to be run under edits: its tokens, what relevance blames, and the readings of each edit.

1. `Asked` is the case: tokens, target, contrast, checker.
2. `blame`: one relevance pass; tokens by their relevance, heads (z) and MLPs by theirs at each position.
3. `Readings` runs edits and remembers them.  Prompts with nothing but hidden tokens go through
   `lrp_lens.masking.Question`, where what several begin with is run once; all others, and all where functions of the
   user's are attached to the model, which may count on whole prompts, through `EditedRuns`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lrp_lens.cases import Case
from lrp_lens.errors import InputError
from lrp_lens.failures.decided import decision_of
from lrp_lens.failures.decision.checker import Checker, as_checker
from lrp_lens.failures.explanation import Explanation
from lrp_lens.failures.masked import maskable, masking_question
from lrp_lens.failures.verification.check import Reading
from lrp_lens.failures.verification.edits import Edit, EditedRuns, Place
from lrp_lens.hosts import dead, resolve
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.scope import hooked
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import token_strings, tokenize
from lrp_lens.masking import Question
from lrp_lens.masking.replacement import Replacement, make_replacement
from lrp_lens.methods.attribution import missing_parts
from lrp_lens.methods.facets import record_name
from lrp_lens.metrics import LogitDiff
from lrp_lens.rules import RuleSet
from lrp_lens.run.generation import spoken_text
from lrp_lens.run.relevance import run_with_relevance


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
            if not case.token_ids:
                raise InputError(
                    "An explanation is verified from its token ids; this one has none. Make it with explain."
                )
            batch = tokenize(model, list(case.token_ids))
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
    def maskable(self) -> list[int]:
        """Positions that may be edited: no special tokens, and not that of the decision."""
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


@dataclass(frozen=True, eq=False)
class Blame:
    """What relevance blames, positive towards the target."""

    tokens: Float[np.ndarray, " pos"]
    places: dict[Place, float]
    """Each head and MLP at each position."""
    means: dict[tuple[str, int], Tensor]
    """(part, layer) → mean output over the prompt's positions, [d_head] of each head or [d_model]."""
    pieces: Any = field(repr=False)
    """The view of the tokens, for words."""
    logits: Float[Tensor, " d_vocab"] = field(repr=False)

    def supporters(self, positions: Sequence[int], count: int, sign: int) -> list[int]:
        """The positions with the largest relevance of this sign, at most `count`, one at least left for a control."""
        most = min(count, max(len(positions) - 1, 1))
        ranked = sorted(positions, key=lambda at: -sign * self.tokens[at])
        return [at for at in ranked if sign * self.tokens[at] > 0][:most]

    def top_places(self, count: int) -> list[Place]:
        """The places with the largest relevance towards the target."""
        ranked = sorted(self.places, key=lambda one: -self.places[one])[:count]
        return [one for one in ranked if self.places[one] > 0]


def blame(asked: Asked, rules: RuleSet) -> Blame:
    """One relevance pass of the case.

    Raises:
        RuleError, SiteError, InputError: as `run_with_relevance`.
    """
    sites = resolve(asked.model)
    missing = missing_parts(sites, dead(asked.model), rules)
    parts = [
        (part, layer)
        for layer in range(sites.n_layers)
        for part in ("z", "mlp_out")
        if record_name(part, layer) not in missing
    ]
    names = [Names.EMBED, *(record_name(*one) for one in parts)]
    rows, cache = run_with_relevance(
        asked.model, asked.batch, asked.metric, rules=rules, names_filter=names, logits="metric"
    )
    heads, length = int(asked.model.cfg.n_heads), asked.length
    places: dict[Place, float] = {}
    means: dict[tuple[str, int], Tensor] = {}
    for part, layer in parts:
        name, width = record_name(part, layer), heads if part == "z" else 1
        relevance = cache[name].reshape(length, width, -1).double().sum(-1).cpu().numpy()
        means[part, layer] = cache.activations[name].reshape(length, width, -1).mean(0)
        for position in range(length):
            for head in range(width):
                place = Place(layer, position, head if part == "z" else None)
                places[place] = float(relevance[position, head])
    view = cache.tokens()
    view = view.select(batch=0) if "batch" in view.dims else view
    return Blame(np.asarray(view.values, dtype=np.float64), places, means, view, rows[0, 0].float())


@dataclass(eq=False)
class Readings:
    """The case under edits, each run once."""

    asked: Asked
    replacement: Float[Tensor, "pos d_model"]
    factor: float
    silence: dict[tuple[str, int], Tensor]
    """What silenced outputs become; zero for what is missing."""
    seed: int = 0
    _known: dict[Edit, Reading] = field(default_factory=dict, repr=False)

    @cached_property
    def runs(self) -> EditedRuns:
        """Runs under any edit."""
        return EditedRuns(self.asked.model, self.asked.batch, self.replacement, self.factor, self.silence)

    @cached_property
    def question(self) -> Question:
        """Runs with hidden tokens."""
        asked = self.asked
        return masking_question(asked.model, asked.batch, asked.metric, self.replacement, self.seed)

    def of(self, edits: Sequence[Edit], tick: Callable[[int], Any] | None = None) -> list[Reading]:
        """The reading of each edit; with a checker, of its regenerated answer, too.

        Args:
            edits: what is changed.
            tick: called with the number of runs that are done.
        """
        fresh = list(dict.fromkeys(edit for edit in edits if edit not in self._known))
        tick = tick or (lambda count: None)
        shared = not hooked(self.asked.model)
        only_hidden = [edit for edit in fresh if shared and not edit.amplified and not edit.silenced]
        for some, run in (
            (only_hidden, self._hidden),
            ([e for e in fresh if e not in only_hidden], self._edited),
        ):
            if some:
                self._known.update(zip(some, run(some, tick), strict=True))
        return [self._known[edit] for edit in edits]

    def _hidden(self, edits: Sequence[Edit], tick: Callable[[int], Any]) -> list[Reading]:
        masks = np.zeros((len(edits), self.asked.length), dtype=bool)
        for row, edit in enumerate(edits):
            masks[row, list(edit.hidden)] = True
        runs = self.question.masked(masks, tick)
        return self._read(edits, runs.values.tolist(), runs.choices.tolist())

    def _edited(self, edits: Sequence[Edit], tick: Callable[[int], Any]) -> list[Reading]:
        logits = self.runs.logits(edits, tick)
        gaps = (logits[:, self.asked.target] - logits[:, self.asked.contrast]).tolist()
        return self._read(edits, gaps, logits.argmax(-1).tolist())

    def _read(self, edits: Sequence[Edit], gaps: Sequence[float], choices: Sequence[int]) -> list[Reading]:
        asked = self.asked
        texts = token_strings(asked.model, choices)
        answers: list[str | None] = [None] * len(edits)
        if asked.checker is not None:
            rollouts = self.runs.answers(edits, asked.max_new_tokens)
            answers = [asked.said(one.ids) for one in rollouts]
        return [
            Reading(
                gap, text, choice == asked.contrast, answer, None if answer is None else asked.judged(answer)
            )
            for gap, text, choice, answer in zip(gaps, texts, choices, answers, strict=True)
        ]
