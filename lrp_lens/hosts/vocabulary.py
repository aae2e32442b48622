"""Words of a vocabulary: a piece of text → the ids of its tokens, without BOS, and ids → text; on every host."""

import warnings
from collections.abc import Sequence
from typing import Any

from lrp_lens.errors import InputError, MetricError
from lrp_lens.hosts.forward import vocabulary_size
from lrp_lens.hosts.scope import exclusive


class TextWarning(UserWarning):
    """A text was not read as its writer may think."""


def tokenizer_of(model: Any, what: str) -> Any:
    """The model's tokenizer.

    Raises:
        InputError: it has none, and `what` needs one.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise InputError(
            f"{what} needs a tokenizer, and this model has none. Pass token ids instead of text."
        )
    return tokenizer


def encodable(text: str) -> str:
    """The text without lone surrogates, which no tokenizer takes; a `TextWarning` says so."""
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if "\ufffd" in whole and "\ufffd" not in text:
        warnings.warn(
            "The text holds a lone surrogate, half of a character; it is read as U+FFFD, as files with such bytes are.",
            TextWarning,
            stacklevel=3,
        )
    return whole


def string_ids(model: Any, text: str) -> list[int]:
    """Token ids of a piece of text, without BOS.

    Raises:
        InputError: the model has no tokenizer, or one with more tokens than the model has logits for.
    """
    tokenizer_of(model, f"The text {text!r}")
    text = encodable(text)
    with exclusive(model):  # transformer_lens changes the model's defaults while it tokenises
        ids: list[int] = model.to_tokens(text, prepend_bos=False, truncate=False)[0].tolist()
    d_vocab = vocabulary_size(model)
    if max(ids, default=0) >= d_vocab:
        raise InputError(
            f"Token ids lie in [0, {d_vocab}), the vocabulary; the tokenizer gives {text!r} {max(ids)}. Take the "
            "tokenizer that the model was trained with, or a text without its added tokens."
        )
    return ids


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
            f"{pieces[0]!r} (id {ids[0]}); for the whole answer use SequenceLogProb or SequenceLogitDiff."
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
