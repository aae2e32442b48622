"""component_edges: every edge between two components, from one backward pass.

The residual stream is a sum over writers, so what reaches a reader is a sum, too:

    edge(writer, reader) = Σ_positions  output(writer) · gradient at the reader's input.

1. One pass of `run_with_relevance` under the rules: z, MLP outputs and embeddings, and gradients at q, k, v and the
   norms' outputs.
2. Writers: z · W_O and so on (`lrp_lens.circuits.writers`).  Readers: gradients through W and the norm
   (`lrp_lens.circuits.readers`).  No split-QKV inputs, no per-head results, no loop over edges.
3. One matrix product per group of readers, over the writers that stand before its last.

Without a corrupted run the score is the relevance of the edge: output(writer) ⊙ gated gradient; the edges into a
reader sum to the relevance that arrives there.  With one, the output is replaced by its difference, clean - corrupted.
Before the first token in which the prompts differ that is 0, nothing is summed there, and the run without gradients
goes on from the other's keys and values:

    GRADIENT               edge attribution patching, EAP (Syed et al. 2310.10348)
    GRADIENT, steps=m      EAP-IG (Hanna et al. 2403.17806): gradients averaged along the path of the embeddings
    RELP                   relevance patching (Rezaei Jafari et al. 2508.21258)
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_lens.circuits.components import ComponentGraph, component_graph
from lrp_lens.circuits.readers import ReaderBlock, reader_blocks, reader_names, stream_names
from lrp_lens.circuits.result import ComponentEdges
from lrp_lens.circuits.writers import Writers
from lrp_lens.errors import InputError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.prefix import KeyValues
from lrp_lens.hosts.tokens import PaddingSide
from lrp_lens.metrics import MetricLike
from lrp_lens.ops.gates import wide
from lrp_lens.progress import progress_bar, require_show
from lrp_lens.rules import DEFAULT_RULES, RuleSet, as_rule_set, holds_patterns
from lrp_lens.run.cache import RelevanceCache
from lrp_lens.run.pairs import (
    Direction,
    Pair,
    continued_run,
    continues,
    first_difference,
    plain_run,
    read_pair,
    require_direction,
)  # fmt: skip
from lrp_lens.run.path import midpoints, placed
from lrp_lens.run.relevance import relevance_run

QUESTIONS = {"norm": ("transpose",), "linear": ("factor",)}
"""What readers' gradients ask of the rules."""
BLOCK_BYTES = 256 * 2**20
"""Memory for the writers' outputs at once."""
READERS = 48
"""Readers that are scored by one product; a few at a time would wait for memory."""


def component_edges(
    model: Any,
    clean: Any,
    corrupted: Any = None,
    metric: MetricLike | None = None,
    *,
    rules: RuleSet | str = DEFAULT_RULES,
    positions: bool = False,
    steps: int = 1,
    direction: Direction = "noising",
    padding_side: PaddingSide | None = None,
    prepend_bos: bool | None = None,
    progress: bool | None = None,
) -> ComponentEdges:
    """Score every edge of the component graph.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        clean: prompt or prompts, as in `run_with_relevance`.
        corrupted: as many prompts of the same lengths, or None for the relevance of the edges themselves.
        metric: what is explained; default: the clean run's top token against the runner-up.
        rules: `GRADIENT` for EAP, `RELP` for relevance patching, any rule set, or the name of a preset.  Rules that
            hold attention patterns constant (RELP_FROZEN_PATTERN, CP_LRP) score edges into queries and keys with 0.
        positions: keep a score for each position.
        steps: 1 takes gradients at one run; m > 1 averages them over m points of the path between the embeddings of
            both runs (midpoints, (k - ½) / m).
        direction: with corrupted prompts and one step, "noising" takes gradients at the clean run, "denoising" at the
            corrupted one.  Either way a positive score means that the clean side raises the metric.
        padding_side: side on which shorter prompts of a batch are padded; default right.
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
        progress: show a bar of the steps; None: on terminals and in notebooks, after two seconds.

    Returns:
        ComponentEdges: `values` [batch, writer, reader], or with `positions` [batch, writer, reader, position], in
        units of the metric.

    Raises:
        InputError: prompts that do not fit each other, steps below 1 or without corrupted prompts, an unknown
            direction; and what `run_with_relevance` refuses.
        RuleError: a rule that does not say how a gradient passes it on the way to a reader's input.
        MetricError, SiteError: as `run_with_relevance`.

    Example:
        >>> from lrp_lens import GRADIENT, LogitDiff, load_demo_model
        >>> model = load_demo_model(device="cpu")
        >>> clean = "then mary and john went to the park . john gave the key to"
        >>> corrupted = "then mary and john went to the park . mary gave the key to"
        >>> edges = component_edges(model, clean, corrupted, LogitDiff("mary", "john"), rules=GRADIENT)
        >>> edges.values.shape
        (1, 21, 53)
    """
    rules = as_rule_set(rules)
    shares: Sequence[float | None] = midpoints(steps)
    _check(corrupted, steps, direction)
    require_show(progress)
    sites = resolve(model)
    rules.require("component_edges", sites, QUESTIONS, where="in the blocks")
    pair = read_pair(model, clean, corrupted, metric, padding_side, prepend_bos)
    graph = component_graph(model)
    writers = Writers(model, graph)
    names = list(dict.fromkeys(writers.names() + reader_names(sites, graph)))
    chosen = pair.corrupted if direction == "denoising" and pair.corrupted is not None else pair.clean
    runs: dict[int, Mapping[str, Tensor]] = {}
    values: dict[int, Tensor] = {}
    compared = list(dict.fromkeys([*writers.names(), *stream_names(sites, graph)]))
    if pair.corrupted is not None and steps > 1:
        for batch in (pair.clean, pair.corrupted):
            rows, runs[id(batch)] = plain_run(model, batch, compared, pair.bound)
            values[id(batch)] = pair.bound.read(rows)
    first = first_difference(pair)
    past = KeyValues(model) if steps == 1 and continues(pair, first) else None
    scores: Tensor | None = None
    arriving: Tensor | None = None
    for share in progress_bar(shares if steps > 1 else [None], what="steps", show=progress, unit="step"):
        with _at(model, pair, runs, share):
            _, cache = relevance_run(
                model, chosen, pair.metric, rules, names, logits="metric", memory="auto", past=past
            )
        if share is None:
            runs[id(chosen)], values[id(chosen)] = cache.activations, cache.metric_value
            if pair.corrupted is not None:
                batch = pair.clean if chosen is pair.corrupted else pair.corrupted
                if past is not None and past.filled:
                    rows, found = continued_run(
                        model, batch, compared, pair.bound, past, first, cache.activations
                    )
                else:
                    rows, found = plain_run(model, batch, compared, pair.bound)
                runs[id(batch)], values[id(batch)] = found, pair.bound.read(rows)
        other = None if pair.corrupted is None else runs[id(pair.corrupted)]
        own, into = _score(writers, cache, runs[id(pair.clean)], other, rules, positions, first)
        scores = own if scores is None else scores + own
        arriving = into if arriving is None else arriving + into
    assert scores is not None and arriving is not None
    return ComponentEdges(
        graph,
        (scores / steps).cpu().numpy(),
        (arriving / steps).cpu().numpy(),
        values[id(pair.clean)].detach().double().cpu().numpy(),
        None if pair.corrupted is None else values[id(pair.corrupted)].detach().double().cpu().numpy(),
        _method(rules, corrupted is not None, steps, direction, holds_patterns(rules, sites)),
        cache.metric_text,
        str(rules),
        pair.clean.shown.strings,
        cache.towards,
    )


def _check(corrupted: Any, steps: int, direction: Direction) -> None:
    require_direction(direction)
    if steps > 1 and direction == "denoising":
        raise InputError(
            f"steps > 1 averages over the path between both runs, and direction chooses one of them; received {steps} "
            "steps and direction='denoising'. Leave one out."
        )
    if corrupted is None and (steps > 1 or direction == "denoising"):
        raise InputError(
            f"steps > 1 and denoising go between two runs, and there is one; received steps={steps} and "
            f"direction={direction!r} without corrupted prompts. Pass `corrupted`."
        )


def _method(rules: RuleSet, paired: bool, steps: int, direction: Direction, unseen: bool) -> str:
    name = f"{rules.name} (patterns constant: no edges into q and k)" if unseen else rules.name
    if not paired:
        return f"{name}, relevance"
    patching = ("EAP-IG" if steps > 1 else "EAP") if rules.is_gradient else f"relevance patching with {name}"
    where = f"{steps} steps" if steps > 1 else direction
    return f"{patching}, clean - corrupted, {where}"


def _at(model: Any, pair: Pair, runs: Mapping[int, Mapping[str, Tensor]], share: float | None) -> Any:
    """A context in which the model runs at one point of the path; as it is for None."""
    if share is None:
        return nullcontext()
    start, end = runs[id(pair.corrupted)][Names.EMBED], runs[id(pair.clean)][Names.EMBED]
    return placed(model, start, end, share)


def _score(
    writers: Writers,
    cache: RelevanceCache,
    clean: Mapping[str, Tensor],
    corrupted: Mapping[str, Tensor] | None,
    rules: RuleSet,
    positions: bool,
    begin: int,
) -> tuple[Tensor, Tensor]:
    """[batch, writer, reader(, position)], and what arrives at each reader, [batch, reader]; 0 before `begin`."""
    batch = cache.batch
    graph, (n_examples, length) = writers.graph, cache.token_ids.shape
    wide_dtype = wide(cache.gradients[Names.EMBED]).dtype
    shape = (n_examples, len(graph.writers), len(graph.readers), *([length] if positions else []))
    scores = torch.zeros(shape, dtype=wide_dtype)
    arriving = torch.zeros(n_examples, len(graph.readers), dtype=wide_dtype)
    for examples, columns in _blocks(n_examples, begin, length, graph):
        outputs = _outputs(writers, clean, corrupted, examples, columns)
        blocks = reader_blocks(writers.model, writers.sites, graph, cache, rules, examples, columns)
        for group in _groups(blocks):
            streams = torch.stack([_stream(clean, one.stream, columns, examples, length) for one in group])
            if corrupted is not None:
                streams -= torch.stack(
                    [_stream(corrupted, one.stream, columns, examples, length) for one in group]
                )
            sizes = torch.tensor([len(one.gradients) for one in group])
            place = (torch.arange(len(group)).repeat_interleave(sizes), torch.arange(int(sizes.sum())))
            gradients = torch.cat([one.gradients for one in group])
            into, stop = slice(group[0].first, group[0].first + len(gradients)), group[-1].stop
            for row, output in zip(range(n_examples)[examples], outputs[:, :stop], strict=True):
                at = row - (examples.start or 0)
                own, stream = gradients[:, at], streams[:, at]
                arriving[row, into] += (stream.flatten(1) @ own.flatten(1).T).cpu()[place]
                if positions:
                    found = (output.transpose(0, 1) @ own.permute(1, 2, 0)).permute(1, 2, 0)
                    scores[row, :stop, into, columns] = found.cpu()
                else:
                    scores[row, :stop, into] += (output.flatten(1) @ own.flatten(1).T).cpu()
    scores[:, torch.from_numpy(~graph.connected)] = 0  # a group goes as far as its last reader does
    arriving = batch.per_example(arriving)
    if not positions:
        return batch.per_example(scores), arriving
    return batch.per_position(scores.movedim(-1, 1)).movedim(1, -1), arriving


def _outputs(
    writers: Writers,
    clean: Mapping[str, Tensor],
    corrupted: Mapping[str, Tensor] | None,
    examples: slice,
    columns: slice,
) -> Tensor:
    """What every writer writes, or its difference between both runs, [batch, writer, pos, d_model]."""
    if corrupted is None:
        pieces = writers.pieces(clean, examples, columns)
    else:
        pieces = writers.changes(clean, corrupted, examples, columns)
    first, whole = 0, torch.empty(0)
    for piece in pieces:
        if not first:
            whole = piece.new_empty(piece.shape[1], len(writers.graph.writers), *piece.shape[2:])
        whole[:, first : first + len(piece)] = piece.transpose(0, 1)
        first += len(piece)
    return whole


def _groups(blocks: Iterator[ReaderBlock]) -> Iterator[list[ReaderBlock]]:
    """Blocks that are scored by one product: `READERS` readers or more, but for the last."""
    group: list[ReaderBlock] = []
    for block in blocks:
        group.append(block)
        if sum(len(one.gradients) for one in group) >= READERS:
            yield group
            group = []
    if group:
        yield group


def _stream(
    activations: Mapping[str, Tensor], name: str, columns: slice, examples: slice, length: int
) -> Tensor:
    tensor = activations[name]
    tensor = tensor.reshape(-1, length, tensor.shape[-1]) if tensor.ndim == 2 else tensor
    return wide(tensor[examples, columns])


def _blocks(n_examples: int, begin: int, length: int, graph: ComponentGraph) -> list[tuple[slice, slice]]:
    """Slices of examples and positions, from `begin` on, whose outputs and gradients fit in `BLOCK_BYTES`."""
    per_position, width = 8 * (2 * len(graph.writers) + 4 * graph.n_heads) * graph.d_model, length - begin
    columns = int(np.clip(BLOCK_BYTES // per_position, 1, width))
    rows = int(np.clip(BLOCK_BYTES // (per_position * columns), 1, n_examples)) if columns == width else 1
    return [
        (slice(row, row + rows), slice(column, min(column + columns, length)))
        for row in range(0, n_examples, rows)
        for column in range(begin, length, columns)
    ]
