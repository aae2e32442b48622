"""Where the evidence and the distractor stand in a prefix of BLiMP's paradigms (Warstadt et al. 2020, 1912.00582).

The *evidence* is the subject that the next word has to agree with, all of its words; the *distractor* is a noun of the
other number behind it.  The data does not mark them; their place follows from how a paradigm is made.
"""

import re

from lrp_lens.errors import InputError

Span = tuple[int, int]
"""Characters [start, stop)."""
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
