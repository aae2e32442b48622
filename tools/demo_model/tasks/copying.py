"""Copying: repetition on instruction, induction, lists with a given separator."""

import random
from collections.abc import Sequence

from tools.demo_model.episodes import Episode, EpisodeBuilder, Span
from tools.demo_model.vocabulary import CONTENT_WORDS


def repeat_words(rng: random.Random, length: int | None = None) -> Episode:
    """Copy on instruction: "repeat : a b c ; a b c ."."""
    length = length or rng.choices(range(3, 11), [3, 3, 3, 2, 2, 1, 1, 1])[0]
    words = rng.sample(CONTENT_WORDS, length)
    builder = EpisodeBuilder()
    told = builder.write("repeat :")
    start = builder.write(" ".join(words))[0]
    builder.write(";")
    _copy(builder, words, 0, start, "repeat", [told])
    return builder.build()


def induction(
    rng: random.Random,
    length: int | None = None,
    lengths: Sequence[int] = range(4, 11),
    from_start: float = 1.0,
) -> Episode:
    """Random words, then the same words again, from the first one (with probability `from_start`) or from
    a random one. Evidence: the word now to be repeated and the one before it; distractor: the other words.
    """
    length = length or rng.choices(lengths, [3 if candidate <= 10 else 1 for candidate in lengths])[0]
    words = rng.sample(CONTENT_WORDS, length)
    skip = 0 if rng.random() < from_start else rng.randrange(length - 2)
    builder = EpisodeBuilder()
    builder.write(" ".join(words))
    builder.write(words[skip])
    _copy(builder, words, skip + 1, 0, "induction")
    return builder.build()


def long_induction(rng: random.Random) -> Episode:
    """Induction over up to twenty words that mostly restarts in the middle: the second training stage."""
    return induction(rng, lengths=range(4, 21), from_start=0.4)


def _copy(
    builder: EpisodeBuilder,
    words: Sequence[str],
    skip: int,
    start: int,
    task: str,
    instruction: Sequence[Span] = (),
) -> None:
    """Answer every word from `skip` on; `words` stand in the text from position `start`."""
    stop = start + len(words)
    for index in range(skip, len(words)):
        begin, end = max(start + index - 1, start), start + index + 1
        rest = [span for span in ((start, begin), (end, stop)) if span[0] < span[1]]
        last = index == len(words) - 1
        roles = {"evidence": [(begin, end)], "distractor": rest, "instruction": instruction}
        builder.answer(words[index], task, roles, full_stop=last)


def list_words(rng: random.Random, separator: str | None = None) -> Episode:
    """Copy in a given form: "list the words with commas : a b c ; a , b , c ."."""
    words = rng.sample(CONTENT_WORDS, rng.choice([3, 4, 5]))
    separator = separator or rng.choice([",", "and"])
    other = {",": "and", "and": ","}[separator]
    builder = EpisodeBuilder()
    told = builder.write(f"list the words with {'commas' if separator == ',' else 'and'} :")
    start, stop = builder.write(" ".join(words))
    builder.write(";")
    for index, word in enumerate(words):
        if index:
            roles = {"evidence": [told], "words": [(start, stop)]}
            builder.answer(separator, "list", roles, other, full_stop=False)
        here = (start + index, start + index + 1)
        rest = [span for span in ((start, here[0]), (here[1], stop)) if span[0] < span[1]]
        last = index == len(words) - 1
        roles = {"evidence": [here], "distractor": rest, "instruction": [told]}
        builder.answer(word, "list", roles, full_stop=last)
    return builder.build()
