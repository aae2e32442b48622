"""What operations absorbed: the few numbers of each layer that a ledger is closed from.

A pass that keeps every activation sums them when a ledger is asked for; one that goes block by block sums those of a
block while its tensors are there.  Layers are joined with `|`, in any number of parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lrp_lens.hosts.names import Names
from lrp_lens.hosts.sites import Sites
from lrp_lens.rules import RuleSet
from lrp_lens.run.ledger import ROUNDING, Ledger, LedgerRow

QUESTIONS = {
    "norm": ("conserves", "kept"),
    "attention": ("sinks",),
    "linear": ("conserves", "absorbed"),
} | dict.fromkeys(("activation", "product", "softmax", "softcap", "experts"), ("conserves",))
"""What the ledger asks of the rules."""

Layer = int | None
"""Index of a block; None for what follows the blocks."""


def answered(rules: RuleSet, sites: Sites) -> bool:
    """Whether the rules answer what closing a ledger asks."""
    return not any(rules.lacks(sites, QUESTIONS))


@dataclass(frozen=True, eq=False)
class Absorbed:
    """Sinks, and the stream's relevance between blocks, of some layers or all."""

    sites: Sites
    rules: RuleSet
    rows: tuple[LedgerRow, ...] = ()
    stream: Mapping[str, Tensor] | None = None
    """Relevance of the residual stream at the boundaries of these layers, by record, [batch]."""
    dtypes: frozenset[str] = frozenset()
    """Those of the activations."""

    def __or__(self, other: "Absorbed") -> "Absorbed":
        """The layers of both."""
        stream = {**(self.stream or {}), **(other.stream or {})}
        return Absorbed(self.sites, self.rules, self.rows + other.rows, stream, self.dtypes | other.dtypes)

    @property
    def rounding(self) -> float:
        """What rounding leaves in the coarsest dtype among the activations."""
        known = self.dtypes & set(ROUNDING)
        return ROUNDING[max(known, key=ROUNDING.__getitem__, default="float32")]

    def close(self, metric_value: Tensor, tokens: Tensor, positions: Tensor | None, title: str) -> Ledger:
        """The ledger, once every layer is there.

        Args:
            metric_value: [batch].
            tokens: relevance per token, [batch, pos].
            positions: relevance per position embedding, [batch, pos], or None.
            title: rule set and metric in words.

        Raises:
            RuleError: if a rule does not say what it takes.
        """
        self.rules.require("the ledger", self.sites, QUESTIONS)
        metric = metric_value.detach().double().cpu()
        order = sorted(self.rows, key=lambda row: (row.layer is not None, -(row.layer or 0)))
        boundaries = [Names.resid_pre(0), *(Names.resid_post(layer) for layer in range(self.sites.n_layers))]
        stream = torch.stack([(self.stream or {})[name] for name in boundaries], dim=1)
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
            rounding=self.rounding,
        )
