"""The account of one layer: what is on the diagonal of its edges, and what no source receives.

For each position, with x the stream before the block, m after attention, y after the block, g their gradients:

1. Self-edges: residual x · g_target; MLP m · (g_m - g_y).  In a parallel block the MLP's is what is left of
   x · g_x after the residual and what q, k and v received.
2. Sinks between a sublayer's output and the states it read: biases b ⊙ gradient; post-norms and the MLP's
   nonlinearities unless their rules conserve.  Sinks inside attention come with its rows (`rows`).
3. What conserving rules lose anyway has no sink: it shows as a remainder in `graph.balance()`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lrp_lens.attribution_graphs.closed_form.rows import AttentionEdges
from lrp_lens.attribution_graphs.closed_form.state_pass import LayerTensors, StatePass
from lrp_lens.attribution_graphs.closed_form.transition import Transition
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.reads import input_norm
from lrp_lens.hosts.sites import ActivationSite, BiasSite, LinearSite, MixtureSite, Sites
from lrp_lens.hosts.writes import post_norm
from lrp_lens.rules import RuleSet

SINK_KINDS = ("bias", "norm", "softmax", "MLP")


@dataclass(frozen=True, eq=False)
class LayerAccount:
    """Everything of one layer but its attention rows."""

    run: StatePass
    tensors: LayerTensors
    attention: AttentionEdges
    received: tuple[Tensor, Tensor, Tensor]
    """Relevance that v, k and q received, [head, pos]."""

    @property
    def layer(self) -> int:
        """Block index."""
        return self.tensors.layer

    def _dot(self, value: str, gradient: str) -> Tensor:
        return (self.tensors.activation(value) * self.tensors.gradient(gradient)).sum(-1)

    def transitions(self, split: bool) -> list[tuple[str, str, Transition]]:
        """(source, target, transition) of this layer, in forward order."""
        pre, mid, post = (name(self.layer) for name in (Names.resid_pre, Names.resid_mid, Names.resid_post))
        if self.run.attention_only:
            residual = self._dot(pre, post)
            sinks = self._attention_sinks(post)
            return [(pre, post, self._transition(pre, post, residual, torch.zeros_like(residual), sinks))]
        if self.run.sites.parallel:
            residual = self._dot(pre, post)
            heads = sum(one.sum(0) for one in self.received)
            mlp = self.tensors.relevance(pre) - residual - heads
            sinks = _merge(self._attention_sinks(post), self._mlp_sinks(mlp))
            return [(pre, post, self._transition(pre, post, residual, mlp, sinks))]
        mid_sinks = self._mlp_sinks(self.tensors.relevance(mid) - self._dot(mid, post))
        if not split:
            residual = self._dot(pre, post)
            mlp = self._dot(pre, mid) - residual
            sinks = _merge(self._attention_sinks(mid), mid_sinks)
            return [(pre, post, self._transition(pre, post, residual, mlp, sinks))]
        residual = self._dot(pre, mid)
        first = self._transition(pre, mid, residual, torch.zeros_like(residual), self._attention_sinks(mid))
        residual = self._dot(mid, post)
        mlp = self.tensors.relevance(mid) - residual
        relevance = self.tensors.relevance(mid), self.tensors.relevance(post)
        return [(pre, mid, first), (mid, post, Transition(None, residual, mlp, *relevance, mid_sinks))]

    def _transition(
        self, source: str, target: str, residual: Tensor, mlp: Tensor, sinks: dict[str, Tensor]
    ) -> Transition:
        relevance = self.tensors.relevance(source), self.tensors.relevance(target)
        return Transition(self.attention, residual, mlp, *relevance, sinks)

    # ------------------------------------------------------------------------------- sinks
    def _bias(self, site: BiasSite) -> Tensor:
        """b ⊙ gradient where it was added, [pos]."""
        bias = site.bias()
        if bias is None or site.record not in self.tensors:
            return torch.zeros(self.run.length, device=self.attention.z.device)
        gradient = self.tensors.gradient(site.record)
        return (bias.to(gradient) * gradient).reshape(self.run.length, -1).sum(-1)

    def _attention_sinks(self, stream: str) -> dict[str, Tensor]:
        """Between z and the stream to which attention adds: b_O, a post-norm, an ε-rule."""
        bias = self._sum(lambda site: site.label == "b_O" or self._of_norm(site, "attention"))
        sinks = {"bias": bias}
        if self._absorbs():
            written = self._dot(Names.attn_out(self.layer), stream)
            sinks["norm"] = written - self.tensors.relevance(Names.attention(self.layer, "z")) - bias
        return sinks

    def _mlp_sinks(self, passed: Tensor) -> dict[str, Tensor]:
        """Between the MLP's output and the stream it read, given what it passed on to it."""
        out = self._dot(Names.mlp_out(self.layer), Names.resid_post(self.layer))
        inner = ("b_gate", "b_in", "b_out")
        bias = self._sum(lambda site: site.label in inner or self._of_norm(site, "mlp"))
        bias = bias + self._shared_norm_bias()
        sinks = {"bias": bias}
        if not mlp_conserves(self.run.sites, self.run.rules, self.layer):
            sinks["MLP"] = out - passed - bias
        return sinks

    def _sum(self, chosen: Callable[[BiasSite], bool]) -> Tensor:
        """Relevance of some of this layer's biases, [pos]."""
        total = self.attention.z.new_zeros(self.run.length)
        for site in self.run.sites.of(BiasSite):
            if site.layer == self.layer and chosen(site):
                total = total + self._bias(site)
        return total

    def _of_norm(self, site: BiasSite, sublayer: Literal["attention", "mlp"]) -> bool:
        """Whether it is the bias of a norm that belongs to this sublayer alone."""
        after = post_norm(self.run.sites, self.layer, sublayer)
        norms = [after] if after is not None else []
        if sublayer == "mlp":
            before = input_norm(self.run.sites, self.layer, "mlp")
            if before is not None and before != input_norm(self.run.sites, self.layer, "attention"):
                norms.append(before)
        return site.record in {norm.result for norm in norms}

    def _shared_norm_bias(self) -> Tensor | float:
        """The MLP's share of the bias of a norm that attention reads, too (GPT-J, Phi)."""
        sites = self.run.sites
        norm = input_norm(sites, self.layer, "attention")
        if norm is None or norm != input_norm(sites, self.layer, "mlp"):
            return 0.0
        total = self._sum(lambda site: site.record == norm.result)
        return total - self.run.norm_bias_in_heads(self.tensors, norm)

    def _absorbs(self) -> bool:
        """Whether anything but a bias is lost between z and the stream."""
        norm = post_norm(self.run.sites, self.layer, "attention")
        linear = (site for site in self.run.sites.of(LinearSite) if site.layer == self.layer)
        return any(self.run.rules.sinks(site) for site in (*([] if norm is None else [norm]), *linear))


def _merge(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    return {kind: first.get(kind, 0) + second.get(kind, 0) for kind in first.keys() | second.keys()}  # type: ignore[misc]


def mlp_conserves(sites: Sites, rules: RuleSet, layer: int) -> bool:
    """Whether an MLP's rules lose nothing but biases."""
    norms = [input_norm(sites, layer, "mlp"), post_norm(sites, layer, "mlp")]
    inside = [
        site
        for site in sites.sites
        if site.layer == layer
        and (
            isinstance(site, MixtureSite | LinearSite)
            or (isinstance(site, ActivationSite) and not site.expert)
        )
    ]
    return not any(rules.sinks(site) for site in (*inside, *(norm for norm in norms if norm is not None)))
