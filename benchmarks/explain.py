"""Cost of `explain` against one relevance pass of the same model and prompt, in one run.

1. Load a model (a directory or a name; the demo model by default) and take a prompt of random token ids.
2. Relevance pass: `run_with_relevance` as its defaults are (all logits, every default hook point).
3. `explain` as its defaults are: relevance, views, ledger and the check by masking.
4. Alternate the two after a warm-up; the limit is three relevance passes and two seconds.
"""

import argparse
from pathlib import Path

import torch

from benchmarks.overhead import measure
from lrp_lens import LogitDiff, explain, load_demo_model, load_model, run_with_relevance


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="directory or name; default: the demo model")
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
    limit = 3 * seconds["relevance"] + 2
    name = "demo model" if options.model is None else Path(options.model).name
    print(f"{name}, {options.tokens} tokens, {options.threads} threads, medians of {options.repeats}\n")
    print("| relevance pass | explain | 3 passes + 2 s | explain / pass | parts of the last explain |")
    print("|---|---|---|---|---|")
    parts = ", ".join(f"{part} {value:.2f}" for part, value in explained[-1].seconds.items())
    print(
        f"| {seconds['relevance']:.2f} s | {seconds['explain']:.2f} s | {limit:.2f} s "
        f"| {seconds['explain'] / seconds['relevance']:.2f} | {parts} |"
    )


if __name__ == "__main__":
    main()
