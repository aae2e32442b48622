"""compare: how well each method agrees with activation patching, site by site, and what it costs.

1. Activation patching of every site: the exact change of each prompt's metric under each patch.
2. Each method scores the same cells, per prompt.
3. `Comparison` holds both; its table has Pearson, Spearman, sign agreement and top-k overlap with bootstrap intervals
   over prompts, a noise floor (exact against exact on halves of the prompts; a random ranking), and the cost.

Several metrics share the patched forward passes of step 1.  Unsigned methods are compared with |exact|.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_lens.errors import InputError, RuleError, SiteError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import device_of, forward
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.metrics import Metric
from lrp_lens.patching.activation import activation_values, patchable
from lrp_lens.patching.checks import Engine, as_list, require_engine, require_sizes, require_whole
from lrp_lens.patching.comparison import Comparison, Cost, Scores
from lrp_lens.patching.controls import random_draws
from lrp_lens.patching.cost import Meter
from lrp_lens.patching.facets import Facet, facet_of
from lrp_lens.patching.inputs import (
    Direction,
    PatchingMetric,
    aligned,
    base_and_source,
    default_metric,
    per_prompt,
    require_aligned,
    require_usable,
)
from lrp_lens.patching.methods import Method, method_of
from lrp_lens.progress import progress_bar, require_show
from lrp_lens.rules import ATTN_LRP, CP_LRP, GRADIENT, RELP, RuleSet
from lrp_lens.views.statistics.agreement import require_floor

SITES: tuple[str, ...] = ("resid_pre", "attn_out", "mlp_out", "attn_head_out_by_pos")
"""Compared by default."""
DEFAULT_METHODS = (
    *(rules.name for rules in (GRADIENT, RELP, ATTN_LRP, CP_LRP)),
    "ATP_STAR_SIGNED",
    "IG",
    "RANDOM",
)

_VARIANTS = 3


def compare(
    model: Any,
    clean: Any,
    corrupted: Any,
    metric: PatchingMetric | Mapping[str, PatchingMetric] | None = None,
    *,
    sites: str | Sequence[str] = SITES,
    methods: str | RuleSet | Method | Sequence[str | RuleSet | Method] = DEFAULT_METHODS,
    ks: int | Sequence[int] = (5, 10, 20),
    samples: int = 1000,
    seed: int = 0,
    floor: float | int = 0.01,
    direction: Direction = "denoising",
    engine: Engine = "auto",
    prepend_bos: bool | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Compare attribution methods with activation patching.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        clean: prompts of one length, or token ids [batch, pos]; two prompts at least.
        corrupted: the same number of prompts of the same length.
        metric: one number per prompt (a Metric such as `LogitDiff`, or a callable → [batch]); or name → metric;
            default: each clean prompt's top token against its runner-up.
        sites: names of `FACETS`, or one of them.
        methods: names of `lrp_lens.patching.methods.METHODS`, rule sets, or `Method`s; or one of them.  Where a
            method cannot run on this host, its row is NaN and its note says why.
        ks: sizes of the top-k overlap; k is at most n_ranked, and column top_k_cells says what it was.
        samples: bootstrap samples over prompts; 0 for no intervals.
        seed: of the bootstrap, the halves and RANDOM.
        floor: share of a site's largest |exact effect| (mean over prompts), by default 1 %.  Cells below it are left
            out of Spearman and sign agreement, and never count among the top k; column n_ranked says how many are
            left.  0 ranks every cell.  Pearson and scale always take every cell.
        direction: "denoising" or "noising".
        engine: how activation patching is run, see `get_act_patch_*`.
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
        progress: show bars; None: on terminals and in notebooks, for what takes more than two seconds.

    Returns:
        Comparison: `.table()`, `.noise_floor()`, `.losses()`, `.view(...)`, `.plot(...)`.

    Raises:
        InputError: unknown sites, methods or engine, prompts that are not aligned, fewer than two prompts, k, samples,
            seed, floor or progress out of range, a metric that does not depend on the logits,
            a pair whose two prompts are the same.
        MetricError: a metric that is not finite.
        SiteError: the model has no such site.
        All of them before the first patch.

    Example:
        >>> from lrp_lens import LogitDiff, load_demo_model
        >>> model = load_demo_model(device="cpu")
        >>> texts = [f"then {a} and {b} went to the park . {c} gave the key to"
        ...          for a, b, c in (("mary", "john", "john"), ("john", "mary", "john"),
        ...                          ("mary", "john", "mary"), ("john", "mary", "mary"))]
        >>> found = compare(model, texts[:2], texts[2:], LogitDiff("mary", "john"),
        ...                 sites=["attn_head_out_all_pos"], methods=["GRADIENT", "CP_LRP"], samples=50)
        >>> found.table()[["site", "method", "n_cells"]].values.tolist()
        [['attn_head_out_all_pos', 'GRADIENT', 16], ['attn_head_out_all_pos', 'CP_LRP', 16]]
    """
    facets = [facet_of(site) for site in as_list(sites, "sites")]
    chosen = [method_of(method) for method in as_list(methods, "methods", (str, RuleSet, Method))]
    _require(facets, chosen, floor)
    require_engine(engine)
    require_show(progress)
    sizes = require_sizes(ks)
    samples, seed = require_whole(samples, "samples", 0), require_whole(seed, "seed", 0)
    named = dict(metric) if isinstance(metric, Mapping) else {"metric": metric}
    prompts = aligned(model, clean, "clean", prepend_bos=prepend_bos)
    others = aligned(model, corrupted, "corrupted", prepend_bos=prepend_bos)
    require_aligned(prompts.ids.shape, others.ids.shape)
    if others.n_examples < 2:
        raise InputError("A comparison averages over prompts; received one pair. Pass at least two.")
    for facet in facets:
        patchable(model, facet, engine)
    metrics = _metrics(model, prompts, named)
    tokens, source = base_and_source(model, others, prompts, direction, next(iter(metrics.values())))
    base = _base(model, metrics, tokens, source)
    result = Comparison(
        n_prompts=tokens.n_examples,
        length=tokens.ids.shape[1],
        n_layers=resolve(model).n_layers,
        ks=sizes,
        samples=samples,
        seed=seed,
        direction=direction,
        tokens=_words(source if direction == "denoising" else tokens),
        floor=floor,
    )
    device = device_of(model)
    for facet in facets:
        with Meter(device) as meter:
            values = activation_values(
                model, tokens, source, facet, list(metrics.values()), engine=engine, progress=progress
            )
        change = values - base.reshape(*base.shape, *[1] * (values.ndim - 2))
        cost = Cost(values[0, 0].numel(), 0, meter.seconds, meter.peak_mb)
        for name, one in zip(metrics, change, strict=True):
            result.add_exact(name, facet, one.double().cpu().numpy(), cost)
    for method in progress_bar(chosen, what="methods", show=progress, unit="method"):
        for name in metrics:
            _score(result, model, method, name, metrics[name], tokens, source, facets, device)
    return result


def _words(batch: TokenBatch) -> tuple[str, ...]:
    """What stands at each position of all rows, answers included: the token, or the different ones, "mary/john"."""
    found = []
    for column in zip(*batch.strings, strict=True):
        texts = list(dict.fromkeys(filter(None, column)))
        found.append("/".join(texts if len(texts) <= _VARIANTS else [texts[0], "…"]))
    return tuple(found)


def _metrics(model: Any, clean: TokenBatch, named: Mapping[str, PatchingMetric | None]) -> dict[str, Metric]:
    if not named:
        raise InputError("A comparison needs at least one metric; received an empty mapping.")
    given = {name: default_metric(model, clean) if one is None else one for name, one in named.items()}
    metrics = {name: per_prompt(one, model) for name, one in given.items()}
    if len({one.branches() for one in metrics.values()}) > 1:
        raise InputError(
            f"Metrics that are compared together read the same runs; {', '.join(map(repr, metrics))} append different "
            "answers to the prompts. Compare them one at a time."
        )
    return metrics


def _base(model: Any, metrics: Mapping[str, Metric], tokens: TokenBatch, source: TokenBatch) -> Tensor:
    """Each metric of the unpatched run, [metric, batch]; refuses a metric that cannot tell patches apart."""
    with torch.no_grad():
        logits = forward(model, source.ids, None)
        there = [one(logits) for one in metrics.values()]
        logits = forward(model, tokens.ids, None)
    for (name, one), value in zip(metrics.items(), there, strict=True):
        require_usable(name, one, logits, value)
    with torch.no_grad():
        return torch.stack([one(logits) for one in metrics.values()])


def _require(facets: Sequence[Facet], methods: Sequence[Method], floor: float | int) -> None:
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise InputError(f"Methods have names of their own; received {names}. Rename a rule set.")
    require_floor(floor)


def _score(
    result: Comparison,
    model: Any,
    method: Method,
    metric_name: str,
    metric: PatchingMetric,
    tokens: TokenBatch,
    source: TokenBatch,
    facets: Sequence[Facet],
    device: torch.device,
) -> None:
    """One method under one metric, all sites; one pass and one clean run serve them all."""
    if method.draws:
        _draw(result, method, metric_name, facets)
        return
    found: list[tuple[Facet, Tensor | None, tuple[str, ...]]] = []
    with Meter(device) as meter:
        try:
            passed = method.make(model, tokens, source, metric)
        except (SiteError, RuleError) as error:  # this method only; the others go on
            reason = f"{method.name} cannot run here: {error}"
            absent = Scores(method.name, None, Cost(0, 0, 0.0, 0.0), (reason,), method.unsigned, method.lrp)
            for facet in facets:
                result.add(metric_name, facet, absent)
            return
        for facet in facets:
            try:
                scores = method.score(passed, source, facet).detach()
                found.append((facet, scores, method.why_missing(passed, facet)))
            except SiteError as error:
                found.append((facet, None, (str(error),)))
    scored = [facet for facet, kept, _ in found if kept is not None]
    forwards = passed.forwards_for(scored) + (method.forwards if scored else 0)
    cost = Cost(forwards, passed.backwards, meter.seconds, meter.peak_mb)
    for facet, kept, why in found:
        values = None if kept is None else kept.double().cpu().numpy()
        result.add(metric_name, facet, Scores(method.name, values, cost, why, method.unsigned, method.lrp))


def _draw(result: Comparison, method: Method, metric_name: str, facets: Sequence[Facet]) -> None:
    """Random rankings, which cost nothing; every metric meets the same ones."""
    for facet in facets:
        exact = result.exact[metric_name, facet.name].values
        assert exact is not None
        draws = random_draws(exact.shape[1:], facet.name, result.seed, method.draws)
        first = np.broadcast_to(draws[0], exact.shape)
        scores = Scores(method.name, first, Cost(0, 0, 0.0, 0.0), unsigned=method.unsigned, draws=draws)
        result.add(metric_name, facet, scores)
