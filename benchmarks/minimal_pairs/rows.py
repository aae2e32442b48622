"""One failure as a row: where each method ranks the evidence and the distractor."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.evidence.cases import Answered
from benchmarks.evidence.parts import PATH_STEPS
from lrp_lens import LogitDiff, run_with_relevance
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.hosts.vocabulary import token_id
from lrp_lens.masking import Question
from lrp_lens.masking.replacement import mean_embedding
from lrp_lens.methods import METHODS, integrated_gradients
from lrp_lens.rules import PRESETS

SIZES = (1, 2, 3)
"""k of precision@k."""
CHEAP = (METHODS["leave-one-out"], METHODS["attention"])
COSTLY = (
    replace(integrated_gradients(PATH_STEPS), name="integrated gradients"),
    METHODS["ablation regression"],
)
"""Baselines of dozens of passes."""
NAMES = (*PRESETS, *(one.name for one in (*CHEAP, *COSTLY)))
BATCH = 16


def rows(model: Any, failures: list[Answered], costly: int) -> Iterator[dict[str, Any]]:
    """The row of each failure, those of one length together; the first `costly` with every baseline."""
    lengths = sorted({one.length for one in failures})
    for length in lengths:
        group = [(at, one) for at, one in enumerate(failures) if one.length == length]
        for start in range(0, len(group), BATCH):
            some = group[start : start + BATCH]
            together = relevance(model, [one for _, one in some])
            for place, (at, one) in enumerate(some):
                asked = question(model, one)
                scores = {name: own[place] for name, own in together.items()}
                for method in (*CHEAP, *(COSTLY if at < costly else ())):
                    scores[method.name] = method.token_scores(asked)
                yield row(one, asked.maskable, scores)


def relevance(model: Any, group: list[Answered]) -> dict[str, np.ndarray]:
    """Preset → relevance of each token for right minus wrong, [prompt, pos]; all prompts have one length."""
    metric = LogitDiff([one.prompt.right for one in group], [one.prompt.wrong for one in group])
    found = {}
    for name, rules in PRESETS.items():
        _, cache = run_with_relevance(
            model,
            [one.text for one in group],
            metric,
            rules=rules,
            names_filter=Names.EMBED,
            logits="metric",
        )
        found[name] = cache.sum_to_positions(Names.EMBED).double().cpu().numpy()
    return found


def question(model: Any, one: Answered) -> Question:
    """The failure as methods are asked about it: right minus wrong, every token that is not special."""
    batch = tokenize(model, one.text)
    special = batch.special[0].cpu().numpy()
    metric = LogitDiff(token_id(model, one.prompt.right), token_id(model, one.prompt.wrong))
    return Question(
        model=model,
        tokens=batch.ids[0],
        strings=batch.strings[0],
        maskable=np.flatnonzero(~special),
        metric=metric,
        replacement=mean_embedding(model).expand(batch.ids.shape[1], -1),
        seed=0,
    )


def row(one: Answered, positions: np.ndarray, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """Precision of each method, beside chance; NaN at a k that leaves no token out."""
    marked = {
        name: np.isin(positions, [at for span in one.segments.get(name, ()) for at in range(*span)])
        for name in ("evidence", "distractor")
    }
    found: dict[str, Any] = {"case": one.prompt.task, "tokens": len(positions), "gap": -one.difference}
    found |= {f"{name} chance": float(own.mean()) if own.any() else np.nan for name, own in marked.items()}
    for name, values in scores.items():
        order = np.argsort(-values[positions], kind="stable")
        for size in SIZES:
            known = size < len(positions)
            found[f"{name}@{size}"] = float(marked["evidence"][order[:size]].mean()) if known else np.nan
        against = order[0] if _unsigned(name) else order[-1]
        there = marked["distractor"].any()
        found[f"{name} distractor@1"] = float(marked["distractor"][against]) if there else np.nan
    return found


def _unsigned(name: str) -> bool:
    """Whether a method's scores say nothing of for and against, so that the largest stands for both."""
    return name in METHODS and METHODS[name].unsigned


def methods(found: Iterable[str]) -> list[str]:
    """The methods among columns, in the order of tables."""
    there = {one.removesuffix("@1") for one in found}
    return [name for name in NAMES if name in there]
