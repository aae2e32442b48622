"""Draw the indirect-object prompts of the tutorials: `python -m tools.demo_model draw-prompts` writes `prompts.json`.

They are held-out prompts of the training suite `indirect_object`, in the order of the corpus, so that the package can
hand out many prompts of one kind without shipping the corpus.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from lrp_lens.demo.loader import PROMPTS_FILE
from tools.demo_model.suites import SUITES, held_out_prompts


def drawn(count: int) -> list[list[str]]:
    """`count` held-out prompts as [text, answer, foil]."""
    prompts = held_out_prompts(SUITES["indirect_object"], count)
    return [[prompt.text, prompt.answer, str(prompt.foil)] for prompt in prompts]


def main(
    out: Annotated[Path, typer.Option(help="The file to write.")] = PROMPTS_FILE,
    count: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 1000,
) -> None:
    """Write held-out indirect-object prompts with their answers and foils."""
    out.write_text("[\n" + ",\n".join(json.dumps(row) for row in drawn(count)) + "\n]\n")
    typer.echo(f"{count} prompts in {out}")
