"""The command: the failures of each model at each paradigm, then the tables."""

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks._blimp import PARADIGMS
from benchmarks._results import opened, tell, with_result_options
from benchmarks.evidence.cases import answered
from benchmarks.minimal_pairs.prompts import prompts
from benchmarks.minimal_pairs.rows import rows
from benchmarks.minimal_pairs.tables import every_table
from lrp_lens import load_model

MODELS = ("smollm2", "gemma3-270m")
RESULTS = Path(__file__).parent.parent / "results" / "minimal_pairs"
COSTLY = 20
"""Failures of a paradigm that every baseline is measured on."""


def measure(model: Any, name: str, paradigm: str, data: Path, costly: int, limit: int) -> pd.DataFrame:
    """The failures among the first `limit` pairs of a paradigm, a row each.

    Raises:
        InputError: as `prompts`.
    """
    asked = list(prompts(paradigm, model.tokenizer, data))[:limit]
    failures = [one for one in answered(model, asked) if one.difference < 0]
    print(f"{name}, {paradigm}: {len(failures)} failures of {len(asked)}", flush=True)
    made = pd.DataFrame(rows(model, failures, costly))
    made.insert(0, "model", name)
    made.insert(1, "paradigm", paradigm)
    made.insert(2, "asked", len(asked))
    return made


def main() -> None:
    """Measure what is missing, then print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--paradigms", nargs="+", default=list(PARADIGMS), choices=list(PARADIGMS))
    parser.add_argument("--costly", type=int, default=COSTLY, help="failures with every baseline")
    parser.add_argument("--limit", type=int, default=1000, help="pairs of a paradigm at most")
    options = with_result_options(parser, RESULTS).parse_args()
    store = opened(options)
    for name in () if options.tables else options.models:
        model = load_model(name, device="cpu")
        for paradigm in options.paradigms:
            head = {"costly": options.costly, "limit": options.limit, "seed": 0}

            def make(model: Any = model, name: str = name, paradigm: str = paradigm) -> pd.DataFrame:
                return measure(model, name, paradigm, options.data, options.costly, options.limit)

            store.rows(("pairs", name, paradigm), head, make)
    tell(store.every("pairs"), options.out, every_table)
