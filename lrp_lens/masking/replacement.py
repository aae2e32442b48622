"""What a masked token becomes: its embedding is replaced where token embeddings enter the network.

1. Choose the replacement: the mean embedding over the vocabulary, zeros, the padding token's embedding, or the
   embedding of a resampled token.  Position embeddings, attention and all other tokens stay as they are.
2. Run the model, without any rule, with the masked rows of the embedding replaced; unembed only the positions that
   are read.  Short prompts go in batches; a long one keeps the keys and values of what it shares with the row before.

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
from lrp_lens.hosts.forward import device_of, forward, vocabulary_size
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.prefix import KeyValues
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
_SHARED_FROM = 64
_PASS_COSTS = 100


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
        raise SiteError(
            "Masking needs a hook point at the token embeddings; this host has none. Use the other host for this model."
        )
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
        tokens: token ids; padding may stand on the right.  Sorted, long rows cost less: what a chunk shares with the
            row before it is not run again.
        masks: True where the embedding is replaced.
        replacement: one vector, or one per position [pos, d_model].
        positions: positions whose logits are wanted, so that no others are unembedded; None for all.

    Yields:
        Logits of at most 4,096 tokens at once (and at most 2²⁶ numbers), in the order of the rows.
    """
    length, masks = tokens.shape[1], masks.to(tokens.device)
    read = None if positions is None else [at % length for at in positions]
    unembedded = len(read or range(length)) * vocabulary_size(model)
    most = max(1, min(_TOKENS_AT_ONCE // length, _LOGITS_AT_ONCE // unembedded))
    starts, past = [0] * len(tokens), None
    if read and length >= _SHARED_FROM:
        same = (tokens[1:] == tokens[:-1]) & (masks[1:] == masks[:-1])
        starts[1:] = same.long().cumprod(-1).sum(-1).clamp(max=min(read)).tolist()
        past = KeyValues(model)
    pass_costs = _PASS_COSTS if tokens.device.type == "cpu" else _TOKENS_AT_ONCE
    rows = replacement.expand(length, -1)
    embedding, unembedding = embedding_port(model).point, resolve(model).unembed_input.point
    for first, stop, start in _chunks(starts, length, most, pass_costs):
        chunk, mask = tokens[first:stop, start:], masks[first:stop, start:, None]

        def replace(value: Tensor, hook: object = None, mask: Tensor = mask, start: int = start) -> Tensor:
            return torch.where(mask, rows[start:].to(value), value)

        def select(value: Tensor, hook: object = None, start: int = start) -> Tensor:
            return value[:, [at - start for at in read or ()]]

        hooks = [(embedding, replace)] + ([(unembedding, select)] if read is not None else [])
        with torch.no_grad(), attached(model, hooks):
            logits = forward(model, chunk, None) if past is None else past.forward(chunk, start)
        yield logits


def _chunks(starts: Sequence[int], length: int, most: int, pass_costs: int) -> Iterator[tuple[int, int, int]]:
    """Rows [first, stop) that are run in one pass, and the position from which: a token is not run twice for less.

    Args:
        starts: for each row, how many tokens it shares with the row before; with all of a chunk it shares the least.
        length: tokens of a row.
        most: rows of a chunk at most.
        pass_costs: tokens that could be run in the time that one pass more takes.

    Example:
        >>> list(_chunks([0, 90, 2, 1], 100, 10, 30))
        [(0, 1, 0), (1, 2, 90), (2, 4, 1)]
    """
    first, shared = 0, starts[0]
    for row in range(1, len(starts)):
        least, count = min(shared, starts[row]), row - first
        together, apart = (count + 1) * (length - least), count * (length - shared) + length - starts[row]
        if count == most or together - apart > pass_costs:
            yield first, row, shared
            first, shared = row, starts[row]
        else:
            shared = least
    yield first, len(starts), shared
