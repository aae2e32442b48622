"""A worker with the peers' passes over a Llama: `PEERS_PYTHON -m benchmarks._peer_passes DIRECTORY lxt|captum`.

It runs in the peers' environment (peers.txt), which has no lrp_lens: lxt 2.1 needs transformers 4.

1. The weights are those that lrp_lens loads: the directory into which it converted the model.  transformers 5 wrote its
   configuration; the base of the rotary angles is put where transformers 4 looks for it.
2. lxt: AttnLRP in its efficient mode (Achtibat et al. 2402.05602), tokens only, attention by PyTorch's fused kernel,
   the logits of one position; "lxt checkpointing": with gradient checkpointing, which recomputes each layer.
   lxt replaces functions of transformers for good, so that everything else needs a process of its own.
3. captum: "plain" forward and backward; LayerGradientXActivation at the embedding; integrated gradients from zero
   embeddings in `STEPS` steps, one at a time.
"""

import argparse
import importlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks._worker import Work, serve

STEPS = 10


def token_ids(words: int, count: int) -> torch.Tensor:
    """The prompt that every worker takes."""
    return torch.randint(words, (1, count), generator=torch.Generator().manual_seed(0))


def difference(logits: torch.Tensor) -> torch.Tensor:
    """What is explained: one logit less another, at the last position."""
    return logits[:, -1, 11] - logits[:, -1, 22]


def require_torchvision() -> None:
    """lxt imports torchvision; beside a PyTorch for the CPU alone that fails until two operators have a name."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}", "(Tensor boxes, Tensor scores, float threshold) -> Tensor"
            )
        importlib.import_module("torchvision")


class Peer:
    """A Llama of transformers 4."""

    def __init__(self, folder: Path) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = LlamaConfig(
            **written | {"rope_theta": written["rope_parameters"]["rope_theta"], "rope_scaling": None}
        )
        self.model: Any = LlamaForCausalLM.from_pretrained(
            folder, config=config, torch_dtype=torch.float32, attn_implementation="sdpa"
        )
        self.model.eval().requires_grad_(False)

    def ids(self, tokens: int) -> torch.Tensor:
        return token_ids(self.model.config.vocab_size, tokens)

    def gradient(self, tokens: int) -> Sequence[float]:
        """Embedding times gradient: plain, or AttnLRP where lxt has been at work."""
        embedded = self.model.get_input_embeddings()(self.ids(tokens)).requires_grad_(True)
        logits = self.model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits
        difference(logits).sum().backward()
        return (embedded * embedded.grad).sum(-1)[0].detach().tolist()

    def checkpointing(self, tokens: int) -> Sequence[float]:
        self.model.train()  # transformers checkpoints only then; no layer of a Llama drops anything out
        self.model.gradient_checkpointing_enable()
        try:
            return self.gradient(tokens)
        finally:
            self.model.gradient_checkpointing_disable()
            self.model.eval()

    def layer_gradient(self, tokens: int) -> Sequence[float]:
        from captum.attr import LayerGradientXActivation

        def metric(ids: torch.Tensor) -> torch.Tensor:
            return difference(self.model(ids, use_cache=False, logits_to_keep=1).logits)

        embedding = self.model.get_input_embeddings().requires_grad_(True)  # captum asks for its gradient
        try:
            found = LayerGradientXActivation(metric, embedding).attribute(self.ids(tokens))
        finally:
            embedding.requires_grad_(False)
        return found.sum(-1)[0].detach().tolist()

    def integrated(self, tokens: int) -> Sequence[float]:
        from captum.attr import IntegratedGradients

        def metric(embedded: torch.Tensor) -> torch.Tensor:
            return difference(self.model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits)

        embedded = self.model.get_input_embeddings()(self.ids(tokens))
        found = IntegratedGradients(metric).attribute(embedded, n_steps=STEPS, internal_batch_size=1)
        return found.sum(-1)[0].detach().tolist()


def works(folder: Path, peer: str) -> dict[str, Work]:
    """The pieces of work of one peer."""
    require_torchvision()
    if peer == "lxt":
        from lxt.efficient import monkey_patch
        from transformers.models.llama import modeling_llama

        monkey_patch(modeling_llama)
        model = Peer(folder)
        return {"lxt": model.gradient, "lxt checkpointing": model.checkpointing}
    model = Peer(folder)
    return {
        "plain": model.gradient,
        "captum gradient × activation": model.layer_gradient,
        "captum integrated gradients": model.integrated,
    }


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("peer", choices=("lxt", "captum"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    serve(works(options.folder, options.peer))


if __name__ == "__main__":
    main()
