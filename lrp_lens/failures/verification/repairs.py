"""Repairs: changes of the prompt's text that are suggested because they were run.

1. Hide: the words of the 1, 2, … tokens that support the target most are taken out of the text.
2. Repeat: the sentence with the token that supports the contrast most (then the second, the third) is said again,
   before the sentence that the text ends with.
3. Move: the same, and taken away from where it stood.  A sentence takes the white space before it from the one whose
   place it takes, so that the text reads as if it had been written so.

Every changed prompt is run without any rule or edit; of each action the first that makes the answer right ends the
search.  The sentence is what stands between . ! ? ; or line ends, within one stretch of ordinary tokens: special
tokens, a chat's template and what the model has said are neither taken out nor repeated.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from lrp_lens.failures.masked import template_positions
from lrp_lens.failures.verification.asked import Asked
from lrp_lens.failures.verification.blame import Blame
from lrp_lens.failures.verification.check import Reading
from lrp_lens.failures.verification.outcomes import Repair
from lrp_lens.hosts.generation import begin, go_on
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.hosts.vocabulary import string_ids, token_strings
from lrp_lens.views.groups import groups_of

_ENDS = (".", "!", "?", ";", "…", "。", "！", "？")
_SENTENCES = 3


class Part(NamedTuple):
    """Positions [start, stop) of a prompt."""

    start: int
    stop: int
    sentence: bool


class Change(NamedTuple):
    """One changed prompt."""

    action: str
    words: str
    ids: list[int]
    changed: int


def repairs(asked: Asked, blamed: Blame, hidden: Sequence[int]) -> list[Repair]:
    """Every changed prompt that was run, in order.

    Args:
        asked: the case.
        blamed: what relevance blames.
        hidden: the positions that support the target, most first.
    """
    found: list[Repair] = []
    room = int(asked.model.cfg.n_ctx) - (asked.max_new_tokens if asked.checker is not None else 0)
    changes = {
        "hide": hide(asked, blamed, hidden),
        "repeat": repeat(asked, blamed, moved=False),
        "move": repeat(asked, blamed, moved=True),
    }
    for some in changes.values():
        seen: set[tuple[int, ...]] = set()
        for change in some:
            if tuple(change.ids) in seen or len(change.ids) > room:
                continue
            seen.add(tuple(change.ids))
            found.append(_run(asked, change))
            if found[-1].reading.right:
                break
    return found


def hide(asked: Asked, blamed: Blame, hidden: Sequence[int]) -> Iterator[Change]:
    """The prompt without the words of the first 1, 2, … tokens."""
    words = groups_of(blamed.pieces, "word" if blamed.pieces.pieces is not None else "position")
    word_of = {at: word for word in words for at in word.positions}
    ids, free = asked.batch.ids[0].tolist(), set(_free(asked))
    taken: dict[str, None] = {}
    gone: set[int] = set()
    for position in hidden:
        own = [at for at in word_of[position].positions if at in free]
        if not own:
            continue
        gone.update(own)
        taken[word_of[position].label.strip()] = None
        yield Change(
            "hide", ", ".join(taken), [ids[at] for at in range(len(ids)) if at not in gone], len(gone)
        )


def repeat(asked: Asked, blamed: Blame, moved: bool) -> Iterator[Change]:
    """The prompt with a sentence of the contrast's supporters before its last sentence, again or instead."""
    spans = sentences(asked)
    if len(spans) < 2:
        return
    place, parts = spans[-1][0], _parts(asked)
    said = [span for span in spans[:-1] if _text(asked, Part(*span, True)).strip()]  # no line break alone
    of = {at: span for span in said for at in range(*span)}
    supporters = [at for at in blamed.supporters(asked.maskable, asked.length, -1) if at in of]
    for start, stop in list(dict.fromkeys(of[at] for at in supporters))[:_SENTENCES]:
        if moved and stop == place:  # it stands there already
            continue
        part = Part(start, stop, True)
        changed = [one for one in parts if not moved or one != part]
        changed.insert(changed.index(Part(*spans[-1], True)), part)
        action = "move" if moved else "repeat"
        changed_tokens = (stop - start) * (1 + moved)
        yield Change(action, _text(asked, part).strip(), _ordered(asked, changed, parts), changed_tokens)


def _parts(asked: Asked) -> list[Part]:
    """The whole prompt: its sentences, and what stands between them."""
    found, at = list[Part](), 0
    for start, stop in sentences(asked):
        found += [Part(at, start, False)] * (at < start)
        found.append(Part(start, stop, True))
        at = stop
    return [*found, *[Part(at, asked.length, False)] * (at < asked.length)]


def _ordered(asked: Asked, parts: Sequence[Part], before: Sequence[Part]) -> list[int]:
    """Parts in another order.  A sentence that follows something else than before is led by a space, or by what led
    the one whose place it takes.
    """
    ids: list[int] = []
    followed_by: dict[Part | None, Part] = dict(zip([None, *before], before, strict=False))
    for previous, part in zip([None, *parts], parts, strict=False):
        own = asked.batch.ids[0, part.start : part.stop].tolist()
        text = _text(asked, part).lstrip()
        if part.sentence and text and followed_by.get(previous) != part:
            if previous is not None and previous.sentence:
                lead = "" if _text(asked, previous)[-1:].isspace() else " "
            else:
                lead = _lead(_text(asked, followed_by[previous]))
            own = _led(asked, own, lead + text, ids)
        ids += own
    return ids


def _text(asked: Asked, part: Part) -> str:
    texts = asked.batch.pieces or asked.batch.strings
    return "".join(texts[0][part.start : part.stop])


def _lead(text: str) -> str:
    """The white space that a text begins with."""
    return text[: len(text) - len(text.lstrip())]


def _led(asked: Asked, ids: list[int], text: str, before: Sequence[int]) -> list[int]:
    """Tokens of a text that stands behind others; a vocabulary may put the space before a word by itself."""
    for written in (text, text.lstrip()):
        found = string_ids(asked.model, written)
        whole = tokenize(asked.model, [*before, *found])
        if "".join((whole.pieces or whole.strings)[0][len(before) :]) == text:
            return found
    return ids


def sentences(asked: Asked) -> list[tuple[int, int]]:
    """Spans of the prompt's sentences, in order; the last may be cut off by the decision."""
    spans: list[tuple[int, int]] = []
    start = previous = None
    texts = asked.batch.strings[0]
    for at in [*_free(asked, decision=True), None]:
        if start is not None and (
            at is None or previous is None or at != previous + 1 or _ends(texts[previous])
        ):
            spans.append((start, (previous or 0) + 1))
            start = None
        if start is None:
            start = at
        previous = at
    return spans


def _ends(text: str) -> bool:
    return text.rstrip(" \"'”’)»").endswith(_ENDS) or "\n" in text


def _free(asked: Asked, decision: bool = False) -> list[int]:
    """Positions of the prompt's own text: no special token, no template; with `decision`, the last position, too."""
    last, kept = asked.length - 1, template_positions(asked.batch)
    own = decision and last not in kept and not bool(asked.batch.special[0, -1])
    return [at for at in [*asked.maskable, *[last] * own] if at < asked.prompt_length]


def _run(asked: Asked, change: Change) -> Repair:
    """The changed prompt, run as it is; its answer is asked for where the contrast is ahead."""
    batch = tokenize(asked.model, change.ids)
    begun = begin(asked.model, batch.ids)
    logits = begun.logits[0]
    gap, choice = float(logits[asked.target] - logits[asked.contrast]), int(logits.argmax())
    answer: str | None = None
    if asked.checker is not None and gap < 0:
        answer = asked.said(go_on(begun, asked.until)[0].ids)
    accepted = None if asked.checker is None else 0.0 if answer is None else asked.judged(answer)
    reading = Reading(
        gap, token_strings(asked.model, [choice])[0], choice == asked.contrast, answer, accepted
    )
    text = "".join(batch.strings[0] if not batch.pieces else batch.pieces[0])
    return Repair(change.action, change.words, text, change.changed, reading)
