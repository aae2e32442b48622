"""Prompts with a known right answer, their wrong alternative, and a twin in which the alternative is right.

1. Every task is made of templates of ours, filled from word lists by a seeded generator; nothing is read of a model but
   its tokenizer. The BLiMP paradigms are the exception: they come from the benchmark data, where it is there.
2. A prompt is kept if both answers are one token each, different, and the twin has as many tokens as the prompt, in
   *every* tokenizer asked for: all models meet the same prompts.
3. Of prompts with one text, which differ in the twin or the answers, the first is kept: no text is in both halves.
4. The kept prompts are shuffled by the same seed and cut in half: development and held out. This happens before any
   model is run.

The span of the evidence (what the right answer is read from) and of the distractor (what pulls towards the wrong one)
is known by construction; spans are of characters here and become spans of tokens in `cases`.

Sources: indirect objects, Wang et al. 2023 (2211.00593); greater-than, Hanna et al. 2023 (2305.00586); agreement with
distractors, Linzen et al. 2016 (1611.01368) and BLiMP, Warstadt et al. 2020 (1912.00582); an in-context fact against
memory, Ortu et al. 2024 (2402.11655); induction, Olsson et al. 2022 (2209.11895).
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._blimp import Span, spans
from benchmarks.evidence.words import CAPITALS, HEADS, JOBS, NAMES, NEAR, PLACES, PLAIN_WORDS, THINGS

SEED = 0
"""Of the word lists' order and of the cut into halves."""
ENOUGH = 240
"""Prompts a task: at most so many are kept, so that each half has at least 100."""


@dataclass(frozen=True)
class Prompt:
    """One prompt, its twin, and their answers."""

    task: str
    text: str
    """Without BOS."""
    twin: str
    """The same with one thing changed, so that `wrong` is (more nearly) right; empty where there is none."""
    right: str
    """The right next token."""
    wrong: str
    """Its alternative."""
    evidence: tuple[Span, ...]
    """Characters [start, stop) of `text` that the right answer is read from."""
    distractor: tuple[Span, ...] = ()
    """Characters that pull towards the wrong one."""
    chat: bool = False
    """Whether `text` is a question to go through the chat template, where there is one, and `opening` its answer."""
    opening: str = ""


def indirect_objects(random: np.random.Generator) -> Iterator[Prompt]:
    """Three templates; the twin exchanges who gives."""
    templates = (
        "When {a} and {b} went to the {place}, {s} gave a {thing} to",
        "Then, {a} and {b} had a long talk at the {place}. Afterwards, {s} handed the {thing} to",
        "After {a} and {b} came back from the {place}, {s} decided to give the {thing} to",
    )
    for _ in range(4 * ENOUGH):
        a, b = random.choice(NAMES, 2, replace=False)
        giver, taker = (a, b) if random.random() < 0.5 else (b, a)
        words = {"a": a, "b": b, "place": random.choice(PLACES), "thing": random.choice(THINGS)}
        template = templates[random.integers(len(templates))]
        text, twin = template.format(**words, s=giver), template.format(**words, s=taker)
        yield Prompt(
            "indirect objects", text, twin, f" {taker}", f" {giver}", _every(text, taker), _every(text, giver)
        )


def capitals(random: np.random.Generator) -> Iterator[Prompt]:
    """The twin asks for another country."""
    templates = (
        "The capital of {country} is", "The capital city of {country} is called",
        "People in {country} say that its capital is",
        "Q: What is the capital of {country}?\nA: The capital is", "We flew to {country} and stayed in its capital,",
        "As everybody knows, the capital of {country} is", "The government of {country} sits in the city of",
        "The largest airport of {country} is near its capital,", "Our teacher said that the capital of {country} is",
        "Last year we saw {country} and its capital,", "On the map of {country}, the capital is marked as",
        "The embassy in {country} is in the capital,",
    )  # fmt: skip
    asked = [(template, *pair) for template in templates for pair in permutations(CAPITALS, 2)]
    for index in random.permutation(len(asked)):
        template, country, other = asked[index]
        text, twin = template.format(country=country), template.format(country=other)
        yield Prompt(
            "capitals", text, twin, f" {CAPITALS[country]}", f" {CAPITALS[other]}", _every(text, country)
        )


def agreement(random: np.random.Generator) -> Iterator[Prompt]:
    """A head noun, a noun of the other number before the verb; the twin changes the head's number."""
    templates = (
        "The {head} near the {near}", "The {head} behind the {near}", "The {head} that the {near} liked",
        "I think that the {head} of the {near}",
    )  # fmt: skip
    verbs = ((" is", " are"), (" was", " were"), (" has", " have"))
    for _ in range(4 * ENOUGH):
        head, near = HEADS[random.integers(len(HEADS))], NEAR[random.integers(len(NEAR))]
        template, verb = templates[random.integers(len(templates))], verbs[random.integers(len(verbs))]
        number = int(random.integers(2))
        words = {"near": near[1 - number]}
        text, twin = (template.format(head=head[n], **words) for n in (number, 1 - number))
        yield Prompt(
            "agreement", text, twin, verb[number], verb[1 - number], _first(text, head[number]),
            _first(text, near[1 - number]),
        )  # fmt: skip


def induction(random: np.random.Generator) -> Iterator[Prompt]:
    """A list of words begins again; the twin has another word in the place that is asked for."""
    for _ in range(4 * ENOUGH):
        words = list(random.choice(PLAIN_WORDS, 9, replace=False))
        other, asked = words.pop(), int(random.integers(2, 6))
        first = " ".join(words)
        text = f"{first} {' '.join(words[:asked])}"
        changed = [*words[:asked], other, *words[asked + 1 :]]
        twin = f"{' '.join(changed)} {' '.join(words[:asked])}"
        yield Prompt("induction", text, twin, f" {words[asked]}", f" {other}", _first(text, words[asked]))


def context_against_memory(random: np.random.Generator) -> Iterator[Prompt]:
    """The text says something else than the model knows, and the text counts; in the twin the two agree."""
    templates = (
        "In this story, the capital of {country} is {city}. In this story, the capital of {country} is",
        "Suppose that {city} became the capital of {country}. Then the capital of {country} would be",
        "Newspapers report that {country} moved its capital to {city}. Today, the capital of {country} is",
    )
    pairs = list(permutations(CAPITALS, 2))
    for index in random.permutation(len(pairs)):
        country, other = pairs[index]
        city, known = CAPITALS[other], CAPITALS[country]
        template = templates[random.integers(len(templates))]
        text, twin = template.format(country=country, city=city), template.format(country=country, city=known)
        yield Prompt(
            "context against memory",
            text,
            twin,
            f" {city}",
            f" {known}",
            _first(text, city),
            _every(text, country),
        )


def greater_than(random: np.random.Generator) -> Iterator[Prompt]:
    """A span of years within a century: the next digit is not below the first year's; the twin starts in decade 0."""
    events = (
        "war",
        "trial",
        "siege",
        "journey",
        "conflict",
        "project",
        "dispute",
        "strike",
        "famine",
        "reign",
    )
    for _ in range(4 * ENOUGH):
        century, decade = int(random.integers(11, 19)), int(random.integers(3, 8))
        year = int(random.integers(10))
        higher, lower = int(random.integers(decade + 1, 10)), int(random.integers(1, decade))
        event = random.choice(events)
        text, twin = (
            f"The {event} lasted from the year {century}{tens}{year} to the year {century}"
            for tens in (decade, 0)
        )
        start = text.index(f"{century}{decade}{year}") + 2
        yield Prompt("greater than", text, twin, f"{higher}", f"{lower}", ((start, start + 1),))


def reading(random: np.random.Generator) -> Iterator[Prompt]:
    """Two people, two jobs, one question; the twin exchanges the jobs."""
    templates = (
        "{a} is a {x}. {b} is a {y}. Question: What is the job of {asked}? Answer: {asked} is a",
        "{a} works as a {x}, and {b} works as a {y}. What does {asked} do? {asked} works as a",
        "There were two guests: {a}, a {x}, and {b}, a {y}. By profession, {asked} was a",
    )
    for _ in range(4 * ENOUGH):
        a, b = random.choice(NAMES, 2, replace=False)
        x, y = random.choice(JOBS, 2, replace=False)
        template, first = templates[random.integers(len(templates))], bool(random.random() < 0.5)
        asked, right, wrong = (a, x, y) if first else (b, y, x)
        text = template.format(a=a, b=b, x=x, y=y, asked=asked)
        twin = template.format(a=a, b=b, x=y, y=x, asked=asked)
        yield Prompt(
            "reading", text, twin, f" {right}", f" {wrong}", _first(text, right), _first(text, wrong)
        )


def arithmetic(random: np.random.Generator) -> Iterator[Prompt]:
    """Results of one digit, of numbers below 100, through the chat template; the twin has another second number."""
    for _ in range(40 * ENOUGH):
        plus = bool(random.random() < 0.5)
        a = int(random.integers(1, 9)) if plus else int(random.integers(1, 100))
        results = [int(one) for one in random.choice(10, 2, replace=False)]
        b, c = (result - a if plus else a - result for result in results)
        if min(b, c) < 1 or len(str(b)) != len(str(c)):
            continue
        sign = "+" if plus else "-"
        sums = [f"{a} {sign} {n}" for n in (b, c)]
        text, twin = (f"What is {one}?" for one in sums)
        yield Prompt(
            "arithmetic", text, twin, *map(str, results), _first(text, sums[0]), chat=True, opening=f"{sums[0]} = ",
        )  # fmt: skip


def blimp(paradigm: str, folder: Path) -> Iterator[Prompt]:
    """Minimal pairs of the benchmark; no twin."""
    for line in (folder / f"{paradigm}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        text, right, wrong = (row[f"one_prefix_{name}"] for name in ("prefix", "word_good", "word_bad"))
        yield Prompt(f"BLiMP {paradigm}", text, "", f" {right}", f" {wrong}", *spans(paradigm, text))


TASKS: dict[str, Callable[[np.random.Generator], Iterator[Prompt]]] = {
    "indirect objects": indirect_objects,
    "capitals": capitals,
    "agreement": agreement,
    "induction": induction,
    "context against memory": context_against_memory,
    "greater than": greater_than,
    "reading": reading,
    "arithmetic": arithmetic,
}
"""Name → prompts of a generator of random numbers."""
BLIMP = ("distractor_agreement_relational_noun", "distractor_agreement_relative_clause")


def prompts(task: str, tokenizers: list[Any], data: Path | None = None) -> dict[str, list[Prompt]]:
    """The two halves of a task, "development" and "held out", of prompts that every tokenizer can hold.

    Raises:
        ValueError: fewer than 200 prompts are left, or a BLiMP task without its data.
    """
    random = np.random.default_rng([SEED, *task.encode()])
    if task in TASKS:
        made = TASKS[task](random)
    elif data is None:
        raise ValueError(f"{task!r} needs the benchmark data (--data, a folder with blimp/).")
    else:
        made = blimp(task.removeprefix("BLiMP "), data / "blimp")
    first: dict[str, Prompt] = {}
    for one in made:
        if one.text not in first and all(fits(one, tokenizer) for tokenizer in tokenizers):
            first[one.text] = one
    kept = list(first.values())
    if len(kept) < 200:
        raise ValueError(f"A task needs 200 texts that every tokenizer holds; {task!r} has {len(kept)}.")
    kept = [kept[index] for index in random.permutation(len(kept))[:ENOUGH]]
    return {"development": kept[: len(kept) // 2], "held out": kept[len(kept) // 2 :]}


def whole(prompt: Prompt, tokenizer: Any, twin: bool = False) -> str:
    """The text that the model reads: through its chat template if the prompt asks for it and there is one."""
    text = prompt.twin if twin else prompt.text
    if not prompt.chat:
        return text
    opening = prompt.opening
    if twin:  # "3 + 4 = " with the twin's numbers
        opening = prompt.twin.removeprefix("What is ").removesuffix("?") + " = "
    if getattr(tokenizer, "chat_template", None):
        messages = [{"role": "user", "content": text}]
        return (
            str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)) + opening
        )
    return f"Question: {text}\nAnswer: {opening}"


def fits(prompt: Prompt, tokenizer: Any) -> bool:
    """Whether both answers are one token each behind the prompt, and the twin has as many tokens."""
    text = whole(prompt, tokenizer)
    start = _ids(tokenizer, text)
    answers = [_ids(tokenizer, text + answer) for answer in (prompt.right, prompt.wrong)]
    if any(len(ids) != len(start) + 1 or ids[:-1] != start for ids in answers) or answers[0] == answers[1]:
        return False
    return not prompt.twin or len(_ids(tokenizer, whole(prompt, tokenizer, twin=True))) == len(start)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _every(text: str, word: str) -> tuple[Span, ...]:
    found, start = [], text.find(word)
    while start >= 0:
        found.append((start, start + len(word)))
        start = text.find(word, start + len(word))
    return tuple(found)


def _first(text: str, word: str) -> tuple[Span, ...]:
    return _every(text, word)[:1]
