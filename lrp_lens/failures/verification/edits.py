"""Edited runs: one prompt, run many times, each time with something else hidden, amplified, silenced or cut.

1. Hidden tokens: their embeddings are replaced where they enter the network, as in `lrp_lens.masking`.
2. Amplified tokens: in every layer the value vectors at their positions are multiplied by a factor, for all heads, so
   that whatever attention reads of them counts so many times; patterns, queries and keys stay what the run makes of
   them.  (Ours.  A factor of 0 is the knock-out of values, "value zeroing", Mohebbi et al. 2301.12971; steering the
   pattern itself, Zhang et al. 2311.02262, would take from other tokens what it gives to these.)
3. Silenced places: what a head (z) or an MLP puts out at one position is replaced by zero, or by its own mean over the
   prompt's positions.
4. Cut attention edges: one entry of one head's pattern is set to zero, so that this head no longer reads that source
   from that target; its other entries stay what they were (they no longer sum to 1).
5. All edits of a batch share one forward pass, a row each; only the last position is unembedded.  A generated answer
   goes on from that pass: the edits act on the prompt, and what follows reads the edited keys and values.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lrp_lens.errors import SiteError
from lrp_lens.hosts import dead, resolve
from lrp_lens.hosts.forward import last_position, require_finite
from lrp_lens.hosts.generation import begin, go_on, require_room
from lrp_lens.hosts.rollout import Rollout, Until
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.masking.replacement import embedding_port
from lrp_lens.methods.facets import record_name
from lrp_lens.run.plain import plain_logits

_TOKENS_AT_ONCE = 4096
Hooks = list[tuple[Any, Callable[..., Tensor]]]


@dataclass(frozen=True)
class Place:
    """A head or an MLP at one position.

    Example:
        >>> str(Place(2, 7, head=1)), str(Place(0, 3))
        ('L2H1 at 7', 'L0 MLP at 3')
    """

    layer: int
    position: int
    head: int | None = None
    """None for the MLP."""

    @property
    def component(self) -> str:
        """Its label without the position."""
        return f"L{self.layer} MLP" if self.head is None else f"L{self.layer}H{self.head}"

    def __str__(self) -> str:
        return f"{self.component} at {self.position}"


@dataclass(frozen=True)
class AttentionEdge:
    """One entry of one head's attention pattern: what it reads of a source token at a target position.

    Example:
        >>> str(AttentionEdge(2, 1, target=7, source=4))
        'L2H1 4 → 7'
    """

    layer: int
    head: int
    target: int
    """Position at which the head reads."""
    source: int
    """Position that it reads."""

    @property
    def position(self) -> int:
        """Where what it read arrives."""
        return self.target

    def __str__(self) -> str:
        return f"L{self.layer}H{self.head} {self.source} → {self.target}"


@dataclass(frozen=True)
class Edit:
    """What is changed in one run; nothing by default."""

    hidden: tuple[int, ...] = ()
    """Positions whose embeddings are replaced."""
    amplified: tuple[int, ...] = ()
    """Positions whose values are multiplied."""
    silenced: tuple[Place, ...] = ()
    """Places whose output is replaced."""
    cut: tuple[AttentionEdge, ...] = ()
    """Entries of attention patterns that become 0."""


@dataclass(frozen=True, eq=False)
class EditedRuns:
    """Runs of one prompt under edits."""

    model: Any
    batch: TokenBatch
    """The prompt, with what has been said since."""
    replacement: Float[Tensor, "pos d_model"]
    """What the embeddings of hidden tokens become."""
    factor: float
    """By which the values of amplified tokens are multiplied."""
    silence: Mapping[tuple[str, int], Tensor] = field(default_factory=dict)
    """(part, layer) → what silenced outputs become, [d_head] for each head or [d_model]; zero for what is missing."""

    @property
    def length(self) -> int:
        """Positions of the prompt."""
        return int(self.batch.ids.shape[1])

    def logits(
        self, edits: Sequence[Edit], tick: Callable[[int], Any] | None = None
    ) -> Float[Tensor, "edit d_vocab"]:
        """Logits at the last position under each edit, in batches.

        Raises:
            SiteError: the host drops an edit, or lacks the hook point.
            InputError: logits that are not finite.
        """
        found = []
        for some in self._batches(edits):
            hooks = self.hooks(some)
            last = (resolve(self.model).unembed_input.point, last_position)
            logits = plain_logits(self.model, self.batch.ids.repeat(len(some), 1), [*hooks, last])[:, -1]
            require_finite(logits)
            found.append(logits)
            if tick is not None:
                tick(len(some))
        return torch.cat(found)

    def answers(
        self, edits: Sequence[Edit], until: Until, tick: Callable[[int], Any] | None = None
    ) -> tuple[Float[Tensor, "edit d_vocab"], list[Rollout]]:
        """What `logits` says, and the greedy completion of the prompt under each edit: it goes on from the same pass.

        Raises:
            SiteError, InputError: as `logits`; InputError for a prompt that leaves no room for so many tokens, too.
        """
        require_room(self.model, self.batch, until.max_new_tokens)
        found, rollouts = [], list[Rollout]()
        for some in self._batches(edits):
            with attached(self.model, self.hooks(some)):
                begun = begin(self.model, self.batch.ids.repeat(len(some), 1))
            found.append(begun.logits)
            rollouts += go_on(begun, until)
            if tick is not None:
                tick(len(some))
        return torch.cat(found), rollouts

    def _batches(self, edits: Sequence[Edit]) -> list[Sequence[Edit]]:
        size = max(1, _TOKENS_AT_ONCE // self.length)
        return [edits[start : start + size] for start in range(0, len(edits), size)]

    # ------------------------------------------------------------------------------------ hooks
    def hooks(self, edits: Sequence[Edit]) -> Hooks:
        """Hooks for a pass over the prompt, a row for each edit."""
        hooks: Hooks = []
        hidden = self._mask([edit.hidden for edit in edits])
        if hidden.any():
            hooks.append((embedding_port(self.model).point, self._hide(hidden)))
        amplified = self._mask([edit.amplified for edit in edits])
        layers = range(resolve(self.model).n_layers)
        if amplified.any():
            hooks += [(self._point("v", layer), self._amplify(amplified)) for layer in layers]
        for layer in layers:
            for part in ("z", "mlp_out"):
                at = [
                    (row, place)
                    for row, edit in enumerate(edits)
                    for place in edit.silenced
                    if place.layer == layer and (place.head is None) == (part == "mlp_out")
                ]
                if at:
                    hooks.append((self._point(part, layer), self._silence(part, layer, len(edits), at)))
            cut = [(row, one) for row, edit in enumerate(edits) for one in edit.cut if one.layer == layer]
            if cut:
                hooks.append((self._point("pattern", layer), self._cut(len(edits), cut)))
        return hooks

    def _mask(self, positions: Sequence[Sequence[int]]) -> Bool[Tensor, "edit pos"]:
        mask = torch.zeros(len(positions), self.length, dtype=torch.bool, device=self.batch.ids.device)
        for row, chosen in enumerate(positions):
            mask[row, list(chosen)] = True
        return mask

    def _point(self, part: str, layer: int) -> Any:
        name = record_name(part, layer)
        record, dropped = resolve(self.model).record_of.get(name), dead(self.model)
        if record is None or record.port is None or record.port.name in dropped:
            raise SiteError(
                f"An edit must reach the logits; {resolve(self.model).host} has no live hook point for {part} in layer "
                f"{layer}. Use the other host for this model."
            )
        return record.port.point

    def _hide(self, mask: Bool[Tensor, "edit pos"]) -> Callable[..., Tensor]:
        def edit(value: Tensor) -> Tensor:
            return torch.where(mask[..., None], self.replacement.to(value), value)

        return _shaped(edit, mask.shape)

    def _amplify(self, mask: Bool[Tensor, "edit pos"]) -> Callable[..., Tensor]:
        def edit(value: Tensor) -> Tensor:
            wide = mask.reshape(*mask.shape, *[1] * (value.ndim - 2))
            return torch.where(wide, value * self.factor, value)

        return _shaped(edit, mask.shape)

    def _silence(
        self, part: str, layer: int, rows: int, at: Sequence[tuple[int, Place]]
    ) -> Callable[..., Tensor]:
        heads = int(self.model.cfg.n_heads) if part == "z" else 1
        mask = torch.zeros(rows, self.length, heads, 1, dtype=torch.bool, device=self.batch.ids.device)
        for row, place in at:
            mask[row, place.position, place.head or 0] = True

        def edit(value: Tensor) -> Tensor:
            shaped = value.reshape(rows, self.length, heads, -1)
            other = self.silence.get((part, layer))
            quiet = torch.zeros_like(shaped) if other is None else other.to(shaped).expand_as(shaped)
            return torch.where(mask, quiet, shaped).reshape(value.shape)

        return _shaped(edit, mask.shape[:2])

    def _cut(self, rows: int, at: Sequence[tuple[int, AttentionEdge]]) -> Callable[..., Tensor]:
        entries = [(row, one.head, one.target, one.source) for row, one in at]
        index = tuple(torch.tensor(entries, device=self.batch.ids.device).T)

        def edit(value: Tensor) -> Tensor:
            return value.index_put(index, value.new_zeros(()))

        return _shaped(edit, (rows, int(self.model.cfg.n_heads)))


def _shaped(edit: Callable[[Tensor], Tensor], shape: Sequence[int]) -> Callable[..., Tensor]:
    """A hook that edits a tensor whose first two axes are these, also where a host has made one of them."""

    def hook(value: Tensor, hook: Any = None) -> Tensor:
        flat = value if value.shape[:2] == tuple(shape) else value.reshape(*shape, *value.shape[1:])
        return edit(flat).reshape(value.shape)

    return hook
