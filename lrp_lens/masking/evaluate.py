"""The table of token faithfulness: every method on every case, all perturbed prompts in batches.

1. Tokenise the cases, fix each metric and each replacement (`question`).
2. Of `WINDOW` cases at once the scores of methods that are quicker so (`Method.together`).
3. For each case: the scores of the other methods (`lrp_lens.methods`); then the masked prompts of all curves in one
   batch, none of them twice (`Question.masked`), and in the same batch those that scores are made of (`Method.masks`),
   whose own curves follow; then both curves and all measures (`curves`).
4. Collect one row per case and method; curves on a common grid; intervals over cases are taken in the result.
"""

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd

from lrp_lens.errors import LrpLensError, RuleError, SiteError
from lrp_lens.hosts.forward import require_eval, require_gradients
from lrp_lens.masking.checkpoint import Measured, load, save, table_checkpoint
from lrp_lens.masking.curves import AOPC_FRACTIONS, Plan, as_plan, curve_masks, curves
from lrp_lens.masking.measures import MEASURES
from lrp_lens.masking.question import Question
from lrp_lens.masking.questions import questions, require_seed
from lrp_lens.masking.replacement import ReplacementName
from lrp_lens.masking.result import Faithfulness
from lrp_lens.methods.method import Method
from lrp_lens.methods.registry import MethodLike, as_methods
from lrp_lens.metrics import MetricLike
from lrp_lens.progress import progress_bar, require_show
from lrp_lens.rules import PRESETS
from lrp_lens.views import View

BASELINES = (
    "random",
    "attention",
    "attention rollout",
    "integrated gradients",
    "ablation regression",
    "leave-one-out",
)
"""Names of what any relevance method should be held against; gradient × input is the preset GRADIENT."""


Scores = dict[str, tuple[np.ndarray, float]]
"""Method → scores of one question's tokens, and the seconds that they took."""
WINDOW = 32
"""Cases whose scores are made together; an interrupted table makes those of unfinished cases again."""


def faithfulness(
    model: Any,
    cases: Any,
    methods: "MethodLike | Iterable[MethodLike] | None" = None,
    *,
    metric: MetricLike | Sequence[MetricLike] | None = None,
    replacement: ReplacementName = "mean",
    steps: int | None = 20,
    limit: int = 10,
    fractions: Sequence[float] = AOPC_FRACTIONS,
    seed: int = 0,
    prepend_bos: bool | None = None,
    mask_decision: bool = False,
    checkpoint: str | PathLike[str] | None = None,
    progress: bool | None = None,
) -> Faithfulness:
    """Do the tokens that a method blames matter to the model?

    An interrupted run (Ctrl-C) returns the cases that were finished, and says so.  The masked prompts of all methods
    of a case are one batch, in which none stands twice and what several begin with is run once.

    Args:
        model: a HookedTransformer or TransformerBridge in eval mode.
        cases: cases (`lrp_lens.Case` or anything with its fields), texts, or token ids [pos]; or one of these.
        methods: names of `lrp_lens.methods.METHODS` in any spelling, rule sets, `Method`s that score tokens, or
            functions question → scores [pos]; None for every preset and every baseline; of these, one that the model
            cannot have is a row of "–".
        metric: one metric for all cases, or one for each; None takes each case's target against its contrast, or
            first choice against runner-up for plain prompts.
        replacement: what masked embeddings become: "mean" (over the vocabulary), "zero", "pad" or "resample".
        steps: points of the curves' grid; None masks one token at a time.
        limit: tokens are masked one by one up to this many to see when the decision flips.
        fractions: fractions of tokens of comprehensiveness and sufficiency.
        seed: seed of everything random: same seed, same result.
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
        mask_decision: whether the token at the position where the answer is read may be masked, too; by default it
            never is, as in the check of `explain`.
        checkpoint: folder in which finished cases are kept; the same call goes on where an interrupted one stopped.
        progress: whether to show progress; None: a bar on terminals and in notebooks after two seconds, a line every
            ten seconds elsewhere.

    Returns:
        Per-case table, curves and summary with bootstrap intervals over cases.

    Raises:
        InputError: no cases, an undecided case without a metric, a prompt with nothing to mask, an unknown method or
            replacement, steps, limit, fractions or seed out of range, train or inference mode, scores that are not
            one finite number per token, or a checkpoint of other inputs.
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
    chosen = as_methods((*PRESETS, *BASELINES) if methods is None else methods, "tokens")
    require_gradients()
    require_eval(model)
    left_out = inapplicable(model, chosen, refuse=methods is not None)
    listed, shared = questions(model, cases, metric, replacement, seed, prepend_bos, mask_decision)
    points = np.linspace(0, 1, (20 if steps is None else steps) + 1)
    options = {"replacement": replacement, "seed": int(seed), "mask_decision": mask_decision}
    kept = table_checkpoint(checkpoint, model, listed, chosen, plan, options)
    notes = tuple(f"{name} cannot be applied to this model: {reason}" for name, reason in left_out.items())
    stored = [load(kept, index) for index in range(len(listed))]
    unfinished = [index for index, case in enumerate(stored) if case is None]
    done: list[Measured] = []
    ahead: dict[int, Scores] = {}
    try:
        for index, question in enumerate(
            progress_bar(listed, what="faithfulness", show=progress, unit="case")
        ):
            case = stored[index]
            if case is None:
                if index not in ahead:
                    window = {other: listed[other] for other in unfinished if other >= index}
                    ahead = _scores_ahead(dict(islice(window.items(), WINDOW)), chosen, left_out)
                case = _measure(question, chosen, ahead.pop(index), left_out, plan, points)
                save(kept, index, case)
            done.append(case)
    except KeyboardInterrupt:
        if not done:
            raise
        notes = (*notes, f"Interrupted after {len(done)} of {len(listed)} cases.")
    labels = {
        "method": tuple(one.name for one in chosen),
        "masked": tuple(f"{100 * point:.4g} %" for point in points),
    }
    views = [
        View(
            values=np.stack([one.drawn[side] for one in done]),
            dims=("batch", "method", "masked"),
            labels=labels,
            name=f"metric, {name} relevant tokens masked first",
            units="logits",
            notes=(f"masked embeddings become: {shared.statement}",),
        )
        for side, name in enumerate(("most", "least"))
    ]
    return Faithfulness(
        cases=pd.DataFrame(
            [
                {
                    "case": index,
                    **_words(listed[index], case.metric),
                    "method": method,
                    **dict(zip(MEASURES, own, strict=True)),
                }
                for index, case in enumerate(done)
                for method, own in zip(labels["method"], case.measures.tolist(), strict=True)
            ]
        ),
        morf=views[0],
        lerf=views[1],
        methods=labels["method"],
        costs={one.name: one.cost for one in chosen},
        replacement=shared.statement,
        seed=seed,
        limit=limit,
        seconds={name: sum(one.seconds[name] for one in done) for name in done[0].seconds},
        notes=notes,
    )


def inapplicable(model: Any, methods: Sequence[Method], refuse: bool) -> dict[str, str]:
    """Name → reason of each method that this model cannot have.

    Args:
        model: a HookedTransformer or TransformerBridge.
        methods: the methods.
        refuse: raise the first reason instead, as befits methods that were asked for by name.

    Raises:
        RuleError, SiteError: with `refuse`, what the method itself says.
    """
    reasons = {}
    for method in methods:
        try:
            if method.requires is not None:
                method.requires(model)
        except (RuleError, SiteError) as error:
            if refuse:
                raise
            reasons[method.name] = str(error)
    return reasons


def _words(question: Question, metric: float) -> dict[str, Any]:
    """What the rows of one case say of it."""
    return {
        "suite": question.suite,
        "correct": question.correct,
        "tokens": len(question.maskable),
        "metric": metric,
    }


def _scores_ahead(
    questions: Mapping[int, Question], methods: Sequence[Method], left_out: Collection[str]
) -> dict[int, Scores]:
    """The scores of methods that are quicker together, with each question's share of the seconds.

    What is refused is left to be made, and refused, alone: the questions before it are measured first.
    """
    found: dict[int, Scores] = {index: {} for index in questions}
    for method in methods:
        if method.together is None or method.name in left_out:
            continue
        start = time.perf_counter()
        try:
            scores = method.scores_of(list(questions.values()))
        except LrpLensError:
            continue
        share = (time.perf_counter() - start) / len(questions)
        for index, one in zip(questions, scores, strict=True):
            found[index][method.name] = one, share
    return found


def _measure(
    question: Question,
    methods: Sequence[Method],
    ahead: Scores,
    left_out: Collection[str],
    plan: Plan,
    points: np.ndarray,
) -> Measured:
    """Measures of every method on one case, and its curves, interpolated between whole tokens.

    A method that is left out has NaN everywhere.
    """
    scores: dict[int, np.ndarray] = {}
    seconds = {one.name: 0.0 for one in methods} | {"masking": 0.0}
    able = [(index, method) for index, method in enumerate(methods) if method.name not in left_out]
    masks = [question.single_masks(), *(one.masks(question) for _, one in able if one.masks is not None)]
    for last in (False, True):  # first the methods that mask nothing, so that all masks are run at once
        for index, method in able:
            if last == (method.masks is not None):
                start = time.perf_counter()
                one, spent = ahead.get(method.name) or (method.token_scores(question), 0.0)
                scores[index], seconds[method.name] = one, spent + time.perf_counter() - start
                masks.append(curve_masks(question, one, plan))
        start = time.perf_counter()
        question.masked(np.concatenate(masks))  # and remembered
        seconds["masking"] += time.perf_counter() - start
    start = time.perf_counter()
    measures = np.full((len(methods), len(MEASURES)), np.nan)
    drawn = np.full((2, len(methods), len(points)), np.nan)
    for index, own in scores.items():
        found = curves(question, own, plan)
        drawn[0, index] = np.interp(points, found.masked, found.morf)
        drawn[1, index] = np.interp(points, found.masked, found.lerf)
        measures[index] = [found.measures[name] for name in MEASURES]
    seconds["masking"] += time.perf_counter() - start
    return Measured(question.full, measures, drawn, seconds)
