"""A case: one prompt whose answer is to be explained, usually one that the model gets wrong."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lrp_lens.errors import InputError

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A prompt with the token the model says, the token to compare it with, and named segments.

    The decision may be one of a completion: `completion` with `position`; what the model says is then the completion's
    token there, unless `target` names another.

    Raises:
        InputError: If the prompt is empty or no messages, the two tokens are the same, a completion comes without
            position or the reverse, or a span is empty, negative, out of order or overlapping another span of its
            segment.

    Example:
        >>> case = Case(
        ...     prompt="then mary and john went home . john gave the key to",
        ...     target="john",
        ...     contrast="mary",
        ...     suite="indirect_object",
        ...     correct=False,
        ...     segments={"evidence": ((2, 3),), "distractor": ((4, 5), (8, 9))},
        ...     logit_gap=1.5,
        ...     answer_rank=2,
        ... )
        >>> case.answer, case.segments["distractor"]
        ('mary', ((4, 5), (8, 9)))
        >>> Case.from_dict(case.to_dict()) == case
        True
    """

    prompt: str | Sequence[Mapping[str, str]]
    """The text, without the token that begins every text; or messages, [{"role": ..., "content": ...}, ...]."""
    target: str = ""
    """What the model says: the wrong token in a failure, the right one in a correct case; of an answer of several
    tokens the one that differs counts.  May be left out with a completion."""
    contrast: str = ""
    """What to compare it with: the right token in a failure, the strongest wrong one in a correct case; left out with a
    completion, the model's best other choice."""
    completion: str = ""
    """What the model said behind the prompt, if the decision is one of its tokens."""
    position: int | str | None = None
    """Which of the completion's tokens: its index, or a piece of its text."""
    suite: str = ""
    """The kind of task the prompt belongs to."""
    correct: bool = False
    """Whether the model is right."""
    segments: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)
    """Segment name to token spans [start, stop), in order; position 0 is the token that begins the text.  For messages,
    `message_segments` says where each stands.
    `evidence` is what a right answer has to be read from, `distractor` what pulls towards a wrong one."""
    logit_gap: float = float("nan")
    """Logit of `target` minus logit of `contrast` at the last position."""
    answer_rank: int = 0
    """Rank of the right token among all, 1 being the top; 0 if not known."""

    def __post_init__(self) -> None:
        _check_types(vars(self))
        if not (self.prompt.strip() if isinstance(self.prompt, str) else self.prompt):
            raise InputError(f"a case needs a prompt with at least one word, got {self.prompt!r}")
        if (self.position is None) != (not self.completion):
            raise InputError(
                "a case is about one token of a completion, so completion and position come together, got"
                f" completion={self.completion!r} and position={self.position!r}"
            )
        both = self.target and self.contrast
        if self.target == self.contrast != "" or not (both or self.completion):
            raise InputError(
                "a case compares two different tokens, got"
                f" target={self.target!r} and contrast={self.contrast!r}"
            )
        if self.answer_rank < 0:
            raise InputError(f"answer_rank counts from 1 (0 if not known), got {self.answer_rank}")
        checked = {name: _check_spans(name, spans) for name, spans in self.segments.items()}
        object.__setattr__(self, "segments", checked)

    @property
    def answer(self) -> str:
        """The right token, "" if it was left to the completion."""
        return self.target if self.correct else self.contrast

    def __hash__(self) -> int:  # the segments, a dictionary, cannot be hashed
        return hash((str(self.prompt), self.target, self.contrast, self.suite, self.completion))

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, for JSON."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        spans = {name: [list(span) for span in spans] for name, spans in self.segments.items()}
        prompt = self.prompt if isinstance(self.prompt, str) else [dict(message) for message in self.prompt]
        return values | {"segments": spans, "prompt": prompt}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Case":
        """The case that `to_dict` was called on; InputError for missing or unknown fields."""
        known, required = set(cls.__dataclass_fields__), {"prompt"}
        required |= set() if values.get("completion") else {"target", "contrast"}
        unknown, missing = sorted(set(values) - known), sorted(required - set(values))
        if unknown or missing:
            raise InputError(
                f"a case has the fields {sorted(known)}; missing here: {missing}, unknown here: {unknown}"
            )
        _check_types(values)
        segments = {name: _check_spans(name, spans) for name, spans in values.get("segments", {}).items()}
        return cls(**{**values, "segments": segments})


def _check_types(values: Mapping[str, Any]) -> None:
    """Text where text belongs, a whole number for the rank, and names for the segments."""
    for name in ("prompt", "target", "contrast", "suite", "completion"):
        value = values.get(name, "")
        messages = name == "prompt" and isinstance(value, list | tuple)
        if not (messages and all(isinstance(one, Mapping) for one in value)) and not isinstance(value, str):
            raise InputError(
                f"the {name} of a case is text{' or messages' * (name == 'prompt')}, got {value!r}"
            )
    segments, rank = values.get("segments", {}), values.get("answer_rank", 0)
    if not isinstance(segments, Mapping):
        raise InputError(
            f"the segments of a case have names, got {segments!r}: write {{'evidence': [(start, stop)]}}"
        )
    if not isinstance(rank, int):
        raise InputError(f"answer_rank counts from 1 (0 if not known), got {rank!r}")
    if not isinstance(values.get("position"), int | str | None):
        raise InputError(f"the position of a case is a token's index or text, got {values['position']!r}")


def _check_spans(name: str, spans: Any) -> tuple[Span, ...]:
    """The spans as tuples, in order and without overlap."""
    checked, end = [], 0
    if isinstance(spans, str) or not isinstance(spans, Iterable):
        raise InputError(
            f"segment {name!r} needs (start, stop) token positions, got {spans!r}: write {{{name!r}: [(start, stop)]}}"
        )
    for span in spans:
        try:
            start, stop = (int(edge) for edge in span)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"segment {name!r} needs (start, stop) token positions, got {span!r}: write"
                f" {{{name!r}: [(start, stop)]}}"
            ) from error
        if not end <= start < stop:
            raise InputError(
                f"the spans of segment {name!r} must be non-empty, in order and without overlap, got"
                f" {tuple(span)} after position {end}"
            )
        checked.append((start, stop))
        end = stop
    return tuple(checked)
