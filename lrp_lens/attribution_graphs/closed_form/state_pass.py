"""One backward pass, taken block by block: what edges are made of, a layer at a time.

1. The pass is that of `run_with_relevance` in low memory (`run.blocks`): block inputs from one forward, then block by
   block from the last to the first.
2. Answers that a metric appends may be two rows of one example; their gradients add up in the prompt, which both share
   (`hosts.token_batch`), so that the example is one axis of positions: a tree, where each token sees its ancestors.
3. Attention of a long prompt is formed in blocks of rows, as there.
4. The gradients at the boundaries stay, so any block can be run again later: for dense matrices, for layer pairs that
   are not adjacent, for refinements.

Gradients equal those of `run_with_relevance`; memory is O(pos · width · layers) plus one block's.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrp_lens.attribution_graphs.closed_form.rows import AttentionEdges
from lrp_lens.attribution_graphs.closed_form.tangents import PARTS, projection
from lrp_lens.errors import SiteError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.attention_scores import score_geometry
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.reads import input_weights
from lrp_lens.hosts.replay import is_attention_only
from lrp_lens.hosts.sites import BiasSite, NormSite, Sites
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.metrics import BoundMetric
from lrp_lens.ops.gates import accumulation_dtype
from lrp_lens.rules import RuleSet
from lrp_lens.run.balance import Calls
from lrp_lens.run.blocks import BlockRun
from lrp_lens.run.by_rows import rows_of_a_block
from lrp_lens.run.reading import describe_metric
from lrp_lens.run.recording import total, with_completions


def tolerance(dtype: torch.dtype, least: float) -> float:
    """How far recomputed numbers may be off: rounding passes, a wrong formula does not."""
    return max(least, 16 * torch.finfo(dtype).eps)


@dataclass(frozen=True, eq=False)
class LayerTensors:
    """Activations and gradients of one block by canonical hook name, [pos, ...]."""

    layer: int
    calls: dict[str, Calls]
    batch: TokenBatch

    def __contains__(self, name: str) -> bool:
        return name in self.calls

    def activation(self, name: str) -> Tensor:
        """What the point passed on, [pos, ...], in float32 at least."""
        tensor = self.batch.first_of_position(self.calls[name].activations[-1])[0]
        return tensor.to(accumulation_dtype(tensor.dtype))

    def gradient(self, name: str) -> Tensor:
        """The gated gradient there, [pos, ...], in float32 at least."""
        tensor = self.batch.per_position(total(self.calls[name].gradients))[0]
        return tensor.to(accumulation_dtype(tensor.dtype))

    def relevance(self, name: str) -> Tensor:
        """Activation ⊙ gradient summed over all but the position, [pos]; 0 where nothing was recorded."""
        if name not in self.calls:
            return torch.zeros(())
        product = self.activation(name) * self.gradient(name)
        return product.flatten(1).sum(-1)


class StatePass(BlockRun):
    """The pass behind one attribution graph: one example, and the gradients at the boundaries.

    Args:
        model: HookedTransformer or TransformerBridge in eval mode.
        batch: the rows of one example, without padding on the left.
        bound: the metric bound to them.
        rules: the rule set.

    Raises:
        InputError, MetricError, SiteError: as `run_with_relevance`.
    """

    def __init__(self, model: Any, batch: TokenBatch, bound: BoundMetric, rules: RuleSet) -> None:
        sites = resolve(model)
        self.attention_only = is_attention_only(model)
        self.mid_states = not (self.attention_only or sites.parallel)
        self._of_layer = [self._names_of(sites, layer) for layer in range(sites.n_layers)]
        rows = rows_of_a_block(sites, *batch.ids.shape)
        super().__init__(model, batch, [bound], rules, set().union(*self._of_layer), rows=rows)
        self.metric_value = float(self.values[0][0])
        self.metric_text, self.towards = describe_metric(model, self.metrics[0].metric)
        self.gradients: dict[str, Tensor] = {self.final: self.heads[0].gradient}

    @property
    def length(self) -> int:
        """Number of positions, answers included."""
        return self.batch.width

    def at_positions(self, rows: Tensor) -> Tensor:
        """[row, pos, ...] → [position, ...], for gradients."""
        return self.batch.per_position(rows)[0]

    def only(self, gradient: Tensor, position: int) -> Tensor:
        """A gradient [row, pos, d_model] at one position alone."""
        here = (self.batch.columns == position).to(gradient.device)
        return torch.where(here[..., None], gradient, 0)

    def _names_of(self, sites: Sites, layer: int) -> set[str]:
        """The records of a layer: stream, sublayers, heads, and whatever biases were added to."""
        names = {Names.resid_pre(layer), Names.resid_post(layer), Names.attn_out(layer)}
        names |= {Names.attention(layer, part) for part in "qkvz"}
        names |= {Names.raw(Names.attn_out(layer))}
        if not self.attention_only:
            names |= {Names.mlp_out(layer), Names.mlp(layer, "post")}
        if self.mid_states:
            names.add(Names.resid_mid(layer))
        names |= {site.record for site in sites.of(BiasSite) if site.layer == layer}
        return with_completions(names & set(sites.record_of), sites)

    def layer(self, layer: int, cotangent: Tensor | None = None, at: str | None = None) -> LayerTensors:
        """Run one block again and go back through it.

        Args:
            layer: block index.
            cotangent: gradient to start from, [row, pos, d_model]; default the metric's at the block's output, known
                once the blocks after it have been run.
            at: name of the state at which it starts; default the block's output.
        """
        end = Names.resid_post(layer)
        gradient = self.gradients[at or end] if cotangent is None else cotangent
        (part,) = self.block(layer, [gradient], at=None if at == end else at)
        if cotangent is None:
            for name in (Names.resid_pre(layer), Names.resid_mid(layer)):
                if name in part.calls:
                    self.gradients[name] = total(part.calls[name].gradients)
            if layer:
                self.gradients[Names.resid_post(layer - 1)] = self.gradients[Names.resid_pre(layer)]
        return LayerTensors(layer, part.calls, self.batch)

    # ------------------------------------------------------------------------------- attention
    def attention(self, tensors: LayerTensors) -> tuple[AttentionEdges, tuple[Tensor, Tensor, Tensor]]:
        """The factors of one layer's edges, and the relevance that v, k and q received, [head, pos].

        Raises:
            SiteError: if z cannot be recomputed from q, k and v: an attention that lrp_lens does not know.
        """
        layer = tensors.layer
        geometry = score_geometry(self.model, self.sites, layer, self.batch.ids.shape[1])
        if self.batch.branches and geometry.rotary is not None:
            cos, sin = (table[self.batch.places.depth.to(table.device)] for table in geometry.rotary)
            geometry = replace(geometry, rotary=(cos, sin))
        x = tensors.activation(Names.resid_pre(layer))
        names = {part: Names.attention(layer, part) for part in "qkvz"}
        parts = {
            part: projection(
                self.model, self.sites, self.rules, geometry, layer, part, tensors.activation(names[part]), x
            )
            for part in PARTS
        }
        edges = AttentionEdges(
            geometry,
            tensors.activation(names["z"]).transpose(0, 1).contiguous(),
            tensors.gradient(names["z"]).transpose(0, 1).contiguous(),
            parts["q"].heads_first(),
            parts["k"].heads_first(),
            parts["v"].heads_first(),
            self.batch.places,
            self.rules,
            layer,
        )
        last = edges.rows(self.length - 1, self.length).z
        error = float((last - edges.z[:, -1:]).abs().max() / edges.z.abs().max().clamp_min(1e-9))
        if not error < tolerance(self.calls[layer].state.dtype, 1e-3):
            raise SiteError(
                f"Edges are formed from patterns recomputed from q and k; in layer {layer} of "
                f"{self.sites.architecture} the result differs from the model's by {error:.2g} of its range. Does a "
                "hook on the model change them? Remove it (model.reset_hooks()), or use method='batch_packed'; without "
                "one, report the architecture."
            )
        received = tuple(
            (parts[part].at_hook * tensors.gradient(names[part])).sum(-1).T for part in ("v", "k", "q")
        )
        return edges, (received[0], received[1], received[2])

    def norm_bias_in_heads(self, tensors: LayerTensors, norm: NormSite) -> Tensor:
        """What the bias of the norm before attention takes through q, k and v, [pos]."""
        bias = norm.bias()
        total = torch.zeros(self.length, device=self.batch.ids.device)
        if bias is None:
            return total
        for part in PARTS:
            gradient = tensors.gradient(Names.attention(tensors.layer, part))
            weights = input_weights(self.model, tensors.layer, part).to(gradient)
            total = total + torch.einsum("d,hde,nhe->n", bias.to(gradient), weights, gradient)
        return total
