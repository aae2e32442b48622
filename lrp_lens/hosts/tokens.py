"""Prompts → token ids, the same on every host: one example at a time, then padded.

A text gets the token that begins every text (BOS) where the model's configuration says so, but never a second one: a
text that begins with it already, as one from a chat template does, gets none, and a `TextWarning` says so.  Messages go
through the chat template, which brings its own (`chat`); their names come with the tokens (`TokenBatch.segments`).
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Literal, NamedTuple, TypeGuard

import numpy as np
import torch
from torch import Tensor

from lrp_lens.errors import InputError, MetricError
from lrp_lens.hosts.chat import ChatOptions, is_messages, over_tokens, render
from lrp_lens.hosts.forward import device_of, input_vocabulary_size
from lrp_lens.hosts.pieces import token_pieces
from lrp_lens.hosts.scope import exclusive
from lrp_lens.hosts.token_batch import Branch, Segment, TokenBatch
from lrp_lens.hosts.vocabulary import TextWarning, encodable, string_ids, token_strings, tokenizer_of

PaddingSide = Literal["left", "right"]


class Row(NamedTuple):
    """The tokens of one prompt."""

    ids: Sequence[int]
    segments: tuple[Segment, ...] = ()
    """Its named stretches; empty for none."""


def _text_ids(model: Any, text: str, prepend_bos: bool | None) -> list[int]:
    """Token ids of a prompt; BOS as asked, or once, where the model's configuration says so."""
    tokenizer, text = tokenizer_of(model, "A text prompt"), encodable(text)
    if prepend_bos is False:
        return string_ids(model, text)
    bos = getattr(tokenizer, "bos_token_id", None)
    if prepend_bos and bos is None:
        raise InputError(
            "prepend_bos=True needs a tokenizer with a BOS token; this one has none. Leave it out."
        )
    asked = {} if prepend_bos is None else {"prepend_bos": prepend_bos}
    ids: list[int] = model.to_tokens(text, truncate=False, **asked)[0].tolist()
    twice = prepend_bos is None and bos is not None and ids[:2] == [bos, bos]
    if twice and (plain := string_ids(model, text))[:1] == [bos]:
        warnings.warn(
            f"The prompt begins with {tokenizer.decode([bos])!r} already (a chat template's text does), so no second "
            "BOS was added. Pass prepend_bos=True to add one, prepend_bos=False to say that there is to be none.",
            TextWarning,
            stacklevel=2,
        )
        return plain
    return ids


def _chat_row(model: Any, messages: Sequence[Any], prepend_bos: bool | None, options: ChatOptions) -> Row:
    """A conversation: the template's text, with every special token that it has and no other."""
    tokenizer = tokenizer_of(model, "A conversation")
    if prepend_bos is not None:
        raise InputError(
            f"A chat template brings its own BOS; received prepend_bos={prepend_bos} with messages. Leave it out."
        )
    text, spans = render(tokenizer, messages, options)
    text = encodable(text)
    if spans is None or not tokenizer.is_fast:  # no places of characters
        return Row(tokenizer(text, add_special_tokens=False)["input_ids"])
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return Row(found["input_ids"], over_tokens(spans, found["offset_mapping"], len(text)))


def _row(model: Any, prompt: object, prepend_bos: bool | None, options: ChatOptions) -> Row:
    if is_messages(prompt):
        return _chat_row(model, prompt, prepend_bos, options)
    return Row(_prompt_ids(model, prompt, prepend_bos))


def _prompt_ids(model: Any, prompt: object, prepend_bos: bool | None) -> list[int]:
    if isinstance(prompt, str):
        with exclusive(model):
            ids = _text_ids(model, prompt, prepend_bos) if prompt else []
            if len(ids) < 3 and not (
                prompt and string_ids(model, prompt)
            ):  # begin and end are not the text's
                received = f"{prompt!r}, of which this tokenizer makes none" if prompt else "an empty string"
                raise InputError(
                    f"A prompt has at least one token besides BOS; received {received}. Pass some text."
                )
            return ids
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
    raise InputError(f"A prompt is text, messages or token ids; received {type(prompt).__name__}.")


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
        if prompt and (_holds_ids(prompt) or is_messages(prompt)):
            return [prompt], True
        return list(prompt), False
    if isinstance(prompt, Mapping):
        raise InputError("Messages are a list; received one message alone. Put it into a list: [message].")
    raise InputError(
        f"A prompt is text, messages, token ids, or a list of texts or conversations; received {type(prompt).__name__}."
    )


def tokenize(
    model: Any,
    prompt: object,
    padding_side: PaddingSide | None = None,
    prepend_bos: bool | None = None,
    *,
    add_generation_prompt: bool | None = None,
    continue_final_message: bool | None = None,
    template_options: Mapping[str, Any] | None = None,
) -> TokenBatch:
    """Token ids of one or several prompts; texts get BOS where the model's configuration says so.

    Every analysis calls this for its prompts, and takes what it returns as a prompt, too: call it where an option of
    the chat template is to be another than the default.

    Args:
        model: its tokenizer, vocabulary and context length are used.
        prompt: text; messages, [{"role": ..., "content": ...}, ...]; a list of these; token ids [pos] or [batch, pos],
            or a list of id tensors; a TokenBatch is returned as it is.
        padding_side: where shorter prompts of a batch are padded; right by default (no mask needed).
        prepend_bos: whether texts get BOS; by default as the model's configuration says, but never a second one.
            Token ids are taken as they are, and messages get what their template writes.
        add_generation_prompt: whether the template asks for an answer behind the messages; None where the last
            message is not the assistant's.
        continue_final_message: whether the assistant's last message is left open, to go on; None where it is the last.
        template_options: the chat template's own variables, e.g. {"enable_thinking": False}.

    Raises:
        InputError: for an empty prompt, ids outside the vocabulary, more tokens than the context holds, messages of
            another form, or such as the chat template refuses.

    Warns:
        TextWarning: if a text begins with BOS, so that none was added.

    Example:
        >>> from lrp_lens import load_demo_model, tokenize
        >>> tokenize(load_demo_model(), "mary gave the key").strings
        (('<bos>', 'mary', 'gave', 'the', 'key'),)
    """
    if isinstance(prompt, TokenBatch):
        return prompt
    if padding_side not in (None, "left", "right"):
        raise InputError(f"padding_side is 'left' or 'right'; received {padding_side!r}.")
    if not (prepend_bos is None or isinstance(prepend_bos, bool)):
        raise InputError(f"prepend_bos is True, False or None; received {prepend_bos!r}.")
    prompts, single = _prompts(prompt)
    options = ChatOptions(add_generation_prompt, continue_final_message, template_options)
    rows = [_row(model, item, prepend_bos, options) for item in prompts]
    return padded(model, rows, padding_side == "left", single)


def message_segments(model: Any, messages: object) -> dict[str, tuple[tuple[int, int], ...]]:
    """Where the messages stand among the tokens: name → spans [start, stop), as `Case.segments` has them.

    The names are "system", "user 1", "assistant 1", ..., and "template" for what the chat template writes around them
    (a system message of its own, too).  Together they are all tokens.

    Args:
        model: its tokenizer's chat template is used.
        messages: one conversation, or what `tokenize` made of it.

    Raises:
        InputError: what `tokenize` refuses, a prompt without messages, or a template that changes a message (other than
            the white space at its ends), so that nobody can say where it stands.
    """
    batch = tokenize(model, messages)
    if len(batch.ids) != 1 or not batch.segments:
        why = "this prompt has none, or its chat template changes what they say"
        raise InputError(
            f"Segments are those of one conversation's messages; {why if len(batch.ids) == 1 else 'received a batch'}. "
            "Pass messages, or name spans of tokens yourself."
        )
    spans: dict[str, tuple[tuple[int, int], ...]] = {}
    for one in batch.segments[0]:
        spans[one.name] = (*spans.get(one.name, ()), (one.start, one.stop))
    return spans


def with_answers(model: Any, batch: TokenBatch, branches: Sequence[Sequence[Branch]]) -> TokenBatch:
    """The batch with answers appended: one row for each branch of each prompt.

    Args:
        model: its vocabulary and context length are used.
        batch: prompts; a batch that has its answers already is returned as it is.
        branches: for each prompt, or once for all, what its rows append; see `Metric.branches`.

    Raises:
        InputError: if prompt and answer do not fit the context.
        MetricError: for another number of prompts.
    """
    if batch.examples is not None or not any(branch.ids for row in branches for branch in row):
        return batch
    if len(branches) not in (1, len(batch.lengths)):
        raise MetricError(
            f"A metric has answers for one prompt or for each; received answers for {len(branches)} and "
            f"{len(batch.lengths)} prompts. Pass one answer per prompt."
        )
    each = list(branches) * (len(batch.lengths) if len(branches) == 1 else 1)
    rows, examples, appended = [], [], []
    for example, own in enumerate(each):
        start, length = batch.starts[example], batch.lengths[example]
        prompt = batch.ids[example, start : start + length].tolist()
        for branch in own:
            rows.append(Row([*prompt, *branch.ids], batch.segments[example] if batch.segments else ()))
            examples.append(example)
            appended.append(branch)
    longer = padded(model, rows, any(batch.starts), batch.single)
    return replace(
        longer,
        examples=tuple(examples),
        forced=tuple(len(branch.ids) for branch in appended),
        roles=tuple(branch.role for branch in appended),
    )


def padded(model: Any, named: Sequence[Row], left: bool, single: bool) -> TokenBatch:
    """Rows of token ids, checked and padded to one length."""
    rows = [row.ids for row in named]
    d_vocab, n_ctx = input_vocabulary_size(model), int(model.cfg.n_ctx)
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
    starts = tuple(width - len(row) if left else 0 for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    special = torch.ones(len(rows), width, dtype=torch.bool)
    strings, pieces = [], []
    for index, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[index, start : start + len(row)] = torch.tensor(row)
        special[index, start : start + len(row)] = torch.tensor([token in special_ids for token in row])
        text = token_strings(model, row)
        before, after = ("",) * start, ("",) * (width - start - len(row))
        strings.append(before + text + after)
        pieces.append(before + token_pieces(tokenizer, row, text) + after)
    device = device_of(model)
    return TokenBatch(
        ids=ids.to(device),
        starts=starts,
        lengths=tuple(map(len, rows)),
        strings=tuple(strings),
        special=special.to(device),
        single=single,
        pieces=tuple(pieces),
        segments=tuple(row.segments for row in named) if any(row.segments for row in named) else (),
    )
