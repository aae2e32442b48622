"""The evaluation suites: where the model is at home, and where it really fails.

A training suite draws from the training distribution (held-out prompts); a hard suite goes beyond it, or to
its rare end: unseen sentence templates, more facts, more updates, longer sequences, more attractors.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tools.demo_model import tasks
from tools.demo_model.corpus import Generator, is_held_out
from tools.demo_model.episodes import Episode, Segments
from tools.demo_model.tasks.people import COMMON_TEMPLATES

SECOND_PAIR_FIRST = (
    "{C} and {D} went to the {other_place} . {X} and {Y} went to the {place} . {subject} gave the {thing} to"
)
SECOND_PAIR_LAST = (
    "{X} and {Y} went to the {place} . {C} and {D} went to the {other_place} . {subject} gave the {thing} to"
)
TWO_EVENTS = (
    "{X} and {Y} went to the {place} . {recipient} gave the {thing} to {subject} . after that {subject} gave"
    " the {other_thing} to"
)


@dataclass(frozen=True)
class Suite:
    """A named source of prompts."""

    name: str
    """Name, as in `Case.suite`."""
    description: str
    """What the prompts ask, in a few words."""
    generator: Generator
    """Draws an episode."""
    in_training: bool
    """Whether episodes of this kind are common in training."""


@dataclass(frozen=True)
class Prompt:
    """A held-out prompt and what the corpus knows about it."""

    words: tuple[str, ...]
    """The words before the answer, `<bos>` not included."""
    answer: str
    """The right next word."""
    foil: str | None
    """The tempting wrong answer, if the task has one."""
    segments: Segments
    """Spans in `words`, see `Answer.segments`."""

    @property
    def text(self) -> str:
        """The words, separated by spaces."""
        return " ".join(self.words)


def _common_template(rng: random.Random) -> Episode:
    return tasks.indirect_object(rng, template=rng.choice(COMMON_TEMPLATES), bystanders=0)


def _common(name: str, description: str, generator: Callable[..., Episode], **fixed: Any) -> Suite:
    return Suite(name, description, partial(generator, **fixed), True)


def _hard(name: str, description: str, generator: Callable[..., Episode], **fixed: Any) -> Suite:
    return Suite(name, description, partial(generator, **fixed), False)


_KEY_VALUE = partial(tasks.key_value, questions=1)
_IOI = tasks.indirect_object

TRAINING_SUITES = (
    _common("indirect_object", "who is given the thing, two people", _common_template),
    _common("key_value", "2 to 8 facts, then a question", _KEY_VALUE),
    _common("updated_fact", "facts, 1 update, asked now or first", _KEY_VALUE, updates=1),
    _common("upper_case", "answer in upper case, 3 facts", _KEY_VALUE, facts=3, instruction="upper"),
    _common("lower_case", "answer in lower case, 3 facts", _KEY_VALUE, facts=3, instruction="lower"),
    _common("location", "where is somebody, up to 3 moves", tasks.location),
    _common("repetition", "repeat 3 to 10 words", tasks.repeat_words),
    _common("word_list", "list words with commas or and", tasks.list_words),
    _common("induction", "a sequence of 4 to 20 words is repeated", tasks.long_induction),
    _common("agreement", "0 to 3 attractors", tasks.agreement),
    _common("capital_fact", "memorised capitals", tasks.capital_fact),
    _common("capital_override", "a story contradicts a memorised capital", tasks.capital_override),
)
"""Suites like the training corpus."""

HARD_SUITES = (
    _hard("ioi_second_pair_first", "another pair is named first", _IOI, template=SECOND_PAIR_FIRST),
    _hard("ioi_second_pair_last", "another pair is named last", _IOI, template=SECOND_PAIR_LAST),
    _hard("ioi_two_events", "one thing is given, another given back", _IOI, template=TWO_EVENTS),
    _hard("upper_case_six_facts", "upper case, 6 facts", _KEY_VALUE, facts=6, instruction="upper"),
    _hard(
        "upper_case_updated_fact",
        "upper case, 3 facts, 1 update",
        _KEY_VALUE,
        facts=3,
        updates=1,
        instruction="upper",
        ask_updated=1.0,
    ),
    _hard("override_four_facts", "override, then 4 true facts", tasks.capital_override, other_facts=4),
    _hard("location_five_moves", "4 people, 5 moves", tasks.location, people=4, moves=5),
    _hard("induction_28_words", "28 words are repeated", tasks.induction, length=28, from_start=0.4),
    _hard("key_value_ten_facts", "10 facts, then a question", _KEY_VALUE, facts=10),
    _hard(
        "facts_updated_four_times",
        "4 facts, 4 updates, asked now or first",
        _KEY_VALUE,
        facts=4,
        updates=4,
        ask_updated=1.0,
    ),
    _hard(
        "agreement_fourteen_attractors",
        "14 attractors of the other number",
        tasks.agreement,
        attractors=14,
        conflicting=True,
    ),
)
"""Suites beyond the training corpus, or at its rare end."""

SUITES = {suite.name: suite for suite in TRAINING_SUITES + HARD_SUITES}
"""Every suite by name."""


def held_out_prompts(suite: Suite, count: int, seed: int = 0) -> Iterator[Prompt]:
    """`count` different prompts of `suite`, none of which begins a training episode (capital facts excepted).

    Capital facts repeat: there are only eighty of them. Same `suite`, `count` and `seed`, same prompts.
    """
    rng = random.Random(f"{suite.name}/{seed}")
    seen: set[tuple[str, ...]] = set()
    while count > 0:
        episode = suite.generator(rng)
        answer = rng.choice(episode.answers)
        memorised = answer.task == "capital_fact"
        words = episode.prompt(answer)
        if memorised or (is_held_out(episode) and words not in seen):
            seen.add(words)
            count -= 1
            yield Prompt(words, episode.answer_word(answer), answer.foil, answer.segments)
