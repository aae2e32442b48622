"""Load the demo model and its cases."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from lrp_lens.errors import InputError
from lrp_lens.failures.case import Case
from lrp_lens.hosts.loading import HostName, load_model

DEMO_CHECKPOINT = Path(__file__).parent / "checkpoint"
"""The Hugging Face directory of the demo model: config, float16 weights, tokenizer."""

CASES_FILE = Path(__file__).parent / "cases.json"
"""The cases that `python -m lrp_lens.demo.find_cases` found."""


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
    (`lrp_lens.demo.find_cases`), in the order of the corpus, and are not edited. Evidence and distractor are
    marked by the corpus; the segments of a case do not overlap.

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
    suites = list(dict.fromkeys(case.suite for case in cases))
    if suite is not None and suite not in suites:
        raise InputError(f"no demo cases in a suite {suite!r}; the suites are {suites}")
    return [
        case
        for case in cases
        if (suite is None or case.suite == suite) and (correct is None or case.correct == correct)
    ]
