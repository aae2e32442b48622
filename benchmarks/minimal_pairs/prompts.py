"""BLiMP's pairs as prompts with the spans of evidence and distractor."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._results import lines_in_order
from benchmarks.evidence.tasks import Prompt, Span, fits
from lrp_lens.errors import InputError

PARADIGMS: dict[str, frozenset[str]] = {
    "distractor_agreement_relational_noun": frozenset({"of", "about"}),
    "distractor_agreement_relative_clause": frozenset({"who", "that", "which"}),
    "anaphor_gender_agreement": frozenset(),
    "anaphor_number_agreement": frozenset(),
}
"""Paradigm → the words that end the subject, behind which a distractor comes; none where there is no distractor."""
DETERMINERS = frozenset(
    ("the", "a", "an", "some", "all", "most", "many", "these", "those", "this", "that", "every")
)
COMPOUND = frozenset(("university", "article", "articles"))
"""Second words of subjects of two nouns."""


def spans(paradigm: str, prefix: str) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """Characters of the evidence (the subject), and of the distractor (the last noun).

    Raises:
        InputError: a prefix whose subject does not end where the paradigm says.

    Example:
        >>> spans("distractor_agreement_relational_noun", "A niece of most senators")
        (((0, 7),), ((16, 24),))
        >>> spans("anaphor_gender_agreement", "Katherine can't help")
        (((0, 9),), ())
    """
    words = [found.span() for found in re.finditer(r"\S+", prefix)]
    texts = [prefix[slice(*one)].lower() for one in words]
    ends = PARADIGMS[paradigm]
    if ends:
        size = next((at for at, text in enumerate(texts) if at and text in ends), len(texts))
    else:
        of = 2 if texts[1:3] == ["lot", "of"] else 0
        size = of + 2 if texts[0] in DETERMINERS else 1
        size += sum(text in COMPOUND for text in texts[size : size + 1])
    if size >= len(texts):
        raise InputError(
            f"The subject of a prefix of {paradigm} ends before {' or '.join(sorted(ends)) or 'its verb'}; received "
            f"{prefix!r}. Leave the paradigm out, or the row."
        )
    return ((0, words[size - 1][1]),), (words[-1],) if ends else ()


def prompts(paradigm: str, tokenizer: Any, folder: Path, seed: int = 0) -> Iterator[Prompt]:
    """The paradigm's pairs in an order that a seed gives, those whose two words are a token each.

    Raises:
        InputError: there is no such file in the folder.
    """
    path = folder / "blimp" / f"{paradigm}.jsonl"
    if not path.is_file():
        raise InputError(
            f"Minimal pairs are read from blimp/{path.name} in the folder of --data; there is none in {folder.name!r}."
        )
    for _, line in lines_in_order(path, seed):
        row = json.loads(line)
        right, wrong = (f" {row[f'one_prefix_word_{which}']}" for which in ("good", "bad"))
        text = row["one_prefix_prefix"]
        made = Prompt(f"{paradigm} {row['pairID']}", text, "", right, wrong, *spans(paradigm, text))
        if fits(made, tokenizer):
            yield made
