"""A worker with lrp_lens' passes over one model: `python -m benchmarks._passes MODEL HOST [--layers N]`.

1. MODEL: what `load_model` takes, or one of `SHAPES`: random weights in an architecture's shape (`llama-small`: a tiny
   one; `qwen2-1.5b`: Qwen2.5-1.5B's, in bfloat16 from the start).
2. "plain": forward and backward to the embeddings, no rule, the logits of the last position.
3. "full", "low": `run_with_relevance` with memory="full" or "low", then tokens, layers, heads and the ledger;
   "full tokens", "low tokens": the tokens only.  "graph": the pruned attribution graph.  All under AttnLRP.
4. "ask full", "ask low": what `estimate` says, in MB.
"""

import argparse
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch
import transformers

from benchmarks._worker import Work, serve
from lrp_lens import ATTN_LRP, LogitDiff, attribution_graph, estimate, load_model, run_with_relevance
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import forward, last_position
from lrp_lens.hosts.scope import attached, parameters_frozen

HOSTS = ("TransformerBridge", "HookedTransformer")
METRIC = LogitDiff(11, 22)
LONGEST = 12288
SHAPES = {
    "gpt2": {"layers": 12, "width": 768, "heads": 12, "words": 50257},
    "llama": {"layers": 8, "width": 512, "heads": 8, "words": 8192},
    "qwen3": {"layers": 8, "width": 512, "heads": 8, "words": 8192},
    "qwen2-1.5b": {
        "layers": 28, "width": 1536, "heads": 12, "words": 151936, "key_value_heads": 2, "mlp": 8960, "tied": True,
    },
} | {
    f"{family}-small": {"layers": 2, "width": 64, "heads": 4, "words": 256} for family in ("gpt2", "llama", "qwen3")
}  # fmt: skip
DTYPES = {"qwen2-1.5b": torch.bfloat16}
"""Of the weights, where that is not float32."""


def shape(name: str, layers: int | None) -> Any:
    """The Hugging Face configuration of an architecture; `gpt2-small` is the small one of `gpt2`."""
    family, size = name.partition("-")[0], SHAPES[name]
    depth, width, heads = layers or size["layers"], size["width"], size["heads"]
    marks = dict(vocab_size=size["words"], bos_token_id=1, eos_token_id=2)
    if family == "gpt2":
        config = transformers.GPT2Config(
            n_layer=depth, n_embd=width, n_head=heads, n_positions=LONGEST, **marks
        )
        config.n_ctx = (
            LONGEST  # which HookedTransformer's converter reads and transformers 5 no longer writes
        )
        return config
    fields = dict(
        hidden_size=width, intermediate_size=size.get("mlp", 11 * width // 4), num_hidden_layers=depth,
        num_attention_heads=heads, num_key_value_heads=size.get("key_value_heads", heads // 2),
        max_position_embeddings=LONGEST, tie_word_embeddings=size.get("tied", False), **marks,
    )  # fmt: skip
    if family in ("llama", "qwen2"):
        return {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[family](**fields)
    return transformers.Qwen3Config(**fields, head_dim=2 * width // heads)


def loaded(
    name: str, host: Literal["TransformerBridge", "HookedTransformer"], layers: int | None = None
) -> Any:
    """A model by its name or shape, on a host."""
    if name not in SHAPES:
        return load_model(name, host=host, device="cpu")
    torch.manual_seed(0)
    dtype = DTYPES.get(name, torch.float32)
    with tempfile.TemporaryDirectory() as folder:
        transformers.AutoModelForCausalLM.from_config(shape(name, layers), dtype=dtype).save_pretrained(
            folder
        )
        return load_model(folder, host=host, device="cpu", dtype=dtype)


def token_ids(words: int, count: int) -> torch.Tensor:
    """The prompt that every worker takes."""
    return torch.randint(words, (1, count), generator=torch.Generator().manual_seed(0))


class Passes:
    """The pieces of work, by name."""

    def __init__(self, model: Any) -> None:
        self.model, self.sites = model, resolve(model)

    def ids(self, tokens: int) -> torch.Tensor:
        return token_ids(int(self.model.cfg.d_vocab), tokens)

    def plain(self, tokens: int) -> Sequence[float]:
        kept: list[torch.Tensor] = []

        def leaf(tensor: torch.Tensor, hook: Any) -> torch.Tensor:
            kept.append(tensor.detach().requires_grad_(True))
            return kept[0]

        hooks = [(self.sites.embedding.point, leaf), (self.sites.unembed_input.point, last_position)]
        with parameters_frozen(self.model), attached(self.model, hooks):
            logits = forward(self.model, self.ids(tokens), None)[0, -1]
        (gradient,) = torch.autograd.grad(logits[11] - logits[22], kept[0])
        return (kept[0] * gradient).sum(-1)[0].detach().tolist()

    def relevance(self, tokens: int, memory: Literal["full", "low"], only_tokens: bool) -> Sequence[float]:
        _, found = run_with_relevance(
            self.model, self.ids(tokens), METRIC, rules=ATTN_LRP, logits="metric", memory=memory, progress=False,
            names_filter="hook_embed" if only_tokens else None,
        )  # fmt: skip
        if not only_tokens:
            found.layers(), found.heads(), found.ledger()
        return [float(one) for one in found.tokens().values]

    def graph(self, tokens: int) -> None:
        attribution_graph(self.model, self.ids(tokens), METRIC, rules=ATTN_LRP, progress=False)

    def needed(self, tokens: int, memory: Literal["full", "low"]) -> Sequence[float]:
        return [estimate(self.model, tokens, rules=ATTN_LRP, logits="metric").of(memory).peak / 1e6]

    def works(self) -> dict[str, Work]:
        return {
            "plain": self.plain,
            "full": lambda tokens: self.relevance(tokens, "full", False),
            "full tokens": lambda tokens: self.relevance(tokens, "full", True),
            "low": lambda tokens: self.relevance(tokens, "low", False),
            "low tokens": lambda tokens: self.relevance(tokens, "low", True),
            "graph": self.graph,
            "ask full": lambda tokens: self.needed(tokens, "full"),
            "ask low": lambda tokens: self.needed(tokens, "low"),
        }


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("host")
    parser.add_argument("--layers", type=int)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    serve(Passes(loaded(options.model, options.host, options.layers)).works())


if __name__ == "__main__":
    main()
