"""What commands over a folder of results share: options, data in a seeded order, tables written and printed."""

import argparse
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from benchmarks.evidence.run import DATA
from benchmarks.evidence.store import Store


def with_result_options(parser: argparse.ArgumentParser, results: Path) -> argparse.ArgumentParser:
    """The options of a benchmark that reads data and keeps rows in a folder."""
    parser.add_argument(
        "--tables", action="store_true", help="print the tables of what there is; measure nothing"
    )
    parser.add_argument("--out", type=Path, default=results, help="folder of the results")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the benchmark data")
    parser.add_argument("--threads", type=int, default=2)
    return parser


def opened(options: argparse.Namespace) -> Store:
    """The folder of the results, made where it is missing; threads and warnings are set."""
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", DeprecationWarning)
    options.out.mkdir(parents=True, exist_ok=True)
    return Store(options.out)


def tell(rows: pd.DataFrame, out: Path, tables: Callable[[pd.DataFrame], str]) -> str:
    """Write the tables of the rows into the folder, print and return them; "" where there are no rows."""
    if not len(rows):
        print("There are no rows yet.")
        return ""
    text = tables(rows)
    (out / "tables.md").write_text(text + "\n", encoding="utf-8")
    print(text)
    return text


def lines_in_order(path: Path, seed: int) -> Iterator[tuple[int, str]]:
    """The lines of a file with their numbers, in an order that a seed gives."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for index in np.random.default_rng(seed).permutation(len(lines)).tolist():
        yield index, lines[index]
