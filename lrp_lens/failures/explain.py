"""Why did the model prefer the wrong token? One prompt, one pass of relevance, every view, one check.

1. Find the two tokens: the model's first choice (wrong) and the one that it should have said (right).
2. Relevance of their logit difference under a rule set: tokens, layers, heads, components, ledger.
3. Check the claim: mask the tokens that relevance blames; does the preference flip? (see `masking`)
"""

from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import InputError, RuleError
from lrp_lens.failures.case import Case
from lrp_lens.failures.explanation import Choice, Explanation
from lrp_lens.failures.masking import masking_check
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.text import TokenBatch, token_id, token_strings, tokenize
from lrp_lens.metrics import LogitDiff
from lrp_lens.relevance import run_with_relevance
from lrp_lens.rules import ATTN_LRP, PRESETS, RuleSet
from lrp_lens.views import View

_CANDIDATES = 5


def explain(
    model: Any,
    prompt: str | Case | None = None,
    target: str | None = None,
    contrast: str | None = None,
    *,
    case: Case | None = None,
    rules: RuleSet | str = ATTN_LRP,
    top_k: int = 5,
    seeds: int = 20,
    model_name: str | None = None,
) -> Explanation:
    """Explain one preference of a language model.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer, in eval mode.
        prompt: the text, before which BOS is put as TransformerLens does; or a case.
        target: the token the model wrongly prefers, one token; None takes the model's first choice.
        contrast: the right token, one token; None takes the model's best other choice.
        case: prompt, target and contrast together, instead of these three.
        rules: a rule set or the name of a preset.
        top_k: how many of the blamed tokens the check masks at most.
        seeds: random orders of the check's control.
        model_name: what to call the model; None takes its configuration's name.

    Returns:
        The explanation; `print` it, or write it with `lrp_lens.report.write_report`.

    Raises:
        InputError: no prompt, an unknown token, twice the same token, or a case together with a prompt.
        MetricError: target or contrast is not a single token.
        RuleError: no preset has this name, or a rule cannot be applied to this model.

    Example:
        >>> from lrp_lens.demo import demo_cases, load_demo_model
        >>> explanation = explain(load_demo_model(device="cpu"), case=demo_cases()[0])
        >>> explanation.metric_value > 1
        True
    """
    start = perf_counter()
    rules = rule_set(rules)
    if isinstance(prompt, Case) and case is None:
        prompt, case = None, prompt
    prompt, target, contrast = _question(prompt, target, contrast, case)
    batch = tokenize(model, prompt, None)
    tokens = batch.ids
    with torch.no_grad():
        logits = forward(model, tokens, None)[0, -1].float()
    target_id, contrast_id, notes = _pair(model, logits, target, contrast)
    seconds = {"forward": perf_counter() - start}

    start = perf_counter()
    _, relevance = run_with_relevance(model, tokens, LogitDiff(target_id, contrast_id), rules=rules)
    views = [relevance.tokens(), relevance.layers(), relevance.heads(), relevance.components()]
    by_token, layers, heads, components = [_only_example(view) for view in views]
    ledger = relevance.ledger()
    seconds["relevance"] = perf_counter() - start

    start = perf_counter()
    special = by_token.special_cells()
    masking = masking_check(
        model,
        tokens[0],
        by_token.values,
        special,
        target_id=target_id,
        contrast_id=contrast_id,
        text_of=lambda token: _text_of(model, token),
        top_k=top_k,
        seeds=seeds,
    )
    seconds["masking"] = perf_counter() - start
    best = logits.topk(min(_CANDIDATES, len(logits))).indices.tolist()
    return Explanation(
        prompt=prompt,
        model_name=model_name or Path(str(getattr(model.cfg, "model_name", "model"))).name,
        token_strings=by_token.axis_labels("position"),
        target=_choice(model, logits, target_id),
        contrast=_choice(model, logits, contrast_id),
        candidates=tuple(_choice(model, logits, one) for one in best),
        metric=f"logit of {_text_of(model, target_id)!r} − logit of {_text_of(model, contrast_id)!r}",
        metric_value=float(logits[target_id] - logits[contrast_id]),
        rules=rules.name,
        tokens=by_token,
        layers=layers,
        heads=heads,
        components=components,
        ledger=ledger.to_dataframe(),
        remainder=float(torch.as_tensor(ledger.remainder).sum()),
        masking=masking,
        title="" if case is None else case.suite.replace("_", " "),
        wrong=case is None or not case.correct,
        notes=(*notes, *_unknown_words(model, batch), *filter(None, [ledger.warning])),
        seconds=seconds,
    )


def rule_set(rules: RuleSet | str) -> RuleSet:
    """A rule set, or the preset of that name.

    Raises:
        RuleError: no preset has this name.
    """
    if not isinstance(rules, str):
        return rules
    wanted = rules.lower().replace("_", "-")
    for name, preset in PRESETS.items():
        if wanted in (name.lower().replace("_", "-"), preset.name.lower().replace("_", "-")):
            return preset
    raise RuleError(f"A rule set is one of {', '.join(PRESETS)}; received {rules!r}.")


def _question(
    prompt: str | Case | None, target: str | None, contrast: str | None, case: Case | None
) -> tuple[str, str | None, str | None]:
    """Prompt, target and contrast, from the arguments or from the case."""
    if case is not None:
        if not (prompt is None and target is None and contrast is None):
            raise InputError(
                "A case brings its own prompt, target and contrast; pass either the case or those."
            )
        return case.prompt, case.target, case.contrast
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"An explanation needs a prompt with at least one word; received {prompt!r}.")
    return prompt, target, contrast


def _pair(
    model: Any, logits: Float[Tensor, " vocab"], target: str | None, contrast: str | None
) -> tuple[int, int, tuple[str, ...]]:
    """Ids of target and contrast; the notes say what was chosen for the caller."""
    notes = []
    best = int(logits.argmax())
    target_id = best if target is None else token_id(model, target)
    if target is None:
        notes.append("target: the model's first choice")
    if contrast is None:
        contrast_id = next(one for one in logits.topk(2).indices.tolist() if one != target_id)
        notes.append("contrast: the model's best choice besides the target")
    else:
        contrast_id = token_id(model, contrast)
    if target_id == contrast_id:
        chosen = "the model's first choice already is" if target is None else "target and contrast both are"
        raise InputError(
            f"An explanation compares two tokens, but {chosen} {_text_of(model, target_id)!r}. "
            "Pass another target."
        )
    if target_id != best and target is not None:
        notes.append(f"the model's first choice is {_text_of(model, best)!r}, not the target")
    return target_id, contrast_id, tuple(notes)


def _text_of(model: Any, token: int) -> str:
    return token_strings(model, [token])[0]


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


def _choice(model: Any, logits: Float[Tensor, " vocab"], token: int) -> Choice:
    logit = float(logits[token])
    return Choice(
        text=_text_of(model, token),
        id=token,
        logit=logit,
        probability=float(logits.double().softmax(-1)[token]),
        rank=1 + int((logits > logits[token]).sum()),
    )


def _only_example(view: View) -> View:
    return view.select(batch=0) if "batch" in view.dims else view
