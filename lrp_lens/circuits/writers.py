"""What each writer adds to the residual stream, from recorded activations.

1. A head writes z · W_O[head]; the output bias is a writer of its own.
2. Where a norm follows the sublayer (Gemma 2 and 3, OLMo 2 and 3), each share goes through it with the σ of the whole
   output, so that the shares still sum to what is written; the norm's bias joins the output bias.
3. An MLP writes its output without the output bias.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.circuits.components import ComponentGraph
from lrp_lens.hosts import resolve
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import BiasSite, NormSite, Sites
from lrp_lens.hosts.writes import output_weights, post_norm
from lrp_lens.ops.gates import wide


@dataclass(frozen=True, eq=False)
class Writers:
    """Turns the activations of a run into the outputs of its writers."""

    model: Any
    graph: ComponentGraph

    @cached_property
    def sites(self) -> Sites:
        """Where the model does what."""
        return resolve(self.model)

    @cached_property
    def biases(self) -> dict[tuple[int | None, str], Tensor]:
        """(layer, label) → bias."""
        found = {(site.layer, site.label): site.bias() for site in self.sites.of(BiasSite)}
        return {key: bias for key, bias in found.items() if bias is not None}

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Index of the first writer of each layer, and the number of writers."""
        layers = [writer.layer for writer in self.graph.writers]
        return (*(layers.index(layer) for layer in range(self.graph.n_layers)), len(layers))

    def raw(self, layer: int) -> str:
        """Name of the MLP's output before a post-norm, where its bias must be told from the rest; else ""."""
        norm = post_norm(self.sites, layer, "mlp")
        return Names.raw(Names.mlp_out(layer)) if norm and (layer, "b_out") in self.graph.biases else ""

    def names(self) -> list[str]:
        """The records that writers are made of."""
        names = [Names.EMBED] + [Names.POS_EMBED] * self.graph.positions
        for layer in range(self.graph.n_layers):
            names.append(Names.attention(layer, "z"))
            if self.graph.mlp:
                names += [Names.mlp_out(layer), *filter(None, [self.raw(layer)])]
        return names

    def attention(
        self, layer: int, z: Float[Tensor, "batch pos head d_head"]
    ) -> Float[Tensor, "writer batch pos d_model"]:
        """What each head writes, and then the output bias if the graph has one."""
        heads = self._heads(layer, z)
        norm, bias = post_norm(self.sites, layer, "attention"), self.biases.get((layer, "b_O"))
        if norm is not None:
            whole = heads.sum(0) if bias is None else heads.sum(0) + bias.to(heads)
            scale = norm.norm.scale(whole)
            heads = norm.norm.linear(heads, scale)
            bias = self._behind(norm, layer, bias, scale)
        if (layer, "b_O") not in self.graph.biases or bias is None:
            return heads
        return torch.cat([heads, bias.to(heads).expand(heads.shape[1:])[None]])

    def _heads(self, layer: int, z: Tensor) -> Tensor:
        """z · W_O of each head."""
        weights = wide(output_weights(self.model, layer))
        return torch.einsum("bphe,hed->hbpd", z.to(weights), weights)

    def mlp(
        self,
        layer: int,
        output: Float[Tensor, "batch pos d_model"],
        raw: Float[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "writer batch pos d_model"]:
        """What the MLP writes, and then its output bias if the graph has one."""
        output = wide(output)
        if (layer, "b_out") not in self.graph.biases:
            return output[None]
        norm, bias = post_norm(self.sites, layer, "mlp"), self.biases.get((layer, "b_out"))
        if norm is not None:
            assert raw is not None
            scale = norm.norm.scale(wide(raw).reshape(output.shape))
            bias = self._behind(norm, layer, bias, scale)
        assert bias is not None
        constant = bias.to(output).expand(output.shape)
        return torch.stack([output - constant, constant])

    def _behind(self, norm: NormSite, layer: int, bias: Tensor | None, scale: Tensor) -> Tensor | None:
        """An output bias behind a post-norm, with the norm's own."""
        own = self.biases.get((layer, f"{norm.label} bias"))
        if bias is None:
            return own
        through = norm.norm.linear(bias.to(scale).expand(*scale.shape[:-1], -1), scale)
        return through if own is None else through + own.to(through)

    def pieces(
        self, activations: Mapping[str, Tensor], examples: slice = slice(None), positions: slice = slice(None)
    ) -> Iterator[Float[Tensor, "writer batch pos d_model"]]:
        """The writers' outputs at some examples and positions, sublayer by sublayer."""
        yield wide(activations[Names.EMBED][examples, positions])[None]
        if self.graph.positions:
            yield wide(activations[Names.POS_EMBED][examples, positions])[None]
        for layer in range(self.graph.n_layers):
            yield self.attention(layer, activations[Names.attention(layer, "z")][examples, positions])
            if self.graph.mlp:
                yield self._mlp_at(layer, activations, examples, positions)

    def changes(
        self,
        activations: Mapping[str, Tensor],
        other: Mapping[str, Tensor],
        examples: slice = slice(None),
        positions: slice = slice(None),
    ) -> Iterator[Float[Tensor, "writer batch pos d_model"]]:
        """`pieces` of one run minus those of another; what is linear is done once, with the difference."""

        def change(name: str) -> Tensor:
            return wide(activations[name][examples, positions]) - wide(other[name][examples, positions])

        yield change(Names.EMBED)[None]
        if self.graph.positions:
            yield change(Names.POS_EMBED)[None]
        for layer in range(self.graph.n_layers):
            z = Names.attention(layer, "z")
            if post_norm(self.sites, layer, "attention") is None:
                heads = self._heads(layer, change(z))
                constant = heads.new_zeros(int((layer, "b_O") in self.graph.biases), *heads.shape[1:])
                yield torch.cat([heads, constant]) if len(constant) else heads
            else:
                own, others = (
                    self.attention(layer, run[z][examples, positions]) for run in (activations, other)
                )
                yield own - others
            if self.graph.mlp:
                runs = (self._mlp_at(layer, run, examples, positions) for run in (activations, other))
                yield next(runs) - next(runs)

    def _mlp_at(
        self, layer: int, activations: Mapping[str, Tensor], examples: slice, positions: slice
    ) -> Tensor:
        """`mlp` of a run at some examples and positions."""
        raw, output = self.raw(layer), activations[Names.mlp_out(layer)]
        before = None
        if raw:  # flattened by some hosts
            before = activations[raw].reshape(output.shape)[examples, positions]
        return self.mlp(layer, output[examples, positions], before)

    def outputs(self, activations: Mapping[str, Tensor]) -> Float[Tensor, "writer batch pos d_model"]:
        """Every writer's output."""
        return torch.cat(list(self.pieces(activations)))
