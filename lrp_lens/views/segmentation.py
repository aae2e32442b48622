"""Where words and sentences begin, token by token, from the tokens' shares of the text.

1. A token's share of the text (`pieces`) is what it adds to the text of the tokens before it, "" where it ends inside a
   character: a byte-level vocabulary cuts an emoji into several tokens.  The shares joined are the text, whatever marks
   (Ġ, ▁, ##) a vocabulary spells its tokens with.
2. The text falls into units.  A unit is a run of letters, marks, digits and underscores, with apostrophes between
   letters and points or commas between digits (default word boundaries of Unicode's annex 29, but for the full stop
   and the colon between letters, which end a word, as in code).  Any other character is a unit of its own, with what
   combines with it: punctuation, symbols, emoji sequences; so is every character of a script that is written without
   spaces, where tokens stay as they are.
3. A token continues the word before it if its text begins inside a unit.  One that begins inside a character continues
   it, too; a lone space belongs to what comes after it.
4. A sentence ends behind . ! ? … with white space and no small letter after it, behind their full-width twins, and at
   a line break; not behind an initial or a short list of titles.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import numpy as np
import regex

Level = Literal["word", "sentence"]

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_LETTERS = rf"[[\p{{L}}\p{{M}}\p{{N}}\p{{Pc}}\u200c\u200d]--[{_UNSPACED}]]+"
_UNIT = regex.compile(
    rf"(?V1){_LETTERS}(?:(?<=\p{{L}})['’](?=\p{{L}}){_LETTERS}|(?<=\p{{N}})[.,](?=\p{{N}}){_LETTERS})*"
    r"|[\p{Katakana}\u30fc]+|\X"
)
_SENTENCE_END = regex.compile(
    r"(?<!\b(?:\p{Lu}|Mr|Mrs|Ms|Dr|Prof|St|vs|e\.g|i\.e))[.!?…]+[\p{Pe}\p{Pf}\"']*\s+(?=[^\p{Ll}\s])"
    r"|(?<=\s)[.!?…]+\s+|[。！？｡]+[\p{Pe}\p{Pf}]*\s*|\s*\n\s*"
)


def begins(pieces: Sequence[str], level: Level) -> np.ndarray:
    """True where a token begins a word or a sentence, [tokens].

    Args:
        pieces: each token's share of the text.
        level: "word" or "sentence".

    Example:
        >>> begins([" multi", "ple", ".", "", "👍", " 4", "2"], "word").tolist()
        [True, False, True, True, False, True, False]
    """
    whole = _whole_characters(pieces)
    runs = ["".join(pieces[i] for i in run) for run in whole]
    places = [0, *accumulate(map(len, runs))][:-1]
    text = "".join(runs)
    starts = _words(text, runs, places) if level == "word" else _sentences(text, runs, places)
    found = np.zeros(len(pieces), dtype=bool)
    for run, begin in zip(whole, starts, strict=True):
        found[run[0]] = begin
    return found


def _whole_characters(pieces: Sequence[str]) -> list[list[int]]:
    """The tokens in runs: those that end inside a character with the one that ends it."""
    runs: list[list[int]] = []
    inside = False
    for i, piece in enumerate(pieces):
        if inside:
            runs[-1].append(i)
        else:
            runs.append([i])
        inside = piece == ""
    return runs


def _words(text: str, runs: list[str], places: list[int]) -> list[bool]:
    """Whether each run begins a word."""
    inner = {one for found in _UNIT.finditer(text) for one in range(found.start() + 1, found.end())}
    starts = []
    for i, place in enumerate(places):
        after_space = i > 0 and runs[i - 1] == " " and runs[i][:1].strip() != ""
        starts.append(place not in inner and not after_space)
    return starts


def _sentences(text: str, runs: list[str], places: list[int]) -> list[bool]:
    """Whether each run begins a sentence; white space belongs to the one before it."""
    ends = [found.end() for found in _SENTENCE_END.finditer(text) if found.end() < len(text)]
    if not runs:
        return []
    first = [place + len(run) - len(run.lstrip() or run) for run, place in zip(runs, places, strict=True)]
    number = np.searchsorted(ends, first, side="right")
    return [True, *(np.diff(number) > 0).tolist()]
