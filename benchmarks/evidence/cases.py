"""What a model makes of the prompts: right answers and real failures, kept apart.

1. Every prompt runs once, with the chat template where it asks for one; the two answers' logits are read at its end.
2. A prompt is *right* if the right answer's logit is higher, else a *failure*; the gap is the preferred answer's logit
   minus the other's. Prompts with a gap of at most `MIN_GAP` decide nothing and are left out (2604.17761 keeps Δℓ > 1).
3. Spans of characters become spans of tokens.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.evidence.tasks import Prompt, Span, whole
from lrp_lens.cases import Case
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import device_of, forward
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.hosts.vocabulary import token_id

MIN_GAP = 1.0
_ROWS = 24


@dataclass(frozen=True)
class Answered:
    """A prompt and what the model prefers."""

    prompt: Prompt
    text: str
    """As the model reads it, without BOS unless its template begins with one."""
    twin: str
    length: int
    """Tokens of the text as the model reads it, BOS included."""
    difference: float
    """Logit of the right answer minus that of the wrong one."""
    segments: dict[str, tuple[Span, ...]]
    """Token spans of evidence and distractor."""

    @property
    def correct(self) -> bool:
        """Whether the model prefers the right answer."""
        return self.difference > 0

    def case(self) -> Case:
        """The preferred answer against the other."""
        answers = (self.prompt.right, self.prompt.wrong)
        target, contrast = answers if self.correct else answers[::-1]
        return Case(
            prompt=self.text,
            target=target,
            contrast=contrast,
            suite=self.prompt.task,
            correct=self.correct,
            segments=self.segments,
            logit_gap=abs(self.difference),
        )


def answered(model: Any, prompts: list[Prompt]) -> list[Answered]:
    """What the model makes of each prompt, in their order."""
    tokenizer = model.tokenizer
    texts = [whole(one, tokenizer) for one in prompts]
    found = []
    for start in range(0, len(prompts), _ROWS):
        rows = range(start, min(start + _ROWS, len(prompts)))
        batch = tokenize(model, [texts[row] for row in rows], "right", None)
        ends = torch.tensor(batch.prompt_lengths) - 1
        read = (
            resolve(model).unembed_input.point,
            partial(_each_last, ends),
        )  # no other logits are asked for
        with torch.no_grad(), attached(model, [read]):
            logits = forward(model, batch.ids.to(device_of(model)), None)[:, 0]
        for index, row in enumerate(rows):
            prompt, length = prompts[row], batch.prompt_lengths[index]
            last = logits[index]
            right, wrong = (last[token_id(model, answer)] for answer in (prompt.right, prompt.wrong))
            found.append(
                Answered(
                    prompt,
                    texts[row],
                    whole(prompt, tokenizer, twin=True) if prompt.twin else "",
                    length,
                    float(right - wrong),
                    _segments(tokenizer, prompt, texts[row], length),
                )
            )
    return found


def _each_last(ends: Tensor, states: Tensor, hook: Any) -> Tensor:
    """[batch, pos, d_model] → [batch, 1, d_model]: each row's position `ends`."""
    return states[torch.arange(len(states)), ends, None]


def decided(found: list[Answered], correct: bool, count: int) -> list[Answered]:
    """The first prompts that are right (or failures) with a gap above `MIN_GAP`."""
    return [one for one in found if one.correct is correct and abs(one.difference) > MIN_GAP][:count]


def pairs(found: list[Answered], count: int, size: int) -> list[list[Answered]]:
    """Prompts with a twin that the model gets right, in groups of one length; `count` in all, `size` a group.

    Groups of at least two (a comparison takes no single pair), in the order in which they fill up.
    """
    groups: dict[int, list[Answered]] = {}
    full: list[list[Answered]] = []
    for one in found:
        if one.correct and one.prompt.twin and abs(one.difference) > MIN_GAP:
            group = groups.setdefault(one.length, [])
            group.append(one)
            if len(group) == size:
                full.append(groups.pop(one.length))
    full += sorted((group for group in groups.values() if len(group) > 1), key=len, reverse=True)
    kept: list[list[Answered]] = []
    for group in full:
        left = count - sum(map(len, kept))
        if left >= 2:
            kept.append(group[:left])
    return kept


def _segments(tokenizer: Any, prompt: Prompt, text: str, length: int) -> dict[str, tuple[Span, ...]]:
    """Token spans [start, stop) of the characters' spans, without those that are empty."""
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    ahead, shift = length - len(offsets), text.index(prompt.text)
    spans = {"evidence": prompt.evidence, "distractor": prompt.distractor}
    found = {}
    for name, characters in spans.items():
        places = sorted(
            {
                ahead + index
                for index, (start, stop) in enumerate(offsets)
                for first, last in characters
                if start < last + shift and stop > first + shift and stop > start
            }
        )
        if places:
            found[name] = tuple((place, place + 1) for place in places)
    return found
