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

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
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
    Sites,
)
from lrp_lens.ops.gates import accumulation_dtype
from lrp_lens.rules import RuleSet
from lrp_lens.run.ledger import ROUNDING, Ledger, LedgerRow

QUESTIONS = {
    "norm": ("conserves", "kept"),
    "attention": ("sinks",),
    "linear": ("conserves", "absorbed"),
} | dict.fromkeys(("activation", "product", "softmax", "softcap", "experts"), ("conserves",))
"""What the ledger asks of the rules."""


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

    @property
    def answered(self) -> bool:
        """Whether the rules answer what closing asks."""
        return not any(self.rules.lacks(self.sites, QUESTIONS))

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

        Raises:
            RuleError: if a rule does not say what it takes.
        """
        self.rules.require("the ledger", self.sites, QUESTIONS)
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
            elif isinstance(site, LinearSite):
                for name in self.rules.sinks(site):
                    self.add(site.layer, name, "epsilon", self.linear_share(site.record))
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
        """The final soft-cap, unless its rule conserves."""
        for name in self.rules.sinks(site):
            amount = self.relevance(Names.RETURNED_LOGITS) - self.downstream(Names.LOGITS)
            self.add(None, name, "soft-cap", amount)

    def norm(self, site: NormSite) -> None:
        """A norm, unless its rule conserves: R(output without bias) · (1 - what it keeps)."""
        taken = site.result in self.norm_inputs and site.result in self.calls
        if not taken or not self.rules.sinks(site):
            return
        rule = self.rules.rule_for("norm", site.layer)
        calls, bias = self.calls[site.result], None
        for other in self.sites.of(BiasSite):
            bias = self.biases.get(other) if other.record == site.result else bias
        factors = []
        for x, y in zip(self.norm_inputs[site.result], calls.activations, strict=True):
            kept = rule.kept(site, x.to(accumulation_dtype(x.dtype)))
            absorbed = (1 - kept).reshape(*y.shape[:-1], 1)
            factors.append((y if bias is None else y - bias) * absorbed)
        self.add(site.layer, site.label, "norm", calls.weighted(self.batch, tuple(factors)))

    def activation(self, site: ActivationSite) -> None:
        """An MLP's nonlinearity, unless its rules conserve."""
        names = self.rules.sinks(site)
        if not names:
            return
        amount = self.relevance(Names.mlp(site.layer or 0, "post"))
        for bias in self.sites.of(BiasSite):
            if bias in self.biases and bias.record == Names.mlp(site.layer or 0, "post"):
                amount = amount - self.bias_share(bias)
        for part in ("pre", "pre_linear"):
            amount = amount - self.downstream(Names.mlp(site.layer or 0, part))
        self.add(site.layer, " and ".join(names), "activation", amount)

    def attention(self, site: AttentionSite) -> None:
        """The softmax and what enters it, unless the rules of attention conserve."""
        names, layer = self.rules.sinks(site), site.layer or 0
        if not names:
            return
        amount = self.relevance(Names.attention(layer, "z")) - self.downstream(Names.attention(layer, "v"))
        for part, of in (("q", "query"), ("k", "key")):
            norm = next((n for n in self.sites.of(NormSite) if n.layer == site.layer and n.of == of), None)
            lossy = norm is not None and norm.result in self.norm_inputs
            amount = amount - (
                self.relevance(norm.result)
                if lossy and norm
                else self.downstream(Names.attention(layer, part))
            )
        self.add(site.layer, ", ".join(names), "softmax", amount)

    def mixture(self, site: MixtureSite) -> None:
        """Router, expert biases and whatever else a mixture's rules do not conserve."""
        names = self.rules.sinks(site)
        if names:
            amount = self.downstream(site.result) - self.downstream(site.source)
            self.add(site.layer, ", ".join(names), "router", amount)
