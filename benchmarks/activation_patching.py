"""Activation patching as `compare` runs it against its definition, whole runs one at a time, in one process.

1. Take a model (by default a randomly initialised one of GPT-2-small's shape; `--model` loads another) and pairs of
   prompts of one length.
2. In turns: the definition (tests.patched_alone.py) on cells drawn at random, and the sweep over all.
3. Report processor time, which other work on the machine does not count into, for all cells (the definition scaled up
   from those that were timed), their ratio, how many cells the sweep had to run, and the largest difference of the
   metric on the cells that both ran.
"""

import argparse
import random
import time
import warnings
from typing import Any

import torch

from benchmarks.overhead import transformer_bridge
from lrp_lens import LogitDiff, load_model
from lrp_lens.hosts import dead, resolve
from lrp_lens.methods.facets import FACETS
from lrp_lens.methods.inputs import aligned
from lrp_lens.patching.activation import Options, patchable, patched_values
from lrp_lens.patching.runs import Runs
from tests.patched_alone import patch_one_by_one

TEXT = "When{} and{} went to the store,{} gave a bottle of milk to"
NAMES = ((" Mary", " John"), (" Tom", " Anna"), (" Paul", " Sarah"), (" Mark", " Lisa"), (" James", " Kate"))


def questions(model: Any, pairs: int, tokens: int) -> tuple[Any, Any, LogitDiff]:
    """Clean prompts, corrupted ones, and the metric: indirect objects, or random tokens without a tokenizer."""
    if model.tokenizer is None:
        generator = torch.Generator().manual_seed(0)
        clean, corrupted = (
            torch.randint(model.cfg.d_vocab, (pairs, tokens), generator=generator) for _ in range(2)
        )
        return clean, corrupted, LogitDiff(11, 22)
    names = NAMES[:pairs]
    clean = [TEXT.format(a, b, b) for a, b in names]
    corrupted = [TEXT.format(a, b, a) for a, b in names]
    return clean, corrupted, LogitDiff(tuple(a for a, _ in names), tuple(b for _, b in names))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="what load_model takes; default: GPT-2-small shape, random weights")
    parser.add_argument("--sites", nargs="+", default=["mlp_out", "attn_out"])
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=15, help="length of random prompts")
    parser.add_argument("--cells", type=int, default=30, help="cells that the definition runs, for each site")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", DeprecationWarning)
    model = load_model(options.model) if options.model else transformer_bridge(12)
    clean, corrupted, metric = questions(model, options.pairs, options.tokens)
    metric = metric.resolve(model)
    own, other = aligned(model, corrupted, "corrupted", metric), aligned(model, clean, "clean", metric)
    length = own.ids.shape[1]
    cells = [(layer, (pos,)) for layer in range(model.cfg.n_layers) for pos in range(length)]
    timed = sorted(random.Random(0).sample(cells, min(len(cells), options.cells)))
    print(
        f"{type(model).__name__}, {model.cfg.n_layers} layers, {len(own.ids)} pairs of {length} tokens, "
        f"{options.threads} threads, processor time\n"
    )
    print("| site | cells | run by the sweep | definition, s | sweep, s | ratio | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for site in options.sites:
        slow = fast = 0.0
        for _ in range(options.repeats):
            began = time.process_time()
            expected = patch_one_by_one(model, own.ids, other.ids, site, [metric], timed)
            middle = time.process_time()
            live, right = patchable(resolve(model), dead(model), FACETS[site])
            runs = Runs(model, own, other, [metric], live.values())
            found, ran = patched_values(runs, FACETS[site], live, right, Options(progress=False))
            slow, fast = slow + middle - began, fast + time.process_time() - middle
        slow *= len(cells) / len(timed) / options.repeats
        fast /= options.repeats
        same = torch.stack([found[:, :, layer, pos] for layer, (pos,) in timed], dim=-1)
        gap = (same - expected).abs().max().item()
        seconds = f"{slow:.1f} | {fast:.1f} | {slow / fast:.1f}×"
        share = f"{ran} ({ran / len(cells):.0%})"
        print(f"| {site} | {len(cells)} ({len(timed)} timed) | {share} | {seconds} | {gap:.1e} |", flush=True)


if __name__ == "__main__":
    main()
