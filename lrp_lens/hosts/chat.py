"""Messages as a chat model reads them: through its tokenizer's chat template.

1. Check the messages: a role and a text each.
2. Render them with the tokenizer's template: an answer is asked for (`add_generation_prompt`), or, where the last
   message is the assistant's, that message is left open (`continue_final_message`).  The template brings its own BOS.
3. Render once more with a mark in the place of each text.  What stands between the marks is the template's; put
   together with the texts it is the first rendering, character for character, or no spans are given: a template
   that changes a text (other than the white space at its ends), leaves it out or says it twice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

from lrp_lens.errors import InputError
from lrp_lens.hosts.token_batch import TEMPLATE, Segment

_KEYS = {"role", "content"}


class ChatOptions(NamedTuple):
    """How messages are rendered; None decides by the last message's role."""

    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    template_options: Mapping[str, Any] | None = None
    """Variables of the template, e.g. {"enable_thinking": False}."""


class Rendered(NamedTuple):
    """A conversation as text."""

    text: str
    spans: tuple[Segment, ...] | None
    """Where each message's text stands, counted in characters; None where the template changes it."""


def is_messages(prompt: object) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    """Whether this is one conversation: a list with a message in it."""
    return (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, str)
        and any(isinstance(item, Mapping) for item in prompt)
    )


def render(tokenizer: Any, messages: Sequence[Any], options: ChatOptions) -> Rendered:
    """The conversation through the template, and where each message stands in it.

    Raises:
        InputError: no template, messages of another form, options that contradict each other or the last message,
            or messages that the template refuses.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            "Messages need a tokenizer with a chat template, and this model has none. Pass the prompt as plain text, "
            "or load the chat version of the model."
        )
    checked = [_message(index, message) for index, message in enumerate(messages)]
    how = _how(checked, options)
    text = _through(tokenizer, checked, how)
    marks = [f"\ue000{index}\ue001" for index in range(len(checked))]
    marked = _through(tokenizer, [m | {"content": mark} for m, mark in zip(checked, marks, strict=True)], how)
    return Rendered(text, _spans(text, marked, marks, checked))


def content_starts(rendered: Rendered, messages: Sequence[Any]) -> list[int] | None:
    """Where the first character of each message's content stands in the rendered text, or would stand, untrimmed.

    None where the template changes the messages.
    """
    if rendered.spans is None:
        return None
    checked = [_message(index, message) for index, message in enumerate(messages)]
    by_name = {one.name: one for one in rendered.spans}
    starts = []
    for name, message in zip(_names([one["role"] for one in checked]), checked, strict=True):
        said = rendered.text[by_name[name].start : by_name[name].stop]
        starts.append(by_name[name].start - message["content"].index(said))
    return starts


def turn_end(tokenizer: Any) -> str:
    """What the template writes behind an answer; "" where there is no template or it does not say."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "\ue000"}]
    how = {"add_generation_prompt": False, "continue_final_message": False}
    if not getattr(tokenizer, "chat_template", None):
        return ""
    try:
        return _through(tokenizer, messages, how).partition("\ue000")[2]
    except InputError:
        return ""


def _message(index: int, message: Any) -> dict[str, str]:
    """One message, its content as one text."""
    if not isinstance(message, Mapping) or set(message) != _KEYS:
        received = sorted(map(str, message)) if isinstance(message, Mapping) else type(message).__name__
        raise InputError(
            f"A message has a 'role' and a 'content', nothing else; message {index} has {received}. Write "
            '{"role": "user", "content": "..."}.'
        )
    role, content = message["role"], message["content"]
    if not isinstance(role, str) or not role:
        raise InputError(f"A message's role is a word such as 'user'; message {index} has {role!r}.")
    parts = [content] if isinstance(content, str) else content
    texts = list(map(_text, parts)) if isinstance(parts, Sequence) else [None]
    said = [text for text in texts if text is not None]
    if len(said) < len(texts):
        odd = parts[texts.index(None)] if isinstance(parts, Sequence) else parts
        kind = repr(odd.get("type")) if isinstance(odd, Mapping) else type(odd).__name__
        raise InputError(
            f"A message's content is text, or a list of text parts; message {index} has {kind}. Images and other "
            "parts are not read: leave them out."
        )
    return {"role": role, "content": "".join(said)}


def _text(part: Any) -> str | None:
    """The text of one part of a content; None if it is no text."""
    if isinstance(part, Mapping):
        part = part.get("text") if part.get("type", "text") == "text" else None
    return part if isinstance(part, str) else None


def _how(messages: list[dict[str, str]], options: ChatOptions) -> dict[str, Any]:
    """The template's arguments."""
    generate, go_on = options.add_generation_prompt, options.continue_final_message
    for name, value in (("add_generation_prompt", generate), ("continue_final_message", go_on)):
        if value not in (None, True, False):
            raise InputError(f"{name} is True, False or None; received {value!r}.")
    answered = messages[-1]["role"] == "assistant"
    if generate and go_on:
        raise InputError(
            "An answer is begun anew (add_generation_prompt) or the last message goes on (continue_final_message); "
            "received both. Pass one of them."
        )
    if go_on and not answered:
        raise InputError(
            "continue_final_message goes on with the assistant's last message; the last is of "
            f"{messages[-1]['role']!r}. Leave it out, or add what the assistant has said so far."
        )
    how: dict[str, Any] = dict(options.template_options or {})
    how["add_generation_prompt"] = (not answered and go_on is not True) if generate is None else generate
    how["continue_final_message"] = (answered and generate is None) if go_on is None else go_on
    return how


def _through(tokenizer: Any, messages: list[dict[str, str]], how: Mapping[str, Any]) -> str:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, **how)
    except Exception as error:  # of jinja, of the template's own raise_exception, of transformers
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        roles = ", ".join(message["role"] for message in messages)
        raise InputError(
            f"The chat template refuses these messages (roles: {roles}): {reason} See tokenizer.chat_template for "
            "what it takes."
        ) from error


def _spans(
    text: str, marked: str, marks: list[str], messages: list[dict[str, str]]
) -> tuple[Segment, ...] | None:
    """Where the texts stand, given the same rendering with marks in their place."""
    if any(marked.count(mark) != 1 for mark in marks):
        return None
    order = sorted(range(len(marks)), key=lambda index: marked.index(marks[index]))
    names = _names([message["role"] for message in messages])
    found, at, rest = [], 0, marked
    for place, index in enumerate(order):
        before, _, rest = rest.partition(marks[index])
        following = rest.partition(marks[order[place + 1]])[0] if place + 1 < len(order) else rest
        if not text.startswith(before, at):
            return None
        at += len(before)
        content, last = messages[index]["content"], place + 1 == len(order)
        said = next((one for one in _stripped(content) if _continues(text, at, one + following, last)), None)
        if said is None:
            return None
        found.append(Segment(names[index], messages[index]["role"], at, at + len(said)))
        at += len(said)
    return tuple(found)


def _stripped(content: str) -> tuple[str, ...]:
    return content, content.strip(), content.lstrip(), content.rstrip()


def _continues(text: str, at: int, piece: str, last: bool) -> bool:
    return text[at:] == piece if last else text.startswith(piece, at)


def _names(roles: list[str]) -> list[str]:
    """A name for each message: "user 1", "assistant 1", "user 2"; a system message that is the only one, "system"."""
    seen: Counter[str] = Counter()
    alone = roles.count("system") == 1
    names = []
    for role in roles:
        seen[role] += 1
        names.append(role if role == "system" and alone else f"{role} {seen[role]}")
    return names


def over_tokens(
    spans: tuple[Segment, ...], offsets: Sequence[tuple[int, int]], length: int
) -> tuple[Segment, ...]:
    """The messages' spans of characters as spans of tokens, the template's tokens between them.

    A token that begins in the template and ends in a message (a line break before a line break) is the message's.

    Args:
        spans: of characters.
        offsets: where each token's characters stand, (start, stop).
        length: how many characters there are.

    Example:
        >>> over_tokens((Segment("user 1", "user", 2, 4),), [(0, 2), (2, 3), (3, 4), (4, 5)], 5)
        (Segment(name='template', role='template', start=0, stop=1),
         Segment(name='user 1', role='user', start=1, stop=3),
         Segment(name='template', role='template', start=3, stop=4))
    """
    template = Segment(TEMPLATE, TEMPLATE, 0, length)
    owners = []
    for start, stop in offsets:
        stop = max(stop, start + 1)
        owners.append(next((one for one in spans if one.start < stop and start < one.stop), template))
    segments: list[Segment] = []
    for index, owner in enumerate(owners):
        if segments and segments[-1].name == owner.name:
            segments[-1] = segments[-1]._replace(stop=index + 1)
        else:
            segments.append(Segment(owner.name, owner.role, index, index + 1))
    return tuple(segments)
