"""A case under edits, each of which is run once.

1. Prompts with nothing but hidden tokens go through `lrp_lens.masking.Question`, where what several begin with is run
   once.
2. All others, and all where answers are regenerated or functions of the user's are attached to the model, which may
   count on whole prompts, go through `EditedRuns`.  An answer goes on from the pass that gave the gap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from lrp_lens.failures.masked import masking_question
from lrp_lens.failures.verification.asked import Asked
from lrp_lens.failures.verification.check import Reading
from lrp_lens.failures.verification.edits import Edit, EditedRuns
from lrp_lens.hosts.scope import hooked
from lrp_lens.hosts.vocabulary import token_strings
from lrp_lens.masking import Question


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
        shared = self.asked.checker is None and not hooked(self.asked.model)
        only_hidden = [edit for edit in fresh if shared and edit == Edit(hidden=edit.hidden)]
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
        return self._read(runs.values.tolist(), runs.choices.tolist())

    def _edited(self, edits: Sequence[Edit], tick: Callable[[int], Any]) -> list[Reading]:
        asked, answers = self.asked, None
        if asked.checker is None:
            logits = self.runs.logits(edits, tick)
        else:
            logits, rollouts = self.runs.answers(edits, asked.until, tick)
            answers = [asked.said(one.ids) for one in rollouts]
        gaps = (logits[:, asked.target] - logits[:, asked.contrast]).tolist()
        return self._read(gaps, logits.argmax(-1).tolist(), answers)

    def _read(
        self, gaps: Sequence[float], choices: Sequence[int], answers: Sequence[str] | None = None
    ) -> list[Reading]:
        asked = self.asked
        texts = token_strings(asked.model, choices)
        judged = (
            [(None, None)] * len(gaps) if answers is None else [(one, asked.judged(one)) for one in answers]
        )
        rows = zip(gaps, texts, choices, judged, strict=True)
        return [
            Reading(gap, text, choice == asked.contrast, answer, accepted)
            for gap, text, choice, (answer, accepted) in rows
        ]
