"""One backward pass, taken block by block: what edges are made of, a layer at a time.

1. Forward, keeping only the residual stream before each block (and each block's other arguments); the graph starts
   at the final stream, so that the metric's gradient there costs one unembedding.
2. From the last block to the first: run the block again under the rules, backward from its output's gradient to
   everything recorded inside.  One layer's graph is alive at a time (Chen et al. 2016, 1604.06174).
3. The gradients at the boundaries stay, so any block can be run again later: for dense matrices, for layer pairs that
   are not adjacent, for refinements.

Gradients equal those of `run_with_relevance`; memory is O(pos · width · layers) plus one block's.
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lrp_lens.edges.rows import AttentionEdges, softmax_rule
from lrp_lens.edges.tangents import PARTS, projection
from lrp_lens.errors import InputError, MetricError, SiteError
from lrp_lens.gates import accumulation_dtype
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import forward, require_eval, require_finite, require_gradients
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.reads import input_weights
from lrp_lens.hosts.replay import BlockCall, blocks_captured, is_attention_only
from lrp_lens.hosts.scope import attached, graph_released, parameters_frozen
from lrp_lens.hosts.scores import score_geometry
from lrp_lens.hosts.sites import BiasSite, NormSite, Sites
from lrp_lens.hosts.text import TokenBatch, tokenize
from lrp_lens.ledger import Calls
from lrp_lens.metrics import Metric, as_metric
from lrp_lens.recording import Recorder, backward, complete, total, with_completions
from lrp_lens.relevance import Prompt, concrete_metric, describe_metric, unembedded, vocabulary_size
from lrp_lens.rules import RuleSet


def tolerance(dtype: torch.dtype, least: float) -> float:
    """How far recomputed numbers may be off: rounding passes, a wrong formula does not."""
    return max(least, 16 * torch.finfo(dtype).eps)


@dataclass(frozen=True, eq=False)
class LayerTensors:
    """Activations and gradients of one block by canonical hook name, [pos, ...]."""

    layer: int
    calls: dict[str, Calls]

    def __contains__(self, name: str) -> bool:
        return name in self.calls

    def activation(self, name: str) -> Tensor:
        """What the point passed on, [pos, ...], in float32 at least."""
        tensor = self.calls[name].activations[-1][0]
        return tensor.to(accumulation_dtype(tensor.dtype))

    def gradient(self, name: str) -> Tensor:
        """The gated gradient there, [pos, ...], in float32 at least."""
        tensor = total(self.calls[name].gradients)[0]
        return tensor.to(accumulation_dtype(tensor.dtype))

    def relevance(self, name: str) -> Tensor:
        """Activation ⊙ gradient summed over all but the position, [pos]; 0 where nothing was recorded."""
        if name not in self.calls:
            return torch.zeros(())
        product = self.activation(name) * self.gradient(name)
        return product.flatten(1).sum(-1)


class StatePass:
    """The pass behind one attribution graph: a model, one prompt, a metric and its boundary gradients.

    Raises:
        InputError, MetricError, SiteError: as `run_with_relevance`.
    """

    def __init__(
        self, model: Any, prompt: Prompt, metric: Metric | Callable[[Tensor], Tensor] | None, rules: RuleSet
    ) -> None:
        self.model, self.rules = model, rules
        self.sites: Sites = resolve(model)
        require_eval(model)
        if not isinstance(rules, RuleSet):
            raise InputError(f"rules is a RuleSet such as ATTN_LRP; received {rules!r}.")
        self.batch: TokenBatch = tokenize(model, prompt, None)
        if len(self.batch.lengths) != 1:
            raise InputError(
                f"One pass explains one prompt; received {len(self.batch.lengths)}. attribution_graph takes lists."
            )
        self.attention_only = is_attention_only(model)
        self.mid_states = not (self.attention_only or self.sites.parallel)
        self.calls: dict[int, BlockCall] = {}
        self._plan = rules.plan(model)
        self._names = [self._names_of(layer) for layer in range(self.sites.n_layers)]
        self._forward(metric)
        self.gradients: dict[str, Tensor] = {self.final: self._final_gradient}

    @property
    def final(self) -> str:
        """Name of the final residual stream."""
        return Names.resid_post(self.sites.n_layers - 1)

    @property
    def length(self) -> int:
        """Number of positions."""
        return int(self.batch.ids.shape[1])

    def _names_of(self, layer: int) -> set[str]:
        """The records of a layer: stream, sublayers, heads, and whatever biases were added to."""
        names = {Names.resid_pre(layer), Names.resid_post(layer), Names.attn_out(layer)}
        names |= {Names.attention(layer, part) for part in "qkvz"}
        names |= {Names.raw(Names.attn_out(layer))}
        if not self.attention_only:
            names |= {Names.mlp_out(layer), Names.mlp(layer, "post")}
        if self.mid_states:
            names.add(Names.resid_mid(layer))
        names |= {site.record for site in self.sites.of(BiasSite) if site.layer == layer}
        names &= set(self.sites.record_of)
        return with_completions(names, self.sites)

    # ------------------------------------------------------------------------------- forward
    def _forward(self, metric: Metric | Callable[[Tensor], Tensor] | None) -> None:
        asked = as_metric(metric).resolve(self.model)
        bound = asked.bind(self.batch.starts, self.batch.lengths, vocabulary_size(self.model))
        last = self.sites.record_of[self.final].port
        if last is None:
            raise SiteError(f"A graph ends at {self.final}; {self.sites.host} has no hook point there.")
        leaves: list[Tensor] = []

        def leaf(tensor: Tensor, hook: Any) -> Tensor:
            leaves.append(tensor.detach().clone().requires_grad_(True))
            return leaves[-1]

        plan = self._plan
        hooks = [(hook.port.point, hook.function) for hook in plan if hook.stage == "replace"]
        hooks.append((last.point, leaf))
        hooks += [(hook.port.point, hook.function) for hook in plan if hook.stage != "replace"]
        if bound.positions is not None:
            hooks.append((self.sites.unembed_input.point, unembedded(bound)))
        with ExitStack() as stack:
            stack.enter_context(torch.enable_grad())
            stack.enter_context(graph_released(self.model))
            stack.enter_context(parameters_frozen(self.model))
            self.calls = stack.enter_context(blocks_captured(self.model))
            stack.enter_context(attached(self.model, hooks))
            output = forward(self.model, self.batch.ids, self.batch.left_mask)
            require_finite(output.detach())
            bound = concrete_metric(bound, output, self.batch)
            value = bound.read(output)
            if not value.requires_grad:
                raise MetricError(
                    f"A metric depends on the logits differentiably; {asked} does not. Avoid .item() and argmax."
                )
            (gradient,) = torch.autograd.grad(value.sum(), leaves[-1])
        self.metric, self.metric_value = bound, float(value.detach()[0])
        self.metric_text, self.towards = describe_metric(self.model, bound.metric)
        self.final_state, self._final_gradient = leaves[-1].detach(), gradient

    # ------------------------------------------------------------------------------- one block
    def layer(self, layer: int, cotangent: Tensor | None = None, at: str | None = None) -> LayerTensors:
        """Run one block again and go back through it.

        Args:
            layer: block index.
            cotangent: gradient to start from, [1, pos, d_model]; default the metric's at the block's output, known once
                the blocks after it have been run.
            at: name of the state at which it starts; default the block's output.
        """
        require_gradients()
        require_eval(self.model)
        end = at or Names.resid_post(layer)
        gradient = self.gradients[end] if cotangent is None else cotangent
        recorder = Recorder(self.sites, self.batch)
        with self.hooked(recorder, self._names[layer]):
            output = self.calls[layer].run(self.calls[layer].state.clone().requires_grad_(True))
            self.require_same(layer, output)
            output = recorder.kept[end][-1] if end != Names.resid_post(layer) else output
            calls, _ = backward((output * gradient.to(output)).sum(), recorder)
        complete(calls, self.sites, self._names[layer])
        if cotangent is None:
            for name in (Names.resid_pre(layer), Names.resid_mid(layer)):
                if name in calls:
                    self.gradients[name] = total(calls[name].gradients)
            if layer:
                self.gradients[Names.resid_post(layer - 1)] = self.gradients[Names.resid_pre(layer)]
        return LayerTensors(layer, calls)

    def require_same(self, layer: int, output: Tensor) -> None:
        """Raise InputError unless a block that ran again wrote what it had written before."""
        last = layer == self.sites.n_layers - 1
        before = self.final_state if last else self.calls[layer + 1].state
        error = float((output[:1].detach() - before).abs().max() / before.abs().max().clamp_min(1e-9))
        if not error < max(1e-4, 4 * torch.finfo(before.dtype).eps):
            raise InputError(
                f"A graph's blocks run again as they ran before; block {layer} now writes something else (by "
                f"{error:.2g} of its range). Its weights or hooks were changed since: make the graph anew."
            )

    def hooked(self, recorder: Recorder, names: Iterable[str]) -> ExitStack:
        """A scope with the rules and a recorder attached, gradients on, parameters frozen."""
        module_hooks = []
        hooks = [(hook.port.point, hook.function) for hook in self._plan if hook.stage == "replace"]
        for name in names:
            record = self.sites.record_of[name]
            if record.port is not None:
                hooks.append((record.port.point, recorder.hook(record)))
            elif record.module is not None:
                module_hooks.append((record.module, recorder.module_hook(name)))
        hooks += [(hook.port.point, hook.function) for hook in self._plan if hook.stage != "replace"]
        stack = ExitStack()
        stack.enter_context(torch.enable_grad())
        stack.enter_context(graph_released(self.model))
        stack.enter_context(parameters_frozen(self.model))
        stack.enter_context(attached(self.model, hooks, module_hooks))
        return stack

    # ------------------------------------------------------------------------------- attention
    def attention(self, tensors: LayerTensors) -> tuple[AttentionEdges, tuple[Tensor, Tensor, Tensor]]:
        """The factors of one layer's edges, and the relevance that v, k and q received, [head, pos].

        Raises:
            SiteError: if z cannot be recomputed from q, k and v: an attention that lrp_lens does not know.
        """
        layer = tensors.layer
        geometry = score_geometry(self.model, self.sites, layer, self.length)
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
            **softmax_rule(self.rules, layer),
        )
        last = edges.rows(self.length - 1, self.length).z
        error = float((last - edges.z[:, -1:]).abs().max() / edges.z.abs().max().clamp_min(1e-9))
        if not error < tolerance(self.calls[layer].state.dtype, 1e-3):
            raise SiteError(
                f"Edges are formed from patterns recomputed from q and k; in layer {layer} of "
                f"{self.sites.architecture} the result differs from the model's by {error:.2g} of its range. Use "
                "method='batch_packed', and report the architecture."
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
