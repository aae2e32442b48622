"""Component edges and circuit evaluation against transformer_lens 4.3's attribution_patch and faithfulness, in one run.

1. Build a randomly initialised model of GPT-2-small's shape (no download); one pair of prompts of 15 tokens.
2. Component edges: seconds in all, and seconds of what is done after the backward.
3. One circuit of 2,000 edges at positions (transformer_lens' are at positions): seconds of `run_circuits`.
4. transformer_lens 4.3 on the same model and prompts: `attribution_patch` in full.  `faithfulness` takes minutes and
   its time is proportional to the edges, so by default it is timed on `--their-tokens` tokens and scaled up by the
   number of edges; `--full` runs it on all of them.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformer_lens

from benchmarks.overhead import hooked_transformer, transformer_bridge
from lrp_lens import GRADIENT, LogitDiff, run_with_relevance
from lrp_lens.circuits import ComponentEdges, component_edges, component_graph, run_circuits
from lrp_lens.circuits.edge_scores import _score
from lrp_lens.circuits.readers import reader_names
from lrp_lens.circuits.writers import Writers
from lrp_lens.run.pairs import plain_run, read_pair

METRIC = LogitDiff(11, 22)


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """Fastest of several calls, after a warm-up: other work on the machine only adds to it."""
    times = []
    for round_ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if round_:
            times.append(time.perf_counter() - start)
    return min(times)


def scoring(model: Any, clean: torch.Tensor, corrupted: torch.Tensor) -> Callable[[bool], Any]:
    """All edges from passes that have been run: what `component_edges` does after its backward."""
    pair, graph = read_pair(model, clean, corrupted, METRIC), component_graph(model)
    writers = Writers(model, graph)
    names = writers.names() + reader_names(writers.sites, graph)
    assert pair.corrupted is not None
    other = plain_run(model, pair.clean, names)[1]
    _, cache = run_with_relevance(
        model, corrupted, METRIC, rules=GRADIENT, names_filter=names, logits="metric"
    )
    return lambda positions: _score(writers, cache, other, cache.activations, GRADIENT, positions)


def theirs(
    model: Any, clean: torch.Tensor, corrupted: torch.Tensor, size: int, tokens: int
) -> tuple[float, int, float, int, float]:
    """Seconds and edges of attribution_patch, then of faithfulness on the first tokens; and its answer."""
    from transformer_lens.tools.analysis import attribution_patching as tl

    config = tl.EdgeAttributionConfig(granularity="edge")

    def metric(logits: torch.Tensor) -> torch.Tensor:
        return METRIC(logits)[0]

    start = time.perf_counter()
    result = tl.attribution_patch(model, clean, corrupted, metric, config)
    edges_seconds, n_edges = time.perf_counter() - start, len(result.edge_scores)
    if tokens < clean.shape[1]:
        clean, corrupted = clean[:, :tokens], corrupted[:, :tokens]
        result = tl.attribution_patch(model, clean, corrupted, metric, config)
    top = result.top_edges(size)
    start = time.perf_counter()
    found = tl.faithfulness(model, clean, corrupted, metric, top)
    return edges_seconds, n_edges, time.perf_counter() - start, len(result.edge_scores), found.recovered


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=15)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--edges", type=int, default=2000, help="edges of the circuit")
    parser.add_argument("--their-tokens", type=int, default=3, help="tokens on which faithfulness is timed")
    parser.add_argument("--full", action="store_true", help="time faithfulness on all tokens (minutes)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore", DeprecationWarning)
    generator = torch.Generator().manual_seed(0)
    clean, corrupted = (torch.randint(50257, (1, options.tokens), generator=generator) for _ in range(2))
    print(
        f"GPT-2-small shape, {options.layers} layers, {options.tokens} tokens, one pair, {options.threads} threads\n"
    )
    hosts = {"HookedTransformer": hooked_transformer, "TransformerBridge": transformer_bridge}
    if "HookedTransformer" not in dir(transformer_lens):  # transformer_lens 4
        del hosts["HookedTransformer"]
    for host, build in hosts.items():
        model = build(options.layers)

        def score(positions: bool, model: Any = model) -> ComponentEdges:
            return component_edges(
                model,
                clean,
                corrupted,
                METRIC,
                rules=GRADIENT,
                direction="denoising",
                positions=positions,
            )

        edges = score(True)
        print(f"{host}: {edges.graph}")
        after = scoring(model, clean, corrupted)
        for positions in (False, True):
            whole = seconds(lambda positions=positions, score=score: score(positions), options.repeats)
            alone = seconds(lambda positions=positions, after=after: after(positions), options.repeats)
            what = "by position" if positions else "summed"
            print(
                f"  component edges, {what:<12}{whole:8.3f} s, of these after the backward {alone:8.3f} s",
                flush=True,
            )
        circuit = edges.top(options.edges, prune=False)
        one = seconds(
            lambda model=model, circuit=circuit: run_circuits(model, circuit, clean, corrupted, METRIC),
            options.repeats,
        )
        share = run_circuits(model, circuit, clean, corrupted, METRIC).recovered[0]
        print(
            f"  {len(circuit)}-edge circuit                             {one:8.3f} s, recovered {share:.4f}"
        )
        ten = [edges.top(int(n), prune=False) for n in np.linspace(100, 10_000, 10)]
        many = seconds(
            lambda model=model, ten=ten: run_circuits(model, ten, clean, corrupted, METRIC),
            options.repeats,
        )
        print(f"  ten circuits at once                           {many:8.3f} s")
        if host == "TransformerBridge":
            _beside(model, clean, corrupted, options, whole, one)


def _beside(
    model: Any,
    clean: torch.Tensor,
    corrupted: torch.Tensor,
    options: Any,
    edges_seconds: float,
    run_seconds: float,
) -> None:
    """transformer_lens on the same model."""
    tokens = options.tokens if options.full else options.their_tokens
    try:
        edges, n_edges, run, n_run, share = theirs(model, clean, corrupted, options.edges, tokens)
    except NotImplementedError:
        print("  transformer_lens scores edges from 4.3 on")
        return
    print(
        f"  transformer_lens attribution_patch {n_edges:8d} edges {edges:8.1f} s: "
        f"{edges / edges_seconds:.0f}× component_edges in all, by position"
    )
    scaled = run * n_edges / n_run
    how = (
        f"recovered {share:.4f}"
        if options.full
        else f"{run:.1f} s for {n_run} edges at {tokens} tokens, scaled"
    )
    print(
        f"  transformer_lens faithfulness, one circuit        {scaled:8.1f} s: {scaled / run_seconds:.0f}× ({how})"
    )


if __name__ == "__main__":
    main()
