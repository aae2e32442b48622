"""Deletion and insertion curves of one attribution, and what is measured on them.

1. Order the maskable tokens by score, largest first; equal scores are ordered at random (seeded).
2. Plan how many tokens to mask: an even grid over the fractions for the areas, 1 … limit one by one for the flip
   counts, and the fractions of comprehensiveness and sufficiency.
3. Mask them all at once (`Question.masked`), MoRF and LeRF.  Insertion is the same curve read
   backwards: inserting the most relevant tokens into an all-masked prompt is LeRF from right to left.
4. Read off the measures (`measures`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError
from lrp_lens.masking.measures import auc, evidence_overlap, first_true
from lrp_lens.masking.question import Question
from lrp_lens.views.statistics.agreement import spearman

AOPC_FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Fractions of tokens of comprehensiveness and sufficiency (ERASER)."""


@dataclass(frozen=True)
class Plan:
    """How many tokens are masked at each point of a curve.

    Raises:
        InputError: steps or limit below 1, no fraction, or one outside (0, 1].
    """

    steps: int | None = 20
    """Intervals of the curves' even grid; None masks one token at a time."""
    limit: int = 10
    """Flips are counted up to this many tokens, one by one."""
    fractions: Sequence[float] = AOPC_FRACTIONS
    """Fractions of comprehensiveness and sufficiency; at least one token is masked for each."""

    def __post_init__(self) -> None:
        if (self.steps is not None and self.steps < 1) or self.limit < 1:
            raise InputError(
                f"Curves need steps ≥ 1 (or None) and limit ≥ 1; received {self.steps} and {self.limit}."
            )
        if not self.fractions or not all(0 < one <= 1 for one in self.fractions):
            raise InputError(
                f"Fractions of tokens lie in (0, 1], and there is at least one; received {self.fractions}."
            )

    def grid(self, n: int) -> Int[np.ndarray, " step"]:
        """Numbers of masked tokens for the areas, from 0 to n."""
        steps = n if self.steps is None else min(self.steps, n)
        return np.unique(np.round(np.linspace(0, n, steps + 1)).astype(int))

    def one_by_one(self, n: int) -> Int[np.ndarray, " k"]:
        """1, 2, …, limit, or fewer where there are fewer tokens."""
        return np.arange(1, min(self.limit, n) + 1)

    def tops(self, n: int) -> Int[np.ndarray, " fraction"]:
        """⌈f n⌉ for each fraction f."""
        return np.ceil(np.asarray(self.fractions, dtype=float) * n - 1e-9).astype(int)

    def counts(self, n: int) -> tuple[Int[np.ndarray, " down"], Int[np.ndarray, " up"]]:
        """Numbers of masked tokens at which anything is read, ascending: of MoRF, of LeRF."""
        grid, tops = self.grid(n), self.tops(n)
        return np.unique(np.concatenate([grid, self.one_by_one(n), tops])), np.unique(
            np.concatenate([grid, n - tops])
        )


def as_plan(steps: Any, limit: Any, fractions: Any) -> Plan:
    """The plan from a user's arguments.

    Raises:
        InputError: steps or limit is no whole number of at least 1, or fractions is no sequence of numbers in (0, 1].

    Example:
        >>> as_plan(5, 2, [0.5]).grid(10).tolist()
        [0, 2, 4, 6, 8, 10]
    """
    whole = steps is None or is_whole(steps)
    if not whole or not is_whole(limit):
        raise InputError(
            "Tokens are masked one by one, so steps (or None) and limit are whole numbers; received "
            f"steps={steps!r} and limit={limit!r}."
        )
    if np.ndim(fractions) != 1 or not all(isinstance(one, Real) for one in fractions):
        raise InputError(
            f"fractions is a sequence of fractions of tokens, e.g. (0.1, 0.5); received {fractions!r}."
        )
    return Plan(None if steps is None else int(steps), int(limit), tuple(float(one) for one in fractions))


@dataclass(frozen=True, eq=False)
class Curves:
    """What masking in the order of one attribution does to one prompt."""

    masked: Float[np.ndarray, " step"]
    """Fraction of the maskable tokens that is masked, from 0 to 1."""
    morf: Float[np.ndarray, " step"]
    """The metric, most relevant tokens masked first."""
    lerf: Float[np.ndarray, " step"]
    """The metric, least relevant tokens masked first."""
    measures: dict[str, float]
    """Column of MEASURES → value; NaN where it does not apply."""


def relevance_order(
    scores: Float[np.ndarray, " pos"], maskable: Int[np.ndarray, " n"], rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """Maskable positions by score, largest first; ties at random.

    Example:
        >>> relevance_order(np.array([9.0, 1.0, 3.0]), np.array([1, 2]), np.random.default_rng(0)).tolist()
        [2, 1]
    """
    shuffled = rng.permutation(maskable)
    return shuffled[np.argsort(-scores[shuffled], kind="stable")]


def prefix_masks(
    order: Int[np.ndarray, " n"], counts: Int[np.ndarray, " k"], length: int
) -> Bool[np.ndarray, "k pos"]:
    """One mask per count: True at that many first positions of the order."""
    place = np.full(length, len(order) + 1)
    place[order] = np.arange(1, len(order) + 1)
    place = np.where(place > len(order), counts.max(initial=0) + 1, place)
    return place[None, :] <= counts[:, None]


def curve_masks(
    question: Question, scores: Float[np.ndarray, " pos"], plan: Plan
) -> Bool[np.ndarray, "rows pos"]:
    """Every mask of the curves of one attribution: MoRF, then LeRF.

    Args:
        question: the prompt with its metric.
        scores: one score per token, positive for tokens that push the metric up.
        plan: how many tokens are masked at each point.
    """
    order = relevance_order(scores, question.maskable, question.rng("ties"))
    counts, length = plan.counts(len(order)), len(question.tokens)
    sides = zip((order, order[::-1]), counts, strict=True)
    return np.concatenate([prefix_masks(way, count, length) for way, count in sides])


def curves(question: Question, scores: Float[np.ndarray, " pos"], plan: Plan) -> Curves:
    """Both curves of one attribution and every measure; arguments as of `curve_masks`."""
    n = len(question.maskable)
    grid, singles, tops = plan.grid(n), plan.one_by_one(n), plan.tops(n)
    down, up = plan.counts(n)
    runs = question.masked(curve_masks(question, scores, plan))
    morf = {name: values[: len(down)] for name, values in vars(runs).items()}
    lerf = {name: values[len(down) :] for name, values in vars(runs).items()}
    at_grid, at_singles = np.searchsorted(down, grid), np.searchsorted(down, singles)
    up_grid = np.searchsorted(up, grid)
    full, masked = question.full, grid / n
    areas = {
        (name, side): auc(masked, run[name][at])
        for side, run, at in (("morf", morf, at_grid), ("lerf", lerf, up_grid))
        for name in ("values", "probabilities")
    }
    measured = {
        "delta_a": areas["values", "lerf"] - areas["values", "morf"],
        "auc_morf": areas["values", "morf"],
        "auc_lerf": areas["values", "lerf"],
        "srg": areas["probabilities", "lerf"] - areas["probabilities", "morf"],
        "comprehensiveness": full - float(morf["values"][np.searchsorted(down, tops)].mean()),
        "sufficiency": full - float(lerf["values"][np.searchsorted(up, n - tops)].mean()),
        "loo_correlation": float(spearman(scores[question.maskable], question.leave_one_out())),
    }
    measured |= _flips(question, morf["values"][at_singles], morf["choices"][at_singles])
    measured |= _evidence(question, scores)
    return Curves(masked, morf["values"][at_grid], lerf["values"][up_grid], measured)


def _flips(
    question: Question, values: Float[np.ndarray, " k"], choices: Int[np.ndarray, " k"]
) -> dict[str, float]:
    """Tokens until the first choice changes, and until the contrast wins, from MoRF after 1, 2, … tokens."""
    empty = np.zeros((1, len(question.tokens)), dtype=bool)
    changed = choices != question.masked(empty).choices[0]
    found = {"flip_tokens": float(first_true(changed)), "flipped": float(changed.any())}
    if not question.contrastive or question.full <= 0:
        return found | {"win_tokens": float("nan"), "won": float("nan")}
    overtaken = values < 0
    return found | {"win_tokens": float(first_true(overtaken)), "won": float(overtaken.any())}


def _evidence(question: Question, scores: Float[np.ndarray, " pos"]) -> dict[str, float]:
    """Agreement with the evidence.

    Evidence speaks for the right answer, which is the contrast where the model is wrong.
    """
    top1 = iou = float("nan")
    if question.evidence is not None and question.correct is not None:
        towards = scores if question.correct else -scores
        order = relevance_order(towards, question.maskable, question.rng("ties"))
        top1, iou = evidence_overlap(order, question.evidence)
    return {"evidence_top1": top1, "evidence_iou": iou}
