"""Cost of a relevance pass against a plain forward and backward pass of the same model, in one run.

1. Build a randomly initialised model of GPT-2-small's shape in each host (no download).
2. Plain pass: forward with all logits, gradient of the metric at the embeddings.
3. Relevance pass: `run_with_relevance` with AttnLRP, every default hook point kept; once with all logits, once
   unembedding only the positions that the metric reads.
4. Alternate the three, so that a noisy machine hits them alike; report the ratio of medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
import transformer_lens
import transformers

from lrp_lens import ATTN_LRP, LogitDiff, run_with_relevance

METRIC = LogitDiff(11, 22)


def hooked_transformer(layers: int) -> Any:
    """GPT-2 small as HookedTransformer (transformer_lens 3.x)."""
    config = transformer_lens.HookedTransformerConfig(
        n_layers=layers, d_model=768, n_ctx=1024, d_head=64, n_heads=12, d_mlp=3072, d_vocab=50257,
        act_fn="gelu_new", normalization_type="LN", seed=0,
    )  # fmt: skip
    return transformer_lens.HookedTransformer(config).eval()


def transformer_bridge(layers: int) -> Any:
    """GPT-2 small as TransformerBridge."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=layers, architectures=["GPT2LMHeadModel"])
    config._attn_implementation = "eager"
    model = transformers.GPT2LMHeadModel(config).eval()
    return build_bridge_from_module(model, "GPT2LMHeadModel", hf_config=config, dtype=torch.float32)


def plain_pass(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Forward with all logits; gradient of the metric at the embeddings."""
    kept: list[torch.Tensor] = []

    def leaf(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
        kept.append(tensor.detach().requires_grad_(True))
        return kept[0]

    with model.hooks(fwd_hooks=[("hook_embed", leaf)]):
        value = METRIC(model(tokens)).sum()
    return torch.autograd.grad(value, kept[0])[0]


def measure(passes: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each pass, alternating; one warm-up round."""
    times: dict[str, list[float]] = {name: [] for name in passes}
    for round_ in range(repeats + 1):
        for name, function in passes.items():
            start = time.perf_counter()
            function()
            if round_:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tokens = torch.randint(50257, (1, options.tokens), generator=torch.Generator().manual_seed(0))
    hosts = {"HookedTransformer": hooked_transformer, "TransformerBridge": transformer_bridge}
    if int(version("transformer_lens").split(".")[0]) >= 4:
        del hosts["HookedTransformer"]
    print(
        f"GPT-2-small shape, {options.layers} layers, {options.tokens} tokens, {options.threads} threads, AttnLRP, "
        f"transformer_lens {version('transformer_lens')}, "
        f"medians of {options.repeats}\n"
    )
    print("| host | plain forward + backward | relevance, all logits | relevance, metric's logits only |")
    print("|---|---|---|---|")
    for name, build in hosts.items():
        model = build(options.layers)
        seconds = measure(
            {
                "plain": lambda model=model: plain_pass(model, tokens),
                "all": lambda model=model: run_with_relevance(model, tokens, METRIC, rules=ATTN_LRP),
                "metric": lambda model=model: run_with_relevance(
                    model, tokens, METRIC, rules=ATTN_LRP, logits="metric"
                ),
            },
            options.repeats,
        )
        ratios = [f"{seconds[key] / seconds['plain']:.2f}×" for key in ("all", "metric")]
        print(f"| {name} | {seconds['plain']:.3f} s | {ratios[0]} | {ratios[1]} |", flush=True)


if __name__ == "__main__":
    main()
