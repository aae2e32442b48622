"""Rows that leave one text at different places and go on: what they share is read where it is, never copied.

1. The keys (turned to their positions) and values of the shared text are kept once (`SharedText`).
2. At each step a row is one token without a past, so the host's own attention costs nothing.  Norms, MLPs and
   unembedding know no positions; where these enter otherwise than at q and k (learned ones), this way is not gone.
3. q and k are normed and turned to each row's own position (`ScoreGeometry`), k and v kept behind the row's own ones,
   and z is replaced: softmax over the shared keys before the place where the row leaves, and its own.  The first part
   is one product for all rows.
4. A row joins and leaves at any step, so that others can take the place of those that have ended: how many tokens each
   has said is counted by row, and what lies behind them is not seen.
5. Whether that is the model's attention is measured: the last token of the text is said again, from the keys before it,
   and the logits have to be those that were noted when it was said.

The split of the softmax's keys into shared and own ones: Hydragen, Juravsky et al. 2024, arXiv 2402.05099.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lrp_lens.hosts import resolve
from lrp_lens.hosts.attention_scores import ScoreGeometry, score_geometry
from lrp_lens.hosts.forward import forward, require_finite
from lrp_lens.hosts.prefix import KeyValues
from lrp_lens.hosts.scope import attached, hooked
from lrp_lens.hosts.sites import AttentionSite
from lrp_lens.ops.gates import wide


@dataclass(frozen=True, eq=False)
class SharedLayer:
    """What one layer keeps of the shared text."""

    site: AttentionSite
    geometry: ScoreGeometry
    keys: Float[Tensor, "kv_head pos d_head"]
    """Normed, and turned to their positions."""
    values: Float[Tensor, "kv_head pos d_value"]


@dataclass(frozen=True, eq=False)
class SharedText:
    """A text's keys and values in all layers."""

    model: Any
    layers: tuple[SharedLayer, ...]

    @classmethod
    def of(cls, model: Any, past: KeyValues, reach: int) -> "SharedText | None":
        """What was kept of one row; None where positions enter otherwise than at q and k, or hooks are attached.

        Args:
            model: whose keys and values these are.
            past: of one row.
            reach: how many positions the longest row will have.
        """
        stretches = any(getattr(model.cfg, one, False) for one in ("use_logn_attn", "use_dynamic_ntk_rope"))
        if stretches or hooked(model):
            return None
        sites, layers = resolve(model), list[SharedLayer]()
        for site in sites.of(AttentionSite):
            geometry = score_geometry(model, sites, int(site.layer or 0), reach)
            table = geometry.rotary
            if len(table[0]) < reach if table is not None else geometry.slopes is None:
                return None
            keys, values = past.of_row(int(site.layer or 0))
            keys = wide(keys) if past.bridge else geometry.rotate(wide(keys))  # a bridge keeps them turned
            layers.append(SharedLayer(site, geometry, keys.transpose(0, 1), wide(values).transpose(0, 1)))
        return cls(model, tuple(layers))

    def said_again(self, token: int) -> Float[Tensor, " d_vocab"]:
        """Step 5: the logits behind the text, whose last token this is."""
        last = self.layers[0].keys.shape[1] - 1
        again = Branches(self, 1, 1)
        again.join([last])
        return again.extend(torch.tensor([[token]], device=self.layers[0].keys.device))[0, -1]


class Branches:
    """Rows that leave a text, and what each says behind it."""

    def __init__(self, text: SharedText, most: int, room: int) -> None:
        """Args:
        text: that the rows leave.
        most: how many rows there are at once.
        room: how many tokens a row says at most.
        """
        self.text, self.room, self.forwarded = text, room, 0
        self._count = 0
        self._starts = torch.zeros(most, dtype=torch.long, device=text.layers[0].keys.device)
        self._said = torch.zeros_like(self._starts)
        self._own = [  # zeros: what is not seen is multiplied by 0, and has to be a number
            tuple(kept.new_zeros(most, len(kept), room, kept.shape[-1]) for kept in (one.keys, one.values))
            for one in text.layers
        ]

    def join(self, starts: Sequence[int]) -> None:
        """Append rows, which keep so many of the text's tokens, at least one."""
        new = slice(self._count, self._count + len(starts))
        self._starts[new] = self._starts.new_tensor(starts)
        self._said[new] = 0
        self._count += len(starts)

    def leave(self, row: int) -> None:
        """Let go of a row; the last one takes its place."""
        self._count -= 1
        for one in (self._starts, self._said, *(own for layer in self._own for own in layer)):
            one[row] = one[self._count]

    def extend(self, tokens: Int[Tensor, "rows 1"]) -> Float[Tensor, "rows 1 d_vocab"]:
        """Logits behind one token more of each row.

        Raises:
            InputError: logits that are not finite.
        """
        self.forwarded += len(tokens)
        masks: dict[int | None, Tensor] = {}
        hooks = [hook for at, _ in enumerate(self.text.layers) for hook in self._hooks(at, masks)]
        with torch.no_grad(), attached(self.text.model, hooks):
            logits = forward(self.text.model, tokens, None)
        self._said[: self._count] += 1
        require_finite(logits)
        return logits

    def _hooks(self, at: int, masks: dict[int | None, Tensor]) -> list[tuple[Any, Any]]:
        """One layer's: q, k and v are taken, z is replaced."""
        site, seen = self.text.layers[at].site, dict[str, Tensor]()

        def take(part: str, tensor: Tensor, hook: Any) -> None:
            seen[part] = tensor

        def replaced(z: Tensor, hook: Any) -> Tensor:
            return self._attend(at, seen["q"], seen["k"], seen["v"], masks).reshape(z.shape).to(z.dtype)

        parts = ((site.q, "q"), (site.k, "k"), (site.v, "v"))
        return [*((port.point, partial(take, part)) for port, part in parts), (site.z.point, replaced)]

    def _attend(self, at: int, q: Tensor, k: Tensor, v: Tensor, masks: dict[int | None, Tensor]) -> Tensor:
        """Step 3: z of each row, [row, head, d_value]."""
        layer, geometry, rows = self.text.layers[at], self.text.layers[at].geometry, len(q)
        own_keys, own_values = (one[:rows] for one in self._own[at])
        starts, said, groups = self._starts[:rows], self._said[:rows], len(layer.keys)
        places, length, stop = starts + said, int(starts.max()), int(said.max()) + 1
        if geometry.rotary is not None:
            cos, sin = geometry.rotary
            geometry = replace(geometry, rotary=(cos[places.to(cos.device)], sin[places.to(sin.device)]))
        q, k = (wide(one).reshape(rows, -1, layer.keys.shape[-1]) for one in (q, k))
        q = q if geometry.query_norm is None else geometry.query_norm.norm.forward(q)
        k = k if geometry.key_norm is None else geometry.key_norm.norm.forward(k)
        each = torch.arange(rows, device=said.device)
        own_keys[each, :, said] = geometry.rotate(k)
        own_values[each, :, said] = wide(v).reshape(rows, groups, -1)
        query = geometry.rotate(q).reshape(rows, groups, -1, q.shape[-1]) * geometry.scale
        shared = self._shared(query, layer.keys[:, :length].mT)
        scores = torch.cat([shared, query @ own_keys[:, :, :stop].mT], dim=-1)
        if geometry.softcap is not None:
            scores = geometry.softcap * torch.tanh(scores / geometry.softcap)
        if geometry.window not in masks:
            masks[geometry.window] = self._distances(geometry.window)
        distance = masks[geometry.window].to(scores)[:, None, None]
        if geometry.slopes is not None:
            scores = scores - geometry.slopes.to(scores).reshape(groups, -1, 1) * distance.clamp_min(0)
        scores = scores.masked_fill(distance < 0, -torch.inf)
        if geometry.sink is not None:
            sink = geometry.sink.to(scores).reshape(groups, -1, 1).expand(*scores.shape[:-1], 1)
            scores = torch.cat([scores, sink], dim=-1)
        pattern = scores.softmax(-1)
        own = pattern[..., length : length + stop] @ own_values[:, :, :stop]
        return self._shared(pattern[..., :length], layer.values[:, :length]) + own

    @staticmethod
    def _shared(of_rows: Tensor, shared: Tensor) -> Tensor:
        """What is per row, [row, kv_head, head, inner], times what all share, [kv_head, inner, outer]."""
        rows, groups, heads, inner = of_rows.shape
        flat = of_rows.transpose(0, 1).reshape(groups, rows * heads, inner)
        return (flat @ shared).reshape(groups, rows, heads, shared.shape[-1]).transpose(0, 1)

    def _distances(self, window: int | None) -> Tensor:
        """How far each key is behind the query, [row, key]; -1 where it is not seen."""
        starts, said = self._starts[: self._count, None], self._said[: self._count, None]
        shared = torch.arange(int(starts.max()), device=starts.device)
        own = torch.arange(int(said.max()) + 1, device=starts.device)
        behind = torch.cat([(starts + said - shared).where(shared < starts, -1), said - own], 1)
        return behind if window is None else behind.where(behind < window, -1)
