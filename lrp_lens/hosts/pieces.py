"""What each token adds to the text: its share of the decoded prompt, whatever marks the vocabulary spells it with.

1. The whole prompt is decoded once, and each token's own text looked up in it, one behind the other; what a decoder
   puts between two tokens (a space) goes to the second, and `##` of a WordPiece vocabulary is no text.
2. Where that does not fit (a byte-level vocabulary has cut a character into several tokens, whose own texts are `�`),
   tokens are decoded in windows: a token adds what the text of the tokens before it and its own has more than theirs;
   nothing while a character is not complete.
"""

from collections.abc import Callable, Sequence
from typing import Any

_CUT = "\ufffd"
_LONGEST = 4
"""Bytes of the longest character, and so tokens that may end inside one."""
_CONTINUES = "##"


def token_pieces(tokenizer: Any, ids: Sequence[int], strings: Sequence[str]) -> tuple[str, ...]:
    """Each token's share of the text; joined, they are the text.

    Args:
        tokenizer: a Hugging Face tokenizer; None gives the strings themselves.
        ids: the tokens of one prompt.
        strings: the text of each token, decoded alone.
    """
    if tokenizer is None:
        return tuple(strings)

    def decode(some: Sequence[int]) -> str:
        return str(tokenizer.decode([int(one) for one in some], clean_up_tokenization_spaces=False))

    return looked_up(decode(ids), strings) or decoded(decode, ids)


def looked_up(text: str, strings: Sequence[str]) -> tuple[str, ...] | None:
    """The shares by step 1, None where the strings are not the text.

    Example:
        >>> looked_up("the play ing", ["the", "play", "##ing"]), looked_up("👍", ["�", "�"])
        (('the', ' play', ' ing'), None)
    """
    pieces, behind = [], 0
    for one in strings:
        if not one:  # a space that was stripped from it, or a part of a character
            return None
        start, own = behind, one
        if not text.startswith(one, behind):
            while text.startswith(" ", start):
                start += 1
            own = one.removeprefix(_CONTINUES)
            if not own or not text.startswith(own, start):
                return None
        end = start + len(own)
        pieces.append(text[behind:end])
        behind = end
    return tuple(pieces) if behind == len(text) else None


def decoded(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> tuple[str, ...]:
    """The shares by step 2."""
    pieces, context, read = [], 0, 0
    for i in range(len(ids)):
        before, after = decode(ids[context:read]), decode(ids[context : i + 1])
        whole = len(after) > len(before) and not after.endswith(_CUT)
        if whole or i + 1 - read >= _LONGEST or i + 1 == len(ids):
            pieces.append(after[len(before) :])
            context, read = read, i + 1
        else:
            pieces.append("")
    return tuple(pieces)
