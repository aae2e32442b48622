"""Indirect-object identification: who is given the thing?"""

import random

from tools.demo_model.episodes import Episode, EpisodeBuilder
from tools.demo_model.vocabulary import NAMES, OBJECTS, PLACES

_NAME_WEIGHTS = [1 / (rank + 6) for rank in range(len(NAMES))]

COMMON_TEMPLATES = (
    "then {X} and {Y} went to the {place} . {bystanders} {subject} gave the {thing} to",
    "when {X} and {Y} were at the {place} , {bystanders} {subject} handed the {thing} to",
    "{X} and {Y} had a long talk at the {place} . {bystanders} after that {subject} sent the {thing} to",
    "while {X} and {Y} were working at the {place} , {bystanders} {subject} passed the {thing} to",
    "friends {X} and {Y} found the {thing} at the {place} . {bystanders} {subject} showed the {thing} to",
    "after {X} and {Y} left the {place} , {bystanders} {subject} offered the {thing} to",
    "this morning {X} met {Y} at the {place} . {bystanders} later {subject} brought the {thing} to",
    "{X} and {Y} decided to visit the {place} . {bystanders} there {subject} lent the {thing} to",
)
RARE_TEMPLATES = (
    "the {thing} was with {X} , who came with {Y} to the {place} . {bystanders} {subject} said nothing and"
    " threw the {thing} to",
    "at the {place} , {X} was waiting for {Y} . {bystanders} then the {thing} was given to {subject} by",
    "{X} and {Y} went to the {place} . {bystanders} {recipient} wanted the {thing} , so {subject} gave the"
    " {thing} to",
)
BYSTANDER_SENTENCES = (
    "{bystander} stayed at home .",
    "{bystander} saw {subject} .",
    "{bystander} was not there .",
    "{bystander} likes {recipient} .",
)


def draw_names(rng: random.Random, count: int) -> list[str]:
    """`count` different names, the first of the list being the most frequent."""
    names: list[str] = []
    while len(names) < count:
        name = rng.choices(NAMES, _NAME_WEIGHTS)[0]
        if name not in names:
            names.append(name)
    return names


def indirect_object(
    rng: random.Random, template: str | None = None, bystanders: int | None = None
) -> Episode:
    """Two people, one of whom gives something: the answer is the other one.

    A template may name a second pair ({C}, {D}), a second thing and a second place. Evidence: every mention
    of the recipient. Distractor: every mention of anybody else.
    """
    recipient, subject, third, fourth, fifth = draw_names(rng, 5)
    if template is None:
        template = rng.choice(RARE_TEMPLATES if rng.random() < 0.06 else COMMON_TEMPLATES)
    if bystanders is None:
        bystanders = rng.choices([0, 1, 2, 3], [0.7, 0.2, 0.07, 0.03])[0]
    people = {"recipient": recipient, "subject": subject}
    sentences = [
        rng.choice(BYSTANDER_SENTENCES).format(bystander=name, **people)
        for name in (third, fourth, fifth)[:bystanders]
    ]
    first, second = rng.sample([recipient, subject], 2)
    thing, other_thing = rng.sample(OBJECTS, 2)
    place, other_place = rng.sample(PLACES, 2)
    builder = EpisodeBuilder()
    text = template.format(
        X=first,
        Y=second,
        C=third,
        D=fourth,
        place=place,
        thing=thing,
        other_place=other_place,
        other_thing=other_thing,
        bystanders=" ".join(sentences),
        **people,
    )
    builder.write(text)
    others = [subject, third, fourth, fifth]
    segments = {"evidence": builder.mentions([recipient]), "distractor": builder.mentions(others)}
    builder.answer(recipient, "indirect_object", segments, foil=subject)
    return builder.build()
