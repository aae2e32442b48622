"""The finished cases of an interrupted table, a part each in the caller's folder (`lrp_lens.files.checkpoints`).

1. `table_checkpoint` says what a case's numbers depend on: model, cases, metrics, methods and options.
2. They depend on nothing else, so a table that goes on is the table of an uninterrupted run.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from lrp_lens.files import AnyPath
from lrp_lens.files.checkpoints import Checkpoint
from lrp_lens.masking.curves import Plan
from lrp_lens.masking.question import Question
from lrp_lens.methods.method import Method
from lrp_lens.run.identity import model_identity, spelled


class Measured(NamedTuple):
    """One finished case."""

    metric: float
    """The metric of the unmasked prompt."""
    measures: Float[np.ndarray, "method measure"]
    """The columns of MEASURES."""
    drawn: Float[np.ndarray, "side method point"]
    """The curves, MoRF and LeRF."""
    seconds: dict[str, float]
    """By method, and of the masked prompts that all share."""


def table_checkpoint(
    folder: AnyPath | None,
    model: Any,
    questions: Sequence[Question],
    methods: Sequence[Method],
    plan: Plan,
    options: dict[str, Any],
) -> Checkpoint:
    """The folder of one table.

    Args:
        folder: made if it does not exist; None keeps nothing.
        model: the model of the questions.
        questions: one for each case.
        methods: told apart by name, cost and function.
        plan: points of the curves.
        options: further options, by name.

    Raises:
        InputError: as `Checkpoint`.
    """

    def identity() -> dict[str, Any]:
        cases = [
            (one.tokens, one.maskable, one.suite, one.correct, one.evidence, one.seed) for one in questions
        ]
        return options | {
            "model": model_identity(model),
            "cases": spelled(cases),
            "metric": spelled([one.metric for one in questions]),
            "methods": [spelled((one.name, one.cost, one.tokens)) for one in methods],
            "steps, limit or fractions": [plan.steps, plan.limit, list(plan.fractions)],
        }

    return Checkpoint(folder, "Case/1", identity)


def save(checkpoint: Checkpoint, index: int, one: Measured) -> None:
    """Keep a case."""
    tensors = {"measures": torch.from_numpy(one.measures), "drawn": torch.from_numpy(one.drawn)}
    checkpoint.write(f"case_{index}", tensors, {"metric": one.metric, "seconds": one.seconds})


def load(checkpoint: Checkpoint, index: int) -> Measured | None:
    """A finished case; None if it is not finished.

    Raises:
        InputError: as `Checkpoint.read`.
    """
    stored = checkpoint.read(f"case_{index}")
    if stored is None:
        return None
    tensors, words = stored
    return Measured(words["metric"], tensors["measures"].numpy(), tensors["drawn"].numpy(), words["seconds"])
