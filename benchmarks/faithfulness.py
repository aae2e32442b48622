"""Which token scores predict what masking does? Every preset and baseline on the demo model's own cases.

1. Take the demo model's failures and as many correct cases, evenly over the suites.
2. `faithfulness` with every preset and every baseline; print the table, over all cases and apart for failures and
   correct cases, each method's ΔA minus the best relevance preset's (paired by case), and the cost.
3. With --out, write the per-case table and the figures.

One thread: two of one small matrix product wait for each other as soon as anything else runs.

`--every-replacement` repeats the table with each replacement: a ranking that depends on it is no ranking.
"""

import argparse
import time
from pathlib import Path
from typing import get_args

import torch

from lrp_lens.cases import Case
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.masking import BASELINES, MEASURES, Faithfulness, faithfulness
from lrp_lens.masking.replacement import ReplacementName
from lrp_lens.plots import plot_faithfulness, plot_faithfulness_measure
from lrp_lens.rules import PRESETS


def spread(cases: list[Case], count: int) -> list[Case]:
    """`count` cases, evenly spaced, so that every suite has its share."""
    return [cases[index * len(cases) // count] for index in range(min(count, len(cases)))]


def selection(count: int) -> list[Case]:
    """Half failures, half correct cases."""
    return spread(demo_cases(correct=False), count // 2) + spread(
        demo_cases(correct=True), count - count // 2
    )


def print_details(result: Faithfulness) -> None:
    """ΔA apart for failures and correct cases, and paired differences to the best preset."""
    summary = result.summary("correct")
    summary = summary[summary["measure"] == "delta_a"]
    print("\nΔA apart:\n\n| method | failures | correct cases |\n|---|---|---|")
    for method in result.methods:
        cells = []
        for correct in (False, True):
            row = summary[(summary["method"] == method) & (summary["correct"] == correct)].iloc[0]
            cells.append(f"{row['mean']:.2f} [{row['low']:.2f}, {row['high']:.2f}]")
        print(f"| {method} | {cells[0]} | {cells[1]} |")
    means = result.cases.groupby("method")["delta_a"].mean()
    best = str(means[[name for name in PRESETS if name != "GRADIENT"]].idxmax())
    print(f"\nΔA minus that of {best}, the best relevance preset, paired by case:\n")
    print("| method | difference | 95 % interval |\n|---|---|---|")
    for row in result.differences(best).itertuples():
        print(f"| {row.method} | {row.mean:+.2f} | [{row.low:+.2f}, {row.high:+.2f}] |")


def write(result: Faithfulness, out: Path) -> None:
    """The per-case table and the figures."""
    out.mkdir(parents=True, exist_ok=True)
    result.cases.to_csv(out / "faithfulness.csv", index=False)
    plot_faithfulness(result.curves()).write_html(out / "faithfulness_curves.html")
    summary = result.summary()
    for name in ("delta_a", "loo_correlation", "flip_tokens"):
        measure = MEASURES[name]
        figure = plot_faithfulness_measure(
            summary, name, title=measure.words, higher_is_better=measure.higher
        )
        figure.write_html(out / f"faithfulness_{name}.html")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--steps", type=int, default=20, help="points of the curves")
    parser.add_argument("--replacement", choices=get_args(ReplacementName), default="mean")
    parser.add_argument("--every-replacement", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mask-decision", action="store_true", help="mask the token of the decision, too")
    parser.add_argument("--checkpoint", type=Path, help="folder with which an interrupted table goes on")
    parser.add_argument("--out", type=Path, help="folder for the per-case table and the figures")
    options = parser.parse_args()
    chosen = get_args(ReplacementName) if options.every_replacement else (options.replacement,)
    torch.set_num_threads(1)
    model = load_demo_model(device="cpu")
    for replacement in chosen:
        start, cpu = time.perf_counter(), time.process_time()
        several = options.every_replacement and options.checkpoint
        result = faithfulness(
            model,
            selection(options.cases),
            [*PRESETS, *BASELINES],
            replacement=replacement,
            steps=options.steps,
            seed=options.seed,
            mask_decision=options.mask_decision,
            checkpoint=options.checkpoint.with_suffix(f".{replacement}") if several else options.checkpoint,
        )
        elapsed, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"\n{result.to_markdown()}")
        print_details(result)
        print(f"\n{elapsed:.0f} s ({cpu:.0f} CPU s, one thread); seconds of scores, all cases:")
        print(", ".join(f"{name} {seconds:.1f}" for name, seconds in result.seconds.items()), flush=True)
        if options.out:
            write(result, options.out / replacement if options.every_replacement else options.out)


if __name__ == "__main__":
    main()
