"""Passages: parts of a prompt that are named before there are tokens.

1. A passage is characters of the text, a message, characters of a message, or every place that a regular expression
   finds: in the text, in one message, or in all of them.
2. `find` turns one into spans of characters (`TextSpan`), each in one message, or in the text of a prompt without any.
3. Characters become tokens where the tokenizer is: `lrp_lens.hosts.text_spans`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError

_FORMS = '{"characters": [start, stop]}, {"message": index} or {"regex": "..."}'


class TextSpan(NamedTuple):
    """Characters of a prompt."""

    message: int | None
    """Which message, from 0; None for a prompt that is a text."""
    start: int
    stop: int
    """Exclusive."""


@dataclass(frozen=True, kw_only=True)
class Passage:
    """A part of a prompt: characters, a message, or what a regular expression finds.

    Raises:
        InputError: none of the three, characters and a regular expression at once, characters that are no span, a
            message that is no index, or a regular expression that Python cannot read.

    Example:
        >>> Passage(regex=r"[0-9]+").find("7 apples and 12 pears")
        (TextSpan(message=None, start=0, stop=1), TextSpan(message=None, start=13, stop=15))
        >>> Passage(message=-1).find([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
        (TextSpan(message=1, start=0, stop=2),)
    """

    characters: tuple[int, int] | None = None
    """[start, stop) in the text, or in the message that is named."""
    message: int | None = None
    """Which message, from 0 or back from −1."""
    regex: str | None = None
    """As Python's `re` has it; every match counts."""

    def __post_init__(self) -> None:
        if all(one is None for one in (self.characters, self.message, self.regex)):
            raise InputError(f"a passage says where it stands, got nothing: write {_FORMS}")
        if self.characters is not None and self.regex is not None:
            raise InputError("a passage is characters or what a regular expression finds, got both")
        if self.message is not None and not is_whole(self.message):
            raise InputError(f"a passage's message is its index, got {self.message!r}")
        if self.characters is not None:
            object.__setattr__(self, "characters", _pair(self.characters))
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except (re.error, TypeError, OverflowError, RecursionError) as error:
                raise InputError(
                    f"a passage's regex is a regular expression, got {self.regex!r}: {error}"
                ) from error

    def find(self, prompt: str | Sequence[Mapping[str, str]]) -> tuple[TextSpan, ...]:
        """Where it stands in a prompt; empty if the regular expression finds nothing but empty text.

        Raises:
            InputError: a message that is not there, characters beyond the text, or characters of messages without
                saying which message.
        """
        texts = self._texts(prompt)
        if self.regex is not None:
            return tuple(
                TextSpan(index, *match.span())
                for index, text in texts
                for match in re.finditer(self.regex, text)
                if match.end() > match.start()
            )
        if len(texts) != 1:
            raise InputError(
                "characters are counted in one text, and this prompt is messages: say which, "
                '{"message": index, "characters": [start, stop]}'
            )
        index, text = texts[0]
        start, stop = self.characters or (0, len(text))
        if stop > len(text):
            raise InputError(
                f"a passage lies in its text of {len(text)} characters, got characters {[start, stop]}"
            )
        return (TextSpan(index, start, stop),) if stop > start else ()

    def to_dict(self) -> dict[str, Any]:
        """What is said of it, for JSON."""
        characters = None if self.characters is None else list(self.characters)
        said: dict[str, Any] = {"characters": characters, "message": self.message, "regex": self.regex}
        return {name: value for name, value in said.items() if value is not None}

    @classmethod
    def from_dict(cls, values: Any) -> "Passage":
        """The passage that `to_dict` was called on; a text is a regular expression.

        Raises:
            InputError: anything else.
        """
        if isinstance(values, Passage):
            return values
        if isinstance(values, str):
            return cls(regex=values)
        if not isinstance(values, Mapping) or not set(values) <= set(cls.__dataclass_fields__):
            raise InputError(f"a passage is {_FORMS}, got {values!r}")
        given = dict(values)
        if given.get("characters") is not None:
            given["characters"] = _pair(given["characters"])
        return cls(**given)

    def _texts(self, prompt: str | Sequence[Mapping[str, str]]) -> list[tuple[int | None, str]]:
        """The texts it may stand in, with the index of each message."""
        if isinstance(prompt, str):
            if self.message is not None:
                raise InputError(f"this prompt is a text without messages, got message {self.message}")
            return [(None, prompt)]
        if self.message is None:
            return [(index, one["content"]) for index, one in enumerate(prompt)]
        if not -len(prompt) <= self.message < len(prompt):
            raise InputError(f"this prompt has {len(prompt)} messages, got message {self.message}")
        index = self.message % len(prompt)
        return [(index, prompt[index]["content"])]


def as_passages(named: Any) -> dict[str, tuple[Passage, ...]]:
    """Name → passages, from passages, dictionaries and regular expressions, alone or in lists.

    Raises:
        InputError: no names, or something that is no passage.

    Example:
        >>> as_passages({"numbers": "[0-9]+"})
        {'numbers': (Passage(characters=None, message=None, regex='[0-9]+'),)}
    """
    if not isinstance(named, Mapping) or not all(isinstance(name, str) for name in named):
        raise InputError(f"the passages of a case have names, got {named!r}: write {{'question': {_FORMS}}}")
    found = {}
    for name, given in named.items():
        several = isinstance(given, list | tuple)
        found[name] = tuple(Passage.from_dict(one) for one in (given if several else [given]))
    return found


def _pair(characters: Any) -> tuple[int, int]:
    whole = isinstance(characters, list | tuple) and len(characters) == 2 and all(map(is_whole, characters))
    if not whole or not 0 <= characters[0] < characters[1]:
        raise InputError(f"a passage's characters are [start, stop], 0 <= start < stop, got {characters!r}")
    return (characters[0], characters[1])
