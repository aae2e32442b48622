"""The gated gradient at each reader's input: the residual stream as this reader alone sees it.

1. For q, k and v of each head: the gradient at q is taken back through W_Q, then through the norm by its rule.
   Gradients of different heads and of q, k and v stay apart, which the stream's own gradient adds up.
2. For an MLP: the gradient at its norm's output, taken back through the norm.  Where attention shares that norm
   (GPT-J and Phi on TransformerBridge), attention's part is taken off; where there is no norm, it is what the
   gradient of the stream grows by between the MLP's output and its input.
3. For the logits: the gradient at the last state of the stream.
4. Gradients at the readers of a block sum to what the stream's own gradient grows by over it.  That is checked: a rule
   whose answer is not what its hooks do shows here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.circuits.components import ComponentGraph
from lrp_lens.errors import RuleError
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.reads import input_norm, input_weights
from lrp_lens.hosts.sites import Sites
from lrp_lens.ops.gates import wide
from lrp_lens.rules import RuleSet
from lrp_lens.run.cache import RelevanceCache


@dataclass(frozen=True, eq=False)
class ReaderBlock:
    """Readers that stand side by side: all heads' q, k and v of a layer, an MLP, or the logits."""

    first: int
    """Index of the first of them among the graph's readers."""
    stop: int
    """How many writers stand before them."""
    stream: str
    """Name of the record of the stream they read."""
    gradients: Float[Tensor, "reader batch pos d_model"]


def stream_before(sites: Sites, layer: int) -> str:
    """Name of the record of the stream that an MLP reads."""
    return Names.resid_pre(layer) if sites.parallel else Names.resid_mid(layer)


def _mlp_norm(sites: Sites, layer: int) -> tuple[str, bool]:
    """Name of the record of what an MLP's norm puts out, or "", and whether attention reads it, too."""
    norm = input_norm(sites, layer, "mlp")
    if norm is None or norm.result not in sites.record_of:
        return "", False
    return norm.result, norm == input_norm(sites, layer, "attention")


def reader_names(sites: Sites, graph: ComponentGraph) -> list[str]:
    """The records that reader gradients are made of."""
    names: list[str] = []
    for layer in range(graph.n_layers):
        names += [Names.attention(layer, part) for part in "qkv"]
        if graph.mlp:
            names.append(_mlp_norm(sites, layer)[0] or Names.resid_post(layer))
    return list(dict.fromkeys([*stream_names(sites, graph), *names]))


def stream_names(sites: Sites, graph: ComponentGraph) -> list[str]:
    """The records of the streams that readers read."""
    names: list[str] = []
    for layer in range(graph.n_layers):
        names += [Names.resid_pre(layer), *([stream_before(sites, layer)] if graph.mlp else [])]
    return list(dict.fromkeys([*names, Names.resid_post(graph.n_layers - 1)]))


def reader_blocks(
    model: Any,
    sites: Sites,
    graph: ComponentGraph,
    cache: RelevanceCache,
    rules: RuleSet,
    examples: slice = slice(None),
    positions: slice = slice(None),
) -> Iterator[ReaderBlock]:
    """The gradients of every reader at some examples and positions, in the order of the graph's readers."""
    shape = cache.token_ids.shape

    def at(owner: Any, name: str) -> Tensor:
        tensor = owner[name]
        tensor = (
            tensor.reshape(*shape, tensor.shape[-1]) if tensor.ndim == 2 else tensor
        )  # flattened by a host
        return wide(tensor[examples, positions])

    first = 0
    for layer in range(graph.n_layers):
        stop, stream = graph.stops[first], Names.resid_pre(layer)
        rule = rules.rule_for("norm", layer)
        x, norm = at(cache.activations, stream), input_norm(sites, layer, "attention")
        outputs = torch.cat(
            [
                torch.einsum(
                    "bphe,hde->hbpd",
                    at(cache.gradients, Names.attention(layer, part)),
                    input_weights(model, layer, part).to(x),
                )
                for part in "qkv"
            ]
        )
        heads = rule.at_input(norm, outputs, x)
        yield ReaderBlock(first, stop, stream, heads)
        first, received = first + len(heads), heads.sum(0)
        if graph.mlp:
            stream, (between, shared) = stream_before(sites, layer), _mlp_norm(sites, layer)
            if between:
                norm, x = input_norm(sites, layer, "mlp"), at(cache.activations, stream)
                gradient = at(cache.gradients, between)
                gradient = rule.at_input(norm, gradient - outputs.sum(0) if shared else gradient, x)
            else:
                gradient = at(cache.gradients, stream) - at(cache.gradients, Names.resid_post(layer))
                gradient = gradient - received if sites.parallel else gradient
            yield ReaderBlock(first, graph.stops[first], stream, gradient[None])
            first, received = first + 1, received + gradient
        after = Names.resid_pre(layer + 1) if layer + 1 < graph.n_layers else Names.resid_post(layer)
        own = cache.gradients[Names.resid_pre(layer)]
        missing = at(cache.gradients, Names.resid_pre(layer)) - at(cache.gradients, after) - received
        if not missing.abs().max() <= max(1e-3, 16 * torch.finfo(own.dtype).eps) * own.abs().max():
            raise RuleError(
                f"Gradients at the readers of a block sum to what the stream's gradient grows by; in layer {layer} "
                f"they miss it by {float(missing.abs().max() / own.abs().max()):.2g} of its range. The rule {rule} "
                f"({type(rule).__name__}) answers `transpose` otherwise than its hooks act, or a hook on the model "
                "changes the pass (model.reset_hooks()).",
                rule=rule,
                question="transpose",
                analysis="component_edges",
            )
    last = Names.resid_post(graph.n_layers - 1)
    yield ReaderBlock(first, graph.stops[first], last, at(cache.gradients, last)[None])
