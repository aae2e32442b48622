"""compare: how well each method agrees with activation patching, site by site, and what it costs.

1. Activation patching of every site: the exact change of each prompt's metric under each patch.
2. Each method scores the same cells, per prompt.
3. `Comparison` holds both; its table has Pearson, Spearman, sign agreement and top-k overlap with bootstrap intervals
   over prompts, a noise floor (exact against exact on halves of the prompts; a random ranking), and the cost.

Several metrics share the patched forward passes of step 1.  Unsigned methods are compared with |exact|.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lrp_lens.errors import InputError, SiteError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import device_of, forward
from lrp_lens.patching.activation import Engine, activation_values
from lrp_lens.patching.comparison import Comparison, Cost, Scores
from lrp_lens.patching.cost import Meter
from lrp_lens.patching.facets import Facet, facet_of
from lrp_lens.patching.inputs import Direction, PatchingMetric, aligned_tokens, base_and_source, per_prompt
from lrp_lens.patching.methods import Method, method_of
from lrp_lens.patching.statistics import require_floor
from lrp_lens.rules import RuleSet

SITES = ("resid_pre", "attn_out", "mlp_out", "attn_head_out_by_pos")
"""Compared by default."""
DEFAULT_METHODS = ("GRADIENT", "RELP", "ATTN_LRP", "CP_LRP", "ATP_STAR_SIGNED", "IG", "RANDOM")


def compare(
    model: Any,
    clean: Any,
    corrupted: Any,
    metric: PatchingMetric | Mapping[str, PatchingMetric],
    *,
    sites: Sequence[str] = SITES,
    methods: Sequence[str | RuleSet | Method] = DEFAULT_METHODS,
    ks: Sequence[int] = (5, 10, 20),
    samples: int = 1000,
    seed: int = 0,
    floor: float | int = 0.01,
    direction: Direction = "denoising",
    engine: Engine = "auto",
) -> Comparison:
    """Compare attribution methods with activation patching.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        clean: prompts of one length, or token ids [batch, pos]; two prompts at least.
        corrupted: the same number of prompts of the same length.
        metric: one number per prompt (a Metric such as `LogitDiff`, or a callable → [batch]); or name → metric.
        sites: names of `FACETS`.
        methods: names of `lrp_lens.patching.methods.METHODS`, rule sets, or `Method`s.
        ks: sizes of the top-k overlap.
        samples: bootstrap samples over prompts; 0 for no intervals.
        seed: of the bootstrap and the halves.
        floor: share of a site's largest |exact effect| (mean over prompts), by default 1 %.  Cells below it are left
            out of Spearman and sign agreement, and never count among the top k; column n_ranked says how many are
            left.  0 ranks every cell.  Pearson and scale always take every cell.
        direction: "denoising" or "noising".
        engine: how activation patching is run, see `get_act_patch_*`.

    Returns:
        Comparison: `.table()`, `.noise_floor()`, `.losses()`, `.view(...)`, `.plot(...)`.

    Raises:
        InputError: unknown sites or methods, prompts that are not aligned, fewer than two prompts, k or floor out of
            range.
        SiteError: the model has no such site.

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
    facets = [facet_of(site) for site in sites]
    chosen = [method_of(method) for method in methods]
    _require(facets, chosen, ks, floor)
    tokens, source = base_and_source(model, corrupted, aligned_tokens(model, clean, "clean"), direction)
    if tokens.shape != source.shape:
        base_and_source(model, corrupted, clean, "noising")  # raises, and says which
    if len(tokens) < 2:
        raise InputError("A comparison averages over prompts; received one pair. Pass at least two.")
    named = dict(metric) if isinstance(metric, Mapping) else {"metric": metric}
    metrics = {name: per_prompt(one, model) for name, one in named.items()}
    result = Comparison(
        n_prompts=len(tokens),
        length=tokens.shape[1],
        n_layers=resolve(model).n_layers,
        ks=tuple(ks),
        samples=samples,
        seed=seed,
        direction=direction,
        floor=floor,
    )
    with torch.no_grad():
        logits = forward(model, tokens, None)
        base = torch.stack([one(logits) for one in metrics.values()])
    device = device_of(model)
    for facet in facets:
        with Meter(device) as meter:
            values = activation_values(model, tokens, source, facet, list(metrics.values()), engine=engine)
        change = values - base.reshape(*base.shape, *[1] * (values.ndim - 2))
        cost = Cost(values[0, 0].numel(), 0, meter.seconds, meter.peak_mb)
        for name, one in zip(metrics, change, strict=True):
            result.add_exact(name, facet, one.double().cpu().numpy(), cost)
    for method in chosen:
        for name in named:
            _score(result, model, method, name, metrics[name], tokens, source, facets, device)
    return result


def _require(
    facets: Sequence[Facet], methods: Sequence[Method], ks: Sequence[int], floor: float | int
) -> None:
    if not facets or not methods:
        raise InputError("A comparison needs at least one site and one method; received none.")
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise InputError(f"Methods have names of their own; received {names}. Rename a rule set.")
    if min(ks, default=1) < 1:
        raise InputError(f"A top-k overlap has k >= 1; received {tuple(ks)}.")
    require_floor(floor)


def _score(
    result: Comparison,
    model: Any,
    method: Method,
    metric_name: str,
    metric: PatchingMetric,
    tokens: Tensor,
    source: Tensor,
    facets: Sequence[Facet],
    device: torch.device,
) -> None:
    """One method under one metric, all sites; one pass and one clean run serve them all."""
    found: list[tuple[Facet, Tensor | None, tuple[str, ...]]] = []
    with Meter(device) as meter:
        passed = method.make(model, tokens, source, metric)
        for facet in facets:
            try:
                scores = method.score(passed, source, facet).detach()
                found.append((facet, scores, method.why_missing(passed, facet)))
            except SiteError as error:
                found.append((facet, None, (str(error),)))
    cost = Cost(passed.forwards + method.forwards, passed.backwards, meter.seconds, meter.peak_mb)
    for facet, kept, why in found:
        values = None if kept is None else kept.double().cpu().numpy()
        result.add(metric_name, facet, Scores(method.name, values, cost, why, method.unsigned, method.lrp))
