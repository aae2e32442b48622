"""Why did the model prefer this token to that one? One prompt, one pass of relevance, every view, one check.

1. Where the decision is: behind the prompt, or at a token of a completion (`lrp_lens.hosts.completions`).
2. One forward and one backward pass: the two tokens are fixed between them (`pair`), from the logits at the last
   position, the only ones that are unembedded.
3. Views of that pass under a rule set: tokens, layers, heads, components, ledger.
4. Check the claim: mask the words that relevance blames; does the preference give way? (see `masking.check`)
"""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from lrp_lens.cases import Case, require_decided
from lrp_lens.errors import InputError
from lrp_lens.failures.explanation import Explanation
from lrp_lens.failures.masked import masking_question
from lrp_lens.failures.pair import Pair, choice
from lrp_lens.hosts.completions import decide
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.vocabulary import token_strings
from lrp_lens.masking.check import MaskingCheck, masking_check, require_counts
from lrp_lens.rules import DEFAULT_RULES, RuleSet, as_rule_set
from lrp_lens.run.generation import Generation
from lrp_lens.run.relevance import Prompt, run_with_relevance
from lrp_lens.views import View
from lrp_lens.views.groups import groups_of

_CANDIDATES = 5


def explain(
    model: Any,
    prompt: Prompt | Case | None = None,
    target: str | int | None = None,
    contrast: str | int | None = None,
    *,
    completion: str | Sequence[int] | Generation | None = None,
    position: int | str | None = None,
    case: Case | None = None,
    rules: RuleSet | str = DEFAULT_RULES,
    top_k: int = 5,
    seeds: int | None = None,
    prepend_bos: bool | None = None,
    model_name: str | None = None,
    progress: bool | None = None,
) -> Explanation:
    """Explain one preference of a language model.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer, in eval mode.
        prompt: text; messages, [{"role": "user", "content": "..."}, ...]; or token ids, [pos] or [1, pos], taken as
            they are; or a case.
        target: the token whose preference is explained, text or id; None takes the completion's token, or without one
            the model's first choice.  Of answers of several tokens the first that differs is explained: what target
            and contrast begin with alike is said already (the explanation's notes tell it).
        contrast: the token to compare it with, text or id; None takes the model's best other choice.
        completion: what the model said behind the prompt: text, token ids, or what `generate` returned.
        position: which of the completion's tokens is explained: its index, from 0 or back from -1, or a piece of its
            text that stands there once.  Prompt and completion up to it are the context.
        case: prompt, target, contrast, completion and position together, instead of these.
        rules: a rule set or the name of a preset; the explanation names it.
        top_k: how many of the blamed words the check masks at most.
        seeds: random orders of the check's control, run after every masked word; None takes as many as the length
            of the prompt affords in about the time of a relevance pass (`lrp_lens.masking.check.plan`).
        prepend_bos: whether a text gets BOS; None does what the model's configuration says.
        model_name: what to call the model; None takes its configuration's name.
        progress: whether to show progress; None shows it where the work takes longer.

    Returns:
        The explanation; `print` it, or write it with `lrp_lens.report.write_report`.

    Raises:
        InputError: no prompt, more than one prompt, ids outside the vocabulary, an unknown token, twice the same
            token, a completion without position, a case together with a prompt, an undecided case, or top_k or seeds
            below 1.
        MetricError: target or contrast is no text of the vocabulary, or one of them begins the other.
        RuleError: no preset has this name, or a rule cannot be applied to this model.

    Example:
        >>> from lrp_lens.demo import demo_cases, load_demo_model
        >>> explanation = explain(load_demo_model(device="cpu"), case=demo_cases()[0])
        >>> explanation.metric_value > 1
        True
    """
    start = perf_counter()
    rules = as_rule_set(rules)
    require_counts(top_k, seeds)
    if isinstance(prompt, Case) and case is None:
        prompt, case = None, prompt
    prompt, target, contrast, completion, position = _question(
        prompt, target, contrast, completion, position, case
    )
    decision = decide(
        model, prompt, target, contrast, completion=completion, position=position, prepend_bos=prepend_bos
    )
    batch = decision.batch

    def text_of(token: int) -> str:
        return token_strings(model, [token])[0]

    pair = Pair(target=decision.target, contrast=decision.contrast, text_of=text_of)
    rows, relevance = run_with_relevance(model, batch, pair, rules=rules, logits="metric")
    metric = relevance.metric.metric
    logits, target_id, contrast_id = rows[0, 0].float(), metric.target[0], metric.contrast[0][0]
    seconds = {"relevance": perf_counter() - start}

    start = perf_counter()
    views = [relevance.tokens(), relevance.layers(), relevance.heads(), relevance.components()]
    by_token, layers, heads, components = [_only_example(view) for view in views]
    segments = _only_example(relevance.segments()) if batch.segments else None
    ledger = relevance.ledger()
    seconds["views"] = perf_counter() - start

    start = perf_counter()
    del relevance  # the check needs its memory
    question = masking_question(model, batch, metric)
    question.know_unmasked(rows[0])
    words = None if by_token.pieces is None else groups_of(by_token, "word")
    masking: MaskingCheck = masking_check(
        question, by_token.values, text_of=text_of, words=words, top_k=top_k, seeds=seeds, progress=progress
    )
    best = logits.topk(min(_CANDIDATES, len(logits))).indices.tolist()
    seconds["masking"] = perf_counter() - start
    return Explanation(
        prompt=prompt if isinstance(prompt, str) else "".join(batch.strings[0][: decision.prompt_length]),
        model_name=model_name or Path(str(getattr(model.cfg, "model_name", "model"))).name,
        token_strings=by_token.axis_labels("position"),
        token_ids=tuple(batch.ids[0].tolist()),
        prompt_length=decision.prompt_length,
        target=choice(logits, target_id, text_of),
        contrast=choice(logits, contrast_id, text_of),
        candidates=tuple(choice(logits, one, text_of) for one in best),
        metric=f"logit of {text_of(target_id)!r} − logit of {text_of(contrast_id)!r}",
        metric_value=float(logits[target_id] - logits[contrast_id]),
        rules=rules.name,
        tokens=by_token,
        layers=layers,
        heads=heads,
        components=components,
        segments=segments,
        completion=decision.completion,
        position=decision.position,
        ledger=ledger.to_dataframe(),
        remainder=float(torch.as_tensor(ledger.remainder).sum()),
        masking=masking,
        title="" if case is None else case.suite.replace("_", " "),
        correct=None if case is None else case.correct,
        notes=(
            *decision.notes,
            *pair.notes(best[0]),
            *_unknown_words(model, batch),
            *filter(None, [ledger.warning, *by_token.cautions]),
        ),
        seconds=seconds,
    )


def _question(
    prompt: Any, target: Any, contrast: Any, completion: Any, position: Any, case: Case | None
) -> tuple[Any, Any, Any, Any, Any]:
    """Prompt, target, contrast, completion and position, from the arguments or from the case."""
    if case is not None:
        if any(one is not None for one in (prompt, target, contrast, completion, position)):
            raise InputError(
                "A case brings its own prompt, target, contrast and completion; pass either the case or those."
            )
        require_decided(case)
        return (
            case.prompt,
            case.target or None,
            case.contrast or None,
            case.completion or None,
            case.position,
        )
    if prompt is None or (isinstance(prompt, str) and not prompt):
        raise InputError(
            f"An explanation needs a prompt that is not empty, or token ids; received {prompt!r}."
        )
    return prompt, target, contrast, completion, position


def _unknown_words(model: Any, batch: TokenBatch) -> tuple[str, ...]:
    """A note on words of the prompt that the vocabulary does not have."""
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    bos = getattr(model.tokenizer, "bos_token_id", None)
    if unknown is None or unknown == bos:
        return ()
    positions = (batch.ids[0] == unknown).nonzero()[:, 0].tolist()
    if not positions:
        return ()
    return (f"words the model does not know, at positions {', '.join(map(str, positions))}",)


def _only_example(view: View) -> View:
    return view.select(batch=0) if "batch" in view.dims else view
