"""Cases as questions: tokens, what of them may be masked, the metric, the replacement.

1. Tokenise every case; special tokens (BOS, EOS, padding, unknown) are never masked, nor are the tokens of an answer
   that the metric appends, nor, unless it is asked for, the token at the position of the decision: the state there is
   what the answer is read from, and masking it undoes any answer.
2. Fix the metric: given, or the case's target against its contrast, or the first choice against the runner-up.
3. Fix the replacement, which all cases share, and what is random about each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from lrp_lens.cases import Case, require_decided
from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError
from lrp_lens.hosts.chat import is_messages
from lrp_lens.hosts.completions import decide
from lrp_lens.hosts.forward import vocabulary_size
from lrp_lens.hosts.text_spans import case_segments
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import tokenize, with_answers
from lrp_lens.masking.question import Question
from lrp_lens.masking.replacement import Replacement, make_replacement
from lrp_lens.metrics import LogitDiff, MetricLike, RunnerUp, as_metric
from lrp_lens.run.pairs import settled


@runtime_checkable
class CaseLike(Protocol):
    """What is read of a case, e.g. of `lrp_lens.Case`."""

    @property
    def prompt(self) -> Any:
        """Text, or messages."""
        ...

    @property
    def target(self) -> str:
        """The token that the metric counts as positive."""
        ...

    @property
    def contrast(self) -> str:
        """The token that it counts as negative."""
        ...

    @property
    def suite(self) -> str:
        """The kind of task."""
        ...

    @property
    def correct(self) -> bool | None:
        """Whether the target is the right answer; None if nobody knows."""
        ...

    @property
    def segments(self) -> Mapping[str, Sequence[tuple[int, int]]]:
        """Token spans by name; `evidence` is what the right answer has to be read from."""
        ...


def require_seed(seed: Any) -> None:
    """Raise InputError unless the seed is a whole number, 0 or more."""
    if not is_whole(seed) or seed < 0:
        raise InputError(f"A seed is a whole number, 0 or more; received {seed!r}.")


def questions(
    model: Any,
    cases: Any,
    metric: MetricLike | Sequence[MetricLike] | None,
    replacement: str,
    seed: int,
    prepend_bos: bool | None = None,
    mask_decision: bool = False,
) -> tuple[list[Question], Replacement]:
    """The cases as questions, and the replacement that they share; see `faithfulness` for the arguments.

    Raises:
        InputError: a bad seed, no cases, an undecided case without a metric, a prompt with nothing to mask, as many
            metrics as cases are needed, or a bad replacement.
    """
    require_seed(seed)
    alone = isinstance(cases, str | CaseLike | TokenBatch) or is_messages(cases) or _is_ids(cases)
    listed: list[Any] = [cases] if alone else list(cases)
    if not listed:
        raise InputError("Faithfulness is measured on at least one case or prompt; received none.")
    several = isinstance(metric, Sequence)
    metrics: list[Any] = list(metric) if isinstance(metric, Sequence) else [metric] * len(listed)
    if several and len(metrics) != len(listed):
        raise InputError(
            f"There is one metric for all cases, or one for each; received {len(metrics)} metrics for "
            f"{len(listed)} cases."
        )
    asked = [
        _asked(model, one, own, prepend_bos)
        if isinstance(one, CaseLike)
        else (tokenize(model, one, None, prepend_bos), own)
        for one, own in zip(listed, metrics, strict=True)
    ]
    batches, metrics = [batch for batch, _ in asked], [own for _, own in asked]
    for index, batch in enumerate(batches):
        if len(batch.ids) != 1:
            raise InputError(
                f"A case is one prompt; case {index} is a batch of {len(batch.ids)}. Pass a list of cases."
            )
    pool = torch.cat([batch.ids[0, ~batch.special[0]] for batch in batches])
    shared = make_replacement(model, replacement, pool)
    rows = zip(listed, batches, metrics, strict=True)
    found = [_question(model, *row, shared, [seed, index], mask_decision) for index, row in enumerate(rows)]
    for index, question in enumerate(found):
        if not len(question.maskable):
            words = "special tokens" if mask_decision else "special tokens and that of the decision"
            raise InputError(
                f"A prompt needs a token that may be masked, {words} excepted; case {index} is {question.strings}. "
                "Leave it out."
            )
    return found, shared


def _asked(
    model: Any, case: CaseLike, metric: MetricLike | None, prepend_bos: bool | None
) -> tuple[TokenBatch, MetricLike]:
    """The prompt of a case, what its completion has said so far included, and the metric."""
    said: dict[str, Any] = {}
    if isinstance(case, Case):
        if metric is None:
            require_decided(case)
        if case.position is not None:
            said = {"completion": case.completion, "position": case.position}
    if metric is not None:
        return decide(model, case.prompt, **said, prepend_bos=prepend_bos).batch, metric
    decision = decide(
        model, case.prompt, case.target or None, case.contrast or None, **said, prepend_bos=prepend_bos
    )
    if decision.target is None or decision.contrast is None:
        return decision.batch, RunnerUp(target=decision.target)
    return decision.batch, LogitDiff(decision.target, decision.contrast)


def _question(
    model: Any,
    case: Any,
    batch: TokenBatch,
    metric: Any,
    replacement: Replacement,
    seeds: list[int],
    mask_decision: bool,
) -> Question:
    tokens, known = batch.ids[0], isinstance(case, CaseLike)
    seed = int(np.random.default_rng(seeds).integers(2**62))
    asked = as_metric(metric).resolve(model)
    if asked.chooses:
        bound = asked.bind(batch.starts, batch.prompt_lengths, vocabulary_size(model))
        asked = settled(model, batch, bound).metric
    question = Question(
        model=model,
        tokens=tokens,
        answered=with_answers(model, batch, asked.branches()),
        strings=batch.strings[0],
        maskable=np.flatnonzero(~batch.special[0].cpu().numpy()),
        metric=asked,
        replacement=replacement.rows(model, len(tokens), np.random.default_rng([seed, 1])),
        seed=seed,
        suite=case.suite if known else "",
        correct=case.correct if known else None,
        evidence=_evidence(_segments(model, case), len(tokens)) if known else None,
    )
    if not mask_decision:
        question.maskable = question.maskable[question.maskable != question.decision]
    return question


def _segments(model: Any, case: CaseLike) -> Mapping[str, Sequence[tuple[int, int]]]:
    """The named parts of a case's prompt, in tokens."""
    return case_segments(model, case) if isinstance(case, Case) else case.segments


def _evidence(
    segments: Mapping[str, Sequence[tuple[int, int]]], length: int
) -> Bool[np.ndarray, " pos"] | None:
    if "evidence" not in segments:
        return None
    inside = np.zeros(length, dtype=bool)
    for start, stop in segments["evidence"]:
        if not 0 <= start < stop <= length:
            raise InputError(
                f"A span (start, stop) has 0 <= start < stop <= {length} tokens; evidence has {(start, stop)}."
            )
        inside[start:stop] = True
    return inside


def _is_ids(cases: Any) -> bool:
    """Whether this is one prompt of token ids."""
    if isinstance(cases, Tensor):
        return cases.ndim == 1
    return isinstance(cases, Sequence) and len(cases) > 0 and all(isinstance(one, int) for one in cases)
