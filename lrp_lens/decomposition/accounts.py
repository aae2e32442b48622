"""Direct and total contribution of every component, from one recorded pass.

1. u is the frozen coefficient of the metric at the final residual stream (`lrp_lens.decomposition.linear`).
2. Direct: what the component writes to the stream · u, at the positions the metric reads.  For a head,
   z · (W_O u'), with u' = u taken back through a post-norm; for a bias, bias · u'.
3. Total: activation ⊙ gated gradient, at every position.
4. A head's direct contribution splits by source token: z_t = Σ_s P[t, s] v_s, so source s takes
   Σ_t P[t, s] v_s · (W_O u'_t).
5. The stream after each block · u is the metric read off there, the frozen form of the logit lens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrp_lens.decomposition.component import Component
from lrp_lens.decomposition.linear import coefficient, per_position
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import BiasSite, LinearSite, LogitSite
from lrp_lens.hosts.writes import final_norm, output_weights, post_norm
from lrp_lens.ops.gates import wide
from lrp_lens.run.balance import Balance
from lrp_lens.run.cache import RelevanceCache


@dataclass(eq=False)
class Accounts:
    """Collects components in the order of the forward pass; arrays are float64 on the CPU."""

    model: Any
    cache: RelevanceCache
    balance: Balance
    columns: Tensor
    """Positions that the metric reads in any example, [read]."""
    patterns: Mapping[int, Tensor]
    """Layer → rows of the attention pattern at `columns`, [batch, head, read, pos]."""
    components: list[Component] = field(default_factory=list)
    direct: list[np.ndarray] = field(default_factory=list)
    total: list[np.ndarray] = field(default_factory=list)
    residuals: dict[str, np.ndarray] = field(default_factory=dict)
    stages: list[str] = field(default_factory=list)
    frozen: list[Tensor] = field(default_factory=list)
    recomputed: list[Tensor] = field(default_factory=list)
    sources: list[Tensor] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sites = self.balance.sites
        self.batch, self.length = self.cache.token_ids.shape
        norm = final_norm(self.sites)
        self.norm = None if norm is None else norm.norm
        self.u = coefficient(self.cache, self.balance, norm, self.columns)

    def activation(self, name: str) -> Tensor:
        """What a point passed on at the positions that are read, [batch, read, ...]."""
        return wide(self.cache.activations[name][:, self.columns])

    def relevance(self, name: str) -> Tensor:
        """Activation ⊙ gradient of each row, summed to positions, [batch, pos]."""
        return self.cache[name].flatten(2).sum(-1)

    def spread(self, values: Tensor) -> Tensor:
        """[batch, read, ...] → [batch, pos, ...], 0 where the metric reads nothing."""
        full = values.new_zeros(self.batch, self.length, *values.shape[2:])
        full[:, self.columns] = values
        return full

    def add(self, component: Component, direct: Tensor | None, total: Tensor) -> None:
        """Enter a component: direct [batch, pos] (None for 0), total [batch, pos]."""
        direct = torch.zeros_like(total) if direct is None else direct
        self.components.append(component)
        self.direct.append(direct.cpu().double().numpy())
        self.total.append(total.cpu().double().numpy())

    def stage(self, label: str, stream: Tensor) -> None:
        """Read the metric off a state of the stream at the positions that are read, [batch, read, d_model]."""
        if not self.stages:
            last = self.activation(Names.resid_post(self.cache.n_layers - 1))
            self.final_scale = self.scale(last)
        value = (stream * self.u).sum(-1)
        self.stages.append(label)
        self.frozen.append(value.sum(-1))
        self.recomputed.append((value * self.final_scale / self.scale(stream)).sum(-1))

    def scale(self, stream: Tensor) -> Tensor:
        """σ of the final norm at a state of the stream, [batch, read]; 1 without one."""
        return torch.ones_like(stream[..., 0]) if self.norm is None else self.norm.scale(stream)[..., 0]

    def run(self) -> None:
        """Enter everything, from the embedding to the logits."""
        for component, name in (
            (Component("embed", None, None, "embedding"), Names.EMBED),
            (Component("pos_embed", None, None, "position"), Names.POS_EMBED),
        ):
            if name in self.cache:
                direct = self.spread((self.activation(name) * self.u).sum(-1))
                self.add(component, direct, self.relevance(name))
        self.stage("embed", self.activation(Names.resid_pre(0)))
        for layer in range(self.cache.n_layers):
            self.attention(layer)
            if Names.mlp_out(layer) in self.cache:
                self.mlp(layer)
            self.inner_biases(layer)
            self.stage(f"L{layer}", self.activation(Names.resid_post(layer)))
        self.readout()

    # ------------------------------------------------------------------------------- sublayers
    def attention(self, layer: int) -> None:
        """Each head, b_O, and the bias of a post-norm."""
        norm, weights = post_norm(self.sites, layer, "attention"), wide(output_weights(self.model, layer))
        z = self.activation(Names.attention(layer, "z"))
        behind = self.u
        if norm is not None:
            written = torch.einsum("bthe,hed->btd", z, weights.to(z))
            bias = self.bias_of(layer, "b_O")
            written = written if bias is None else written + self.balance.biases[bias].to(written)
            behind = norm.norm.linear_transpose(self.u, norm.norm.scale(written))
        at_z = torch.einsum("btd,hed->bthe", behind, weights.to(behind))
        direct = self.spread((z * at_z).sum(-1))
        total = self.cache["z", layer].sum(-1)
        for head in range(z.shape[2]):
            component = Component(f"L{layer}H{head}", layer, head, "head")
            self.add(component, direct[:, :, head], total[:, :, head])
        self.by_source(layer, z, at_z)
        for entry in (
            self.bias(layer, "b_O", behind),
            None if norm is None else self.bias(layer, f"{norm.label} bias", self.u),
        ):
            if entry is not None:
                self.add(*entry)
        if not self.sites.parallel and Names.mlp_out(layer) in self.cache:
            stream = self.activation(Names.resid_pre(layer)) + self.activation(Names.attn_out(layer))
            self.stage(f"L{layer} mid", stream)

    def mlp(self, layer: int) -> None:
        """The MLP without its output bias, b_out, and the bias of a post-norm."""
        norm, name = post_norm(self.sites, layer, "mlp"), Names.mlp_out(layer)
        direct = self.spread((self.activation(name) * self.u).sum(-1))
        total = self.relevance(name)
        behind, site = self.u, self.bias_of(layer, "b_out")
        if norm is not None and site is not None:
            written = self.balance.calls[site.record].activations[-1][:, self.columns]
            behind = norm.norm.linear_transpose(self.u, norm.norm.scale(wide(written)))
        entries = [self.bias(layer, "b_out", behind)]
        if norm is not None:
            entries.append(self.bias(layer, f"{norm.label} bias", self.u))
        biases = [entry for entry in entries if entry is not None]
        for _, of_bias, of_total in biases:
            direct, total = direct - of_bias, total - of_total
        self.add(Component(f"L{layer} MLP", layer, None, "mlp"), direct, total)
        for entry in biases:
            self.add(*entry)

    def by_source(self, layer: int, z: Tensor, at_z: Tensor) -> None:
        """Split the heads' direct contribution over the tokens whose values they moved."""
        pattern = self.patterns.get(layer)
        if pattern is None:
            return
        pattern, v = wide(pattern).to(z), wide(self.cache.activations["v", layer])
        v = v.repeat_interleave(z.shape[2] // v.shape[2], dim=2)
        error = (torch.einsum("bhts,bshe->bthe", pattern, v) - z).abs().max()
        rounding = torch.finfo(self.cache.activations["z", layer].dtype).eps
        if error > max(16 * rounding, 3e-5) * z.abs().max():  # not the pattern that was used
            return
        moved = torch.einsum("bshe,bthe->bhts", v, at_z)
        self.sources.append((pattern * moved).sum(2))

    # ------------------------------------------------------------------------------- biases
    def bias_of(self, layer: int | None, label: str) -> BiasSite | None:
        """The site of a bias that is not 0, or None."""
        found = (site for site in self.balance.biases if site.layer == layer and site.label == label)
        return next(found, None)

    def bias_total(self, site: BiasSite) -> Tensor:
        """Total relevance of a bias, [batch, pos]."""
        calls, bias = self.balance.calls.get(site.record), self.balance.biases[site]
        if calls is None:  # a rule cuts everything behind it
            return self.u.new_zeros(self.batch, self.length)
        positions = getattr(self.cache.metric, "positions", None)
        if site.record != Names.LOGITS or positions is None:
            return per_position(bias, calls, self.batch, self.length)
        rows = per_position(bias, calls, self.batch, positions.shape[1])
        return rows.new_zeros(self.batch, self.length).scatter_add(1, positions.to(rows.device), rows)

    def bias(self, layer: int, label: str, at: Tensor) -> tuple[Component, Tensor, Tensor] | None:
        """A bias that is added to what a sublayer writes; `at` is the coefficient there, [batch, read, d_model]."""
        site = self.bias_of(layer, label)
        if site is None:
            return None
        direct = self.spread((self.balance.biases[site].to(at) * at).sum(-1))
        return Component(f"L{layer} {label}", layer, None, "bias"), direct, self.bias_total(site)

    def inner_biases(self, layer: int) -> None:
        """Biases inside attention and MLP: they reach the stream only through a head, an MLP or a norm."""
        entered = {component.label for component in self.components}
        for site in self.balance.biases:
            if site.layer == layer and f"L{layer} {site.label}" not in entered:
                component = Component(f"L{layer} {site.label}", layer, None, "inner bias")
                self.add(component, None, self.bias_total(site))

    def readout(self) -> None:
        """The final norm's bias, the unembedding's, and what linearising the metric leaves."""
        for site in self.balance.biases:
            if site.layer is None:
                total = self.bias_total(site)
                self.add(Component(site.label, None, None, "bias"), total, total)
        metric, rules = self.cache.metric_value.double().cpu(), self.balance.rules
        for one in self.sites.sites:
            if isinstance(one, LinearSite) and one.record == Names.LOGITS:
                for name in rules.sinks(one):
                    self.residuals[name] = self.balance.linear_share(Names.LOGITS).numpy()
            elif isinstance(one, LogitSite) and one.softcap is not None:
                returned, before = Names.RETURNED_LOGITS, Names.LOGITS
                taken = bool(rules.sinks(one))
                share = (
                    self.balance.relevance(returned) - self.balance.downstream(before)
                    if taken
                    else 0 * metric
                )
                self.residuals["logit soft-cap"] = share.numpy()
        if not self.balance.linear_metric:
            left = metric - self.balance.relevance(Names.RETURNED_LOGITS)
            self.residuals["metric nonlinearity"] = left.numpy()
