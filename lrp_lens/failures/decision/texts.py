"""Checkers that compare texts: exact, contains, regular expression, last number, multiple choice.

Each knows where an accepted completion carries the answer and which text is wanted, so that a search can tell the
token that carries the answer from a lucky one; and, where a beginning settles it, what it says already.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import regex

from lrp_lens.errors import InputError
from lrp_lens.failures.decision.checker import Checker, Spans

_NUMBER = re.compile(r"-?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


def _texts(value: str | Sequence[str], owner: str) -> tuple[str, ...]:
    """One text or several, none of them empty."""
    texts = (value,) if isinstance(value, str) else tuple(value)
    if not texts or not all(isinstance(one, str) and one.strip() for one in texts):
        raise InputError(f"{owner} needs a text, or several, none of them empty; received {value!r}.")
    return texts


@final
@dataclass(frozen=True)
class Exact(Checker):
    """The completion is one of the answers, white space around it apart.

    Example:
        >>> checker = Exact(["Paris", "paris"])
        >>> checker.score(" Paris "), checker.already(" Lon"), checker.already(" Par")
        (True, False, None)
    """

    answers: str | Sequence[str]
    ignore_case: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "answers", _texts(self.answers, "Exact"))

    def score(self, completion: str) -> bool:
        return self._folded(completion.strip()) in self._known

    def already(self, prefix: str) -> bool | None:
        told = self._folded(prefix.lstrip())
        is_open = any(one.startswith(told) or told.rstrip() == one for one in self._known)
        return None if is_open else False

    def spans(self, completion: str, failed: str) -> Spans:
        return ((0, len(completion)),)

    def wanted(self, failed: str) -> tuple[str, ...]:
        return tuple(one.strip() for one in self.answers)

    def _folded(self, text: str) -> str:
        return text.casefold() if self.ignore_case else text

    @property
    def _known(self) -> list[str]:
        return [self._folded(one.strip()) for one in self.answers]


@final
@dataclass(frozen=True)
class Contains(Checker):
    """The completion contains one of the texts, or all of them; graded by the share of them that it contains.

    Example:
        >>> checker = Contains(["red", "blue"], every=True)
        >>> checker.score("red"), checker.already("blue and red"), checker.wanted("red")
        (0.5, True, ('blue',))
    """

    texts: str | Sequence[str]
    every: bool = False
    ignore_case: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "texts", _texts(self.texts, "Contains"))

    def score(self, completion: str) -> float:
        found = [bool(self._found(one, completion)) for one in self.texts]
        return sum(found) / len(found) if self.every else float(any(found))

    def already(self, prefix: str) -> bool | None:
        return True if self.score(prefix) == 1 else None

    def spans(self, completion: str, failed: str) -> Spans:
        found = [self._found(one, completion) for one in self.wanted(failed)]
        return tuple(one.span() for one in found if one)

    def wanted(self, failed: str) -> tuple[str, ...]:
        return tuple(one for one in self.texts if not self._found(one, failed))

    def _found(self, text: str, completion: str) -> "re.Match[str] | None":
        return re.search(re.escape(text), completion, re.IGNORECASE if self.ignore_case else 0)


@final
@dataclass(frozen=True)
class Regex(Checker):
    r"""A regular expression is found in the completion, or is all of it (`full`, white space around it apart).

    Example:
        >>> Regex(r"[a-z ]+", full=True).already("Capital"), Regex(r"\d").score("no digit")
        (False, False)
    """

    pattern: str
    full: bool = False
    ignore_case: bool = False

    def __post_init__(self) -> None:
        try:
            regex.compile(self.pattern)
        except regex.error as error:
            raise InputError(
                f"Regex needs a regular expression; {self.pattern!r} is none: {error}."
            ) from error

    @property
    def _compiled(self) -> "regex.Pattern[str]":
        return regex.compile(self.pattern, regex.IGNORECASE if self.ignore_case else 0)

    def score(self, completion: str) -> bool:
        if self.full:
            return self._compiled.fullmatch(completion.strip()) is not None
        return self._compiled.search(completion) is not None

    def already(self, prefix: str) -> bool | None:
        text = prefix.lstrip()
        could = not self.full or any(
            self._compiled.fullmatch(one, partial=True) for one in (text, text.rstrip())
        )
        return None if could else False

    def spans(self, completion: str, failed: str) -> Spans | None:
        found = self._compiled.search(completion)
        return (found.span(),) if found else None


@final
@dataclass(frozen=True)
class Number(Checker):
    """The last number of the completion is this one, as GSM8K is scored; signs of dollars and thousands apart.

    Example:
        >>> Number(1234).score("so 5 + 1,229 = $1,234."), Number(7).wanted("It is 8.")
        (True, ('7',))
    """

    value: float | int
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or not self.tolerance >= 0:
            raise InputError(
                f"Number needs a finite value and a tolerance of at least 0; received {self.value}, {self.tolerance}."
            )

    def score(self, completion: str) -> bool:
        found = self._last(completion)
        if found is None:
            return False
        return abs(float(re.sub(r"[$,]", "", found.group())) - self.value) <= self.tolerance

    def spans(self, completion: str, failed: str) -> Spans | None:
        found = self._last(completion)
        return (found.span(),) if found else None

    def wanted(self, failed: str) -> tuple[str, ...]:
        return (f"{self.value:.15g}",)

    @staticmethod
    def _last(completion: str) -> "re.Match[str] | None":
        return next(reversed(list(_NUMBER.finditer(completion))), None)


@final
@dataclass(frozen=True)
class MultipleChoice(Checker):
    """The completion names the right option: by its letter, else by its text.

    1. A letter that begins the completion: "B", "B.", "(B)".
    2. The last letter behind "answer is", "answer:" or "option".
    3. The one option whose text stands in it, and no other's.

    Example:
        >>> checker = MultipleChoice(["red", "blue"], right=1)
        >>> checker.score("B. blue"), checker.score("The answer is (A)."), checker.score("It is blue.")
        (True, False, True)
        >>> checker.already("A) r"), checker.already("A")
        (False, None)
    """

    options: Sequence[str]
    right: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", _texts(self.options, "MultipleChoice"))
        if not 2 <= len(self.options) <= 26 or not 0 <= self.right < len(self.options):
            raise InputError(
                "MultipleChoice needs 2 to 26 options and the index of the right one; received"
                f" {len(self.options)} and right={self.right}."
            )

    def score(self, completion: str) -> bool:
        return (chosen := self._chosen(completion)) is not None and chosen[0] == self.right

    def already(self, prefix: str) -> bool | None:
        first = re.match(rf"\s*(?:\(([{self._letters}])\)|([{self._letters}])[.):,\n])", prefix)
        return None if first is None else self._index(first) == self.right

    def spans(self, completion: str, failed: str) -> Spans | None:
        return (chosen[1],) if (chosen := self._chosen(completion)) is not None else None

    def wanted(self, failed: str) -> tuple[str, ...]:
        return (self._letters[self.right], f"({self._letters[self.right]}", self.options[self.right].strip())

    @property
    def _letters(self) -> str:
        return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(self.options)]

    def _index(self, match: "re.Match[str]") -> int:
        return self._letters.index(next(one for one in match.groups() if one))

    def _chosen(self, completion: str) -> tuple[int, tuple[int, int]] | None:
        """Index of the option that is named, and where."""
        first = rf"\s*(?:\(([{self._letters}])\)|([{self._letters}])(?=[.):,\n]|\s*$))"
        behind = rf"(?i:answer(?: is)?|option):?\s*\(?([{self._letters}])\b"
        found = re.match(first, completion) or next(reversed(list(re.finditer(behind, completion))), None)
        if found is not None:
            return self._index(found), found.span()
        named = [
            (index, at.span())
            for index, option in enumerate(self.options)
            if (at := re.search(rf"(?<!\w){re.escape(option.strip())}(?!\w)", completion, re.IGNORECASE))
        ]
        return named[0] if len(named) == 1 else None
