"""Runs: all that is the same for every patch of one pair of runs, made once and shared by every facet.

1. The sites of the model, and where an edit does not count.
2. The metrics, bound once; the union of the positions that they read is all that is unembedded (`Readout`).
3. The run that is patched, whose stream every patched run starts from, and the activations that are patched in, of
   all facets from one forward pass; and where the two are the same.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import SiteError
from lrp_lens.hosts import dead, resolve
from lrp_lens.hosts.forward import vocabulary_size
from lrp_lens.hosts.restart import Run
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.sites import Port
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.methods.facets import Facet, record_name
from lrp_lens.methods.inputs import is_cache, lengths, source_activations
from lrp_lens.metrics import Metric
from lrp_lens.patching.cells import Where
from lrp_lens.run.pairs import require_aligned
from lrp_lens.run.plain import plain_activations, plain_logits


class Readout:
    """Metrics of one batch of rows, each bound once, and the positions that they read together."""

    def __init__(self, metrics: Sequence[Metric], batch: TokenBatch, d_vocab: int) -> None:
        self.bounds = [metric.bind(batch.starts, batch.prompt_lengths, d_vocab) for metric in metrics]
        self.n_rows = len(batch.lengths)
        apart: list[Tensor] = []
        self._spans: list[slice] = []
        for bound in self.bounds:
            if bound.positions is None:
                continue
            positions = bound.positions.to(batch.ids.device)
            if not any(torch.equal(positions, other) for other in apart):
                apart.append(positions)
            index = next(i for i, other in enumerate(apart) if torch.equal(positions, other))
            begin = sum(other.shape[1] for other in apart[:index])
            self._spans.append(slice(begin, begin + positions.shape[1]))
        everything = any(bound.positions is None for bound in self.bounds)
        self.positions = None if everything else torch.cat(apart, 1)
        self.width = batch.ids.shape[1] if self.positions is None else self.positions.shape[1]

    def keep(
        self, tensor: Float[Tensor, "row pos width"], hook: Any = None
    ) -> Float[Tensor, "row read width"]:
        """A hook before the unembedding: the positions that are read, of copies of all rows."""
        if self.positions is None:
            return tensor
        index = self.positions.repeat(len(tensor) // self.n_rows, 1)[..., None]
        return tensor.gather(1, index.expand(-1, -1, tensor.shape[-1]))

    def values(self, logits: Float[Tensor, "copies_row read d_vocab"]) -> Float[Tensor, "metric batch copy"]:
        """The metrics of each copy of the batch."""
        found = []
        for rows in logits.split(self.n_rows):
            if self.positions is None:
                found.append(torch.stack([bound(rows).detach() for bound in self.bounds]))
            else:
                pairs = zip(self.bounds, self._spans, strict=True)
                found.append(torch.stack([bound.read(rows[:, span]).detach() for bound, span in pairs]))
        return torch.stack(found, dim=-1)


class Runs:
    """Two aligned runs and what is read of them.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        batch: the run that is patched, answers appended.
        source: the other run: a TokenBatch, or an ActivationCache.
        metrics: one number per prompt each.
        names: hook points whose activations of the other run will be asked for, besides those asked for later.
    """

    def __init__(
        self,
        model: Any,
        batch: TokenBatch,
        source: Any,
        metrics: Sequence[Metric],
        names: Iterable[str] = (),
    ) -> None:
        self.model, self.batch, self.source = model, batch, source
        self.sites, self.dead = resolve(model), dead(model)
        self.readout = Readout(metrics, batch, vocabulary_size(model))
        self._names = list(names)
        self._other: dict[str, Tensor] = {}
        self._same: dict[str, Tensor] = {}
        """Hook name → whether both runs have the same there in every row, [*axes without batch]."""

    @property
    def length(self) -> int:
        """Number of positions, answers included."""
        return int(self.batch.ids.shape[1])

    @cached_property
    def run(self) -> Run:
        """The run that is patched."""
        with attached(self.model, self._comparing(self._other)):
            return Run(self.model, self.sites, self.batch.ids, self.readout.keep)

    @cached_property
    def base(self) -> Float[Tensor, "metric batch"]:
        """The metrics of the run that is patched, unpatched."""
        return self.readout.values(self.run.own_logits)[..., 0]

    @cached_property
    def source_logits(self) -> Float[Tensor, "row read d_vocab"]:
        """Of the other run, which must be prompts; its activations are kept by the way."""
        logits, self._other = plain_activations(self.model, self.source.ids, self._names, self.readout.keep)
        return logits

    def other(self, names: Sequence[str]) -> Mapping[str, Tensor]:
        """Activations of the other run."""
        if not set(names) <= set(self._other):
            self._names = list(dict.fromkeys([*self._names, *names]))
            if is_cache(self.source):
                shape = (self.batch.ids.shape[0], self.batch.ids.shape[1])
                self._other |= source_activations(self.model, self.source, names, shape)
            else:
                require_aligned(lengths(self.source.ids.shape), lengths(self.batch.ids.shape))
                self.__dict__.pop("source_logits", None)
                _ = self.source_logits
        return self._other

    def patch_points(self, live: Mapping[int, str]) -> dict[int, tuple[Port, Tensor]]:
        """Where to put what, per layer.

        TransformerBridge's resid_mid is patched at attn_out, by the difference of the streams.
        """
        records = self.sites.record_of
        other = self.other(list(live.values()))
        behind = {layer: name for layer, name in live.items() if records[name].plus}
        needed = [*behind.values(), *(record_name("attn_out", layer) for layer in behind)]
        own = plain_activations(self.model, self.batch.ids, needed)[1] if behind else {}
        silent = [name for name in live.values() if name not in other]
        if silent:
            raise SiteError(
                f"A patch needs its activation; {self.sites.architecture} in {self.sites.host} never fires "
                f"{silent[0]!r}. Leave this site out."
            )
        points: dict[int, tuple[Port, Tensor]] = {}
        for layer, name in live.items():
            port, value = records[name].port, other[name]
            if layer in behind:
                writer = record_name("attn_out", layer)
                port, value = records[writer].port, own[writer] + (value.reshape(own[name].shape) - own[name])
            if port is None or port.name in self.dead:
                raise SiteError(
                    f"A patch must reach the logits; {self.sites.host} drops the edit at {name!r}."
                )
            points[layer] = (port, value)
        return points

    def unchanged(self, facet: Facet, names: Mapping[int, str]) -> frozenset[Where]:
        """Cells whose patch is, bit for bit in every row, what the run has there anyway.

        Args:
            facet: which cells.
            names: layer → hook name of its part.
        """
        _ = self.run  # compares what is known of the other run by then
        rest = self.other([name for name in names.values() if name not in self._same])
        if rest := {name: rest[name] for name in names.values() if name not in self._same}:
            hooks = [*self._comparing(rest), (self.sites.unembed_input.point, self.readout.keep)]
            plain_logits(self.model, self.batch.ids, hooks)
        found: set[Where] = set()
        for layer, name in names.items():
            same = facet.reduce(~self._same[name][None])[0] == 0
            found.update((layer, tuple(cell)) for cell in same.nonzero().tolist())
        return frozenset(found)

    def _comparing(self, others: Mapping[str, Tensor]) -> list[tuple[Any, Any]]:
        """Hooks that note where the run has the same as the other one in every row."""

        def compare(name: str, other: Tensor) -> Any:
            def hook(tensor: Tensor, hook: Any) -> None:
                self._same[name] = (tensor.reshape(other.shape) == other.to(tensor)).all(0)

            return hook

        ports = {name: self.sites.record_of[name].port for name in others}
        return [(port.point, compare(name, others[name])) for name, port in ports.items() if port is not None]
