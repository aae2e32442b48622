"""Memorised facts (country and capital) and stories that contradict them."""

import random

from tools.demo_model.episodes import Episode, EpisodeBuilder, Span
from tools.demo_model.vocabulary import CAPITALS, CITIES, COUNTRIES

_COUNTRY_WEIGHTS = [1 / (rank + 3) for rank in range(len(COUNTRIES))]


def draw_country(rng: random.Random) -> str:
    """A country, the first of the list being the most frequent."""
    return rng.choices(COUNTRIES, _COUNTRY_WEIGHTS)[0]


def _ask_capital(rng: random.Random, builder: EpisodeBuilder, country: str) -> Span:
    if rng.random() < 0.5:
        return builder.write(f"question : what is the capital of {country} ? answer :")
    return builder.write(f"the capital of {country} is")


def capital_fact(rng: random.Random) -> Episode:
    """A memorised fact. Evidence: the country in the question."""
    country, builder = draw_country(rng), EpisodeBuilder()
    _ask_capital(rng, builder, country)
    builder.answer(CAPITALS[country], "capital_fact", {"evidence": builder.mentions([country])})
    return builder.build()


def capital_override(rng: random.Random, other_facts: int | None = None) -> Episode:
    """A story that contradicts a memorised fact, then perhaps true facts about other countries.

    Evidence: the story's sentence. Distractor: the true facts. `memory_cue`: the country in the question,
    which brings up the memorised capital (the foil).
    """
    if other_facts is None:
        other_facts = rng.choices([0, 1, 2, 3], [0.5, 0.25, 0.2, 0.05])[0]
    country, builder = draw_country(rng), EpisodeBuilder()
    invented = rng.choice([city for city in CITIES if city != CAPITALS[country]])
    story = builder.write(f"in this story the capital of {country} is {invented} .")
    facts = []
    for other in (draw_country(rng) for _ in range(other_facts)):
        if other != country:
            facts.append(builder.write(f"the capital of {other} is {CAPITALS[other]} ."))
    start, stop = _ask_capital(rng, builder, country)
    cue = builder.mentions([country])[-1]
    segments = {
        "evidence": [story],
        "distractor": facts,
        "memory_cue": [cue],
        "question": [(start, cue[0]), (cue[1], stop)],
    }
    builder.answer(invented, "capital_override", segments, foil=CAPITALS[country])
    return builder.build()
