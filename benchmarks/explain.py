"""Cost of `explain` against one relevance pass of the same model and prompt, in one run.

1. Load a model (a directory or a name; the demo model by default) and take a prompt of random token ids.
2. Relevance pass: `run_with_relevance` as its defaults are (all logits, every default hook point).
3. `explain` as its defaults are: relevance, views, ledger and the check by masking.
4. Alternate the two after a warm-up; the limit is three relevance passes and two seconds.  Both are given in wall-clock
   time and in processor time of all threads: where other programs run, only the second can be compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lrp_lens import LogitDiff, explain, load_demo_model, load_model, run_with_relevance


def measure(passes: dict[str, Callable[[], object]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median wall-clock and processor seconds of each pass, alternating; one warm-up round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in passes}
    for round_ in range(repeats + 1):
        for name, function in passes.items():
            wall, processor = time.perf_counter(), time.process_time()
            function()
            if round_:
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    medians = {
        name: [statistics.median(column) for column in zip(*times[name], strict=True)] for name in passes
    }
    return {name: (wall, processor) for name, (wall, processor) in medians.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="directory, .gguf file or name; default: the demo model")
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_demo_model() if options.model is None else load_model(options.model)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, int(model.cfg.d_vocab), (1, options.tokens), generator=generator)
    explained = []
    seconds = measure(
        {
            "relevance": lambda: run_with_relevance(model, tokens, LogitDiff(11, 22)),
            "explain": lambda: explained.append(explain(model, tokens, progress=False)),
        },
        options.repeats,
    )
    name = "demo model" if options.model is None else Path(options.model).name
    print(f"{name}, {options.tokens} tokens, {options.threads} threads, medians of {options.repeats}\n")
    print("| time | relevance pass | explain | 3 passes + 2 s | explain / pass |")
    print("|---|---|---|---|---|")
    for index, kind in enumerate(("wall clock", "processor")):
        one, whole = seconds["relevance"][index], seconds["explain"][index]
        print(f"| {kind} | {one:.2f} s | {whole:.2f} s | {3 * one + 2:.2f} s | {whole / one:.2f} |")
    parts = ", ".join(f"{part} {value:.2f} s" for part, value in explained[-1].seconds.items())
    print(f"\nThe last explain (wall clock): {parts}.")


if __name__ == "__main__":
    main()
