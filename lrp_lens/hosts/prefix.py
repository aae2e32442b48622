"""Forward passes that share a prefix: what the attention layers kept of its tokens is not computed again.

1. Keep each layer's keys and values of one row, as text generation does (`KeyValues`), in either host's own cache.
2. For the next row, keep those of the tokens that both rows begin with; run only the tokens after them.

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
    """Keys and values of the first tokens of one row.

    Example:
        >>> from lrp_lens import load_demo_model
        >>> model = load_demo_model(device="cpu")
        >>> tokens = model.to_tokens("then mary and john went to the park")
        >>> past = KeyValues(model)
        >>> first = past.forward(tokens)
        >>> past.keep(5)
        >>> torch.allclose(past.forward(tokens[:, 5:]), first[:, 5:], atol=1e-4)
        True
    """

    def __init__(self, model: Any) -> None:
        self.model, self.bridge = model, is_bridge(model)
        self._cache = DynamicCache() if self.bridge else _OwnCache.init_cache(model.cfg, model.cfg.device)

    def keep(self, length: int) -> None:
        """Forget all tokens but the first `length`."""
        if self.bridge:
            pairs = [(layer.keys[:, :, :length], layer.values[:, :, :length]) for layer in self._cache.layers]
            self._cache = DynamicCache()
            for index, (keys, values) in enumerate(pairs if length else ()):
                self._cache.update(keys, values, index)
            return
        for entry in self._cache.entries:
            entry.past_keys, entry.past_values = entry.past_keys[:, :length], entry.past_values[:, :length]
        self._cache.previous_attention_mask = self._cache.previous_attention_mask[:, :length]

    def forward(self, tokens: Int[Tensor, "one pos"]) -> Float[Tensor, "one read d_vocab"]:
        """Logits of the tokens that follow; they are kept, too."""
        if self.bridge:
            return self.model(tokens, return_type="logits", past_key_values=self._cache, use_cache=True)
        mask = torch.ones_like(tokens)
        return self.model(
            tokens, return_type="logits", past_kv_cache=self._cache, attention_mask=mask, prepend_bos=False
        )
