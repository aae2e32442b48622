"""Check of the claim: hide the tokens that relevance blames, and see whether the preference gives way.

1. Rank the tokens that may be masked by their relevance towards the target, largest first.  Special tokens, and
   those at the position where the answer is read, are never masked.
2. For k = 0 … K, replace the embeddings of the first k by the mean embedding over the vocabulary, rerun the
   model without any rule, and read the logit gap (target − contrast).  Positions and attention stay as they are.
3. Control: do the same with tokens in random orders; of a long prompt, run each order at one k only.
4. Judge the whole curve against the control (`verdict`).

Masking until the blamed answer is gone: Contrastive Attribution in the Wild (arXiv 2604.17761), appendix G.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from math import isnan
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from lrp_lens.characters import signed
from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError
from lrp_lens.masking import Question
from lrp_lens.masking.replacement import BASELINE
from lrp_lens.progress import progress_bar
from lrp_lens.views.statistics.verdict import MIN_DRAWS, Verdict, judge

_MOST_DRAWS = 20
_RANDOM_TOKENS = 1000


@dataclass(frozen=True)
class MaskingStep:
    """The model after k masked tokens."""

    masked: int
    """How many tokens are masked (k)."""
    position: int | None
    """Position of the k-th token, None for k = 0."""
    token: str
    """Text of the k-th token, "" for k = 0."""
    gap: float
    """Logit of the target minus logit of the contrast."""
    first_choice: str
    """The token that the model now ranks first."""
    random: tuple[float, ...]
    """That gap after masking the first k tokens of each random order instead; NaN where it was not run."""

    @property
    def control(self) -> float:
        """Mean gap of the random orders."""
        return float(np.nanmean(self.random)) if self.random else self.gap

    @property
    def control_spread(self) -> float:
        """Standard deviation of these gaps; 0 for one order."""
        return float(np.nanstd(self.random)) if self.random else 0.0

    @property
    def control_words(self) -> str:
        """Mean ± deviation of these gaps, the mean alone for one order; empty for k = 0."""
        if not self.masked:
            return ""
        several = sum(not isnan(gap) for gap in self.random) > 1
        return signed(self.control) + (f" ± {self.control_spread:.2f}" if several else "")


@dataclass(frozen=True)
class MaskingCheck:
    """Logit gaps after masking the blamed tokens, beside masking random ones, and what follows."""

    steps: tuple[MaskingStep, ...]
    """k = 0, 1, …, K; fewer than asked where fewer tokens favour the target."""
    maskable: int
    """How many tokens of the prompt may be masked."""
    baseline: str = BASELINE
    """What a masked embedding is replaced by."""

    @cached_property
    def verdict(self) -> Verdict:
        """The whole curve against its control; see `lrp_lens.views.statistics.verdict` for the criterion."""
        gaps = [step.gap for step in self.steps]
        draws = list(zip(*(step.random for step in self.steps[1:]), strict=True))
        return judge(gaps, draws, self.maskable)

    @property
    def overtaken(self) -> tuple[int, ...]:
        """Every k ≥ 1 after which the contrast is ahead of the target, where the target was ahead at k = 0."""
        ahead = self.steps[0].gap > 0
        return tuple(step.masked for step in self.steps if ahead and step.gap < 0)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per k: masked, position, token, gap, first_choice, control and control_spread (random draws)."""
        names = ("masked", "position", "token", "gap", "first_choice", "control", "control_spread")
        return pd.DataFrame([{name: getattr(step, name) for name in names} for step in self.steps])

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, for JSON."""
        steps = [
            {
                **asdict(step),
                "random": [None if isnan(gap) else gap for gap in step.random],
                "control": step.control,
            }
            for step in self.steps
        ]
        return {
            "verdict": self.verdict.to_dict(),
            "overtaken": list(self.overtaken),
            "steps": steps,
            "maskable": self.maskable,
            "baseline": self.baseline,
            "summary": str(self),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "MaskingCheck":
        """The check that `to_dict` was called on."""
        names = [name for name in MaskingStep.__dataclass_fields__ if name != "random"]
        steps = tuple(
            MaskingStep(
                **{name: step[name] for name in names},
                random=tuple(float("nan") if gap is None else gap for gap in step["random"]),
            )
            for step in plain["steps"]
        )
        return cls(steps, plain["maskable"], plain["baseline"])

    @property
    def overtakes(self) -> str:
        """After which k the contrast is ahead, in words; empty if it never is, or was before."""
        if not self.overtaken:
            return ""
        last = self.steps[-1].masked
        return f"The contrast is ahead after k = {', '.join(map(str, self.overtaken))} (of 1 to {last})."

    def __str__(self) -> str:
        return " ".join(filter(None, (str(self.verdict), self.overtakes)))


def require_counts(top_k: Any, seeds: Any) -> None:
    """Raise InputError unless top_k and seeds (or None) are whole numbers, 1 or more."""
    if not is_whole(top_k) or top_k < 1 or (seeds is not None and (not is_whole(seeds) or seeds < 1)):
        raise InputError(
            "The masking check needs top_k ≥ 1 and seeds ≥ 1 (or None), whole numbers; received "
            f"{top_k!r} and {seeds!r}."
        )


def plan(steps: int, length: int, seeds: int | None) -> list[tuple[int, ...]]:
    """For each random order, the numbers of its tokens that are masked (k).

    Args:
        steps: the largest k (K).
        length: tokens of the prompt.
        seeds: number of orders, all run at every k; None takes as many as 1,000 tokens allow (5 to 20), and where
            they do not allow 5, takes orders that are run at one k each (at least 5, and every k at least once).

    Example:
        >>> plan(2, 50, None)[:2], len(plan(2, 50, None))
        ([(1, 2), (1, 2)], 10)
        >>> plan(3, 500, None)
        [(1,), (2,), (3,), (1,), (2,)]
    """
    every = tuple(range(1, steps + 1))
    affordable = _RANDOM_TOKENS // (steps * length)
    if seeds is not None or affordable >= MIN_DRAWS:
        return [every] * (min(_MOST_DRAWS, affordable) if seeds is None else seeds)
    orders = max(MIN_DRAWS, steps, min(_MOST_DRAWS, _RANDOM_TOKENS // length))
    return [(1 + order % steps,) for order in range(orders)]


def masking_check(
    question: Question,
    relevance: Float[np.ndarray, " pos"],
    *,
    text_of: Callable[[int], str],
    top_k: int = 5,
    seeds: int | None = None,
    progress: bool | None = None,
) -> MaskingCheck:
    """Mask the top-k tokens for k = 0 … top_k and compare with random tokens.

    Args:
        question: prompt and metric, a difference of two logits; its `maskable` positions may be masked.
        relevance: relevance per token, positive towards the target, shape [pos].
        text_of: token id to its text.
        top_k: how many tokens to mask at most; one maskable token at least is left, if there are two.
        seeds: random orders of the control; None takes as many as `plan` says.
        progress: whether to show progress; None shows it where the work takes longer.

    Raises:
        InputError: top_k or seeds is no whole number of at least 1.
    """
    require_counts(top_k, seeds)
    tokens, maskable = question.tokens, question.maskable
    ranked = sorted(maskable.tolist(), key=lambda i: -relevance[i])
    most = min(top_k, max(len(ranked) - 1, 1))  # all of them are the same tokens in any order
    blamed = [i for i in ranked if relevance[i] > 0][:most]
    orders = plan(len(blamed), len(tokens), seeds) if blamed else []
    chosen = [blamed[:k] for k in range(len(blamed) + 1)]
    for draw, counts in enumerate(orders):
        order = question.rng(f"random order {draw}").permutation(maskable).tolist()
        chosen += [order[:k] for k in counts]
    masks = np.zeros((len(chosen), len(tokens)), dtype=bool)
    for row, positions in enumerate(chosen):
        masks[row, positions] = True
    with progress_bar(None, question.fresh(masks), "masking", progress, "prompt") as bar:
        runs = question.masked(masks, bar.update)
    control = np.full((len(blamed) + 1, len(orders)), np.nan)
    cells = [(k, draw) for draw, counts in enumerate(orders) for k in counts]
    for cell, gap in zip(cells, runs.values[len(blamed) + 1 :], strict=True):
        control[cell] = gap
    control[0] = runs.values[0]
    steps = [
        MaskingStep(
            masked=k,
            position=blamed[k - 1] if k else None,
            token=text_of(int(tokens[blamed[k - 1]])) if k else "",
            gap=float(runs.values[k]),
            first_choice=text_of(int(runs.choices[k])),
            random=tuple(control[k].tolist()),
        )
        for k in range(len(blamed) + 1)
    ]
    return MaskingCheck(tuple(steps), len(maskable))
