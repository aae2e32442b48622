"""Text → token ids and back, the same on every host: one example at a time, then padded."""

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal, TypeGuard

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lrp_lens.errors import InputError, MetricError
from lrp_lens.hosts.forward import device_of
from lrp_lens.hosts.scope import exclusive

PaddingSide = Literal["left", "right"]


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Token ids of a batch of prompts, padded to one length."""

    ids: Int[Tensor, "batch pos"]
    starts: tuple[int, ...]
    """Column of the first real token of each prompt."""
    lengths: tuple[int, ...]
    """Number of real tokens of each prompt."""
    strings: tuple[tuple[str, ...], ...]
    """Token strings, "" at padding."""
    special: Bool[Tensor, "batch pos"]
    """BOS, EOS and padding."""
    single: bool
    """Whether the caller gave one prompt, so that views have no batch axis."""

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """False at padding."""
        columns = torch.arange(self.ids.shape[1], device=self.ids.device)
        start = torch.tensor(self.starts, device=self.ids.device)[:, None]
        return (columns >= start) & (
            columns < start + torch.tensor(self.lengths, device=self.ids.device)[:, None]
        )

    @property
    def left_mask(self) -> Bool[Tensor, "batch pos"] | None:
        """The attention mask where padding stands on the left; padding on the right is out of causal sight."""
        return self.real if any(self.starts) else None


def _tokenizer(model: Any, what: str) -> Any:
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise InputError(
            f"{what} needs a tokenizer, and this model has none. Pass token ids instead of text."
        )
    return tokenizer


def string_ids(model: Any, text: str) -> list[int]:
    """Token ids of a piece of text, without BOS."""
    _tokenizer(model, f"The text {text!r}")
    with exclusive(model):  # transformer_lens changes the model's defaults while it tokenises
        return model.to_tokens(text, prepend_bos=False, truncate=False)[0].tolist()


def token_id(model: Any, text: str) -> int:
    """The id of a string that is exactly one token.

    Raises:
        MetricError: if it is no token, an unknown one, or several (it shows them and offers the first).
    """
    if getattr(model, "tokenizer", None) is None:
        raise MetricError(f"The token {text!r} needs a tokenizer, and this model has none. Pass a token id.")
    ids = string_ids(model, text) if text else []
    unknown = getattr(model.tokenizer, "unk_token_id", None)
    if not ids or (ids[0] == unknown and text.strip() != model.tokenizer.unk_token):
        raise MetricError(
            f"A metric's token is one token of the vocabulary; {text!r} is none. Check the spelling."
        )
    if len(ids) > 1:
        pieces = [model.tokenizer.decode([index]) for index in ids]
        raise MetricError(
            f"A metric's token is exactly one token; {text!r} is {len(ids)}: {pieces}. To use the first one, pass "
            f"{pieces[0]!r} (id {ids[0]}); for the whole answer use SequenceLogit."
        )
    return ids[0]


def span_ids(model: Any, span: str | Sequence[int | str]) -> tuple[int, ...]:
    """Token ids of an answer: a string of any number of tokens, or a sequence of tokens."""
    if isinstance(span, str):
        ids = string_ids(model, span)
        unknown = getattr(model.tokenizer, "unk_token_id", None)
        if not ids or (unknown is not None and unknown in ids):
            raise MetricError(
                f"An answer consists of tokens of the vocabulary; {span!r} does not. Check the spelling."
            )
        return tuple(ids)
    return tuple(token_id(model, token) if isinstance(token, str) else int(token) for token in span)


def token_strings(model: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """The text of each token; the id in angle brackets where the model has no tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        return tuple(f"<{index}>" for index in ids)
    return tuple(tokenizer.decode([int(index)], clean_up_tokenization_spaces=False) for index in ids)


def _prompt_ids(model: Any, prompt: object) -> list[int]:
    if isinstance(prompt, str):
        if not prompt.strip():
            raise InputError(
                "A prompt has at least one token besides BOS; received an empty string. Pass some text."
            )
        _tokenizer(model, "A text prompt")
        with exclusive(model):
            return model.to_tokens(prompt, truncate=False)[0].tolist()
    if isinstance(prompt, Tensor):
        if prompt.is_floating_point() or prompt.is_complex() or prompt.dtype == torch.bool:
            raise InputError(f"Token ids are integers; received a tensor of {prompt.dtype}.")
        if prompt.ndim == 2 and prompt.shape[0] == 1:
            prompt = prompt[0]
        if prompt.ndim != 1:
            raise InputError(
                f"One prompt has token ids of shape [pos]; received {tuple(prompt.shape)} in a list."
            )
        return prompt.tolist()
    if _holds_ids(prompt):
        odd = next((item for item in prompt if isinstance(item, bool)), None)
        if odd is not None:
            raise InputError(f"Token ids are integers; received {odd!r}, a bool, among them.")
        return [int(item) for item in prompt]
    raise InputError(f"A prompt is text or token ids; received {type(prompt).__name__}.")


def _holds_ids(prompt: object) -> TypeGuard[Sequence[int]]:
    """Whether this is a list of whole numbers; bytes are none."""
    return (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, str | bytes | bytearray | memoryview)
        and all(isinstance(item, Integral) for item in prompt)
    )


def _prompts(prompt: object) -> tuple[list[object], bool]:
    """The prompts of a batch, and whether there is only one without a batch axis."""
    if isinstance(prompt, np.ndarray) and prompt.dtype.kind in "biuf":
        prompt = torch.as_tensor(prompt.tolist())
    if isinstance(prompt, Tensor):
        if prompt.ndim == 2:
            return list(prompt), prompt.shape[0] == 1
        if prompt.ndim == 1:
            return [prompt], True
        raise InputError(f"Token ids have shape [pos] or [batch, pos]; received {tuple(prompt.shape)}.")
    if isinstance(prompt, str):
        return [prompt], True
    if isinstance(prompt, Sequence) and not isinstance(prompt, bytes | bytearray | memoryview):
        if prompt and _holds_ids(prompt):
            return [prompt], True
        return list(prompt), False
    raise InputError(f"A prompt is text, a list of texts, or token ids; received {type(prompt).__name__}.")


def tokenize(model: Any, prompt: object, padding_side: PaddingSide | None) -> TokenBatch:
    """Token ids of one or several prompts; texts get BOS where the model's configuration says so.

    Args:
        model: its tokenizer, vocabulary and context length are used.
        prompt: text, list of texts, token ids [pos] or [batch, pos], or a list of id tensors.
        padding_side: where shorter prompts of a batch are padded; right by default (no mask needed).

    Raises:
        InputError: for an empty prompt, ids outside the vocabulary, or more tokens than the context holds.
    """
    if padding_side not in (None, "left", "right"):
        raise InputError(f"padding_side is 'left' or 'right'; received {padding_side!r}.")
    prompts, single = _prompts(prompt)
    rows = [_prompt_ids(model, item) for item in prompts]
    d_vocab, n_ctx = int(model.cfg.d_vocab), int(model.cfg.n_ctx)
    for row in rows or [[]]:
        if not row:
            raise InputError("A prompt has at least one token; received an empty one.")
        if min(row) < 0 or max(row) >= d_vocab:
            bad = next(index for index in row if not 0 <= index < d_vocab)
            raise InputError(f"Token ids lie in [0, {d_vocab}), the vocabulary; received {bad}.")
        if len(row) > n_ctx:
            raise InputError(f"A prompt fits the context of {n_ctx} tokens; received {len(row)}. Shorten it.")
    tokenizer = getattr(model, "tokenizer", None)
    special_ids = set(getattr(tokenizer, "all_special_ids", None) or ())
    pad = getattr(tokenizer, "pad_token_id", None)
    pad = int(pad) if pad is not None else 0
    width = max(map(len, rows))
    starts = tuple(width - len(row) if padding_side == "left" else 0 for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    special = torch.ones(len(rows), width, dtype=torch.bool)
    strings = []
    for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[index, start : start + len(row)] = torch.tensor(row)
        special[index, start : start + len(row)] = torch.tensor([token in special_ids for token in row])
        text = token_strings(model, row)
        strings.append(("",) * start + text + ("",) * (width - start - len(row)))
    device = device_of(model)
    return TokenBatch(
        ids=ids.to(device),
        starts=starts,
        lengths=tuple(map(len, rows)),
        strings=tuple(strings),
        special=special.to(device),
        single=single,
    )


def require_different(clean: Int[Tensor, "batch pos"], corrupted: Int[Tensor, "batch pos"]) -> None:
    """Raise InputError unless each corrupted prompt differs from its clean prompt.

    Where they are the same, every effect is 0, and every share and correlation of effects 0 / 0.
    """
    same = (clean == corrupted.to(clean.device)).all(1).nonzero()[:, 0].tolist()
    if same:
        of = "all pairs" if len(same) == len(clean) else f"pairs {', '.join(map(str, same[:8]))}"
        raise InputError(
            f"Each corrupted prompt differs from its clean prompt; {of} of {len(clean)} (counted from 0) are the same "
            "tokens. Replace a token that the answer depends on, or leave these pairs out."
        )
