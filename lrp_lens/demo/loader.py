"""Load the demo model, its cases and its prompts."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from lrp_lens.cases import Case
from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError
from lrp_lens.hosts.loading import HostName, load_model

DEMO_CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The Hugging Face directory of the demo model: config, float16 weights, tokenizer."""

CASES_FILE = Path(__file__).parent / "cases.json"
"""The cases that `python -m tools.demo_model find-cases` found."""

REAL_CASES_FILE = Path(__file__).parent / "real_cases.json"
"""The failures of real language models that `python -m tools.real_failures` found."""

REAL_MODELS = ("smollm2", "gemma3-270m")
"""Names of the models that `real_cases` knows, as `load_model` takes them."""

PROMPTS_FILE = Path(__file__).parent / "prompts.json"
"""The prompts that `python -m tools.demo_model draw-prompts` drew."""


def load_demo_model(
    *,
    host: HostName = "auto",
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Any:
    """Load the trained demo model with its tokenizer, in eval mode, without any download.

    Four layers, four heads, width 128, a word-level vocabulary and no bias anywhere; a text has at most 128
    tokens and starts with `<bos>`, which `model.to_tokens` puts in front. Words are separated by spaces, an
    unknown word becomes `<unk>`.

    Args:
        host: "HookedTransformer" (TransformerLens 3.9), "TransformerBridge", or "auto" for the first of them
            that the installed TransformerLens has.
        dtype: Type of the weights; float32 if None.
        device: Where to put the model; CUDA if there is any and CPU otherwise, if None.

    Returns:
        The HookedTransformer or TransformerBridge.

    Raises:
        InputError: If the installed TransformerLens does not have the host.

    Example:
        >>> model = load_demo_model(device="cpu")
        >>> logits = model("then mary and john went to the garden . john gave the key to")
        >>> model.to_string(logits[0, -1].argmax())
        'mary'
    """
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        return load_model(DEMO_CHECKPOINT, host=host, dtype=dtype, device=device)
    finally:
        if bars:
            transformers_logging.enable_progress_bar()


def demo_cases(suite: str | None = None, correct: bool | None = False) -> list[Case]:
    """The demo model's real failures, or correct cases of the same suites.

    A failure is a held-out prompt after which the model's first choice is wrong by more than one logit while
    the right word is among its first ten. Failures and correct cases were found by running the model
    (`tools/demo_model` in the repository), in the order of the corpus, and are not edited. Evidence and
    distractor are marked by the corpus; the segments of a case do not overlap.

    Args:
        suite: Name of a suite; every suite if None.
        correct: False for failures (the default), True for correct cases, None for both.

    Returns:
        The cases, suite by suite.

    Raises:
        InputError: If there is no such suite; the message lists the suites.

    Example:
        >>> case = demo_cases("location_five_moves")[0]
        >>> case.correct, case.logit_gap > 1, sorted(case.segments)[:2]
        (False, True, ['distractor', 'evidence'])
    """
    cases = [Case.from_dict(values) for values in json.loads(CASES_FILE.read_text())]
    return [case for case in _of_suite(cases, suite, "demo") if correct is None or case.correct == correct]


def real_cases(model: str, suite: str | None = None) -> list[Case]:
    """Real failures of a language model that `make models` installs; no model is needed to read them.

    The model prefers the wrong answer by more than one logit, and both are among its first ten choices. The prompts
    are the first such ones of each task's development half in `benchmarks/evidence`, and are not edited
    (`tools/real_failures.py` in the repository); they are failures to look at, not a sample to measure with. A
    question that went through the chat template has messages as its prompt, and a completion.

    Args:
        model: "smollm2" or "gemma3-270m", the name that `load_model` takes.
        suite: Name of a task; every task if None.

    Returns:
        The cases, task by task.

    Raises:
        InputError: If there is no such model or suite; the message lists what there is.

    Example:
        >>> case = real_cases("smollm2")[0]
        >>> case.suite, case.correct, case.logit_gap > 1
        ('reading', False, True)
    """
    if model not in REAL_MODELS:
        raise InputError(
            f"there are real cases of {' and '.join(map(repr, REAL_MODELS))}, got model={model!r}"
        )
    found = json.loads(REAL_CASES_FILE.read_text(encoding="utf-8"))[model]
    return _of_suite([Case.from_dict(values) for values in found], suite, "real")


def _of_suite(cases: list[Case], suite: str | None, kind: str) -> list[Case]:
    """The cases of a suite, or all of them."""
    suites = list(dict.fromkeys(case.suite for case in cases))
    if suite is not None and suite not in suites:
        raise InputError(f"no {kind} cases in a suite {suite!r}; the suites are {suites}")
    return [case for case in cases if suite in (None, case.suite)]


@dataclass(frozen=True)
class DemoPrompt:
    """A prompt with two names, one of which is given something."""

    text: str
    """The words, separated by spaces, without `<bos>`."""
    answer: str
    """Who is given the thing: the right next word."""
    foil: str
    """Who gives it: the tempting wrong word."""

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the text; word i is token i + 1, after `<bos>`."""
        return tuple(self.text.split())


def demo_prompts(count: int = 50) -> list[DemoPrompt]:
    """The first `count` of 1,000 indirect-object prompts that the demo model was not trained on.

    It answers nearly all of them rightly. They are in the order of the corpus, so a longer list begins with the
    shorter one; templates and lengths are mixed.

    Args:
        count: How many, from 1 to 1,000.

    Raises:
        InputError: If there are not so many.

    Example:
        >>> prompt = demo_prompts(3)[0]
        >>> prompt.answer in prompt.words, prompt.foil in prompt.words, prompt.answer == prompt.foil
        (True, True, False)
    """
    prompts = [DemoPrompt(*row) for row in json.loads(PROMPTS_FILE.read_text())]
    if not is_whole(count) or not 1 <= count <= len(prompts):
        raise InputError(f"there are 1 to {len(prompts)} demo prompts to be had, got count={count!r}")
    return prompts[:count]
