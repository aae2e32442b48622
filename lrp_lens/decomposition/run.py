"""decompose: the metric as a sum over components, beside their total relevance.

1. One pass of `run_with_relevance`; on the way, rows of the attention patterns at the positions the metric reads.
2. Direct contributions: what each component writes to the residual stream, through the frozen final norm and the
   unembedding difference (direct logit attribution: Elhage et al. 2021; Wang et al. 2022, 2211.00593).
3. Total contributions: relevance under the rule set; indirect = total - direct.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_lens.decomposition.accounts import Accounts
from lrp_lens.decomposition.component import Component
from lrp_lens.decomposition.result import Decomposition
from lrp_lens.hosts import resolve
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.sites import AttentionSite
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.hosts.tokens import PaddingSide
from lrp_lens.metrics import MetricLike
from lrp_lens.rules import DEFAULT_RULES, RuleSet, as_rule_set
from lrp_lens.run.relevance import Prompt, ask, run_with_relevance

QUESTIONS = {"linear": ("conserves", "absorbed"), "softcap": ("conserves",)}
"""What the direct contributions ask of the rules; totals are relevance, and ask nothing."""


def decompose(
    model: Any,
    prompt: Prompt,
    metric: MetricLike | None = None,
    *,
    rules: RuleSet | str = DEFAULT_RULES,
    padding_side: PaddingSide | None = None,
    prepend_bos: bool | None = None,
) -> Decomposition:
    """Split a metric over components: directly, indirectly and in total.

    Components: embedding, position embedding, each head, each MLP (without its output bias), each bias, the final
    norm's bias and the unembedding's.  Direct contributions sum to the metric.  Of the rule set they depend only on
    how it takes the unembedding (the rule of a logit soft-cap, an ε-rule), as totals do, so that what has no indirect
    path has no indirect contribution.  Totals are relevance along all paths; they overlap, and do not sum to it.

    Args:
        model: a HookedTransformer or TransformerBridge in eval mode; folding its norms is not needed.
        prompt: text, list of texts (a batch), token ids [pos] or [batch, pos], or a list of id tensors.
        metric: what to decompose, e.g. `LogitDiff(" Mary", " John")`; default: top token against runner-up.  A metric
            that is not linear in the logits is linearised where it stands, and the residual has a row of its own.
        rules: the rule set of the total contributions, or the name of a preset.
        padding_side: side on which shorter prompts of a batch are padded; default right.
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.

    Raises:
        RuleError: a rule of the unembedding or its soft-cap that does not say what it takes.
        InputError, MetricError, SiteError: as `run_with_relevance`; SiteError also for weights that the host does
            not give per head.

    Example:
        >>> from lrp_lens import LogitDiff, decompose, load_demo_model
        >>> parts = decompose(load_demo_model(), "then mary and john went to the park . john gave the key to",
        ...                   LogitDiff("mary", "john"))
        >>> bool(abs(parts.table()["direct"].sum() - parts.metric[0]) < 1e-4)
        True
    """
    sites, rules = resolve(model), as_rule_set(rules)
    rules.require("decompose", sites, QUESTIONS, where="after the blocks")
    batch, bound = ask(model, prompt, metric, padding_side, prepend_bos)
    read = bound.positions
    columns = torch.arange(batch.ids.shape[1]) if read is None else read.unique()
    columns = columns.to(batch.ids.device)
    patterns: dict[int, Tensor] = {}
    hooks = [] if read is None else _pattern_hooks(list(sites.of(AttentionSite)), columns, patterns)
    with ExitStack() as stack:
        stack.enter_context(attached(model, hooks))
        _, cache = run_with_relevance(model, batch, bound.metric, rules=rules, logits="metric", memory="full")
    balance = cache.balance
    assert balance is not None
    accounts = Accounts(model, cache, balance, columns, patterns)
    accounts.run()
    return _result(accounts, named=read is not None)


def _pattern_hooks(
    sites: list[AttentionSite], columns: Tensor, kept: dict[int, Tensor]
) -> list[tuple[Any, Any]]:
    """Hooks that keep the rows of each pattern at some positions, [batch, head, read, pos]."""

    def keep(layer: int) -> Callable[..., None]:
        def hook(tensor: Tensor, hook: Any) -> None:
            kept[layer] = tensor.detach()[:, :, columns.to(tensor.device)]

        return hook

    return [(site.pattern.point, keep(site.layer or 0)) for site in sites if site.pattern is not None]


def _result(accounts: Accounts, named: bool) -> Decomposition:
    cache, residuals = accounts.cache, accounts.residuals
    components = tuple(accounts.components)
    batch = cache.batch
    direct, total = (_by_position(batch, parts) for parts in (accounts.direct, accounts.total))
    after = [c.layer is None and c.kind == "bias" for c in components]
    constant = direct[:, after].sum((1, 2)) + sum(residuals.values(), start=np.zeros(len(direct)))
    frozen, recomputed = (
        batch.per_example(torch.stack(stages, dim=1)).cpu().double().numpy() + constant[:, None]
        for stages in (accounts.frozen, accounts.recomputed)
    )
    sources = None
    if len(accounts.sources) == cache.n_layers:
        stacked = torch.stack(accounts.sources, dim=1).cpu().double()  # [row, layer, head, pos]
        sources = batch.per_position(stacked.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()
    reason = "the host does not show the attention patterns it used; load it with eager attention"
    if not named:
        reason = "a callable does not say which positions it reads; use a Metric such as LogitDiff"
    return Decomposition(
        components=components + tuple(Component(label, None, None, "residual") for label in residuals),
        direct=direct,
        total=total,
        residuals=residuals,
        metric=cache.metric_value.double().cpu().numpy(),
        stages=tuple(accounts.stages),
        frozen=frozen,
        recomputed=None if residuals else recomputed,
        sources=sources,
        without_sources="" if sources is not None else reason,
        token_strings=cache.token_strings,
        special=cache.special.cpu().numpy(),
        answers=cache.answers,
        pieces=cache.batch.shown.pieces,
        single=cache.single,
        towards=cache.towards,
        metric_text=cache.metric_text,
        rules_text=cache.rules_text.splitlines()[0],
    )


def _by_position(batch: TokenBatch, parts: list[np.ndarray]) -> np.ndarray:
    """[row, pos] of each component → [batch, component, position]."""
    rows = torch.from_numpy(np.stack(parts, axis=-1))
    return batch.per_position(rows).transpose(1, 2).numpy()
