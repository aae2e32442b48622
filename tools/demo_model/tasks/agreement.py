"""Subject-verb agreement with attractors."""

import random

from tools.demo_model.episodes import Episode, EpisodeBuilder, Span
from tools.demo_model.vocabulary import OBJECTS, PEOPLE, PLURALS

VERBS = {"today": ("is", "are"), "yesterday": ("was", "were"), "always": ("has", "have")}
PREPOSITIONS = ("near", "behind", "under", "above", "beside", "with")


def _noun(rng: random.Random, plural: bool) -> str:
    noun = rng.choice(OBJECTS if rng.random() < 0.7 else PEOPLE)
    return PLURALS[noun] if plural else noun


def agreement(rng: random.Random, attractors: int | None = None, conflicting: bool = False) -> Episode:
    """Subject, attractors, adverb, verb: the verb agrees with the subject. Evidence: the subject;
    distractor: the attractors of the other number (all of them where `conflicting`).
    """
    if attractors is None:
        attractors = rng.choices([0, 1, 2, 3], [0.35, 0.4, 0.2, 0.05])[0]
    builder = EpisodeBuilder()
    plural = rng.random() < 0.5
    subject = builder.write(f"the {_noun(rng, plural)}")
    misleading: list[Span] = []
    harmless: list[Span] = []
    for _ in range(attractors):
        number = (not plural) if conflicting else rng.random() < 0.5
        if rng.random() < 0.75:
            span = builder.write(f"{rng.choice(PREPOSITIONS)} the {_noun(rng, number)}")
        else:
            person = rng.choice(PEOPLE)
            span = builder.write(f"that the {PLURALS[person]} like" if number else f"that the {person} likes")
        (misleading if number != plural else harmless).append(span)
    adverb = rng.choice(list(VERBS))
    builder.write(adverb)
    singular_verb, plural_verb = VERBS[adverb]
    verb, foil = (plural_verb, singular_verb) if plural else (singular_verb, plural_verb)
    segments = {"evidence": [subject], "distractor": misleading, "other_nouns": harmless}
    builder.answer(verb, "agreement", segments, foil, full_stop=False)
    builder.write(f"{rng.choice(['near', 'with'])} the {_noun(rng, rng.random() < 0.5)} .")
    return builder.build()
