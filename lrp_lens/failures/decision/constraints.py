"""What IFEval's constraints say of a prefix, and where a completion carries them.

The scoring is lm-evaluation-harness's own (`harness`); it judges whole completions.  This table adds, of the
constraints where it can be told from the text, what only a search for a decision needs:

1. `lost`: no text that begins so keeps the constraint (a comma, a capital, a forbidden word, a wrong first line).
2. `spans`: where a completion that keeps it does so (a title, a closing phrase).
3. `wanted`: texts that it cannot do without, and `at_end`: whether it is decided at the end.

IFEval: Zhou et al. 2023, arXiv 2311.07911.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrp_lens.failures.decision.checker import Spans

Options = Mapping[str, Any]


def _never(text: str, options: Options) -> bool:
    return False


def _nowhere(text: str, options: Options) -> Spans:
    return ()


def _nothing(options: Options) -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Constraint:
    """What one of IFEval's constraints says before its checker does."""

    lost: Callable[[str, Options], bool] = _never
    spans: Callable[[str, Options], Spans] = _nowhere
    wanted: Callable[[Options], tuple[str, ...]] = _nothing
    at_end: bool = False


def _matches(pattern: str, flags: int = 0) -> Callable[[str, Options], Spans]:
    return lambda text, options: tuple(one.span() for one in re.finditer(pattern, text, flags))


def _of(name: str) -> Callable[[Options], tuple[str, ...]]:
    """The texts that an option holds."""

    def texts(options: Options) -> tuple[str, ...]:
        value = options.get(name) or ()
        return (value,) if isinstance(value, str) else tuple(value)

    return texts


def _found(name: str) -> Callable[[str, Options], Spans]:
    """Where the texts of an option stand, in any case."""

    def spans(text: str, options: Options) -> Spans:
        words = _of(name)(options)
        return tuple(
            one.span() for word in words for one in re.finditer(re.escape(word), text, re.IGNORECASE)
        )

    return spans


def _whole_words(text: str) -> str:
    """The text without its last word, which may go on."""
    return text[: len(text) - len(re.split(r"\W", text)[-1])]


def _forbidden(text: str, options: Options) -> bool:
    words = _of("forbidden_words")(options)
    return any(re.search(rf"\b{word}\b", _whole_words(text), re.IGNORECASE) for word in words)


def _too_many(
    count: Callable[[str, Options], int], number: str, relation: str
) -> Callable[[str, Options], bool]:
    """Whether "less than" so many of what only grows in number is broken."""

    def lost(text: str, options: Options) -> bool:
        return options.get(relation) == "less than" and count(text, options) >= int(options.get(number) or 0)

    return lost


def _bullets(text: str) -> list[str]:
    """Lines with a bullet, none of which can still become something else: the last line may go on."""
    finished = text[: text.rfind("\n") + 1]
    return re.findall(r"^\s*\*[^\*].*$|^\s*-.*$", finished, re.MULTILINE)


def _repeats(text: str, options: Options) -> bool:
    """Whether the beginning is that of the prompt, as far as it goes."""
    prompt = str(options.get("prompt_to_repeat") or "").strip().lower()
    told = text.lstrip().lower()
    return told.startswith(prompt) or prompt.startswith(told)


def _words(text: str, options: Options) -> int:
    return len(re.findall(r"\w+", _whole_words(text)))


def _capital_words(text: str, options: Options) -> int:
    return sum(word.isupper() for word in _whole_words(text).split())


def _letters(text: str, options: Options) -> int:
    return text.lower().count(str(options.get("letter") or "\0").lower())


def _quoted(text: str, options: Options) -> Spans:
    body = text.strip()
    start = len(text) - len(text.lstrip())
    return ((start, start + 1), (start + len(body) - 1, start + len(body))) if body else ()


CONSTRAINTS: Mapping[str, Constraint] = {
    "punctuation:no_comma": Constraint(lambda text, options: "," in text),
    "change_case:english_lowercase": Constraint(lambda text, options: text != text.lower()),
    "change_case:english_capital": Constraint(lambda text, options: text != text.upper()),
    "keywords:forbidden_words": Constraint(_forbidden),
    "keywords:existence": Constraint(spans=_found("keywords"), wanted=_of("keywords")),
    "keywords:frequency": Constraint(spans=_found("keyword"), wanted=_of("keyword")),
    "keywords:letter_frequency": Constraint(_too_many(_letters, "let_frequency", "let_relation")),
    "length_constraints:number_words": Constraint(_too_many(_words, "num_words", "relation"), at_end=True),
    "length_constraints:number_sentences": Constraint(at_end=True),
    "length_constraints:number_paragraphs": Constraint(
        spans=_matches(r"\*\*\*"), wanted=lambda options: ("***",)
    ),
    "change_case:capital_word_frequency": Constraint(
        _too_many(_capital_words, "capital_frequency", "capital_relation")
    ),
    "detectable_format:number_bullet_lists": Constraint(
        lambda text, options: len(_bullets(text)) > int(options.get("num_bullets") or 0),
        _matches(r"^\s*[*-]", re.MULTILINE),
        lambda options: ("*", "-"),
    ),
    "detectable_format:number_highlighted_sections": Constraint(
        spans=_matches(r"\*[^\n*]+\*"), wanted=lambda options: ("*",)
    ),
    "detectable_format:title": Constraint(spans=_matches(r"<<[^\n]+?>>"), wanted=lambda options: ("<<",)),
    "detectable_format:json_format": Constraint(wanted=lambda options: ("{", "```json")),
    "detectable_format:multiple_sections": Constraint(
        spans=_found("section_spliter"), wanted=_of("section_spliter")
    ),
    "detectable_format:constrained_response": Constraint(
        spans=_matches(r"My answer is (?:yes|no|maybe)\."), wanted=lambda options: ("My answer is",)
    ),
    "detectable_content:postscript": Constraint(
        spans=_found("postscript_marker"), wanted=_of("postscript_marker"), at_end=True
    ),
    "detectable_content:number_placeholders": Constraint(
        spans=_matches(r"\[.*?\]"), wanted=lambda options: ("[",)
    ),
    "combination:repeat_prompt": Constraint(
        lambda text, options: not _repeats(text, options),
        lambda text, options: (
            (0, len(text) - len(text.lstrip()) + len(str(options.get("prompt_to_repeat")))),
        ),
        _of("prompt_to_repeat"),
    ),
    "combination:two_responses": Constraint(spans=_matches(r"\*{6}"), wanted=lambda options: ("******",)),
    "startend:end_checker": Constraint(spans=_found("end_phrase"), wanted=_of("end_phrase"), at_end=True),
    "startend:quotation": Constraint(
        lambda text, options: bool(text.strip()) and not text.strip().startswith('"'),
        _quoted,
        lambda options: ('"',),
    ),
}
"""By IFEval's name of the constraint; one that is not here says nothing before its checker does."""


@dataclass(frozen=True)
class Instruction:
    """A constraint with its options."""

    name: str
    options: Options

    @property
    def constraint(self) -> Constraint:
        """What is known of it."""
        return CONSTRAINTS.get(self.name, Constraint())


def instructions(names: Sequence[str], options: Sequence[Options]) -> tuple[Instruction, ...]:
    """A row's constraints, options that are None left out."""
    return tuple(
        Instruction(name, {key: value for key, value in own.items() if value is not None})
        for name, own in zip(names, options, strict=True)
    )
