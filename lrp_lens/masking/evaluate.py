"""The table of token faithfulness: every method on every case, all perturbed prompts in batches.

1. Tokenise the cases, fix each metric and each replacement (`question`).
2. For each case and method: scores (`methods`, `baselines`), then both curves and all measures (`curves`).
3. Collect one row per case and method; curves on a common grid; intervals over cases are taken in the result.
"""

import time
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lrp_lens.hosts.forward import require_eval, require_gradients
from lrp_lens.masking.curves import AOPC_FRACTIONS, Plan, as_plan, curves
from lrp_lens.masking.measures import MEASURES
from lrp_lens.masking.methods import MethodLike, TokenMethod, as_methods, inapplicable
from lrp_lens.masking.question import Question, questions, require_seed
from lrp_lens.masking.replacement import ReplacementName
from lrp_lens.masking.result import Faithfulness
from lrp_lens.metrics import MetricLike
from lrp_lens.progress import progress_bar, require_show
from lrp_lens.views import View


def faithfulness(
    model: Any,
    cases: Any,
    methods: Iterable[MethodLike] | MethodLike | None = None,
    *,
    metric: MetricLike | Sequence[MetricLike] | None = None,
    replacement: ReplacementName = "mean",
    steps: int | None = 20,
    limit: int = 10,
    fractions: Sequence[float] = AOPC_FRACTIONS,
    seed: int = 0,
    prepend_bos: bool | None = None,
    progress: bool | None = None,
) -> Faithfulness:
    """Do the tokens that a method blames matter to the model?

    An interrupted run (Ctrl-C) returns the cases that were finished, and says so.

    Args:
        model: a HookedTransformer or TransformerBridge in eval mode.
        cases: cases (`lrp_lens.Case` or anything with its fields), texts, or token ids [pos]; or one of these.
        methods: rule sets, names of presets and baselines, `TokenMethod`s, or functions question → scores [pos];
            None for every preset and every baseline; of these, one that the model cannot have is a row of "–".
        metric: one metric for all cases, or one for each; None takes each case's target against its contrast, or
            first choice against runner-up for plain prompts.
        replacement: what masked embeddings become: "mean" (over the vocabulary), "zero", "pad" or "resample".
        steps: points of the curves' grid; None masks one token at a time.
        limit: tokens are masked one by one up to this many to see when the decision flips.
        fractions: fractions of tokens of comprehensiveness and sufficiency.
        seed: seed of everything random: same seed, same result.
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
        progress: whether to show a progress bar; None: on terminals and in notebooks, after two seconds.

    Returns:
        Per-case table, curves and summary with bootstrap intervals over cases.

    Raises:
        InputError: no cases, a prompt with nothing to mask, an unknown method or replacement, steps, limit,
            fractions or seed out of range, train or inference mode, or scores that are not one finite number per
            token.
        MetricError: a target or contrast that is not one token.
        RuleError, SiteError: a method that was asked for and cannot be applied to this model; before any work.

    Example:
        >>> from lrp_lens import ATTN_LRP, demo_cases, load_demo_model
        >>> result = faithfulness(load_demo_model(device="cpu"), demo_cases()[:2], [ATTN_LRP, "random"])
        >>> result.n_cases, result.methods
        (2, ('ATTN_LRP', 'random'))
        >>> result.summary().columns.tolist()
        ['method', 'measure', 'mean', 'low', 'high', 'n']
    """
    plan = as_plan(steps, limit, fractions)
    require_seed(seed)
    require_show(progress)
    chosen = as_methods(methods)
    require_gradients()
    require_eval(model)
    left_out = inapplicable(model, chosen, refuse=methods is not None)
    listed, shared = questions(model, cases, metric, replacement, seed, prepend_bos)
    points = np.linspace(0, 1, (20 if steps is None else steps) + 1)
    rows: list[list[dict[str, Any]]] = []
    drawn: list[np.ndarray] = []
    seconds = {one.name: 0.0 for one in chosen} | {"masking": 0.0}
    notes = tuple(f"{name} cannot be applied to this model: {reason}" for name, reason in left_out.items())
    try:
        for question in progress_bar(listed, what="faithfulness", show=progress, unit="case"):
            own, drawings = _measure(question, chosen, left_out, plan, points, seconds)
            rows.append([{"case": len(rows)} | row for row in own])
            drawn.append(drawings)
    except KeyboardInterrupt:
        if not rows:
            raise
        notes = (*notes, f"Interrupted after {len(rows)} of {len(listed)} cases.")
    labels = {
        "method": tuple(one.name for one in chosen),
        "masked": tuple(f"{100 * point:.4g} %" for point in points),
    }
    views = [
        View(
            values=np.stack([one[side] for one in drawn[: len(rows)]]),
            dims=("batch", "method", "masked"),
            labels=labels,
            name=f"metric, {name} relevant tokens masked first",
            units="logits",
            notes=(f"masked embeddings become: {shared.statement}",),
        )
        for side, name in enumerate(("most", "least"))
    ]
    return Faithfulness(
        cases=pd.DataFrame([row for case in rows for row in case]),
        morf=views[0],
        lerf=views[1],
        methods=labels["method"],
        costs={one.name: one.cost for one in chosen},
        replacement=shared.statement,
        seed=seed,
        limit=limit,
        seconds=seconds,
        notes=notes,
    )


def _measure(
    question: Question,
    methods: Sequence[TokenMethod],
    left_out: Collection[str],
    plan: Plan,
    points: np.ndarray,
    seconds: dict[str, float],
) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Rows of every method on one case, and its curves [2, method, point], interpolated between whole tokens.

    A method that is left out keeps its row, with NaN for every measure.
    """
    rows, drawn = [], np.full((2, len(methods), len(points)), np.nan)
    for index, method in enumerate(methods):
        row: dict[str, Any] = {
            "suite": question.suite,
            "correct": question.correct,
            "tokens": len(question.maskable),
            "metric": question.full,
            "method": method.name,
        }
        if method.name in left_out:
            rows.append(row | dict.fromkeys(MEASURES, float("nan")))
            continue
        start = time.perf_counter()
        scores = method.scores(question)
        middle = time.perf_counter()
        found = curves(question, scores, plan)
        seconds[method.name] += middle - start
        seconds["masking"] += time.perf_counter() - middle
        drawn[0, index] = np.interp(points, found.masked, found.morf)
        drawn[1, index] = np.interp(points, found.masked, found.lerf)
        rows.append(row | found.measures)
    return rows, drawn
