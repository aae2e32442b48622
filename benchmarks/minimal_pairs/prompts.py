"""BLiMP's pairs as prompts with the spans of evidence and distractor."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._blimp import spans
from benchmarks._results import lines_in_order
from benchmarks.evidence.tasks import Prompt, fits
from lrp_lens.errors import InputError


def prompts(paradigm: str, tokenizer: Any, folder: Path, seed: int = 0) -> Iterator[Prompt]:
    """The paradigm's pairs in an order that a seed gives, those whose two words are a token each.

    Raises:
        InputError: there is no such file in the folder.
    """
    path = folder / "blimp" / f"{paradigm}.jsonl"
    if not path.is_file():
        raise InputError(
            f"Minimal pairs are read from blimp/{path.name} in the folder of --data; there is none in {folder.name!r}."
        )
    for _, line in lines_in_order(path, seed):
        row = json.loads(line)
        right, wrong = (f" {row[f'one_prefix_word_{which}']}" for which in ("good", "bad"))
        text = row["one_prefix_prefix"]
        made = Prompt(f"{paradigm} {row['pairID']}", text, "", right, wrong, *spans(paradigm, text))
        if fits(made, tokenizer):
            yield made
