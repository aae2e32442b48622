"""What a masked token becomes: its embedding is replaced where token embeddings enter the network.

1. Choose the replacement: the mean embedding over the vocabulary, zeros, the padding token's embedding, or the
   embedding of a resampled token.  Position embeddings, attention and all other tokens stay as they are.
2. Run the model, without any rule, with the masked rows of the embedding replaced, several masks per batch;
   unembed only the positions that are read.

A measured effect of masking always depends on the replacement, so a `Replacement` says in words what it is.
Zeroed embeddings: AttnLRP (Achtibat et al. 2024, 2402.05602).  Resampling: Chan et al. 2022, causal scrubbing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lrp_lens.errors import InputError, SiteError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import device_of, forward
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.scope import attached, exclusive
from lrp_lens.hosts.sites import Port

ReplacementName = Literal["mean", "zero", "pad", "resample"]
BASELINE = "mean embedding over the vocabulary"
STATEMENTS: dict[str, str] = {
    "mean": BASELINE,
    "zero": "zeros",
    "pad": "embedding of the padding token",
    "resample": "embedding of a token drawn from all prompts of this evaluation, one draw per position",
}

_TOKENS_AT_ONCE = 4096
_LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True, eq=False)
class Replacement:
    """What the embeddings of masked tokens are replaced by."""

    name: str
    """mean, zero, pad or resample."""
    vector: Float[Tensor, " d_model"] | None
    """The one replacement of every token; None for resample."""
    pool: Int[Tensor, " tokens"]
    """Token ids to draw from (resample)."""

    @property
    def statement(self) -> str:
        """The replacement in words."""
        return STATEMENTS[self.name]

    def rows(self, model: Any, length: int, rng: np.random.Generator) -> Float[Tensor, "pos d_model"]:
        """The replacement at each position of a prompt of `length` tokens."""
        if self.vector is not None:
            return self.vector.expand(length, -1)
        drawn = torch.as_tensor(rng.integers(len(self.pool), size=length), device=self.pool.device)
        with torch.no_grad(), exclusive(model):
            return model.embed(self.pool[drawn][None])[0].double()


def make_replacement(model: Any, name: str, pool: Int[Tensor, " tokens"]) -> Replacement:
    """The replacement of that name for one model.

    Args:
        model: a HookedTransformer or TransformerBridge.
        name: "mean", "zero", "pad" or "resample".
        pool: token ids that "resample" draws from.

    Raises:
        InputError: another name, no padding token for "pad", or an empty pool for "resample".

    Example:
        >>> from lrp_lens.demo import load_demo_model
        >>> make_replacement(load_demo_model(device="cpu"), "zero", torch.tensor([5])).statement
        'zeros'
    """
    if name not in get_args(ReplacementName):
        raise InputError(
            f"A replacement is one of {', '.join(get_args(ReplacementName))}; received {name!r}."
        )
    pool = pool.to(device_of(model))
    if name == "resample":
        if not len(pool):
            raise InputError("Resampling draws from the prompts' tokens; received prompts without any.")
        return Replacement(name, None, pool)
    if name == "mean":
        return Replacement(name, mean_embedding(model, int(model.cfg.d_vocab)), pool)
    pad = getattr(getattr(model, "tokenizer", None), "pad_token_id", None)
    if name == "pad" and pad is None:
        raise InputError(
            "The replacement 'pad' needs a tokenizer with a padding token, and this model has none. Use 'mean'."
        )
    with torch.no_grad(), exclusive(model):
        vector = model.embed(torch.tensor([[pad or 0]], device=pool.device))[0, 0].double()
    return Replacement(name, vector if name == "pad" else torch.zeros_like(vector), pool)


def mean_embedding(model: Any, vocabulary: int) -> Float[Tensor, " d_model"]:
    """Mean over the vocabulary of what the embedding module returns, accumulated in float64."""
    total: Tensor | None = None
    with torch.no_grad(), exclusive(model):
        for ids in torch.arange(vocabulary, device=device_of(model)).split(8192):
            part = model.embed(ids[None])[0].double().sum(0)
            total = part if total is None else total + part
    if total is None:
        raise InputError(f"The mean embedding needs a vocabulary; received {vocabulary} tokens.")
    return total / vocabulary


def embedding_port(model: Any) -> Port:
    """The hook point at the token embeddings.

    Raises:
        SiteError: the host has none.
    """
    port = resolve(model).record_of[Names.EMBED].port
    if port is None:
        raise SiteError("Masking needs a hook point at the token embeddings; this host has none.")
    return port


def masked_logits(
    model: Any,
    tokens: Int[Tensor, "rows pos"],
    masks: Bool[Tensor, "rows pos"],
    replacement: Float[Tensor, "... d_model"],
    positions: Sequence[int] | None = None,
) -> Iterator[Float[Tensor, "chunk read d_vocab"]]:
    """Logits with the embeddings of masked tokens replaced, a chunk of rows at a time.

    Args:
        model: a HookedTransformer or TransformerBridge.
        tokens: token ids; rows have one length, without padding.
        masks: True where the embedding is replaced.
        replacement: one vector, or one per position [pos, d_model].
        positions: positions whose logits are wanted, so that no others are unembedded; None for all.

    Yields:
        Logits of at most 4,096 tokens at once (and at most 2²⁶ numbers), in the order of the rows.
    """
    length = tokens.shape[1]
    read = length if positions is None else len(positions)
    unembedded = read * int(getattr(model.cfg, "d_vocab_out", None) or model.cfg.d_vocab)
    rows = max(1, min(_TOKENS_AT_ONCE // length, _LOGITS_AT_ONCE // unembedded))
    embedding, unembedding = embedding_port(model).point, resolve(model).unembed_input.point
    for chunk, mask in zip(tokens.split(rows), masks.to(tokens.device).split(rows), strict=True):

        def replace(value: Tensor, hook: object = None, mask: Tensor = mask) -> Tensor:
            return torch.where(mask[..., None], replacement.to(value), value)

        def select(value: Tensor, hook: object = None) -> Tensor:
            return value[:, list(positions or ())]

        hooks = [(embedding, replace)] + ([(unembedding, select)] if positions is not None else [])
        with torch.no_grad(), attached(model, hooks):
            logits = forward(model, chunk, None)
        yield logits


def logits_with_masked_embeddings(
    model: Any,
    tokens: Int[Tensor, "rows pos"],
    masks: Bool[Tensor, "rows pos"],
    baseline: Float[Tensor, "... d_model"],
) -> Float[Tensor, "rows vocab"]:
    """Logits at the last position, with the embeddings of masked tokens replaced by the baseline."""
    return torch.cat([part[:, 0].float() for part in masked_logits(model, tokens, masks, baseline, [-1])])
