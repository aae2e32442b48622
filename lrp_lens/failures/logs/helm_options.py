"""HELM's separate multiple choice: one request for each option, put together again.

1. Each request is the prompt with one option behind it, echoed with the log-probabilities of its tokens.  The prompt is
   what all requests of an instance begin with, the options are what they end with.
2. An option's score is HELM's: the mean log-probability of its tokens; in a calibrated run their sum, minus the sum of
   the same option's behind nothing but "Answer:" (Brown et al. 2020, arXiv 2005.14165, section 2.4).
3. The largest score is the model's choice, the first of equal ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError
from lrp_lens.failures.logs.choice import decision
from lrp_lens.failures.logs.reader import NotACaseError
from lrp_lens.failures.logs.values import clipped, number, text

_MODES = ("original", "calibration")


@dataclass(frozen=True)
class Scored:
    """One option, as a request scored it."""

    before: str
    """The prompt without it."""
    log_probability: float
    """Sum over its tokens."""
    tokens: int


@dataclass
class OpenChoice:
    """The requests of one instance, as far as they were read; HELM writes them one behind the other."""

    key: tuple[str, ...] = ()
    scored: dict[tuple[str, int], Scored] = field(default_factory=dict)

    def take(
        self,
        key: tuple[str, ...],
        state: Mapping[str, Any],
        references: Sequence[str],
        correct: Sequence[bool],
    ) -> dict[str, Any]:
        """The fields of the case, when its last option is there.

        Args:
            key: what names the instance.
            state: the request state.
            references: the options' texts.
            correct: which of them are right.

        Raises:
            NotACaseError: options are missing yet.
            InputError: a request that does not score one of them.
        """
        mode, index = state.get("request_mode"), state.get("reference_index")
        whole = is_whole(index)
        if mode not in _MODES or not whole or not 0 <= index < len(references):  # type: ignore[operator]
            raise InputError(
                f"a request for an option is {' or '.join(_MODES)} and has the index of one of {len(references)} "
                f"references, got {clipped(mode)} and {clipped(index)}"
            )
        if key != self.key:
            self.key, self.scored = key, {}
        assert isinstance(index, int) and isinstance(mode, str)
        self.scored[mode, index] = _scored(state, references[index])
        own, other = ([self.scored.get((one, at)) for at in range(len(references))] for one in _MODES)
        if None in own or (None in other and any(other)):
            raise NotACaseError(
                "option",
                f"option {index + 1} of {len(references)} of {key[0]!r} ({mode}): the last of them becomes the case",
            )
        self.key = ()  # asked once more, it begins again
        return _fields([one for one in own if one], [one for one in other if one], references, correct)


def _scored(state: Mapping[str, Any], option: str) -> Scored:
    """Step 1."""
    request, result = state["request"], state["result"]
    asked = text(request.get("prompt"), "the prompt")
    if not option.strip() or not asked.endswith(option):
        raise InputError(
            f"the request does not end with its option {clipped(option)}: {clipped(asked[-60:])}"
        )
    tokens = result["completions"][0].get("tokens")
    told, total, count = "", 0.0, 0
    for token in reversed(tokens if isinstance(tokens, list) else []):
        known = isinstance(token, Mapping)
        told = text(token.get("text") if known else None, "a token's text") + told
        total += number(token.get("logprob") if known else None, "a token's logprob")
        count += 1
        if len(told.strip()) >= len(option.strip()):
            break
    if told.strip() != option.strip():
        raise InputError(
            f"the tokens that were scored do not end with the option {clipped(option)}: {clipped(told)}"
        )
    return Scored(asked[: len(asked) - len(option)], total, count)


def _fields(
    own: Sequence[Scored], other: Sequence[Scored], references: Sequence[str], correct: Sequence[bool]
) -> dict[str, Any]:
    """Steps 2 and 3."""
    before = own[0].before
    if any(one.before != before for one in own):
        raise InputError("each option has a prompt of its own: the log compares prompts, not answers")
    scores = [one.log_probability / one.tokens for one in own]
    if other:
        scores = [one.log_probability - two.log_probability for one, two in zip(own, other, strict=True)]
    prompt = before.rstrip()
    choices = tuple(before[len(prompt) :] + one for one in references)
    chosen = scores.index(max(scores))
    among = [at for at, right in enumerate(correct) if right]
    right = chosen if chosen in among else max(among, key=lambda at: scores[at], default=None)
    return {
        "prompt": prompt,
        "choices": choices,
        "chosen": chosen,
        "right": right,
        "correct": None if right is None else chosen == right,
        **decision(choices, chosen, right, scores),
        "metadata": {"log_likelihoods": [one.log_probability for one in own], "option_scores": scores},
    }
