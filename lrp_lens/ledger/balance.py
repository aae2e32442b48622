"""The conservation ledger: where the metric's relevance went.

    metric = Σ tokens + Σ positions + Σ named sinks      (+ remainder, which is a bug and is printed)

1. Linear maps and residual additions conserve relevance, but for their biases: a bias b takes b ⊙ ∂metric/∂b.
2. Operations under a conserving rule (frozen norm, identity rule, half rule, frozen pattern) take nothing, so they
   have no row: if one does lose relevance, that shows as a remainder.
3. Any other operation takes what its outputs hold more than its inputs, e.g. the softmax
   Σ P ⊙ ∂P - Σ S ⊙ ∂S (AttnLRP, Achtibat et al. 2024, Proposition 3.1), which equals R(z) - R(v) - R(q) - R(k).
4. A plain norm takes R(output) · var / (var + ε): the closed form of its gradient × input.
5. A layer's sinks are the difference between the residual stream's relevance after and before the block.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lrp_lens.gates import accumulation_dtype
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import (
    ActivationSite,
    AttentionSite,
    BiasSite,
    LinearSite,
    LogitSite,
    MixtureSite,
    NormSite,
    Sites,
)
from lrp_lens.ledger.table import ROUNDING, Ledger, LedgerRow
from lrp_lens.rules import Epsilon, ExpertWeights, Identity, Plain, ProductWeights, RuleSet


@dataclass(frozen=True, eq=False)
class Calls:
    """Every call of one recorded point: a norm may run three times a block (for q, k and v)."""

    activations: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]

    def relevance(self, batch: int) -> Tensor:
        """Σ activation ⊙ gradient per example, float64, [batch]."""
        return self.weighted(batch, self.activations)

    def weighted(self, batch: int, factors: tuple[Tensor, ...]) -> Tensor:
        """Σ factor ⊙ gradient per example, for factors that broadcast to the gradients."""
        total = torch.zeros(batch, dtype=torch.float64)
        for factor, gradient in zip(factors, self.gradients, strict=True):
            wide = accumulation_dtype(gradient.dtype)
            product = factor.to(wide) * gradient.to(wide)
            total += product.reshape(batch, -1).sum(-1, dtype=torch.float64).cpu()
        return total

    def to(self, device: str | torch.device) -> "Calls":
        """Move to a device."""
        return Calls(
            tuple(a.to(device) for a in self.activations), tuple(g.to(device) for g in self.gradients)
        )


@dataclass(frozen=True, eq=False)
class Balance:
    """Everything the ledger needs of one pass; sums are taken when it is closed."""

    sites: Sites
    rules: RuleSet
    calls: Mapping[str, Calls]
    biases: Mapping[BiasSite, Tensor]
    norm_inputs: Mapping[str, tuple[Tensor, ...]]
    """Input of each plain norm, by the name of its output's record."""
    linear_metric: bool
    batch: int
    rows: list[LedgerRow] = field(default_factory=list)

    def to(self, device: str | torch.device) -> "Balance":
        """Move what is kept to a device."""
        return Balance(
            self.sites,
            self.rules,
            {name: calls.to(device) for name, calls in self.calls.items()},
            {site: tensor.to(device) for site, tensor in self.biases.items()},
            {name: tuple(x.to(device) for x in inputs) for name, inputs in self.norm_inputs.items()},
            self.linear_metric,
            self.batch,
        )

    def relevance(self, name: str) -> Tensor:
        """Relevance at a record, per example; 0 where it was not recorded (a cut or absent branch)."""
        batch = self.batch
        calls = self.calls.get(name)
        return torch.zeros(batch, dtype=torch.float64) if calls is None else calls.relevance(batch)

    def downstream(self, name: str) -> Tensor:
        """Relevance at a record before an ε-rule there took its share."""
        return self.relevance(name) + self.epsilon_share(name)

    def epsilon_share(self, name: str) -> Tensor:
        """ε Σ sign(z) ⊙ gradient: what the ε-rule at a linear output absorbs."""
        total = torch.zeros(self.batch, dtype=torch.float64)
        for site in self.sites.of(LinearSite):
            rule = self.rules.rule_for("linear", site.layer)
            if site.record == name and isinstance(rule, Epsilon) and name in self.calls:
                calls = self.calls[name]
                signs = tuple(torch.where(z < 0, -1.0, 1.0).to(z) for z in calls.activations)
                total += rule.epsilon * calls.weighted(self.batch, signs)
        return total

    def bias_share(self, site: BiasSite) -> Tensor:
        """Σ bias ⊙ gradient at the tensor it was added to."""
        calls = self.calls.get(site.record)
        if calls is None:
            return torch.zeros(self.batch, dtype=torch.float64)
        bias = self.biases[site]
        return calls.weighted(self.batch, (bias,) * len(calls.gradients))

    def add(self, layer: int | None, name: str, kind: str, amount: Tensor) -> None:
        """Enter a sink, [batch]."""
        self.rows.append(LedgerRow(layer, name, kind, amount.numpy()))

    def close(self, metric_value: Tensor, tokens: Tensor, positions: Tensor | None, title: str) -> Ledger:
        """Sum every account.

        Args:
            metric_value: [batch].
            tokens: relevance per token, [batch, pos].
            positions: relevance per position embedding, [batch, pos], or None.
            title: rule set and metric in words.
        """
        self.rows.clear()
        metric = metric_value.detach().double().cpu()
        if not self.linear_metric:
            self.add(None, "metric nonlinearity", "metric", metric - self.relevance(Names.RETURNED_LOGITS))
        for site in self.sites.sites:
            if isinstance(site, LogitSite):
                self.logits(site)
            elif isinstance(site, BiasSite) and site in self.biases:
                self.add(site.layer, site.label, "bias", self.bias_share(site))
            elif isinstance(site, NormSite) and site.of != "embedding":
                self.norm(site)
            elif isinstance(site, ActivationSite) and not site.expert:
                self.activation(site)
            elif isinstance(site, AttentionSite):
                self.attention(site)
            elif isinstance(site, MixtureSite):
                self.mixture(site)
            elif isinstance(site, LinearSite) and isinstance(
                self.rules.rule_for("linear", site.layer), Epsilon
            ):
                self.add(site.layer, f"ε at {site.label}", "epsilon", self.epsilon_share(site.record))
        order = sorted(self.rows, key=lambda row: (row.layer is not None, -(row.layer or 0)))
        boundaries = [Names.resid_pre(0), *(Names.resid_post(layer) for layer in range(self.sites.n_layers))]
        stream = torch.stack([self.relevance(name) for name in boundaries], dim=1)
        tokens = tokens.double().cpu()
        positions = torch.zeros_like(tokens) if positions is None else positions.double().cpu()
        sinks = sum((np.abs(row.amount) for row in order), start=np.zeros(len(metric)))
        return Ledger(
            metric=metric.numpy(),
            tokens=tokens.sum(-1).numpy(),
            positions=positions.sum(-1).numpy(),
            rows=tuple(order),
            stream=stream.numpy(),
            magnitude=tokens.abs().sum(-1).numpy() + positions.abs().sum(-1).numpy() + sinks,
            title=title,
            rounding=ROUNDING[self.precision],
        )

    @property
    def precision(self) -> str:
        """The coarsest dtype among the activations, which decides what rounding leaves."""
        names = {
            str(one.dtype).removeprefix("torch.")
            for calls in self.calls.values()
            for one in calls.activations
        }
        return max(names & set(ROUNDING), key=ROUNDING.__getitem__, default="float32")

    def logits(self, site: LogitSite) -> None:
        """The final soft-cap under its own gradient."""
        if site.softcap is not None and isinstance(self.rules.rule_for("softcap", None), Plain):
            amount = self.relevance(Names.RETURNED_LOGITS) - self.downstream(Names.LOGITS)
            self.add(None, "logit soft-cap", "soft-cap", amount)

    def norm(self, site: NormSite) -> None:
        """A norm under its own gradient: R(output without bias) · var / (var + ε)."""
        if site.result not in self.norm_inputs or site.result not in self.calls:
            return
        calls, bias = self.calls[site.result], None
        for other in self.sites.of(BiasSite):
            bias = self.biases.get(other) if other.record == site.result else bias
        factors = []
        for x, y in zip(self.norm_inputs[site.result], calls.activations, strict=True):
            wide = x.to(accumulation_dtype(x.dtype))
            if site.centred:
                wide = wide - wide.mean(-1, keepdim=True)
            variance = wide.pow(2).mean(-1, keepdim=True)
            absorbed = (variance / (variance + site.epsilon)).reshape(*y.shape[:-1], 1)
            factors.append((y if bias is None else y - bias) * absorbed)
        self.add(site.layer, site.label, "norm", calls.weighted(self.batch, tuple(factors)))

    def activation(self, site: ActivationSite) -> None:
        """An MLP's nonlinearity, unless its rules conserve."""
        identity = isinstance(self.rules.rule_for("activation", site.layer), Identity)
        product = self.rules.rule_for("product", site.layer)
        shared = isinstance(product, ProductWeights) and product.gate + product.up == 1
        if identity and (shared or site.up is None):
            return
        amount = self.relevance(Names.mlp(site.layer or 0, "post"))
        for bias in self.sites.of(BiasSite):
            if bias in self.biases and bias.record == Names.mlp(site.layer or 0, "post"):
                amount = amount - self.bias_share(bias)
        for part in ("pre", "pre_linear"):
            amount = amount - self.downstream(Names.mlp(site.layer or 0, part))
        names = ([] if identity else ["activation"]) + (
            [] if shared or site.up is None else ["gated product"]
        )
        self.add(site.layer, " and ".join(names), "activation", amount)

    def attention(self, site: AttentionSite) -> None:
        """The softmax (and what enters it), unless the pattern is frozen."""
        rule, layer = self.rules.rule_for("attention", site.layer), site.layer or 0
        reaches = isinstance(rule, Plain) or rule.reaches_pattern
        value = getattr(rule, "value", 1.0)
        if not reaches and value == 1:
            return
        amount = self.relevance(Names.attention(layer, "z")) - self.downstream(Names.attention(layer, "v"))
        for part, of in (("q", "query"), ("k", "key")):
            norm = next((n for n in self.sites.of(NormSite) if n.layer == site.layer and n.of == of), None)
            plain = norm is not None and norm.result in self.norm_inputs
            amount = amount - (
                self.relevance(norm.result)
                if plain and norm
                else self.downstream(Names.attention(layer, part))
            )
        if not reaches:
            self.add(site.layer, "value share", "softmax", amount)
            return
        extras = list(site.extras)
        if site.softcap is not None and isinstance(self.rules.rule_for("softcap", site.layer), Plain):
            extras.append("soft-cap")
        if isinstance(rule, Plain) or (rule.query + rule.key, rule.value) != (0.5, 0.5):
            extras.append("products")
        self.add(site.layer, ", ".join(["softmax", *extras]), "softmax", amount)

    def mixture(self, site: MixtureSite) -> None:
        """Router, expert biases and whatever else a mixture's rules do not conserve."""
        experts = self.rules.rule_for("experts", site.layer)
        product = self.rules.rule_for("product", site.layer)
        identity = isinstance(self.rules.rule_for("activation", site.layer), Identity)
        shared = isinstance(product, ProductWeights) and product.gate + product.up == 1
        fixed = isinstance(experts, ExpertWeights) and (experts.router, experts.expert) == (0, 1)
        if identity and shared and fixed and not site.biased:
            return
        names = ([] if fixed else ["router"]) + (["expert biases"] if site.biased else [])
        names += [] if identity and shared else ["expert activations"]
        amount = self.downstream(site.result) - self.downstream(site.source)
        self.add(site.layer, ", ".join(names), "router", amount)
