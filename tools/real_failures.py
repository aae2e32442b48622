"""Find real failures of the packaged language models: `python -m tools.real_failures` writes `real_cases.json`.

1. Take the prompts of the development half of each task of `benchmarks.evidence`, all from templates of ours, in their
   order; the held-out half stays unseen.
2. Keep the first failures of each task, `MOST` at most: the model prefers the wrong answer by more than one logit, and
   both are among its first ten choices.
3. A question for a chat template becomes messages, with the answer up to the wrong token as a completion.

The file is never edited by hand. It needs the models (`make models`) and some minutes.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import torch

from benchmarks.evidence.cases import MIN_GAP, Answered, answered
from benchmarks.evidence.tasks import Prompt, prompts
from lrp_lens import load_model
from lrp_lens.cases import Case
from lrp_lens.demo.loader import REAL_CASES_FILE, REAL_MODELS
from lrp_lens.files import write_text
from lrp_lens.hosts.completions import decide
from lrp_lens.hosts.forward import device_of, forward

TASKS = ("reading", "context against memory", "agreement", "indirect objects", "capitals", "arithmetic")
"""In the order of the file. Not "induction" and "greater than": there the wrong answer is one of many."""
MOST = 5
"""Failures of a task."""
_AT_ONCE = 12


def what_it_says(model: Any, case: Case) -> Case:
    """The case with the model's own gap, to three decimals, and rank of the right answer, 0 where it is beyond 10."""
    decision = decide(
        model,
        case.prompt,
        case.target,
        case.contrast,
        completion=case.completion or None,
        position=case.position,
    )
    with torch.no_grad():
        logits = forward(model, decision.batch.ids.to(device_of(model)), None)[0, -1]
    gap = float(logits[decision.target] - logits[decision.contrast])
    rank = 1 + int((logits > logits[decision.contrast]).sum())
    return replace(case, logit_gap=round(gap, 3), answer_rank=rank if rank <= 10 else 0)


def failures(model: Any, tried: list[Prompt]) -> Iterator[Case]:
    """The usable failures among the prompts, which run as they are asked for; each text once."""
    seen = set()
    for one in chain.from_iterable(
        answered(model, tried[start : start + _AT_ONCE]) for start in range(0, len(tried), _AT_ONCE)
    ):
        if not one.correct and abs(one.difference) > MIN_GAP and one.text not in seen:
            seen.add(one.text)
            case = what_it_says(model, _case(model, one))
            if case.answer_rank and case.logit_gap > MIN_GAP:
                yield case


def _case(model: Any, one: Answered) -> Case:
    """As messages with a completion, if it was asked through a chat template."""
    case = one.case()
    if not (one.prompt.chat and getattr(model.tokenizer, "chat_template", None)):
        return case
    messages = [{"role": "user", "content": one.prompt.text}]
    return replace(case, prompt=messages, completion=one.prompt.opening + case.target, position=-1)


def main() -> None:
    """Write the failures of both models."""
    models = {name: load_model(name, host="TransformerBridge", device="cpu") for name in REAL_MODELS}
    tokenizers = [model.tokenizer for model in models.values()]
    parts = []
    for name, model in models.items():
        lines = []
        for task in TASKS:
            tried = prompts(task, tokenizers)["development"]
            cases = list(islice(failures(model, tried), MOST))
            lines += [json.dumps(case.to_dict()) for case in cases]
            print(f"{name}, {task}: {len(cases)} failures", flush=True)
        parts.append(f"{json.dumps(name)}: [\n" + ",\n".join(lines) + "\n]")
    write_text(REAL_CASES_FILE, "{\n" + ",\n".join(parts) + "\n}\n")


if __name__ == "__main__":
    main()
