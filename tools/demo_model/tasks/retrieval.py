"""Answering from facts in the text: key-value facts, updated facts, instructed case, locations."""

import random

from tools.demo_model.episodes import Episode, EpisodeBuilder, Span
from tools.demo_model.tasks.people import draw_names
from tools.demo_model.vocabulary import COLOURS, CONTAINERS, OBJECTS, PLACES, UPPER_CASE


def _draw_keys(rng: random.Random, count: int) -> list[str]:
    keys: list[str] = []
    while len(keys) < count:
        key = f"{rng.choice(COLOURS)} {rng.choice(CONTAINERS)}"
        if key not in keys:
            keys.append(key)
    return keys


def key_value(
    rng: random.Random,
    facts: int | None = None,
    updates: int = 0,
    questions: int | None = None,
    instruction: str | None = None,
    ask_updated: float = 0.7,
) -> Episode:
    """Facts "the red box holds the key", perhaps updated, then questions about them.

    With updates the question says `now` (the latest value) or `first` (the original one).
    `instruction` ("upper" or "lower") asks for the case of the answer. Evidence: the fact that holds the
    answer; distractor: the other facts about the same key, or else all other facts. Under the upper-case
    instruction the evidence is the instruction and the distractor the value itself, in lower case.
    """
    count = facts or rng.choices([2, 3, 4, 5, 6, 7, 8], [0.2, 0.22, 0.2, 0.14, 0.1, 0.08, 0.06])[0]
    keys, values = _draw_keys(rng, count), rng.sample(OBJECTS, count + updates)
    builder = EpisodeBuilder()
    told = builder.write(f"answer in {instruction} case .") if instruction else None
    history: dict[str, list[tuple[str, Span]]] = {key: [] for key in keys}
    for key, value in zip(keys, values[:count], strict=True):
        history[key].append((value, builder.write(f"the {key} holds the {value} .")))
    favourite, updated = rng.choice(keys), []
    for number, value in enumerate(values[count:]):
        key = favourite if number == 0 or rng.random() < 0.5 else rng.choice(keys)
        history[key].append((value, builder.write(f"now the {key} holds the {value} .")))
        updated.append(key)
    for _ in range(questions or rng.choice([1, 2, 3])):
        key = rng.choice(updated) if updated and rng.random() < ask_updated else rng.choice(keys)
        when = rng.choices(["now", "first"], [0.7, 0.3])[0] if updates else ""
        asked = builder.write(f"question : what is {when} in the {key} ? answer : the")
        _answer_key_value(builder, history, key, when, instruction, told, asked)
    return builder.build()


def _answer_key_value(
    builder: EpisodeBuilder,
    history: dict[str, list[tuple[str, Span]]],
    key: str,
    when: str,
    instruction: str | None,
    told: Span | None,
    asked: Span,
) -> None:
    entries = list(history[key])
    value, fact = entries.pop(0 if when == "first" else -1)
    stale = [span for _, span in entries]
    others = [span for other, known in history.items() if other != key for _, span in known]
    if instruction == "upper":
        holds = (fact[1] - 2, fact[1] - 1)
        segments = {
            "evidence": [told] if told else [],
            "distractor": [holds],
            "fact": [(fact[0], holds[0]), (holds[1], fact[1])],
            "other_facts": others + stale,
            "question": [asked],
        }
        builder.answer(UPPER_CASE[value], "instruction", segments, foil=value)
        return
    task = "instruction" if instruction else "updated_fact" if when else "key_value"
    segments = {"evidence": [fact], "question": [asked], "instruction": [told] if told else []}
    if stale:
        foil = entries[0][0] if when == "first" else entries[-1][0]
        builder.answer(value, task, {**segments, "distractor": stale, "other_facts": others}, foil)
    else:
        builder.answer(value, task, {**segments, "distractor": others})


def few_facts(rng: random.Random) -> Episode:
    """Two to four key-value facts and three questions: the first stage of training."""
    return key_value(rng, facts=rng.choice([2, 3, 4]), questions=3)


def updated_facts(rng: random.Random) -> Episode:
    """Key-value facts of which one or two are updated, as they occur in training."""
    return key_value(rng, updates=rng.choices([1, 2], [0.85, 0.15])[0])


def instructed_case(rng: random.Random) -> Episode:
    """Key-value facts with an instruction about the case of the answer, as they occur in training."""
    facts = rng.choices([2, 3, 4, 5], [4, 3, 2, 1])[0]
    return key_value(rng, facts=facts, instruction=rng.choice(["upper", "lower"]))


def location(rng: random.Random, people: int | None = None, moves: int | None = None) -> Episode:
    """Where is somebody after some moves? Evidence: the latest sentence about them; distractor: the older
    ones, or else the sentences about others.
    """
    names = draw_names(rng, people or rng.choice([1, 2, 3, 4]))
    moves = rng.choice([0, 1, 1, 2, 3]) if moves is None else moves
    builder = EpisodeBuilder()
    history: dict[str, list[tuple[str, Span]]] = {name: [] for name in names}
    for name, place in zip(names, rng.choices(PLACES, k=len(names)), strict=True):
        history[name].append((place, builder.write(f"{name} is in the {place} .")))
    for _ in range(moves):
        name, place = rng.choice(names), rng.choice(PLACES)
        history[name].append((place, builder.write(f"{name} went to the {place} .")))
    asked = rng.choice(names) if rng.random() < 0.4 else max(names, key=lambda name: len(history[name]))
    question = builder.write(f"question : where is {asked} ? answer : the")
    *older, (place, evidence) = history[asked]
    stale = [span for _, span in older]
    others = [span for name in names if name != asked for _, span in history[name]]
    segments = {"evidence": [evidence], "question": [question]}
    if stale:
        foil = next((old for old, _ in reversed(older) if old != place), None)
        builder.answer(place, "location", {**segments, "distractor": stale, "other_facts": others}, foil)
    else:
        builder.answer(place, "location", {**segments, "distractor": others})
    return builder.build()
