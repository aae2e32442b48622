"""Attention itself, and attention rollout: what the patterns say without a metric.  Neither has a sign.

1. Attention of tokens: the pattern from the position of the decision, mean over layers and heads; or over given heads
   only, in the manner of ATTNATTRIB ("On Mechanistic Circuits for Extractive Question-Answering", 2502.08059).
2. Attention rollout (Abnar & Zuidema 2005.00928, section 3): with A = mean over heads of P + I per layer, its rows
   normalised, the product of A over this and all later layers says how much of each stream arrives at the position
   that the metric reads.  It scores tokens, and sites of the residual stream only.
   Rows of P sum to 1, so that A is ½ P + ½ I, as the paper writes it, but for attention sinks (GPT-OSS): what goes to
   a sink carries no value, the residual stream is all the more of what arrives, and the paper's "re-normalize" says so.
"""

from collections.abc import Callable, Sequence
from operator import index
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lrp_lens.errors import InputError, SiteError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import last_position, vocabulary_size
from lrp_lens.hosts.sites import AttentionSite
from lrp_lens.methods.atp_star import read_softmax
from lrp_lens.methods.attribution import PatchingPass, no_pass
from lrp_lens.methods.facets import Facet
from lrp_lens.methods.inputs import per_prompt
from lrp_lens.methods.method import Method
from lrp_lens.methods.question import TokenQuestion
from lrp_lens.run.plain import plain_logits


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


def _patterns(question: TokenQuestion, kept_of: Callable[[Tensor], Tensor]) -> list[Float[Tensor, "..."]]:
    """What is kept of each layer's attention pattern [head, query, key].

    Raises:
        SiteError: the host does not compute patterns.
    """
    kept: list[Tensor] = []

    def keep(value: Tensor, hook: object = None) -> None:
        kept.append(kept_of(value[0]).double())

    hooks: list[Any] = [(at, keep) for at in pattern_points(question.model)]
    hooks.append((resolve(question.model).unembed_input.point, last_position))
    plain_logits(question.model, question.tokens[None], hooks)
    return kept


def _mean_over_heads(pattern: Tensor) -> Tensor:
    return pattern.mean(0)


def _baselines(question: TokenQuestion) -> dict[str, Float[Tensor, " pos"]]:
    """Attention and rollout, from one forward pass that both share."""
    if "attention" not in question.remembered:
        patterns = _patterns(question, _mean_over_heads)
        row = torch.zeros(len(question.tokens), dtype=torch.float64, device=question.tokens.device)
        row[question.decision] = 1
        question.remembered["attention"] = {
            "attention": torch.stack([pattern[question.decision] for pattern in patterns]).mean(0),
            "rollout": rollout([pattern[None] for pattern in patterns], row[None])[0, 0],
        }
    found: dict[str, Tensor] = question.remembered["attention"]
    return found


def attention_scores(question: TokenQuestion) -> Float[Tensor, " pos"]:
    """Pattern from the position of the decision, mean over layers and heads."""
    return _baselines(question)["attention"]


def attention_of(heads: Sequence[tuple[int, int]], name: str = "attention of chosen heads") -> Method:
    """Mean attention of given heads from the position of the decision; it scores tokens.

    Args:
        heads: (layer, head), counted from 0.
        name: in tables.

    Raises:
        InputError: no heads, or what is no pair of whole numbers from 0.

    Example:
        >>> attention_of([(2, 0), (3, 1)]).name
        'attention of chosen heads'
    """
    try:
        chosen = [(index(layer), index(head)) for layer, head in heads]
    except (TypeError, ValueError):
        chosen = []
    if not chosen or min(map(min, chosen)) < 0:
        raise InputError(
            f"Heads are pairs (layer, head), whole numbers from 0, one at least; received {heads!r}."
        )

    def requires(model: Any) -> None:
        layers, n_heads = len(pattern_points(model)), model.cfg.n_heads
        beyond = [one for one in chosen if one[0] >= layers or one[1] >= n_heads]
        if beyond:
            raise SiteError(
                f"The model has {layers} layers of {n_heads} heads; received {beyond}. Choose others."
            )

    def scores(question: TokenQuestion) -> Float[Tensor, " pos"]:
        requires(question.model)
        decision = question.decision
        rows = _patterns(question, lambda pattern: pattern[:, decision])
        return torch.stack([rows[layer][head] for layer, head in chosen]).mean(0)

    return Method(name, tokens=scores, cost="1F", requires=requires, unsigned=True)


def attention_rollout(passed: PatchingPass, facet: Facet) -> Float[Tensor, "batch layer pos"]:
    """How much of each position's stream, before each layer, reaches the position that the metric reads.

    Raises:
        SiteError: for a facet other than resid_pre.
    """
    if facet.part != "resid_pre":
        raise SiteError(
            f"Attention rollout is defined on resid_pre; received {facet.name}. Leave it out there."
        )
    layers = read_softmax(passed.model, passed.batch.ids, {}, passed.activations)
    batch, length = passed.batch.ids.shape
    metric = per_prompt(passed.metric, passed.model)
    bound = metric.bind(passed.batch.starts, passed.batch.prompt_lengths, vocabulary_size(passed.model))
    read = torch.tensor([[-1]] * batch) if bound.positions is None else bound.positions[:, :1]
    row = torch.nn.functional.one_hot(read[:, 0] % length, length).to(layers[0][1])
    return rollout([pattern.mean(1) for _, pattern in layers], row)[passed.batch.first_rows]


def rollout(
    patterns: Sequence[Float[Tensor, "batch query key"]], row: Float[Tensor, "batch pos"]
) -> Float[Tensor, "batch layer pos"]:
    """Attention rollout to one position of each example.

    Args:
        patterns: of each layer, mean over heads.
        row: 1 at the position whose sources are asked for, else 0.

    Returns:
        How much of each position's stream before each layer arrives there; sums to 1 over positions.

    Example:
        >>> uniform = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
        >>> rollout([uniform], torch.tensor([[0.0, 1.0]])).tolist()
        [[[0.25, 0.75]]]
    """
    rows = []
    for pattern in reversed(patterns):
        mixed = pattern + torch.eye(pattern.shape[-1], device=pattern.device, dtype=pattern.dtype)
        row = torch.einsum("bi,bij->bj", row.to(mixed), mixed / mixed.sum(-1, keepdim=True))
        rows.append(row)
    return torch.stack(rows[::-1], dim=1)


def _rollout(passed: PatchingPass, source: Any, facet: Facet) -> Tensor:
    return attention_rollout(passed, facet)


def rollout_scores(question: TokenQuestion) -> Float[Tensor, " pos"]:
    """Attention rollout from the position of the decision."""
    return _baselines(question)["rollout"]


METHODS = (
    Method("attention", tokens=attention_scores, cost="1F", requires=pattern_points, unsigned=True),
    Method(
        "attention rollout",
        no_pass,
        rollout_scores,
        _rollout,
        cost="1F",
        requires=pattern_points,
        unsigned=True,
        aliases=("ROLLOUT",),
    ),
)
