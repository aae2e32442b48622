"""One prompt of a batch as a cache of its own: the sums that views are made of, without the batch's padding."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from lrp_lens.hosts.names import Names
from lrp_lens.run.cache import RelevanceCache
from lrp_lens.run.ledger import Ledger
from lrp_lens.run.reading import describe_metric


def _names(n_layers: int) -> list[str]:
    """The hook points that views read, in the order of a forward pass."""
    names = [Names.EMBED, Names.POS_EMBED, Names.resid_pre(0)]
    for layer in range(n_layers):
        names += [Names.attention(layer, "z"), Names.resid_mid(layer), Names.mlp_out(layer)]
        names.append(Names.resid_post(layer))
    return names


def caches_of_examples(model: Any, cache: RelevanceCache, *, accounts: bool) -> list[RelevanceCache]:
    """The caches that the prompts of a batch would have left alone, in low memory.

    Args:
        model: says the metrics' tokens in words.
        cache: of the batch.
        accounts: whether each takes its ledger along.

    Raises:
        InputError, RuleError: as `RelevanceCache.ledger`, with `accounts`.
    """
    sums = {name: cache.summed(name) for name in _names(cache.n_layers) if cache.holds(name)}
    ledger = cache.ledger() if accounts else None
    return [_example(model, cache, sums, ledger, index) for index in range(cache.batch.n_examples)]


def _example(
    model: Any, cache: RelevanceCache, sums: Mapping[str, Tensor], ledger: Ledger | None, index: int
) -> RelevanceCache:
    whole, rows = cache.batch, cache.batch.rows_of(index)
    batch = whole.example(index)

    def own(tensor: Tensor) -> Tensor:
        found = tensor.new_zeros(len(rows), batch.ids.shape[1], *tensor.shape[2:])
        for line, row in enumerate(rows):
            start, length = whole.starts[row], whole.lengths[row]
            found[line, :length] = tensor[row, start : start + length]
        return found

    text, towards = describe_metric(model, cache.metric.metric.example(index))
    title = f"{cache.rules_text.splitlines()[0]}, {text}"
    return RelevanceCache(
        {},
        {},
        metric_value=cache.metric_value[index : index + 1],
        metric_text=text,
        rules_text=cache.rules_text,
        batch=batch,
        n_layers=cache.n_layers,
        towards=towards,
        rules=cache.rules,
        finished_ledger=ledger and replace(ledger.example(index), title=title, towards=towards),
        finished_cautions=cache.cautions[index : index + 1],
        sums={name: own(tensor) for name, tensor in sums.items()},
        memory=cache.memory,
        memory_text=cache.memory_text,
    )
