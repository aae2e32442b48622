"""Characters of a prompt as tokens of it: where named passages stand once there is a tokenizer.

1. The prompt is tokenised as every analysis does it, and once more for the characters of each token (offsets): the same
   ids, with BOS in front of them or not, or nobody can say where the passages stand.
2. Messages are rendered by the chat template; characters of a message are shifted to where its text stands there.
3. A token is part of a passage if one of its characters is.  Neighbours make one span.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from lrp_lens.errors import InputError
from lrp_lens.hosts.chat import ChatOptions, content_starts, is_messages, render
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.hosts.vocabulary import encodable

Spans = tuple[tuple[int, int], ...]


@runtime_checkable
class Named(Protocol):
    """What is read of a case here."""

    @property
    def prompt(self) -> Any:
        """Text or messages."""
        ...

    @property
    def segments(self) -> Mapping[str, Sequence[tuple[int, int]]]:
        """Name → spans of tokens."""
        ...

    def text_spans(self) -> Mapping[str, Sequence[tuple[int | None, int, int]]]:
        """Name → (message, start, stop), in characters."""
        ...


def case_segments(model: Any, case: Named) -> dict[str, Spans]:
    """The named parts of a case's prompt among this model's tokens: its `segments`, and its `passages` as tokens.

    A passage that is not in the prompt, such as a regular expression that finds nothing, is left out.

    Args:
        model: its tokenizer is used.
        case: a `Case`.

    Returns:
        Name → spans [start, stop) of tokens, in order; position 0 is the token that begins the text.

    Raises:
        InputError: passages without a tokenizer that knows characters (a "fast" one), a template that changes what the
            messages say, or what `tokenize` refuses.

    Example:
        >>> from lrp_lens import Case, Passage, load_demo_model
        >>> case = Case(prompt="mary saw john . mary left", passages={"name": (Passage(regex="mary|john"),)})
        >>> case_segments(load_demo_model(device="cpu"), case)
        {'name': ((1, 2), (3, 4), (5, 6))}
    """
    found = {name: list(map(tuple, spans)) for name, spans in case.segments.items()}
    for name, spans in text_segments(model, case.prompt, case.text_spans()).items():
        found.setdefault(name, []).extend(spans)
    return {
        name: _runs({i for start, stop in spans for i in range(start, stop)})
        for name, spans in found.items()
        if spans
    }


def text_segments(
    model: Any, prompt: Any, named: Mapping[str, Sequence[tuple[int | None, int, int]]]
) -> dict[str, Spans]:
    """Spans of characters as spans of tokens; see `case_segments`.

    Args:
        model: its tokenizer is used.
        prompt: one text, or messages.
        named: name → (index of the message, None in a text; start; stop), in characters.
    """
    if not any(named.values()):
        return {}
    tokenizer = model.tokenizer
    batch = tokenize(model, prompt)
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            "Passages are found among tokens by a fast tokenizer, which knows each token's characters; this model has "
            "none. Name the spans of tokens yourself (segments=)."
        )
    text, starts = _text(tokenizer, prompt)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = batch.ids[0].tolist()
    before = len(ids) - len(found["input_ids"])
    if before < 0 or ids[before:] != found["input_ids"]:
        raise InputError(
            "Passages are found in the text that the tokens spell; this model's tokens of the prompt are others than "
            "its tokenizer's. Name the spans of tokens yourself (segments=)."
        )
    owners = [_covered(offsets, starts, named) for offsets in found["offset_mapping"]]
    spans = {name: _runs(before + i for i, own in enumerate(owners) if name in own) for name in named}
    return {name: one for name, one in spans.items() if one}


def _text(tokenizer: Any, prompt: Any) -> tuple[str, dict[int | None, int]]:
    """What is tokenised, and where the text of each message (None: of the whole) begins in it."""
    if not is_messages(prompt):
        return encodable(prompt), {None: 0}
    rendered = render(tokenizer, prompt, ChatOptions())
    starts = content_starts(rendered, prompt)
    if starts is None:
        raise InputError(
            "Passages of messages are found where the chat template writes the messages as they are; this one changes "
            "them. Name the spans of tokens yourself (segments=)."
        )
    return encodable(rendered.text), dict(enumerate(starts))


def _covered(
    offsets: tuple[int, int],
    starts: Mapping[int | None, int],
    named: Mapping[str, Sequence[tuple[int | None, int, int]]],
) -> set[str]:
    """The names of the passages that one token has a character of."""
    first, behind = offsets
    return {
        name
        for name, spans in named.items()
        for message, start, stop in spans
        if first < starts[message] + stop and starts[message] + start < behind
    }


def _runs(positions: Iterable[int]) -> Spans:
    """Positions as spans without gaps.

    Example:
        >>> _runs({5, 1, 2})
        ((1, 3), (5, 6))
    """
    runs: list[tuple[int, int]] = []
    for one in sorted(positions):
        if runs and runs[-1][1] == one:
            runs[-1] = (runs[-1][0], one + 1)
        else:
            runs.append((one, one + 1))
    return tuple(runs)
