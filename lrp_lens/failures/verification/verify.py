"""verify: what a failure comes from, by intervening on what relevance blames, beside random controls.

1. One relevance pass under the rules: tokens, and heads and MLPs at each position (`asked`).
2. Hide the tokens that support the target, the 1, 2, … K most blamed; amplify those that support the contrast; silence
   the heads and MLPs that support the target, at their places (`edits`).  After each, does the contrast get ahead,
   does it become the first choice, and is the regenerated answer accepted?  Cut the attention edges that support the
   target: single entries of patterns, from the attribution graph under the same rules.
3. Do the same to as many other tokens or places, or to the same edges of other heads, drawn at random, at the size at
   which it happened (`plan`).
4. Say what follows (`criterion`): the verdict, and the pattern of the tokens.
5. Again under another rule set, and with another replacement: a verdict that changes is marked.
6. Change the text itself by what was found, and run it (`repairs`).

Source: the outcomes and patterns of Contrastive Attribution in the Wild (arXiv 2604.17761), which annotators read off.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace as changed
from itertools import pairwise
from numbers import Real
from time import perf_counter
from typing import Any

from lrp_lens.cases import Case
from lrp_lens.characters import signed
from lrp_lens.checks import is_whole, require_whole
from lrp_lens.errors import InputError
from lrp_lens.failures.decision.checker import Checker
from lrp_lens.failures.explanation import Explanation
from lrp_lens.failures.pair import choice
from lrp_lens.failures.verification.asked import Asked
from lrp_lens.failures.verification.blame import blame
from lrp_lens.failures.verification.criterion import Criterion
from lrp_lens.failures.verification.plan import EDGES, PLACES, Plan
from lrp_lens.failures.verification.repairs import repairs as run_repairs
from lrp_lens.failures.verification.result import Verification
from lrp_lens.hosts.forward import require_eval
from lrp_lens.hosts.generation import require_room
from lrp_lens.hosts.vocabulary import token_strings
from lrp_lens.masking.questions import require_seed
from lrp_lens.progress import require_show
from lrp_lens.rules import ATTN_LRP, CP_LRP, RuleSet, as_rule_set

DRAWS = 20
"""Random draws of a control."""


def verify(
    model: Any,
    case: Case | Explanation,
    *,
    rules: RuleSet | str = ATTN_LRP,
    checker: Checker | Callable[[str], Any] | None = None,
    criterion: Criterion | None = None,
    replacement: str = "mean",
    factor: float | int = 2.0,
    top_k: int = 5,
    places: Sequence[int] = PLACES,
    edges: Sequence[int] = EDGES,
    draws: int = DRAWS,
    thorough: bool = True,
    stability: bool = True,
    other_rules: RuleSet | str = CP_LRP,
    other_replacement: str = "zero",
    repairs: bool = True,
    max_new_tokens: int = 50,
    seed: int = 0,
    prepend_bos: bool | None = None,
    progress: bool | None = None,
) -> Verification:
    """Verify one failure by interventions.

    Args:
        model: a HookedTransformer or TransformerBridge with a tokenizer, in eval mode.
        case: a case with target (what the model says) and contrast (what it should say), or an explanation.
        rules: a rule set or the name of a preset; what it blames is intervened on.  Under rules that hold attention
            patterns constant, an attention edge is blamed for what it copies only, else for where it looked, too.
        checker: a `Checker`, as `find_decision` takes it, or completion → bool or a number from 0 to 1; then every
            run's answer is regenerated, from the same pass, and checked.
        criterion: when a check passes; None takes the defaults of `Criterion`.
        replacement: what hidden embeddings become: "mean" (over the vocabulary), "zero", "pad" or "resample" (of the
            prompt's own tokens).  With "mean" silenced outputs become their mean over the prompt's positions, else 0.
        factor: by which the values of amplified tokens are multiplied, above 1.
        top_k: how many tokens are hidden or amplified at most.
        places: how many heads and MLPs are silenced, increasing numbers.
        edges: how many attention edges are cut, increasing numbers.
        draws: random draws of each control.
        thorough: False runs a control only where the event happens, and silences and cuts only where tokens show
            nothing.
        stability: whether to run everything again under `other_rules`, and with `other_replacement`.
        other_rules: another rule set.
        other_replacement: another replacement.
        repairs: whether to change the text by what was found, and run it.
        max_new_tokens: of a regenerated answer.
        seed: seed of everything random: same seed, same result.
        prepend_bos: whether a text gets BOS; None does what the model's configuration says.
        progress: whether to show progress; None shows it where the work takes longer.

    Returns:
        The verification; `print` it.

    Raises:
        InputError: a case that is not decided, one whose contrast is ahead already, nothing that may be hidden,
            options out of range, a prompt that leaves no room for a regenerated answer, or a checker that says
            something else than a number from 0 to 1.
        MetricError: target or contrast is no text of the vocabulary.
        RuleError, SiteError: a rule set that cannot be applied to this model, or an edit that the host drops.

    Example:
        >>> from lrp_lens import demo_cases, load_demo_model
        >>> case = demo_cases("key_value_ten_facts")[0]
        >>> found = verify(load_demo_model(device="cpu"), case, stability=False, repairs=False, thorough=False)
        >>> found.verdict.value, found.hide.first("flip") is not None
        ('input', True)
    """
    start = perf_counter()
    rules, others, criterion = as_rule_set(rules), as_rule_set(other_rules), criterion or Criterion()
    _require(factor, top_k, draws, max_new_tokens, seed, progress)
    sizes, edge_sizes = _increasing("places", places), _increasing("edges", edges)
    if criterion.event == "accepted" and checker is None:
        raise InputError("Answers are accepted by a checker; received event='accepted' and no checker.")
    require_eval(model)
    asked = Asked.of(model, case, checker, max_new_tokens, prepend_bos)
    if not asked.maskable:
        raise InputError(
            f"A verification edits tokens, special ones and that of the decision excepted; there are none among "
            f"{list(asked.batch.strings[0])}."
        )
    if checker is not None:
        require_room(model, asked.batch, max_new_tokens)
    rules.plan(model)
    plan = Plan(asked, criterion, float(factor), top_k, sizes, edge_sizes, draws, seed, progress)
    blamed = blame(asked, rules)
    target, contrast = (
        choice(blamed.logits, one, lambda token: token_strings(model, [token])[0])
        for one in (asked.target, asked.contrast)
    )
    if not target.logit > contrast.logit:
        raise InputError(
            f"A verification asks what turns the preference for {target.text!r}; {contrast.text!r} is ahead already "
            f"(gap {signed(target.logit - contrast.logit)}). Swap target and contrast."
        )
    checks = plan.checks(blamed, replacement, thorough)
    seconds = {"checks": perf_counter() - start}
    found = Verification(
        prompt="".join(asked.batch.strings[0][: asked.prompt_length])
        if isinstance(case, Explanation) or not isinstance(case.prompt, str)
        else case.prompt,
        token_strings=asked.batch.strings[0],
        target=target,
        contrast=contrast,
        rules=rules.name,
        replacement=checks.statement,
        factor=float(factor),
        criterion=criterion,
        hide=checks.hide,
        amplify=checks.amplify,
        silence=checks.silence,
        cut=checks.cut,
        notes=checks.notes,
    )
    if stability:
        start = perf_counter()
        own = blamed.supporters(asked.maskable, top_k, 1)
        variants = (
            plan.variant(blame(asked, others), others.name, replacement, own),
            plan.variant(blamed, rules.name, other_replacement, own),
        )
        found = changed(found, variants=variants)
        seconds["stability"] = perf_counter() - start
    if repairs:
        start = perf_counter()
        hidden = blamed.supporters(asked.maskable, top_k, 1)
        found = changed(found, repairs=tuple(run_repairs(asked, blamed, hidden)))
        seconds["repairs"] = perf_counter() - start
    return changed(found, seconds=seconds)


def _require(factor: Any, top_k: Any, draws: Any, max_new_tokens: Any, seed: Any, progress: Any) -> None:
    """Raise InputError for options out of range."""
    require_seed(seed)
    require_show(progress)
    for name, value in (("top_k", top_k), ("draws", draws), ("max_new_tokens", max_new_tokens)):
        require_whole(value, name, 1)
    if isinstance(factor, bool) or not isinstance(factor, Real) or not 1 < float(factor) < float("inf"):
        raise InputError(f"Amplified values are multiplied by a factor above 1; received {factor!r}.")


def _increasing(name: str, numbers: Any) -> list[int]:
    """How many units are edited, one number after another; InputError unless they increase from 1 or more."""
    sizes = list(numbers) if isinstance(numbers, Sequence) and not isinstance(numbers, str) else []
    whole = all(is_whole(one) and one >= 1 for one in sizes)
    if not sizes or not whole or any(later <= one for one, later in pairwise(sizes)):
        raise InputError(f"{name} are increasing whole numbers of 1 or more; received {numbers!r}.")
    return sizes
