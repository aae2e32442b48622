"""The evaluation suites: where the model is at home, and where it really fails.

A training suite draws from the training distribution (held-out prompts); a hard suite goes beyond it, or to
its rare end: unseen sentence templates, more facts, more updates, longer sequences, more attractors.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from lrp_lens.demo import tasks
from lrp_lens.demo.corpus import Generator, is_held_out
from lrp_lens.demo.episodes import Episode, Segments
from lrp_lens.demo.tasks.people import COMMON_TEMPLATES, EVERY_NAME_TWICE

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


TRAINING_SUITES = (
    Suite("indirect_object", "who is given the thing, two people", _common_template, True),
    Suite("key_value", "2 to 8 facts, then a question", partial(tasks.key_value, questions=1), True),
    Suite(
        "updated_fact",
        "facts, 1 update, asked now or first",
        partial(tasks.key_value, updates=1, questions=1),
        True,
    ),
    Suite(
        "upper_case",
        "answer in upper case, 3 facts",
        partial(tasks.key_value, facts=3, instruction="upper", questions=1),
        True,
    ),
    Suite(
        "lower_case",
        "answer in lower case, 3 facts",
        partial(tasks.key_value, facts=3, instruction="lower", questions=1),
        True,
    ),
    Suite("location", "where is somebody, up to 3 moves", tasks.location, True),
    Suite("repetition", "repeat 3 to 10 words", tasks.repeat_words, True),
    Suite("word_list", "list words with commas or and", tasks.list_words, True),
    Suite("induction", "the second half of a repeated sequence", tasks.long_induction, True),
    Suite("agreement", "0 to 3 attractors", tasks.agreement, True),
    Suite("capital_fact", "memorised capitals", tasks.capital_fact, True),
    Suite("capital_override", "a story contradicts a memorised capital", tasks.capital_override, True),
)

HARD_SUITES = (
    Suite(
        "ioi_second_pair_first",
        "another pair of people is named first",
        partial(tasks.indirect_object, template=SECOND_PAIR_FIRST),
        False,
    ),
    Suite(
        "ioi_second_pair_last",
        "another pair of people is named last",
        partial(tasks.indirect_object, template=SECOND_PAIR_LAST),
        False,
    ),
    Suite(
        "ioi_every_name_twice",
        "both people are named twice",
        partial(tasks.indirect_object, template=EVERY_NAME_TWICE, bystanders=0),
        False,
    ),
    Suite(
        "ioi_two_events",
        "the thing is given, another is given back",
        partial(tasks.indirect_object, template=TWO_EVENTS),
        False,
    ),
    Suite(
        "upper_case_eight_facts",
        "answer in upper case, 8 facts",
        partial(tasks.key_value, facts=8, instruction="upper", questions=1),
        False,
    ),
    Suite(
        "override_four_facts",
        "override, then 4 true facts about other countries",
        partial(tasks.capital_override, other_facts=4),
        False,
    ),
    Suite(
        "location_five_moves",
        "where is somebody, 4 people, 5 moves",
        partial(tasks.location, people=4, moves=5),
        False,
    ),
    Suite(
        "induction_28_words",
        "a sequence of 28 words is repeated",
        partial(tasks.induction, length=28, from_start=0.4),
        False,
    ),
    Suite(
        "key_value_ten_facts",
        "10 facts, then a question",
        partial(tasks.key_value, facts=10, questions=1),
        False,
    ),
    Suite(
        "facts_updated_four_times",
        "4 facts, 4 updates, asked now or first",
        partial(tasks.key_value, facts=4, updates=4, questions=1, ask_updated=1.0),
        False,
    ),
    Suite(
        "agreement_five_attractors",
        "5 attractors of the other number",
        partial(tasks.agreement, attractors=5, conflicting=True),
        False,
    ),
)

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
