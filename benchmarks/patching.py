"""LRP patching of every site and head at once against activation patching of the same sites, in one run.

1. Build a randomly initialised model of GPT-2-small's shape (no download); 15 tokens.
2. LRP patching: one pass (RELP), a clean run, and the scores of every facet; median of several.
3. Activation patching of all heads by position with transformer_lens.patching: `--cells` evenly spread patches are
   timed (2,160 is all of them); every patch costs one forward pass, so fewer are scaled up.
4. The other facets have a known number of forward passes; the ratio for all sites uses the same seconds per pass.
"""

import argparse
import statistics
import time
import warnings
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch
import transformer_lens
import transformer_lens.patching

from benchmarks.overhead import hooked_transformer, transformer_bridge
from lrp_lens import RELP, LogitDiff
from lrp_lens.patching import FACETS, get_lrp_patch_attn_head_out_by_pos, patching_pass

METRIC = LogitDiff(11, 22)
SITES = [name for name in FACETS if "dest_src" not in name]


def everything(model: Any, corrupted: torch.Tensor, clean: torch.Tensor) -> None:
    """Every facet's scores from one backward pass and one clean run."""
    passed = patching_pass(model, corrupted, METRIC, rules=RELP)
    for name in SITES:
        passed.scores(clean, FACETS[name])


def heads_only(model: Any, corrupted: torch.Tensor, clean: torch.Tensor) -> None:
    """All heads by position."""
    get_lrp_patch_attn_head_out_by_pos(model, corrupted, clean, METRIC)


def seconds(function: Any, repeats: int, *arguments: Any) -> float:
    """Median of several calls, after a warm-up."""
    times = []
    for round_ in range(repeats + 1):
        start = time.perf_counter()
        function(*arguments)
        if round_:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def activation_patching(model: Any, corrupted: torch.Tensor, clean: torch.Tensor, cells: int) -> float:
    """Seconds per cell of transformer_lens' sweep over heads by position, over evenly spread cells."""
    cfg, length = model.cfg, corrupted.shape[1]
    index = pd.DataFrame(
        [(i, j, k) for i in range(cfg.n_layers) for j in range(length) for k in range(cfg.n_heads)],
        columns=["layer", "pos", "head"],
    )
    chosen = index.iloc[:: max(1, len(index) // cells)].reset_index(drop=True)
    with torch.no_grad():
        _, cache = model.run_with_cache(clean)
        start = time.perf_counter()
        transformer_lens.patching.generic_activation_patch(
            model,
            corrupted,
            cache,
            lambda logits: METRIC(logits).mean(),
            transformer_lens.patching.layer_pos_head_vector_patch_setter,
            "z",
            index_df=chosen,
        )
    return (time.perf_counter() - start) / len(chosen)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=15)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument(
        "--cells", type=int, default=2160, help="forward passes timed for activation patching"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", DeprecationWarning)
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = (torch.randint(50257, (1, options.tokens), generator=generator) for _ in range(2))
    hosts = {"TransformerBridge": transformer_bridge}
    if version("transformer_lens") < "4":
        hosts = {"HookedTransformer": hooked_transformer, **hosts}
    print(
        f"GPT-2-small shape, {options.layers} layers, {options.tokens} tokens, one pair, {options.threads} threads\n"
    )
    print("| host | sites | forwards of activation patching | its seconds | LRP patching, seconds | ratio |")
    print("|---|---|---|---|---|---|")
    for name, build in hosts.items():
        model = build(options.layers)
        per_cell = activation_patching(model, corrupted, clean, options.cells)
        layer = {"pos": options.tokens, "dest_pos": options.tokens, "head": model.cfg.n_heads}
        counts = {}
        for site in SITES:
            counts[site] = options.layers
            for axis in FACETS[site].axes:
                counts[site] *= layer[axis]
        rows = {
            "heads by position": (counts["attn_head_out_by_pos"], heads_only),
            f"all {len(SITES)} sweeps": (sum(counts.values()), everything),
        }
        for what, (cells, function) in rows.items():
            fast = seconds(function, options.repeats, model, corrupted, clean)
            timed = "" if cells <= options.cells else f" ({options.cells} timed, scaled)"
            slow = per_cell * cells
            print(
                f"| {name} | {what} | {cells}{timed} | {slow:.1f} | {fast:.3f} | {slow / fast:.0f}× |",
                flush=True,
            )


if __name__ == "__main__":
    main()
