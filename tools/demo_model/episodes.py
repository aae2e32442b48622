"""What the corpus is made of: an episode is a short text that knows its questions and their evidence."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Span = tuple[int, int]
"""Token positions [start, stop) in an episode's words."""

Segments = Mapping[str, tuple[Span, ...]]
"""Segment name to its spans, in order of position. Segments of one answer never overlap."""


@dataclass(frozen=True)
class Answer:
    """One word of an episode that follows from the words before it."""

    position: int
    """Index of the answer in the episode's words; the prompt is everything before it."""
    task: str
    """Name of the task, under which training weighs it and the evaluation counts it."""
    foil: str | None
    """The wrong answer that the task makes tempting, if there is one."""
    segments: Segments
    """Spans before the answer: `evidence` is what a right answer has to be read from, `distractor` what
    pulls towards a wrong one; other names (`question`, `instruction`, ...) as the task has them."""


@dataclass(frozen=True)
class Episode:
    """A text with at least one answer. It does not include `<bos>`."""

    words: tuple[str, ...]
    """The words, each one token."""
    answers: tuple[Answer, ...]
    """The answers, in order of position."""

    def prompt(self, answer: Answer) -> tuple[str, ...]:
        """The words before `answer`."""
        return self.words[: answer.position]

    def answer_word(self, answer: Answer) -> str:
        """The right answer."""
        return self.words[answer.position]


@dataclass
class EpisodeBuilder:
    """Appends text and remembers where it went.

    >>> builder = EpisodeBuilder()
    >>> fact = builder.write("the red box holds the key .")
    >>> question = builder.write("question : what is in the red box ? answer : the")
    >>> builder.answer("key", "key_value", {"evidence": [fact], "question": [question]})
    >>> episode = builder.build()
    >>> episode.answer_word(episode.answers[0]), episode.answers[0].segments["evidence"]
    ('key', ((0, 7),))
    """

    words: list[str] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    def write(self, text: str) -> Span:
        """Append the words of `text`; returns their span."""
        start = len(self.words)
        self.words += text.split()
        return start, len(self.words)

    def answer(
        self,
        word: str,
        task: str,
        segments: Mapping[str, Iterable[Span]],
        foil: str | None = None,
        full_stop: bool = True,
    ) -> None:
        """Append an answer word, by default with the full stop that closes the sentence.

        Segments without spans are left out, and spans are put in order.
        """
        ordered = {name: tuple(sorted(spans)) for name, spans in segments.items()}
        present = {name: spans for name, spans in ordered.items() if spans}
        self.answers.append(Answer(len(self.words), task, foil, present))
        self.write(f"{word} ." if full_stop else word)

    def mentions(self, words: Iterable[str]) -> list[Span]:
        """One span for each place where one of `words` has been written."""
        wanted = set(words)
        return [(index, index + 1) for index, word in enumerate(self.words) if word in wanted]

    def build(self) -> Episode:
        """The finished episode."""
        return Episode(tuple(self.words), tuple(self.answers))
