"""Component edges against a relevance pass of the same prompts, in processor time, alternating in one run.

1. A model of SmolLM2's shape (30 layers) with random weights, or one from a directory (`--model`).
2. Passes: `run_with_relevance` with everything kept; a plain forward pass; `component_edges` of one run, and of clean
   against corrupted prompts (which takes one plain forward pass more).
3. Alternate them; print medians of processor seconds and their ratios to the relevance pass.
"""

import argparse
import statistics
import time
from typing import Any

import torch
import transformers

from lrp_lens import RELP, LogitDiff, load_model, run_with_relevance
from lrp_lens.circuits import component_edges
from lrp_lens.run.pairs import plain_run, read_pair

METRIC = LogitDiff(11, 22)


def smollm2_shape(layers: int) -> Any:
    """Llama of SmolLM2-135M's shape in a TransformerBridge, random weights."""
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=layers,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
        architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = transformers.LlamaForCausalLM(config).eval()
    return build_bridge_from_module(model, "LlamaForCausalLM", hf_config=config, dtype=torch.float32)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="directory or name for load_model; default: random weights")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=15)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.model) if options.model else smollm2_shape(options.layers)
    generator = torch.Generator().manual_seed(0)
    shape = (options.prompts, options.tokens)
    clean, corrupted = (torch.randint(int(model.cfg.d_vocab), shape, generator=generator) for _ in range(2))
    pair = read_pair(model, clean, corrupted, METRIC)
    passes = {
        "relevance pass": lambda: run_with_relevance(model, clean, METRIC, rules=RELP),
        "plain forward pass": lambda: plain_run(model, pair.clean, (), pair.bound),
        "edges of one run": lambda: component_edges(model, clean, metric=METRIC, rules=RELP, progress=False),
        "edges, clean - corrupted": lambda: component_edges(
            model, clean, corrupted, METRIC, rules=RELP, progress=False
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for round_ in range(options.repeats + 1):
        for name, function in passes.items():
            start = time.process_time()
            function()
            if round_:
                seconds[name].append(time.process_time() - start)
    print(
        f"{model.cfg.n_layers} layers, {shape[0]} prompts of {shape[1]} tokens, {options.threads} threads\n"
    )
    base = statistics.median(seconds["relevance pass"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"{name:<26}{median:8.3f} processor s{median / base:8.2f} relevance passes")


if __name__ == "__main__":
    main()
