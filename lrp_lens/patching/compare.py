"""compare: how well each method agrees with activation patching, site by site, and what it costs.

1. Tokenise both sides, bind the metrics, look up the sites and run both sides, once (`Runs`).
2. Activation patching of every site: the exact change of each prompt's metric under each patch; patches that put in
   what is there anyway are not run.
3. Each method scores the same cells, per prompt.
4. `Comparison` holds both; its table has Pearson, Spearman, sign agreement and top-k overlap with bootstrap intervals
   over prompts, a noise floor (exact against exact on halves of the prompts; a random ranking), and the cost.

Several metrics share the patched runs of step 2.  Unsigned methods are compared with |exact|.  A checkpoint keeps
every finished part of steps 2 and 3.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from lrp_lens.checks import require_whole
from lrp_lens.errors import InputError
from lrp_lens.files.checkpoints import Checkpoint
from lrp_lens.hosts import dead, resolve
from lrp_lens.hosts.forward import device_of
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.methods.facets import facet_of
from lrp_lens.methods.inputs import (
    PatchingMetric,
    aligned,
    base_and_source,
    per_prompt,
    require_usable,
    settled_metric,
)
from lrp_lens.methods.registry import MethodLike, as_methods
from lrp_lens.metrics import Metric
from lrp_lens.patching.activation import PART, Options, patchable, patched_values
from lrp_lens.patching.cells import Chosen, require_choice
from lrp_lens.patching.checks import Engine, as_list, require_engine, require_sizes
from lrp_lens.patching.comparison import Comparison
from lrp_lens.patching.cost import Meter
from lrp_lens.patching.runs import Runs
from lrp_lens.patching.scored import Cost
from lrp_lens.patching.scoring import add_scores
from lrp_lens.patching.waves import BATCH_TOKENS
from lrp_lens.progress import progress_bar, require_show
from lrp_lens.rules import ATTN_LRP, CP_LRP, DEFAULT_RULES, GRADIENT, RELP, RuleSet
from lrp_lens.run.identity import model_identity, spelled
from lrp_lens.run.pairs import Direction, require_aligned
from lrp_lens.views.segmentation import begins
from lrp_lens.views.statistics.agreement import require_floor

SITES: tuple[str, ...] = ("resid_pre", "attn_out", "mlp_out", "attn_head_out_by_pos")
"""Compared by default."""
CANDIDATES: tuple[RuleSet, ...] = tuple(dict.fromkeys((GRADIENT, RELP, DEFAULT_RULES, ATTN_LRP, CP_LRP)))
"""Rule sets compared by default, and chosen from by `suggest_rules`."""
DEFAULT_METHODS = (
    *(rules.name for rules in CANDIDATES),
    "ATP_STAR_SIGNED",
    "integrated gradients",
    "random",
)

_VARIANTS = 3


def compare(
    model: Any,
    clean: Any,
    corrupted: Any,
    metric: "PatchingMetric | Mapping[str, PatchingMetric] | None" = None,
    *,
    sites: str | Sequence[str] = SITES,
    methods: "MethodLike | Sequence[MethodLike]" = DEFAULT_METHODS,
    ks: int | Sequence[int] = (5, 10, 20),
    samples: int = 1000,
    seed: int = 0,
    floor: float | int = 0.01,
    direction: Direction = "denoising",
    engine: Engine = "auto",
    layers: int | Sequence[int] | None = None,
    positions: int | Sequence[int] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    checkpoint: str | PathLike[str] | None = None,
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
        methods: names of `lrp_lens.methods.METHODS` in any spelling, rule sets, or `Method`s that score sites; or one
            of them.  Where a method cannot run on this host, its row is NaN and its note says why.
        ks: sizes of the top-k overlap; k is at most n_ranked, and column top_k_cells says what it was.
        samples: bootstrap samples over prompts; 0 for no intervals.
        seed: of the bootstrap, the halves and the random rankings.
        floor: share of a site's largest |exact effect| (mean over prompts), by default 1 %.  Cells below it are left
            out of Spearman and sign agreement, and never count among the top k; column n_ranked says how many are
            left.  0 ranks every cell.  Pearson and scale always take every cell.
        direction: "denoising" (the default, as transformer_lens.patching) or "noising"; see `Direction`.
        engine: how activation patching is run, see `get_act_patch_*`.
        layers: compare the cells of these layers only, one or several, from 0 or back from -1; all others are NaN.
        positions: compare the cells at these positions only (of a pattern: of these destinations).
        batch_tokens: positions (of all patched copies of the prompts) that go through a block of the model at once:
            the more, the faster, as far as memory reaches.
        checkpoint: folder in which finished parts are kept; the same call goes on where an interrupted one stopped.
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
        progress: show bars; None: on terminals and in notebooks, for what takes more than two seconds.

    Returns:
        Comparison: `.table()`, `.noise_floor()`, `.losses()`, `.view(...)`, `.plot(...)`.

    Raises:
        InputError: unknown sites, methods or engine, prompts that are not aligned, fewer than two prompts, k, samples,
            seed, floor, layers, positions, batch_tokens or progress out of range, a metric that does not depend on
            the logits, a pair whose two prompts are the same, a checkpoint of other inputs or options.
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
    compared = as_methods(methods, "sites")
    require_floor(floor)
    require_engine(engine)
    require_choice(facets, layers, positions, engine)
    require_whole(batch_tokens, "batch_tokens", 1)
    require_show(progress)
    sizes = require_sizes(ks)
    samples, seed = require_whole(samples, "samples", 0), require_whole(seed, "seed", 0)
    named = dict(metric) if isinstance(metric, Mapping) else {"metric": metric}
    prompts = aligned(model, clean, "clean", prepend_bos=prepend_bos)
    others = aligned(model, corrupted, "corrupted", prepend_bos=prepend_bos)
    require_aligned(prompts.prompt_lengths, others.prompt_lengths)
    if others.n_examples < 2:
        raise InputError("A comparison averages over prompts; received one pair. Pass at least two.")
    found = resolve(model)
    live = {facet: patchable(found, dead(model), facet, engine) for facet in facets}
    metrics = _metrics(model, prompts, named)
    tokens, source = base_and_source(model, others, prompts, direction, next(iter(metrics.values())))
    chosen = Chosen.of(layers, positions, found.n_layers, tokens.ids.shape[1])
    names = dict.fromkeys(name for where, _ in live.values() for name in where.values())
    runs = Runs(model, tokens, source, list(metrics.values()), names)
    _require_told_apart(runs, list(metrics))
    every = layers is None and positions is None
    kept = Checkpoint(
        checkpoint,
        PART,
        lambda: {
            "model": model_identity(model),
            "clean": prompts.ids.tolist(),
            "corrupted": others.ids.tolist(),
            "metric": {name: spelled(one) for name, one in metrics.items()},
            "sites": [facet.name for facet in facets],
            "layers": chosen.layers,
            "positions": chosen.positions,
            "direction": direction,
            "engine": engine,
        },
    )
    words = source if direction == "denoising" else tokens
    result = Comparison(
        n_prompts=tokens.n_examples,
        length=runs.length,
        n_layers=found.n_layers,
        ks=sizes,
        samples=samples,
        seed=seed,
        direction=direction,
        tokens=_told(words.strings),
        pieces=_pieces(words.pieces or ()),
        floor=floor,
    )
    options = Options(engine, None if every else chosen, batch_tokens, progress, kept)
    device = device_of(model)
    for facet in facets:
        with Meter(device) as meter:
            values, ran = patched_values(runs, facet, *live[facet], options)
        change = values - runs.base.reshape(*runs.base.shape, *[1] * (values.ndim - 2))
        cost = Cost(ran, 0, meter.seconds, meter.peak_mb)
        for name, one in zip(metrics, change, strict=True):
            result.add_exact(name, facet, one.double().cpu().numpy(), cost)
    for method in progress_bar(compared, what="methods", show=progress, unit="method"):
        for name in metrics:
            add_scores(result, runs, method, name, metrics[name], facets, options)
    return result


def _told(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """What stands at each position of all rows, answers included: the token, or the different ones, "mary/john"."""
    found = []
    for column in zip(*rows, strict=True):
        texts = list(dict.fromkeys(filter(None, column)))
        found.append("/".join(texts if len(texts) <= _VARIANTS else [texts[0], "…"]))
    return tuple(found)


def _pieces(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """What they add to the text; () where it is not known, or words begin at other positions in other rows."""
    starts = {tuple(begins(row, "word").tolist()) for row in rows}
    return _told(rows) if len(starts) == 1 else ()


def _metrics(model: Any, clean: TokenBatch, named: Mapping[str, PatchingMetric | None]) -> dict[str, Metric]:
    if not named:
        raise InputError("A comparison needs at least one metric; received an empty mapping.")
    metrics = {name: per_prompt(settled_metric(model, clean, one), model) for name, one in named.items()}
    if len({one.branches() for one in metrics.values()}) > 1:
        raise InputError(
            f"Metrics that are compared together read the same runs; {', '.join(map(repr, metrics))} append different "
            "answers to the prompts. Compare them one at a time."
        )
    return metrics


def _require_told_apart(runs: Runs, names: Sequence[str]) -> None:
    """Refuse a metric that cannot tell the two runs apart."""
    there = runs.readout.values(runs.source_logits)[..., 0]
    for name, bound, value in zip(names, runs.readout.bounds, there, strict=True):
        require_usable(name, bound, runs.run.own_logits, value)
