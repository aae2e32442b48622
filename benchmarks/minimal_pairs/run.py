"""The command: the failures of each model at each paradigm, then the tables."""

import argparse
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.evidence.cases import answered
from benchmarks.evidence.run import DATA
from benchmarks.evidence.store import Store
from benchmarks.minimal_pairs.prompts import PARADIGMS, prompts
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
    parser.add_argument(
        "--tables", action="store_true", help="print the tables of what there is; measure nothing"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the benchmark data")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", DeprecationWarning)
    options.out.mkdir(parents=True, exist_ok=True)
    store = Store(options.out)
    for name in () if options.tables else options.models:
        model = load_model(name, device="cpu")
        for paradigm in options.paradigms:
            head = {"costly": options.costly, "limit": options.limit, "seed": 0}

            def make(model: Any = model, name: str = name, paradigm: str = paradigm) -> pd.DataFrame:
                return measure(model, name, paradigm, options.data, options.costly, options.limit)

            store.rows(("pairs", name, paradigm), head, make)
    found = store.every("pairs")
    if not len(found):
        print("There are no rows yet.")
        return
    text = every_table(found)
    (options.out / "tables.md").write_text(text + "\n", encoding="utf-8")
    print(text)
