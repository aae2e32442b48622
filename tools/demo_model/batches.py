"""Batches of training documents, in an order that can be continued from two counters."""

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tools.demo_model.corpus import Document, Mixture, draw_document
from tools.demo_model.vocabulary import PAD, TOKEN_IDS

ANSWER_WEIGHT = {"repeat": 0.3, "list": 0.3, "induction": 0.3}
"""Loss weight of the answers of tasks that have many of them; the answers of other tasks weigh 1."""

OTHER_WEIGHT = 0.05
"""Loss weight of every word that is no answer."""

POOL = 1024
"""Documents that are drawn and sorted by length together."""


@dataclass
class BatchStream:
    """Batches of one stage, in a reproducible order that can be continued from its two counters."""

    mixture: Mixture
    key: str
    """Names the stream; another key gives other documents."""
    batch_tokens: int
    pool: int = 0
    """Number of the current pool of documents."""
    batch: int = 0
    """Batches of this pool already given out."""
    _batches: list[list[Document]] = field(default_factory=list, repr=False)

    def next(self) -> tuple[Tensor, Tensor]:
        """Token ids and loss weights, both [batch, position]."""
        if not self._batches:
            self._batches = self._draw_pool()
        if self.batch == len(self._batches):
            self.pool, self.batch = self.pool + 1, 0
            self._batches = self._draw_pool()
        documents = self._batches[self.batch]
        self.batch += 1
        return _tensors(documents)

    def _draw_pool(self) -> list[list[Document]]:
        rng = random.Random(f"{self.key}/{self.pool}")
        documents = sorted(
            (draw_document(rng, self.mixture) for _ in range(POOL)), key=lambda d: len(d.token_ids)
        )
        batches: list[list[Document]] = [[]]
        for document in documents:
            if batches[-1] and len(document.token_ids) * (len(batches[-1]) + 1) > self.batch_tokens:
                batches.append([])
            batches[-1].append(document)
        rng.shuffle(batches)
        return batches


def _tensors(documents: list[Document]) -> tuple[Tensor, Tensor]:
    longest = max(len(document.token_ids) for document in documents)
    tokens = torch.full((len(documents), longest), TOKEN_IDS[PAD])
    weights = torch.zeros(len(documents), longest)
    for row, document in enumerate(documents):
        tokens[row, : len(document.token_ids)] = torch.tensor(document.token_ids)
        weights[row, 1 : len(document.token_ids)] = OTHER_WEIGHT
        for position, task in document.answers:
            weights[row, position] = ANSWER_WEIGHT.get(task, 1.0)
    return tokens, weights
