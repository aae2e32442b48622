"""Check of the claim: hide the words that relevance blames, and see whether the preference gives way.

1. Rank the words by the relevance of their tokens together, largest first.  Special tokens, and those at the position
   where the answer is read, are never masked; of a word with such a token only its others are.  Where the text of the
   tokens is not known, each token is a word.
2. For k = 0 … K, replace the embeddings of the first k by the mean embedding over the vocabulary, rerun the
   model without any rule, and read the logit gap (target − contrast).  Positions and attention stay as they are.
3. Control: do the same with words in random orders, each as far as it takes to mask at least as many tokens as the k
   blamed words have: a word of several tokens is not blamed for being long.  Of a long prompt, run each order at one k
   only.
4. Judge the whole curve against the control (`verdict`).

Masking until the blamed answer is gone: Contrastive Attribution in the Wild (arXiv 2604.17761), appendix G.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import isnan
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from lrp_lens.characters import signed
from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError
from lrp_lens.masking import Question
from lrp_lens.masking.replacement import BASELINE
from lrp_lens.progress import progress_bar
from lrp_lens.views.groups import Group, places
from lrp_lens.views.statistics.verdict import MIN_DRAWS, Verdict, judge

_MOST_DRAWS = 20
_RANDOM_TOKENS = 1000


@dataclass(frozen=True)
class MaskingStep:
    """The model after k masked words."""

    masked: int
    """How many words are masked (k)."""
    positions: tuple[int, ...]
    """Positions of the k-th word's tokens, () for k = 0."""
    text: str
    """Text of the k-th word, "" for k = 0."""
    gap: float
    """Logit of the target minus logit of the contrast."""
    first_choice: str
    """The token that the model now ranks first."""
    random: tuple[float, ...]
    """That gap after masking the first words of each random order instead; NaN where it was not run."""

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

    @property
    def where(self) -> str:
        """Where the k-th word stands, "3" or "3–4"; empty for k = 0."""
        return places(self.positions)


@dataclass(frozen=True)
class MaskingCheck:
    """Logit gaps after masking the blamed words, beside masking random ones, and what follows."""

    steps: tuple[MaskingStep, ...]
    """k = 0, 1, …, K; fewer than asked where fewer words favour the target."""
    maskable: int
    """How many words of the prompt may be masked."""
    baseline: str = BASELINE
    """What a masked embedding is replaced by."""
    unit: str = "token"
    """What a masked word is called: "word" where some have several tokens, else "token"."""

    @cached_property
    def verdict(self) -> Verdict:
        """The whole curve against its control; see `lrp_lens.views.statistics.verdict` for the criterion."""
        gaps = [step.gap for step in self.steps]
        draws = list(zip(*(step.random for step in self.steps[1:]), strict=True))
        return judge(gaps, draws, self.maskable, unit=self.unit)

    @property
    def overtaken(self) -> tuple[int, ...]:
        """Every k ≥ 1 after which the contrast is ahead of the target, where the target was ahead at k = 0."""
        ahead = self.steps[0].gap > 0
        return tuple(step.masked for step in self.steps if ahead and step.gap < 0)

    def to_dataframe(self) -> pd.DataFrame:
        """One row per k: masked, positions, text, gap, first_choice, control and control_spread (random draws).

        Positions are "3" or "3–4", as `Explanation.top_words` has them.
        """
        names = ("masked", "positions", "text", "gap", "first_choice", "control", "control_spread")
        rows = [
            {name: getattr(step, name) for name in names} | {"positions": step.where} for step in self.steps
        ]
        return pd.DataFrame(rows)

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
            "unit": self.unit,
            "summary": str(self),
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "MaskingCheck":
        """The check that `to_dict` was called on."""
        names = [name for name in MaskingStep.__dataclass_fields__ if name != "random"]
        steps = tuple(
            MaskingStep(
                **{name: step[name] for name in names} | {"positions": tuple(step["positions"])},
                random=tuple(float("nan") if gap is None else gap for gap in step["random"]),
            )
            for step in plain["steps"]
        )
        return cls(steps, plain["maskable"], plain["baseline"], plain["unit"])

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
    """For each random order, the steps of the claim's curve that it is run beside (k).

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
    words: Sequence[Group] | None = None,
    top_k: int = 5,
    seeds: int | None = None,
    progress: bool | None = None,
) -> MaskingCheck:
    """Mask the top-k words for k = 0 … top_k and compare with random words.

    Args:
        question: prompt and metric, a difference of two logits; its `maskable` positions may be masked.
        relevance: relevance per token, positive towards the target, shape [pos].
        text_of: token id to its text.
        words: tokens that are masked together (`lrp_lens.views.groups.groups_of`), none in two of them; None masks each
            token alone.
        top_k: how many words to mask at most; one maskable word at least is left, if there are two.
        seeds: random orders of the control; None takes as many as `plan` says.
        progress: whether to show progress; None shows it where the work takes longer.

    Raises:
        InputError: top_k or seeds is no whole number of at least 1.
    """
    require_counts(top_k, seeds)
    groups = _maskable(question, words, text_of)
    values = [float(relevance[list(one.positions)].sum(dtype=np.float64)) for one in groups]
    ranked = sorted(range(len(groups)), key=lambda i: -values[i])
    most = min(top_k, max(len(ranked) - 1, 1))  # all of them are the same tokens in any order
    blamed = [groups[i] for i in ranked if values[i] > 0][:most]
    orders = plan(len(blamed), len(question.tokens), seeds) if blamed else []
    masks = [_mask(question, blamed[:k]) for k in range(len(blamed) + 1)]
    for draw, counts in enumerate(orders):
        order = question.rng(f"random order {draw}").permutation(len(groups))
        masks += [_mask(question, [groups[i] for i in order], int(masks[k].sum())) for k in counts]
    with progress_bar(None, question.fresh(np.stack(masks)), "masking", progress, "prompt") as bar:
        runs = question.masked(np.stack(masks), bar.update)
    control = np.full((len(blamed) + 1, len(orders)), np.nan)
    cells = [(k, draw) for draw, counts in enumerate(orders) for k in counts]
    for cell, gap in zip(cells, runs.values[len(blamed) + 1 :], strict=True):
        control[cell] = gap
    control[0] = runs.values[0]
    steps = [
        MaskingStep(
            masked=k,
            positions=one.positions,
            text=one.label,
            gap=float(runs.values[k]),
            first_choice=text_of(int(runs.choices[k])),
            random=tuple(control[k].tolist()),
        )
        for k, one in enumerate([Group("", ()), *blamed])
    ]
    unit = "word" if any(len(one.positions) > 1 for one in groups) else "token"
    return MaskingCheck(tuple(steps), len(groups), unit=unit)


def _maskable(
    question: Question, words: Sequence[Group] | None, text_of: Callable[[int], str]
) -> list[Group]:
    """What may be masked: of each word the tokens that may, or each of these tokens alone."""
    allowed, spelled = set(question.maskable.tolist()), question.tokens.tolist()
    if words is None:
        return [Group(text_of(spelled[i]), (i,)) for i in sorted(allowed)]
    found = []
    for one in words:
        kept = tuple(i for i in one.positions if i in allowed)
        if kept:
            label = one.label if kept == one.positions else "".join(text_of(spelled[i]) for i in kept)
            found.append(replace(one, positions=kept, label=label))
    return found


def _mask(question: Question, words: Sequence[Group], enough: int | None = None) -> Bool[np.ndarray, " pos"]:
    """True at the tokens of these words; with `enough`, of the first of them that have so many tokens together."""
    mask = np.zeros(len(question.tokens), dtype=bool)
    for one in words:
        if enough is not None and mask.sum() >= enough:
            break
        mask[list(one.positions)] = True
    return mask
