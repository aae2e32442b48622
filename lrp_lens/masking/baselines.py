"""Baselines that any relevance method should be held against.

1. random: independent standard normal scores; its order is what no method knows anything about.
2. integrated gradients (Sundararajan et al. 2017): (x − b) ⊙ mean gradient on the straight path from the
   replacement b to the embedding x, special tokens kept; the scores sum to m(x) − m(everything masked) up to
   the error of the midpoint rule.  Near b the embedding is small and a norm undoes its scale, so the metric changes
   steeply there: 20 steps are too few, and b = 0 is a bad choice for any number of steps.
3. attention: the pattern from the position of the decision, mean over layers and heads; it has no sign.
4. attention rollout (Abnar & Zuidema 2020): product over layers of mean pattern + identity, rows normalised.
5. leave-one-out: the metric lost by masking each token alone.
6. ablation regression, in the manner of ContextCite (Cohen-Wang et al. 2024, 2409.00729): mask random halves of the
   tokens, fit the metric by LASSO on which tokens were kept; the weights are the scores.

Gradient × input is the preset GRADIENT.
"""

from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import InputError, SiteError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.scope import attached, parameters_frozen
from lrp_lens.hosts.sites import AttentionSite
from lrp_lens.masking.methods import TokenMethod
from lrp_lens.masking.question import Question
from lrp_lens.masking.replacement import embedding_port
from lrp_lens.patching.controls import rollout

_TOKENS_AT_ONCE = 512
"""Of a gradient: more are no faster, and their graph's memory costs time."""


def random_scores(question: Question) -> Float[np.ndarray, " pos"]:
    """Independent standard normal scores."""
    return question.rng("random").standard_normal(len(question.tokens))


def leave_one_out_scores(question: Question) -> Float[np.ndarray, " pos"]:
    """Metric lost by masking each token alone; 0 at special tokens."""
    return _spread(question, question.leave_one_out())


def integrated_gradients(steps: int = 50) -> TokenMethod:
    """Integrated gradients with `steps` points of the midpoint rule.

    Raises:
        InputError: fewer than one step.
    """
    if steps < 1:
        raise InputError(f"Integrated gradients needs at least 1 step; received {steps}.")

    def score(question: Question) -> Tensor:
        length = question.batch.ids.shape[1]
        maskable = torch.zeros(length, 1, dtype=torch.bool, device=question.tokens.device)
        maskable[question.maskable] = True
        fractions = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
        total: Tensor | None = None
        for part in fractions.split(max(1, _TOKENS_AT_ONCE // question.batch.ids.numel())):
            gradient, difference = _path_gradient(question, part, maskable)
            total = gradient if total is None else total + gradient
        assert total is not None
        scores = question.batch.per_position((difference * total / steps).sum(-1))
        return scores[0, : len(question.tokens)]

    return TokenMethod("integrated gradients", score, f"{steps}F + {steps}B")


def _path_gradient(
    question: Question, fractions: Float[Tensor, " step"], maskable: Tensor
) -> tuple[Float[Tensor, "row pos d_model"], Float[Tensor, "row pos d_model"]]:
    """Σ over steps of the gradient at b + fraction · (x − b), and x − b."""
    rows, width = question.batch.ids.shape
    replacement = torch.nn.functional.pad(question.replacement, (0, 0, 0, width - len(question.tokens)))
    leaves: list[Tensor] = []
    differences: list[Tensor] = []

    def interpolate(value: Tensor, hook: object = None) -> Tensor:
        end = value[:rows]
        start = torch.where(maskable, replacement.to(value), end)
        differences.append((end - start).detach().double())
        weights = fractions.to(value)[:, None, None, None]
        leaves.append((start + weights * (end - start)).flatten(0, 1).detach().requires_grad_(True))
        return leaves[0]

    port = embedding_port(question.model)
    with (
        torch.enable_grad(),
        parameters_frozen(question.model),
        attached(question.model, [(port.point, interpolate)]),
    ):
        logits = forward(question.model, question.batch.ids.repeat(len(fractions), 1), None)
        (gradient,) = torch.autograd.grad(question.bound(len(fractions))(logits).sum(), leaves[0])
    return gradient.double().unflatten(0, (len(fractions), rows)).sum(0), differences[0]


def pattern_points(model: Any) -> list[Any]:
    """The hook point of each layer's attention pattern.

    Raises:
        SiteError: the host does not compute patterns.
    """
    points = []
    for site in resolve(model).of(AttentionSite):
        if site.pattern is None:
            raise SiteError(
                f"Attention scores need patterns, which {site} does not compute here. Load with eager attention, "
                "or leave the attention baselines out."
            )
        points.append(site.pattern.point)
    return points


def _patterns(question: Question) -> list[Float[Tensor, "query key"]]:
    """The attention pattern of each layer, mean over heads.

    Raises:
        SiteError: the host does not compute patterns.
    """
    kept: list[Tensor] = []
    points = pattern_points(question.model)

    def keep(value: Tensor, hook: object = None) -> None:
        kept.append(value[0].mean(0).double())

    with torch.no_grad(), attached(question.model, [(point, keep) for point in points]):
        forward(question.model, question.tokens[None], None)
    return kept


def attention_scores(question: Question) -> Float[Tensor, " pos"]:
    """Pattern from the position of the decision, mean over layers and heads."""
    return torch.stack(_patterns(question)).mean(0)[question.decision]


def rollout_scores(question: Question) -> Float[Tensor, " pos"]:
    """Attention rollout from the position of the decision."""
    row = torch.zeros(len(question.tokens), dtype=torch.float64, device=question.tokens.device)
    row[question.decision] = 1
    return rollout([pattern[None] for pattern in _patterns(question)], row[None])[0, 0]


def ablation_regression(ablations: int = 64, keep: float = 0.5, penalty: float = 0.01) -> TokenMethod:
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

    def score(question: Question) -> Float[np.ndarray, " pos"]:
        kept = question.rng("ablations").random((ablations, len(question.maskable))) < keep
        masks = np.zeros((ablations, len(question.tokens)), dtype=bool)
        masks[:, question.maskable] = ~kept
        outcomes = question.masked(masks).values
        return _spread(question, lasso_weights(kept, outcomes, penalty))

    return TokenMethod("ablation regression", score, f"{ablations}F")


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


def _spread(question: Question, scores: np.ndarray) -> Float[np.ndarray, " pos"]:
    """Scores of the maskable tokens, 0 at the others."""
    everywhere = np.zeros(len(question.tokens))
    everywhere[question.maskable] = scores
    return everywhere


BASELINES = MappingProxyType(
    {
        method.name: method
        for method in (
            TokenMethod("random", random_scores, "0"),
            TokenMethod("attention", attention_scores, "1F", pattern_points),
            TokenMethod("attention rollout", rollout_scores, "1F", pattern_points),
            integrated_gradients(),
            ablation_regression(),
            TokenMethod("leave-one-out", leave_one_out_scores, "nF"),
        )
    }
)
"""Name → baseline."""
