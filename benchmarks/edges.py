"""Cost of attribution graphs: closed-form edges against the batch-packed definition, whole graphs, long prompts.

1. One layer of GPT-2 small's shape: all edges from its input to its output, in closed form from what one backward pass
   left there, against batch-packed passes with 16 targets each (arXiv 2604.17761).  Of the ⌈n/16⌉ passes the first
   `--passes` are run, spread over the prompt, and their mean is taken for the others.
2. Twelve layers: `attribution_graph` against `run_with_relevance` alone, alternating; medians.  The graph makes its own
   forward and backward pass, so what it costs beyond one relevance pass is the difference.
3. `--long N`: a pruned graph of N tokens in a process of its own, and that process' peak memory.  The host is a
   TransformerBridge around OPT's architecture at GPT-2 small's shape, since it leaves attention to Hugging Face's fused
   kernel; GPT-2's own bridge forms every pattern, [12, N, N], itself.
"""

import argparse
import logging
import math
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
import transformers

from benchmarks.overhead import measure, transformer_bridge
from lrp_lens import ATTN_LRP, LogitDiff, attribution_graph, run_with_relevance
from lrp_lens.attribution_graphs.closed_form.account import LayerAccount
from lrp_lens.attribution_graphs.closed_form.batch_packed import packed_rows
from lrp_lens.attribution_graphs.closed_form.state_pass import StatePass
from lrp_lens.run.relevance import ask

METRIC = LogitDiff(11, 22)
COPIES = 16


def opt_bridge(length: int, layers: int) -> Any:
    """OPT's architecture at GPT-2 small's shape, with fused attention."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    torch.manual_seed(0)
    logging.disable(logging.WARNING)
    config = transformers.OPTConfig(
        hidden_size=768, word_embed_proj_dim=768, ffn_dim=3072, num_attention_heads=12, num_hidden_layers=layers,
        vocab_size=50257, max_position_embeddings=length, bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    model = transformers.OPTForCausalLM(config).eval()
    return build_bridge_from_module(model, "OPTForCausalLM", hf_config=config, dtype=torch.float32).eval()


def tokens_of(length: int) -> torch.Tensor:
    """Random token ids."""
    return torch.randint(50257, (1, length), generator=torch.Generator().manual_seed(0))


def one_layer(length: int, passes: int) -> None:
    """All edges of one layer, both ways."""
    model = transformer_bridge(1)
    run = StatePass(model, *ask(model, tokens_of(length), METRIC), ATTN_LRP)
    tensors = run.layer(0)

    def closed() -> torch.Tensor:
        attention, received = run.attention(tensors)
        (_, _, transition), *_ = LayerAccount(run, tensors, attention, received).transitions(split=False)
        return torch.cat([_padded(totals, length) for _, totals in transition.blocks(None)])

    fast = measure({"closed": closed}, 5)["closed"]
    every = math.ceil(length / COPIES)
    chosen = sorted({round(i * (every - 1) / max(passes - 1, 1)) for i in range(passes)})
    matrix, seconds, error = closed(), [], 0.0
    for index in chosen:
        positions = range(index * COPIES, min((index + 1) * COPIES, length))
        start = time.perf_counter()
        rows = packed_rows(run, (0, False), (1, False), positions)
        seconds.append(time.perf_counter() - start)
        error = max(error, float((rows - matrix[positions.start : positions.stop]).abs().max()))
    slow = every * sum(seconds) / len(seconds)
    print(
        f"| {length} | {fast:.3f} s | {slow:.0f} s ({len(chosen)} of {every} passes run) | {slow / fast:,.0f}× | "
        f"{error / float(matrix.abs().max()):.1e} |"
    )


def _padded(totals: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(totals, (0, length - totals.shape[1]))


def whole_graph(length: int, repeats: int) -> None:
    """A graph of twelve layers against the relevance pass."""
    model, tokens = transformer_bridge(12), tokens_of(length)
    seconds = measure(
        {
            "pass": lambda: run_with_relevance(model, tokens, METRIC, logits="metric"),
            "graph": lambda: attribution_graph(model, tokens, METRIC, progress=False),
        },
        repeats,
    )
    extra = seconds["graph"] / seconds["pass"] - 1
    print(
        f"\nWhole graph, 12 layers, {length} tokens: {seconds['graph']:.2f} s; relevance pass {seconds['pass']:.2f} s; "
        f"beyond that pass {extra:.2f}×."
    )


def long_prompt(length: int, layers: int) -> None:
    """Run in a process of its own: the peak memory counts everything, the model included."""
    model = opt_bridge(length, layers)
    start = time.perf_counter()
    graph = attribution_graph(model, tokens_of(length), METRIC, progress=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    remainder = graph.balance()["remainder"].abs().max()
    print(
        f"\nLong prompt: {length} tokens, {layers} layers, TransformerBridge (OPT, fused attention): "
        f"{time.perf_counter() - start:.0f} s, peak memory {peak:.2f} GiB (model included), {len(graph.relevance):,} "
        f"edges kept, largest remainder of a node {remainder:.1e} of a metric of {graph.metric_value:+.3f}."
    )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--passes", type=int, default=4, help="batch-packed passes to run of each length")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--long", type=int, default=0, help="tokens of the long prompt, e.g. 8192 (minutes)")
    parser.add_argument("--layers", type=int, default=12, help="layers of the long prompt's model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-long", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.only_long:
        return long_prompt(options.long, options.layers)
    print(
        f"transformer_lens {version('transformer_lens')}, torch {torch.__version__}, {options.threads} threads\n"
    )
    print("| tokens | closed form | batch-packed, 16 targets a pass | ratio | largest difference |")
    print("| --- | --- | --- | --- | --- |")
    for length in options.tokens:
        one_layer(length, options.passes)
    whole_graph(512, options.repeats)
    if options.long:
        arguments = ["--only-long", "--long", str(options.long), "--layers", str(options.layers)]
        subprocess.run([sys.executable, "-m", "benchmarks", "edges", *arguments], check=True)
