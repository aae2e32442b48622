"""The conservation ledger: where the metric's relevance went.

    metric = Σ tokens + Σ positions + Σ named sinks      (+ remainder, which is a bug and is printed)

1. Linear maps and residual additions conserve relevance, but for their biases: a bias b takes b ⊙ ∂metric/∂b.
2. Operations whose rules say that they conserve (frozen norm, identity rule, half rule, frozen pattern) take nothing,
   so they have no row: if one does lose relevance, that shows as a remainder.
3. Any other operation takes what its outputs hold more than its inputs, e.g. the softmax
   Σ P ⊙ ∂P - Σ S ⊙ ∂S (AttnLRP, Achtibat et al. 2024, Proposition 3.1), which equals R(z) - R(v) - R(q) - R(k).
4. A norm takes the share of R(output) that its rule does not keep, e.g. var / (var + ε) under the plain gradient.
5. A layer's sinks are the difference between the residual stream's relevance after and before the block.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import (
    ActivationSite,
    AttentionSite,
    BiasSite,
    LinearSite,
    LogitSite,
    MixtureSite,
    NormSite,
    Site,
    Sites,
)
from lrp_lens.ops.gates import accumulation_dtype
from lrp_lens.rules import RuleSet
from lrp_lens.run.absorbed import QUESTIONS, Absorbed, Layer
from lrp_lens.run.ledger import LedgerRow

Sink = tuple[str, str, Tensor]
"""Name, kind, and what was absorbed, [batch]."""


@dataclass(frozen=True, eq=False)
class Calls:
    """Every call of one recorded point: a norm may run three times a block (for q, k and v)."""

    activations: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    examples: tuple[int, ...] | None = None
    """Example of each row; None where each row is one."""

    def relevance(self, batch: int) -> Tensor:
        """Σ activation ⊙ gradient per example, float64, [batch]."""
        return self.weighted(batch, self.activations)

    def weighted(self, batch: int, factors: tuple[Tensor, ...]) -> Tensor:
        """Σ factor ⊙ gradient per example, for factors that broadcast to the gradients."""
        total = torch.zeros(batch, dtype=torch.float64)
        examples = range(batch) if self.examples is None else self.examples
        for factor, gradient in zip(factors, self.gradients, strict=True):
            wide = accumulation_dtype(gradient.dtype)
            product = factor.to(wide) * gradient.to(wide)
            rows = product.reshape(len(examples), -1).sum(-1, dtype=torch.float64).cpu()
            total.index_add_(0, torch.tensor(examples), rows)
        return total

    def to(self, device: str | torch.device) -> "Calls":
        """Move to a device."""
        return Calls(
            tuple(a.to(device) for a in self.activations),
            tuple(g.to(device) for g in self.gradients),
            self.examples,
        )


@dataclass(frozen=True, eq=False)
class Balance:
    """Everything the ledger needs of one pass; sums are taken when it is closed."""

    sites: Sites
    rules: RuleSet
    calls: Mapping[str, Calls]
    biases: Mapping[BiasSite, Tensor]
    norm_inputs: Mapping[str, tuple[Tensor, ...]]
    """Input of each norm that takes relevance, by the name of its output's record."""
    linear_metric: bool
    batch: int

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
        """Relevance at a record before the rule of a linear map there took its share."""
        return self.relevance(name) + self.linear_share(name)

    def linear_share(self, name: str) -> Tensor:
        """What the rule of the linear map with this output absorbs (ε-rule: ε Σ sign(z) ⊙ gradient)."""
        total = torch.zeros(self.batch, dtype=torch.float64)
        for site in self.sites.of(LinearSite):
            if site.record == name and name in self.calls and self.rules.sinks(site):
                calls, rule = self.calls[name], self.rules.rule_for("linear", site.layer)
                total += calls.weighted(self.batch, tuple(map(rule.absorbed, calls.activations)))
        return total

    def bias_share(self, site: BiasSite) -> Tensor:
        """Σ bias ⊙ gradient at the tensor it was added to."""
        calls = self.calls.get(site.record)
        if calls is None:
            return torch.zeros(self.batch, dtype=torch.float64)
        bias = self.biases[site]
        return calls.weighted(self.batch, (bias,) * len(calls.gradients))

    def absorbed(self, metric_value: Tensor, layers: Iterable[Layer]) -> Absorbed:
        """Sum the accounts of some layers.

        Args:
            metric_value: [batch].
            layers: indices of blocks, and None for what follows them.

        Raises:
            RuleError: if a rule does not say what it takes.
        """
        rows: list[LedgerRow] = []
        stream: dict[str, Tensor] = {}
        for layer in layers:
            sinks = self.after_the_blocks(metric_value) if layer is None else []
            for site in self.sites.sites:
                sinks += self.sinks(site) if site.layer == layer else []
            rows += [LedgerRow(layer, name, kind, amount.numpy()) for name, kind, amount in sinks]
            boundaries = [] if layer is None else [Names.resid_post(layer)]
            boundaries += [Names.resid_pre(0)] if layer == 0 else []
            stream |= {name: self.relevance(name) for name in boundaries}
        return Absorbed(self.sites, self.rules, tuple(rows), stream, self.dtypes)

    def everywhere(self, metric_value: Tensor) -> Absorbed:
        """The accounts of all layers.

        Raises:
            RuleError: if a rule does not say what it takes.
        """
        self.rules.require("the ledger", self.sites, QUESTIONS)
        return self.absorbed(metric_value, (None, *range(self.sites.n_layers)))

    @property
    def dtypes(self) -> frozenset[str]:
        """Those of the activations."""
        return frozenset(
            str(one.dtype).removeprefix("torch.")
            for calls in self.calls.values()
            for one in calls.activations
        )

    def sinks(self, site: Site) -> list[Sink]:
        """What one operation absorbed: name, kind, amount [batch]."""
        if isinstance(site, LogitSite):
            return self.logits(site)
        if isinstance(site, BiasSite) and site in self.biases:
            return [(site.label, "bias", self.bias_share(site))]
        if isinstance(site, NormSite) and site.of != "embedding":
            return self.norm(site)
        if isinstance(site, ActivationSite) and not site.expert:
            return self.activation(site)
        if isinstance(site, AttentionSite):
            return self.attention(site)
        if isinstance(site, MixtureSite):
            return self.mixture(site)
        if isinstance(site, LinearSite):
            return [(name, "epsilon", self.linear_share(site.record)) for name in self.rules.sinks(site)]
        return []

    def after_the_blocks(self, metric_value: Tensor) -> list[Sink]:
        """What the metric itself absorbs, where it is not linear."""
        if self.linear_metric:
            return []
        metric = metric_value.detach().double().cpu()
        return [("metric nonlinearity", "metric", metric - self.relevance(Names.RETURNED_LOGITS))]

    def logits(self, site: LogitSite) -> list[Sink]:
        """The final soft-cap, unless its rule conserves."""
        return [
            (name, "soft-cap", self.relevance(Names.RETURNED_LOGITS) - self.downstream(Names.LOGITS))
            for name in self.rules.sinks(site)
        ]

    def norm(self, site: NormSite) -> list[Sink]:
        """A norm, unless its rule conserves: R(output without bias) · (1 - what it keeps)."""
        taken = site.result in self.norm_inputs and site.result in self.calls
        if not taken or not self.rules.sinks(site):
            return []
        rule = self.rules.rule_for("norm", site.layer)
        calls, bias = self.calls[site.result], None
        for other in self.sites.of(BiasSite):
            bias = self.biases.get(other) if other.record == site.result else bias
        factors = []
        for x, y in zip(self.norm_inputs[site.result], calls.activations, strict=True):
            kept = rule.kept(site, x.to(accumulation_dtype(x.dtype)))
            absorbed = (1 - kept).reshape(*y.shape[:-1], 1)
            factors.append((y if bias is None else y - bias) * absorbed)
        return [(site.label, "norm", calls.weighted(self.batch, tuple(factors)))]

    def activation(self, site: ActivationSite) -> list[Sink]:
        """An MLP's nonlinearity, unless its rules conserve."""
        names = self.rules.sinks(site)
        if not names:
            return []
        amount = self.relevance(Names.mlp(site.layer or 0, "post"))
        for bias in self.sites.of(BiasSite):
            if bias in self.biases and bias.record == Names.mlp(site.layer or 0, "post"):
                amount = amount - self.bias_share(bias)
        for part in ("pre", "pre_linear"):
            amount = amount - self.downstream(Names.mlp(site.layer or 0, part))
        return [(" and ".join(names), "activation", amount)]

    def attention(self, site: AttentionSite) -> list[Sink]:
        """The softmax and what enters it, unless the rules of attention conserve."""
        names, layer = self.rules.sinks(site), site.layer or 0
        if not names:
            return []
        amount = self.relevance(Names.attention(layer, "z")) - self.downstream(Names.attention(layer, "v"))
        for part, of in (("q", "query"), ("k", "key")):
            norm = next((n for n in self.sites.of(NormSite) if n.layer == site.layer and n.of == of), None)
            lossy = norm is not None and norm.result in self.norm_inputs
            amount = amount - (
                self.relevance(norm.result)
                if lossy and norm
                else self.downstream(Names.attention(layer, part))
            )
        return [(", ".join(names), "softmax", amount)]

    def mixture(self, site: MixtureSite) -> list[Sink]:
        """Router, expert biases and whatever else a mixture's rules do not conserve."""
        names = self.rules.sinks(site)
        if not names:
            return []
        return [(", ".join(names), "router", self.downstream(site.result) - self.downstream(site.source))]
