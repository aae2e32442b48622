"""What a masked token becomes: its embedding is replaced where token embeddings enter the network.

1. Choose the replacement: the mean embedding over the vocabulary, zeros, the padding token's embedding, or the
   embedding of a resampled token.  Position embeddings, attention and all other tokens stay as they are.
2. Run the model, without any rule, with the masked rows of the embedding replaced; what several rows begin with is
   run once (`passes`), and only the positions that are read are unembedded.

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
from lrp_lens.hosts.forward import device_of, input_vocabulary_size, vocabulary_size
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.prefix import KeyValues, bytes_of_token
from lrp_lens.hosts.scope import attached, exclusive
from lrp_lens.hosts.sites import Port
from lrp_lens.masking.passes import Pass, passes
from lrp_lens.run.plain import plain_logits

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
_BYTES_AT_ONCE = 2**28
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
        return Replacement(name, mean_embedding(model), pool)
    pad = getattr(getattr(model, "tokenizer", None), "pad_token_id", None)
    if name == "pad" and pad is None:
        raise InputError(
            "The replacement 'pad' needs a tokenizer with a padding token, and this model has none. Use 'mean'."
        )
    with torch.no_grad(), exclusive(model):
        vector = model.embed(torch.tensor([[pad or 0]], device=pool.device))[0, 0].double()
    return Replacement(name, vector if name == "pad" else torch.zeros_like(vector), pool)


def mean_embedding(model: Any) -> Float[Tensor, " d_model"]:
    """Mean over the vocabulary of what the embedding module returns, accumulated in float64."""
    total, vocabulary = torch.zeros((), dtype=torch.float64), input_vocabulary_size(model)
    with torch.no_grad(), exclusive(model):
        for ids in torch.arange(vocabulary, device=device_of(model)).split(8192):
            total = total.to(ids.device) + model.embed(ids[None])[0].double().sum(0)
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
        tokens: token ids; padding may stand on the right.  Neighbours that begin alike cost less.
        masks: True where the embedding is replaced.
        replacement: one vector, or one per position [pos, d_model].
        positions: positions whose logits are wanted, so that no others are unembedded; None for all.

    Yields:
        Logits in the order of the rows.  At most 4,096 tokens are run at once, at most 2²⁶ logits and 256 MiB of keys
        and values are held.
    """
    masks, last = masks.to(tokens.device), tokens.shape[1]
    read = None if positions is None else [at % last for at in positions]
    if read:  # nothing after the last of them can matter
        tokens, masks = tokens[:, : max(read) + 1], masks[:, : max(read) + 1]
    embedding, unembedding = embedding_port(model).point, resolve(model).unembed_input.point
    replaced = replacement.expand(last, -1)
    planned = list(_plan(model, tokens, masks, read))
    past = KeyValues(model) if any(one.start for one in planned) else None
    for one in planned:
        rows = torch.as_tensor(one.rows, device=tokens.device)
        chunk, mask = tokens[rows, one.start : one.stop], masks[rows, one.start : one.stop, None]

        def replace(value: Tensor, hook: object = None, mask: Tensor = mask, one: Pass = one) -> Tensor:
            return torch.where(mask, replaced[one.start : one.stop].to(value), value)

        def select(value: Tensor, hook: object = None, one: Pass = one) -> Tensor:
            return value[:, [at - one.start for at in read or () if len(one.wanted)]]

        hooks = [(embedding, replace)] + ([(unembedding, select)] if read is not None else [])
        if past is None:
            logits = plain_logits(model, chunk, hooks)
        else:
            with torch.no_grad(), attached(model, hooks):
                logits = past.forward(chunk, one.start, torch.as_tensor(one.parents, device=tokens.device))
        if len(one.wanted):
            yield logits[torch.as_tensor(one.wanted, device=logits.device)]


def _plan(
    model: Any, tokens: Int[Tensor, "rows pos"], masks: Bool[Tensor, "rows pos"], read: Sequence[int] | None
) -> Iterator[Pass]:
    """The passes of these rows; without any sharing where every position is read."""
    length = tokens.shape[1]
    latest = min(read) if read else 0
    unembedded = len(read or range(length)) * vocabulary_size(model)
    most = min(_TOKENS_AT_ONCE // (length - latest), _LOGITS_AT_ONCE // unembedded)
    if not latest:
        shared = [0] * len(tokens)
    else:
        same = (tokens[1:] == tokens[:-1]) & (masks[1:] == masks[:-1])
        shared = [0, *same.long().cumprod(-1).sum(-1).tolist()]
        most = min(most, _BYTES_AT_ONCE // (length * bytes_of_token(model)))
    pass_costs = _PASS_COSTS if tokens.device.type == "cpu" else _TOKENS_AT_ONCE
    return passes(shared, length, latest, max(1, most), _TOKENS_AT_ONCE, pass_costs)
