"""Case: one prompt whose answer is to be explained, usually one that the model gets wrong."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lrp_lens.cases.checks import Span, check_choices, check_spans, check_types
from lrp_lens.cases.passages import Passage, TextSpan, as_passages
from lrp_lens.errors import InputError

_NOT_MEASURED = math.nan  # one object: a NaN is equal to itself in tuples only if it is the same one


@dataclass(frozen=True, kw_only=True)
class Case:
    """A prompt with the token the model says, the token to compare it with, and named segments.

    The decision may be one of a completion: `completion` with `position`; what the model says is then the completion's
    token there, unless `target` names another.  A case without target and contrast, and without a position, is
    undecided, as most from logs are: `completion`, `accepted` and `choices` are what a decision can be found from.

    Raises:
        InputError: If the prompt is empty or no messages, the two tokens are the same or only one of them is given
            without a completion, a completion comes with the two tokens but without position, or a position without a
            completion, a span is empty, negative, out of order or overlapping another span of its segment, a passage
            is none, or the choices are fewer than two or do not have the one that is named.

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
        >>> case.answer, case.segments["distractor"], case.decided
        ('mary', ((4, 5), (8, 9)), True)
        >>> Case.from_dict(case.to_dict()) == case
        True
        >>> Case(prompt="What is 2 + 2?", completion="It is 5.", accepted=("4",)).decided
        False
    """

    prompt: str | Sequence[Mapping[str, str]]
    """The text, without the token that begins every text; or messages, [{"role": ..., "content": ...}, ...]."""
    id: str = ""
    """A name that no other case of a log has."""
    target: str = ""
    """What the model says: the wrong token in a failure, the right one in a correct case; of an answer of several
    tokens the one that differs counts.  May be left out with a completion."""
    contrast: str = ""
    """What to compare it with: the right token in a failure, the strongest wrong one in a correct case; left out with a
    completion, the model's best other choice."""
    completion: str = ""
    """What the model said behind the prompt."""
    position: int | str | None = None
    """Which of the completion's tokens is the decision: its index, or a piece of its text."""
    accepted: tuple[str, ...] = ()
    """Answers that are right."""
    choices: tuple[str, ...] = ()
    """The options of a multiple choice, each as it stands behind the prompt, leading space included."""
    chosen: int | None = None
    """Index of the model's choice."""
    right: int | None = None
    """Index of the right choice."""
    suite: str = ""
    """The kind of task the prompt belongs to."""
    correct: bool | None = False
    """Whether the model is right; None if nobody has judged."""
    segments: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)
    """Segment name to token spans [start, stop), in order; position 0 is the token that begins the text.  For messages,
    `message_segments` says where each stands.
    `evidence` is what a right answer has to be read from, `distractor` what pulls towards a wrong one."""
    passages: Mapping[str, tuple[Passage, ...]] = field(default_factory=dict)
    """Segment name to where it stands in the text: what `segments` are before there are tokens.  `case_segments` makes
    token spans of them."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What else its log says: plain dictionaries, lists, strings and numbers."""
    logit_gap: float = _NOT_MEASURED
    """Logit of `target` minus logit of `contrast` at the decision; NaN if not measured."""
    answer_rank: int = 0
    """Rank of the right token among all, 1 being the top; 0 if not known."""

    def __post_init__(self) -> None:
        check_types(vars(self))
        if not self.prompt:
            raise InputError(f"a case needs a prompt that is not empty, got {self.prompt!r}")
        both, one_of = self.target and self.contrast, self.target or self.contrast
        if (self.position is not None and not self.completion) or (
            self.completion and one_of and self.position is None
        ):
            raise InputError(
                "a case is about one token of a completion, so completion and position come together, got"
                f" completion={self.completion!r} and position={self.position!r}"
            )
        if self.target == self.contrast != "" or (one_of and not (both or self.completion)):
            raise InputError(
                "a case compares two different tokens, got"
                f" target={self.target!r} and contrast={self.contrast!r}"
            )
        if self.answer_rank < 0:
            raise InputError(f"answer_rank counts from 1 (0 if not known), got {self.answer_rank}")
        check_choices(tuple(self.choices), self.chosen, self.right)
        checked: dict[str, Any] = {
            "segments": {name: check_spans(name, spans) for name, spans in self.segments.items()},
            "passages": as_passages(self.passages),
            "accepted": tuple(self.accepted),
            "choices": tuple(self.choices),
        }
        if math.isnan(self.logit_gap):
            checked["logit_gap"] = _NOT_MEASURED
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    @property
    def decided(self) -> bool:
        """Whether it says what is compared, and where."""
        return bool(self.target and self.contrast) or self.position is not None

    @property
    def answer(self) -> str:
        """The right token, "" if it was left to the completion."""
        return self.target if self.correct else self.contrast

    def text_spans(self) -> dict[str, tuple[TextSpan, ...]]:
        """Where the passages stand, counted in characters; empty for one that a regular expression does not find.

        Raises:
            InputError: a message that is not there, or characters beyond the text.
        """
        return {
            name: tuple(sorted({span for one in passages for span in one.find(self.prompt)}))
            for name, passages in self.passages.items()
        }

    def __hash__(self) -> int:  # dictionaries cannot be hashed
        return hash((str(self.prompt), self.id, self.target, self.contrast, self.suite, self.completion))

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists, strings and numbers, for JSON."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        prompt = self.prompt if isinstance(self.prompt, str) else [dict(message) for message in self.prompt]
        return values | {
            "prompt": prompt,
            "segments": {name: [list(span) for span in spans] for name, spans in self.segments.items()},
            "passages": {name: [one.to_dict() for one in found] for name, found in self.passages.items()},
            "accepted": list(self.accepted),
            "choices": list(self.choices),
            "metadata": dict(self.metadata),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Case":
        """The case that `to_dict` was called on; InputError for missing or unknown fields."""
        known, required = set(cls.__dataclass_fields__), {"prompt"}
        if not values.get("completion") and (values.get("target") or values.get("contrast")):
            required |= {"target", "contrast"}
        unknown, missing = sorted(set(values) - known), sorted(required - set(values))
        if unknown or missing:
            raise InputError(
                f"a case has the fields {sorted(known)}; missing here: {missing}, unknown here: {unknown}"
            )
        check_types(values)
        made = {
            "segments": {
                name: check_spans(name, spans) for name, spans in values.get("segments", {}).items()
            },
            "passages": as_passages(values.get("passages", {})),
            "accepted": tuple(values.get("accepted", ())),
            "choices": tuple(values.get("choices", ())),
        }
        return cls(**{**values, **made})
