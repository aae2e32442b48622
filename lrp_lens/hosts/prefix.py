"""Forward passes that share a prefix: what the attention layers kept of its tokens is not computed again.

1. Keep each layer's keys and values, as text generation does (`KeyValues`), in either host's own cache.
2. The next rows go on from any of the rows that were run last: run only the tokens after what each shares with its own.
3. Rows of one length run together, wherever they come from: those that have ended leave, others join.

Exact: in a causal model, nothing before the first token that differs can change.
"""

from typing import Any

import torch
import transformer_lens
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from lrp_lens.hosts.forward import is_bridge

_OwnCache: Any = getattr(transformer_lens, "TransformerLensKeyValueCache", None) or getattr(
    transformer_lens, "HookedTransformerKeyValueCache", None
)


class KeyValues:
    """Keys and values of the rows that were run last.

    Example:
        >>> from lrp_lens import load_demo_model
        >>> model = load_demo_model(device="cpu")
        >>> tokens = model.to_tokens("then mary and john went to the park")
        >>> past = KeyValues(model)
        >>> first = past.forward(tokens)
        >>> torch.allclose(past.forward(tokens[:, 5:], 5, torch.tensor([0])), first[:, 5:], atol=1e-4)
        True
    """

    def __init__(self, model: Any) -> None:
        self.model, self.bridge = model, is_bridge(model)
        self._layers: list[tuple[Tensor, Tensor]] = []
        self.forwarded = 0
        """How many tokens were run, over all rows."""

    @property
    def filled(self) -> bool:
        """Whether rows were run."""
        return bool(self._layers)

    def forward(
        self, tokens: Int[Tensor, "rows pos"], after: int = 0, rows: Int[Tensor, " rows"] | None = None
    ) -> Float[Tensor, "rows read d_vocab"]:
        """Logits of rows that go on from the rows that were run last.

        Args:
            tokens: what follows, in each row.
            after: how many tokens are not run again.
            rows: for each row, the one of the rows run last that begins with these tokens; needed if there are any.
        """
        cut = (slice(None),) * self._axis + (slice(after),)
        kept, self._layers = self._layers if after else [], []
        past: list[tuple[Tensor, Tensor]] = []
        while kept:  # a layer's are let go as soon as they are copied
            keys, values = kept.pop(0)
            past.append((keys[cut][rows], values[cut][rows]))
        return self._run(tokens, past, after)

    def extend(self, tokens: Int[Tensor, "rows pos"]) -> Float[Tensor, "rows read d_vocab"]:
        """Logits of what follows each row that was run, all of its tokens kept."""
        return self._run(tokens, self._layers, self._layers[0][0].shape[self._axis])

    def detach(self) -> None:
        """Let go of the graph in which they were computed."""
        self._layers = [(keys.detach(), values.detach()) for keys, values in self._layers]

    def keep(self, rows: list[int]) -> None:
        """Let go of all rows but these."""
        self._layers = [(keys[rows], values[rows]) for keys, values in self._layers] if rows else []

    def join(self, other: "KeyValues", after: int, copies: int) -> None:
        """Append rows that begin with the first `after` tokens of another's only row; all rows are of this length."""
        cut = (slice(None),) * self._axis + (slice(after),)
        shared = [tuple(one[cut].expand(copies, -1, -1, -1) for one in layer) for layer in other._layers]
        if not self.filled:
            self._layers = [(keys, values) for keys, values in shared]
            return
        self._layers = [
            (torch.cat([keys, more_keys]), torch.cat([values, more_values]))
            for (keys, values), (more_keys, more_values) in zip(self._layers, shared, strict=True)
        ]

    def of_row(self, index: int) -> tuple[Float[Tensor, "pos head d_head"], Float[Tensor, "pos head d_head"]]:
        """Keys and values that one layer kept of the only row; those of a bridge are turned to their positions."""
        keys, values = (one[0].transpose(0, 1) if self.bridge else one[0] for one in self._layers[index])
        return keys, values

    @property
    def _axis(self) -> int:
        """Which axis of keys and values counts positions."""
        return 2 if self.bridge else 1

    def _run(self, tokens: Tensor, past: list[tuple[Tensor, Tensor]], after: int) -> Tensor:
        self.forwarded += tokens.numel()
        return (self._of_bridge if self.bridge else self._of_hooked_transformer)(tokens, past, after)

    def _of_bridge(self, tokens: Tensor, past: list[tuple[Tensor, Tensor]], after: int) -> Tensor:
        cache = DynamicCache()
        for index, (keys, values) in enumerate(past):
            cache.update(keys, values, index)
        logits = self.model(tokens, return_type="logits", past_key_values=cache, use_cache=True)
        self._layers = [(layer.keys, layer.values) for layer in cache.layers]
        return logits

    def _of_hooked_transformer(self, tokens: Tensor, past: list[tuple[Tensor, Tensor]], after: int) -> Tensor:
        cache = _OwnCache.init_cache(self.model.cfg, self.model.cfg.device, len(tokens))
        for entry, (keys, values) in zip(cache.entries, past, strict=False):
            entry.past_keys, entry.past_values = keys, values
        cache.previous_attention_mask = tokens.new_ones((len(tokens), after))
        logits = self.model(
            tokens,
            return_type="logits",
            past_kv_cache=cache,
            attention_mask=torch.ones_like(tokens),
            prepend_bos=False,
        )
        self._layers = [(entry.past_keys, entry.past_values) for entry in cache.entries]
        return logits

    def layer(self, index: int, rows: Int[Tensor, " copies"], after: int) -> Any:
        """A cache of the host's own for one layer alone: what it kept of the first `after` tokens of some rows."""
        keys, values = self._layers[index]
        if self.bridge:
            cache = DynamicCache()
            cache.update(keys[rows, :, :after], values[rows, :, :after], index)
            return cache
        entry = _OwnCache.init_cache(self.model.cfg, self.model.cfg.device, len(rows)).entries[index]
        entry.past_keys, entry.past_values = keys[rows, :after], values[rows, :after]
        return entry


def bytes_of_token(model: Any) -> int:
    """Memory that the keys and values of one token take in all layers."""
    cfg = model.cfg
    heads = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    size = next(model.parameters()).element_size()
    return max(1, 2 * int(cfg.n_layers) * int(heads) * int(cfg.d_head) * size)
