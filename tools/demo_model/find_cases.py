"""Find the demo model's real failures: `python -m tools.demo_model find-cases` writes `cases.json`.

1. Draw held-out prompts of each hard suite, in an order that depends on nothing but the suite.
2. Run the model; keep the first usable failures (first choice wrong, right word among the first ten, more
   than one logit behind) and as many correct cases, the first ones again.
3. Mark evidence and distractor as the corpus knows them, shifted by one for `<bos>`.

A suite with fewer than ten usable failures is left out. The file is never edited by hand: run the script
again after every new checkpoint.
"""

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import PreTrainedModel

from lrp_lens.cases import Case
from lrp_lens.demo.loader import CASES_FILE, DEMO_CHECKPOINT
from lrp_lens.files import write_text
from tools.demo_model.evaluation import Outcome, load_for_evaluation, outcomes
from tools.demo_model.suites import HARD_SUITES, Suite, held_out_prompts

FEWEST = 10
"""A suite needs so many usable failures to be listed."""


def case_of(outcome: Outcome, suite: str) -> Case:
    """The case of an outcome; token position 0 is `<bos>`."""
    prompt = outcome.prompt
    segments = {
        name: tuple((start + 1, stop + 1) for start, stop in spans) for name, spans in prompt.segments.items()
    }
    return Case(
        prompt=prompt.text,
        target=outcome.said,
        contrast=outcome.rival if outcome.correct else prompt.answer,
        suite=suite,
        correct=outcome.correct,
        segments=dict(sorted(segments.items())),
        logit_gap=round(outcome.gap, 3),
        answer_rank=outcome.rank,
    )


def find_cases(model: PreTrainedModel, suite: Suite, most: int, prompts: int) -> list[Case]:
    """At most `most` failures of `suite` among `prompts` prompts, then as many correct cases."""
    found = outcomes(model, list(held_out_prompts(suite, prompts, seed=1)))
    failures = [outcome for outcome in found if outcome.usable_failure][:most]
    correct = [outcome for outcome in found if outcome.correct][: len(failures)]
    if len(failures) < FEWEST or len(correct) < len(failures):
        return []
    return [case_of(outcome, suite.name) for outcome in failures + correct]


def main(
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint directory.")] = DEMO_CHECKPOINT,
    out: Annotated[Path, typer.Option(help="The file to write.")] = CASES_FILE,
    most: Annotated[int, typer.Option(min=FEWEST, help="Most failures per suite.")] = 20,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts to try per suite.")] = 2000,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Write the failures and as many correct cases of every hard suite."""
    torch.set_num_threads(threads)
    model = load_for_evaluation(checkpoint)
    lines = []
    for suite in HARD_SUITES:
        cases = find_cases(model, suite, most, prompts)
        lines += [json.dumps(case.to_dict()) for case in cases]
        typer.echo(f"{suite.name}: {len(cases) // 2} failures and as many correct cases")
    write_text(out, "[\n" + ",\n".join(lines) + "\n]\n")
