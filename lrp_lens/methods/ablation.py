"""Tokens scored by masking them.

1. Leave-one-out: the metric lost by masking each token alone.
2. Ablation regression, in the manner of ContextCite (Cohen-Wang et al. 2024, 2409.00729): mask random halves of the
   tokens, fit the metric by LASSO on which tokens were kept; the weights are the scores.
"""

import numpy as np
from jaxtyping import Bool, Float

from lrp_lens.errors import InputError
from lrp_lens.methods.method import Method
from lrp_lens.methods.question import TokenQuestion


def leave_one_out_scores(question: TokenQuestion) -> Float[np.ndarray, " pos"]:
    """Metric lost by masking each token alone; 0 at special tokens."""
    return _spread(question, question.leave_one_out())


def ablation_regression(ablations: int = 64, keep: float = 0.5, penalty: float = 0.01) -> Method:
    """A linear surrogate of the metric, fitted by LASSO to random ablations.

    Args:
        ablations: number of random masks.
        keep: probability that a token is kept in one.
        penalty: LASSO's α for standardised masks and outcomes of unit variance, so that scores scale with the
            metric.

    Raises:
        InputError: fewer than two ablations, or a probability or penalty out of range.
    """
    if ablations < 2 or not 0 < keep < 1 or penalty <= 0:
        raise InputError(
            "Ablation regression needs ablations ≥ 2, 0 < keep < 1 and penalty > 0; received "
            f"{ablations}, {keep} and {penalty}."
        )

    def masks(question: TokenQuestion) -> Bool[np.ndarray, "rows pos"]:
        found = np.zeros((ablations, len(question.tokens)), dtype=bool)
        kept = question.rng("ablations").random((ablations, len(question.maskable))) < keep
        found[:, question.maskable] = ~kept
        return found

    def score(question: TokenQuestion) -> Float[np.ndarray, " pos"]:
        drawn = masks(question)
        kept, outcomes = ~drawn[:, question.maskable], question.masked(drawn).values
        return _spread(question, lasso_weights(kept, outcomes, penalty))

    return Method("ablation regression", tokens=score, masks=masks, cost=f"{ablations}F")


def lasso_weights(kept: np.ndarray, outcomes: Float[np.ndarray, " rows"], penalty: float) -> np.ndarray:
    """Effect of keeping each token [n], from masks [rows, n] and the metric under each."""
    from sklearn.linear_model import Lasso

    spread = float(outcomes.std())
    if spread == 0:
        return np.zeros(kept.shape[1])
    features = kept.astype(np.float64)
    scale = features.std(0)
    scale[scale == 0] = 1
    lasso = Lasso(alpha=penalty, max_iter=100_000)
    lasso.fit((features - features.mean(0)) / scale, (outcomes - outcomes.mean()) / spread)
    return np.asarray(lasso.coef_) * spread / scale


def _spread(question: TokenQuestion, scores: np.ndarray) -> Float[np.ndarray, " pos"]:
    """Scores of the maskable tokens, 0 at the others."""
    everywhere = np.zeros(len(question.tokens))
    everywhere[question.maskable] = scores
    return everywhere


METHODS = (
    ablation_regression(),
    Method("leave-one-out", tokens=leave_one_out_scores, masks=TokenQuestion.single_masks, cost="nF"),
)
