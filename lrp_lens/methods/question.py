"""A question about the tokens of one prompt: what a method that scores tokens is given.

1. The prompt, its maskable tokens, the metric and the replacement are given; answers of the metric are appended.
2. What the model says with tokens masked is the business of `lrp_lens.masking`, whose `Question` this is the base of.
"""

import zlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lrp_lens.hosts.forward import vocabulary_size
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.metrics import BoundMetric, Metric


@dataclass(frozen=True, eq=False)
class MaskedRuns:
    """What the model says under each mask."""

    values: Float[np.ndarray, " rows"]
    """The metric."""
    choices: Int[np.ndarray, " rows"]
    """The token the model ranks first, at the position of the decision."""
    probabilities: Float[np.ndarray, " rows"]
    """Probability there of the token that the unmasked model ranks first."""


@dataclass(eq=False)
class TokenQuestion(ABC):
    """One prompt with its metric; a method scores its tokens."""

    model: Any
    """The HookedTransformer or TransformerBridge."""
    tokens: Int[Tensor, " pos"]
    """Token ids of the prompt."""
    strings: tuple[str, ...]
    """Text of each token."""
    maskable: Int[np.ndarray, " n"]
    """Positions that may be masked: no special tokens, and not that of the decision unless it was asked for."""
    metric: Metric
    """The metric, with token ids for this one example."""
    replacement: Float[Tensor, "pos d_model"]
    """What masked embeddings are replaced by, at each position."""
    seed: int
    """Seed of everything random about this question."""
    suite: str = ""
    """Kind of task, as in the case."""
    correct: bool | None = None
    """Whether the metric's target is the right answer; None if not known."""
    answered: TokenBatch | None = None
    """The prompt with the answers that the metric appends, one row each; None where it appends none."""
    evidence: Bool[np.ndarray, " pos"] | None = None
    """True at the tokens that the right answer has to be read from; None if not known."""
    remembered: dict[str, Any] = field(default_factory=dict, repr=False)
    """What methods found on the way that others need, too: one number per token, no more."""

    @cached_property
    def batch(self) -> TokenBatch:
        """What is run: the prompt, with the metric's answers."""
        if self.answered is not None:
            return self.answered
        special = torch.ones_like(self.tokens, dtype=torch.bool)
        special[torch.as_tensor(self.maskable)] = False
        return TokenBatch(
            self.tokens[None], (0,), (len(self.tokens),), (self.strings,), special[None], single=True
        )

    @property
    def contrastive(self) -> bool:
        """Whether the sign of the metric says which of two answers the model prefers."""
        return self.metric.contrastive

    @property
    def decision(self) -> int:
        """Position at which the first choice is read: the metric's own; the prompt's last if it reads several."""
        read = self._positions()
        return read[0] if read is not None and len(read) == 1 else len(self.tokens) - 1

    def rng(self, purpose: str) -> np.random.Generator:
        """Random numbers for one purpose: the same in every run, independent of other purposes."""
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode())])

    def _positions(self) -> list[int] | None:
        """The columns that the metric reads in any row; None for all."""
        positions = self.bound(1).positions
        return None if positions is None else list(dict.fromkeys(positions.flatten().tolist()))

    def bound(self, copies: int) -> BoundMetric:
        """The metric bound to so many copies of the prompt's rows."""
        batch = self.batch
        return self.metric.bind(
            batch.starts * copies, batch.prompt_lengths * copies, vocabulary_size(self.model)
        )

    def single_masks(self) -> Bool[np.ndarray, "n pos"]:
        """Each maskable token alone."""
        return np.eye(len(self.tokens), dtype=bool)[self.maskable]

    @abstractmethod
    def masked(self, masks: Bool[np.ndarray, "rows pos"]) -> MaskedRuns:
        """Run the model with tokens masked, where True."""

    @abstractmethod
    def leave_one_out(self) -> Float[np.ndarray, " n"]:
        """Metric lost by masking each maskable token alone."""
