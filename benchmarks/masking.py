"""What sharing saves: `faithfulness` against the same table with every masked prompt run by itself.

1. Prompts of indirect objects, facts and agreement; or, without --model, the demo model's own cases.
2. Fast: `faithfulness` as it is.  Slow: the same, with each masked prompt a forward pass of its own that unembeds every
   position.  Both in one run, case by case in turn, one thread, seconds of processor time.
3. Print the ratio, with what the methods' own passes cost in both, and the largest difference of any number.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from lrp_lens import load_model
from lrp_lens.demo import demo_cases, load_demo_model
from lrp_lens.masking import BASELINES, MEASURES, Faithfulness, faithfulness, replacement
from lrp_lens.rules import PRESETS

PROMPTS = (
    "When Mary and John went to the store, John gave a drink to",
    "The capital of Italy is the city of",
    "The keys to the cabinet near the old door",
    "The opposite of hot is cold, and the opposite of big is",
)


@contextmanager
def one_by_one() -> Iterator[None]:
    """Every masked prompt in a pass of its own, all positions unembedded."""
    shared = replacement.masked_logits

    def alone(model: Any, tokens: Any, masks: Any, rows: Any, positions: Any = None) -> Iterator[Any]:
        for ids, mask in zip(tokens, masks, strict=True):
            logits = next(shared(model, ids[None], mask[None], rows, None))
            yield logits if positions is None else logits[:, list(positions)]

    from lrp_lens.masking import question, questions

    try:
        question.masked_logits = questions.masked_logits = alone
        yield
    finally:
        question.masked_logits = questions.masked_logits = shared


def measured(model: Any, case: Any, methods: list[Any]) -> tuple[Faithfulness, float]:
    """The table of one case, and its processor time."""
    start = time.process_time()
    return faithfulness(model, case, methods, progress=False), time.process_time() - start


def main() -> None:
    """Print both times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="a name or directory; without one, the demo model")
    parser.add_argument("--host", default="auto")
    parser.add_argument("--cases", type=int, default=4)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(options.model, host=options.host, device="cpu") if options.model else load_demo_model()
    cases: list[Any] = list(PROMPTS if options.model else demo_cases())[: options.cases]
    methods = [*PRESETS, "RELP_QK_QUARTER", *BASELINES]
    measured(model, cases[0], ["random"])  # what the first call alone costs
    totals, difference = np.zeros(2), 0.0
    for case in cases:
        fast, seconds = measured(model, case, methods)
        with one_by_one():
            slow, slower = measured(model, case, methods)
        totals += (seconds, slower)
        parts = [fast.cases[name].to_numpy(float) - slow.cases[name].to_numpy(float) for name in MEASURES]
        difference = max(difference, float(np.nanmax(np.abs(parts))))
        print(f"{fast.cases['tokens'][0]} tokens: {seconds:.1f} s, one by one {slower:.1f} s", flush=True)
    print(
        f"{len(cases)} cases, {len(methods)} methods, {type(model).__name__}: {totals[0]:.1f} CPU s, one by one "
        f"{totals[1]:.1f}: {totals[1] / totals[0]:.2f} ×; largest difference of a measure {difference:.1e}"
    )


if __name__ == "__main__":
    main()
