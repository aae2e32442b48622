"""The training corpus: documents of one to four episodes, drawn from a mixture of tasks.

A tenth of all episodes, chosen by a checksum of their words, is held out: no training document contains
one, and the evaluation uses nothing else. Capital facts are exempt, because what they measure is the recall
of facts that were trained on.
"""

import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass

from tools.demo_model import tasks
from tools.demo_model.episodes import Episode
from tools.demo_model.vocabulary import BOS, TOKEN_IDS

Generator = Callable[[random.Random], Episode]
Mixture = tuple[tuple[Generator, float], ...]

DOCUMENT_LENGTH = 112
"""Most tokens in a training document, `<bos>` included."""

MEMORISED_TASKS = frozenset({"capital_fact"})
"""Tasks without held-out prompts."""


FIRST_MIXTURE: Mixture = (
    (tasks.indirect_object, 0.18),
    (tasks.few_facts, 0.26),
    (tasks.updated_facts, 0.07),
    (tasks.instructed_case, 0.08),
    (tasks.location, 0.10),
    (tasks.induction, 0.12),
    (tasks.repeat_words, 0.03),
    (tasks.list_words, 0.03),
    (tasks.agreement, 0.04),
    (tasks.capital_fact, 0.06),
    (tasks.capital_override, 0.03),
)
"""The first stage of training: few facts with many questions and short induction, which the circuits for
retrieval and induction form on; among more facts from the start, retrieval stayed at chance."""

SECOND_MIXTURE: Mixture = (
    (tasks.indirect_object, 0.20),
    (tasks.key_value, 0.22),
    (tasks.updated_facts, 0.11),
    (tasks.instructed_case, 0.09),
    (tasks.location, 0.08),
    (tasks.long_induction, 0.10),
    (tasks.repeat_words, 0.03),
    (tasks.list_words, 0.03),
    (tasks.agreement, 0.05),
    (tasks.capital_fact, 0.05),
    (tasks.capital_override, 0.04),
)
"""The second stage: up to eight facts, and induction over up to twenty words that restarts anywhere."""


@dataclass(frozen=True)
class Document:
    """A training document."""

    token_ids: tuple[int, ...]
    """Token ids, `<bos>` first."""
    answers: tuple[tuple[int, str], ...]
    """(position in `token_ids`, task) of each answer."""


def is_held_out(episode: Episode) -> bool:
    """Whether the episode belongs to the evaluation and must not be trained on.

    Decided by the words before its first answer, which every later prompt of the episode begins with: no
    prompt of a held-out episode can begin a training episode.
    """
    first = episode.answers[0]
    if first.task in MEMORISED_TASKS:
        return False
    return zlib.crc32(" ".join(episode.prompt(first)).encode()) % 10 == 0


def draw_document(rng: random.Random, mixture: Mixture, length: int = DOCUMENT_LENGTH) -> Document:
    """One training document of one to four episodes, none of them held out, at most `length` tokens."""
    generators, weights = zip(*mixture, strict=True)
    token_ids = [TOKEN_IDS[BOS]]
    answers: list[tuple[int, str]] = []
    for _ in range(rng.choices([1, 2, 3, 4], [0.35, 0.3, 0.2, 0.15])[0]):
        for _ in range(4):
            episode = rng.choices(generators, weights)[0](rng)
            fits = len(token_ids) + len(episode.words) <= length
            if fits and not is_held_out(episode):
                answers += [(len(token_ids) + answer.position, answer.task) for answer in episode.answers]
                token_ids += [TOKEN_IDS[word] for word in episode.words]
                break
    return Document(tuple(token_ids), tuple(answers))
