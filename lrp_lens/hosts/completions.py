"""One decision of a model: a prompt, what has been said since, and the two tokens that are compared there.

1. A completion is what the model said behind the prompt.  Token t of it is decided at the position before it: the
   prompt and the completion's tokens before t are the context, t itself is the target.
2. Answers of several tokens are compared where they part: what target and contrast begin with alike is said already
   and joins the context; the first token that differs is the decision (contrastive attribution at the point of
   divergence, arXiv 2604.17761).  Every choice made for the caller is told.

Metrics of answers (`lrp_lens.metrics.sequences`) read all their tokens instead, and append them themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError, MetricError
from lrp_lens.hosts.forward import vocabulary_size
from lrp_lens.hosts.token_batch import COMPLETION, Segment, TokenBatch
from lrp_lens.hosts.tokens import Row, padded, tokenize
from lrp_lens.hosts.vocabulary import span_ids, string_ids, token_id, token_strings

_LISTED = 60


@dataclass(frozen=True, eq=False)
class Decision:
    """Where the model decides between two tokens."""

    batch: TokenBatch
    """The context: one prompt, with what has been said since."""
    prompt_length: int
    """How many of its tokens are the prompt."""
    target: int | None
    """Token id; None leaves it to the model's first choice."""
    contrast: int | None
    """Token id; None leaves it to the model's best other choice."""
    completion: tuple[str, ...] = ()
    """Text of the completion's tokens, those behind the decision included."""
    position: int | None = None
    """Which of them is decided."""
    notes: tuple[str, ...] = ()
    """What was chosen for the caller."""


def decide(
    model: Any,
    prompt: object,
    target: Any = None,
    contrast: Any = None,
    *,
    completion: Any = None,
    position: int | str | None = None,
    prepend_bos: bool | None = None,
) -> Decision:
    """Resolve prompt, completion, position, target and contrast.

    Args:
        model: its tokenizer and vocabulary are used.
        prompt: one prompt, as `tokenize` takes it.
        target: text of any number of tokens, or one id; None takes the completion's token, if there is one.
        contrast: text of any number of tokens, or one id.
        completion: what the model said: text, token ids, or what `generate` returned; None for nothing.
        position: which token of it: its index, from 0 or back from -1; or a piece of its text.
        prepend_bos: whether a text gets BOS.

    Raises:
        InputError: more than one prompt, a position that the completion does not have, a position without a
            completion or the reverse, an id outside the vocabulary, or answers of which one begins the other.
        MetricError: text that is no tokens of the vocabulary.
    """
    batch = tokenize(model, prompt, None, prepend_bos)
    if len(batch.ids) != 1:
        raise InputError(f"An explanation is of one prompt; received a batch of {len(batch.ids)}.")
    length = batch.lengths[0]
    said: tuple[int, ...] = ()
    at, notes = None, []
    if completion is not None:
        said = span_ids(model, getattr(completion, "ids", completion))
    elif position is not None:
        raise InputError(f"A position is one of a completion's; received position={position!r} alone.")
    if said:
        at = place_of(position, token_strings(model, said))
        batch = _extended(model, batch, said[:at], COMPLETION)
        if target is None:
            target, which = said[at], token_strings(model, said)[at]
            notes.append(f"target: token {at} of the completion, {which!r}")
    answers = [_ids(model, one) for one in (target, contrast)]
    shared = _shared(*answers)
    if shared:
        batch = _extended(model, batch, answers[0][:shared], "answer")
        told = "".join(token_strings(model, answers[0][:shared]))
        notes.append(f"both answers begin with {told!r}, which is said already: they part after it")
    chosen = []
    for name, ids in zip(("target", "contrast"), answers, strict=True):
        if len(ids) > shared + 1:
            pieces = list(token_strings(model, ids))
            notes.append(f"{name}: {pieces[shared]!r}, where an answer of {len(ids)} tokens, {pieces}, parts")
        chosen.append(ids[shared] if ids else None)
    return Decision(batch, length, chosen[0], chosen[1], token_strings(model, said), at, tuple(notes))


def place_of(position: Any, pieces: Sequence[str]) -> int:
    """Index of a completion's token.

    Raises:
        InputError: a position that the completion does not have, or a text that stands in it not once.
    """
    numbered = ", ".join(f"{index} {piece!r}" for index, piece in enumerate(pieces[:_LISTED]))
    more = f", … ({len(pieces)} in all)" if len(pieces) > _LISTED else ""
    listed = f"The completion's tokens: {numbered}{more}."
    if is_whole(position):
        if -len(pieces) <= int(position) < len(pieces):
            return int(position) % len(pieces)
        raise InputError(
            f"A position lies in [-{len(pieces)}, {len(pieces)}), the completion's tokens; received {position}. "
            f"{listed}"
        )
    if not isinstance(position, str):
        raise InputError(
            f"A completion is explained at one of its tokens: position=, its index or text; received {position!r}. "
            f"{listed}"
        )
    exact = [index for index, piece in enumerate(pieces) if piece == position]
    found = exact or [index for index, piece in enumerate(pieces) if piece.strip() == position.strip()]
    if not found and position.strip():  # a text of several tokens: where it begins
        starts = [sum(map(len, pieces[:index])) for index in range(len(pieces))]
        text, wanted = "".join(pieces), position.strip()
        found = [
            index
            for index, (piece, start) in enumerate(zip(pieces, starts, strict=True))
            if piece.strip() and text.startswith(wanted, start + len(piece) - len(piece.lstrip()))
        ]
    if len(found) != 1:
        count = "several times" if found else "nowhere at the beginning of a token"
        raise InputError(
            f"A position is told by a text that stands in the completion once; {position!r} stands there {count}. "
            f"Pass an index. {listed}"
        )
    return found[0]


def _extended(model: Any, batch: TokenBatch, ids: Sequence[int], name: str) -> TokenBatch:
    """The prompt with tokens behind it, which have a name."""
    if not ids:
        return batch
    length = batch.lengths[0]
    before = batch.segments[0] if batch.segments else (Segment("prompt", "prompt", 0, length),)
    own = Segment(name, name, length, length + len(ids))
    start = batch.starts[0]
    prompt = batch.ids[0, start : start + length].tolist()
    return padded(model, [Row([*prompt, *ids], (*before, own))], False, batch.single)


def _ids(model: Any, answer: Any) -> tuple[int, ...]:
    """Token ids of a target or contrast; () for None."""
    if answer is None:
        return ()
    if isinstance(answer, str):
        if getattr(model, "tokenizer", None) is not None and len(string_ids(model, answer)) > 1:
            return span_ids(model, answer)
        return (token_id(model, answer),)
    count = vocabulary_size(model)
    if not is_whole(answer) or not 0 <= int(answer) < count:
        raise InputError(
            f"A target or contrast is the text of an answer or an id in [0, {count}); received {answer!r}."
        )
    return (int(answer),)


def _shared(target: Sequence[int], contrast: Sequence[int]) -> int:
    """How many tokens two answers begin with alike."""
    shared = 0
    while shared < min(len(target), len(contrast)) and target[shared] == contrast[shared]:
        shared += 1
    if shared and shared == min(len(target), len(contrast)) and len(target) != len(contrast):
        raise MetricError(
            f"Two answers part at a token; here one begins the other ({list(target)} and {list(contrast)}, as ids). "
            "Compare the shorter one's next token instead, e.g. a full stop behind it."
        )
    return shared if shared < min(len(target), len(contrast)) else 0
