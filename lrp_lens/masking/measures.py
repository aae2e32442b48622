"""Measures of one attribution on one prompt, from numbers alone (no model here).

With n maskable tokens, m(M) the metric with the tokens M masked, and tokens ordered by score, largest first:

- MoRF masks in this order (most relevant first), LeRF in the reverse; AUC is the area under the metric over the
  masked fraction k/n, by the trapezoid rule (Samek et al. 2017, pixel flipping).
- ΔA = AUC(LeRF) − AUC(MoRF), in units of the metric (AttnLRP, Achtibat et al. 2024, 2402.05602).
- SRG, symmetric relevance gain (Blücher et al. 2024): LeRF minus MoRF, so that a random order has the value 0 in
  expectation whatever the replacement; here for the probability of the unmasked model's first choice, in [−1, 1].
- comprehensiveness = mean over f of m(∅) − m(top ⌈fn⌉); sufficiency = mean over f of m(∅) − m(all but the top
  ⌈fn⌉), the AOPC over fractions f (ERASER, DeYoung et al. 2020, there for probabilities).
- leave-one-out correlation: Spearman's ρ of the scores with m(∅) − m({i}).
- tokens until flip: the smallest k at which the first choice changes (2604.17761, appendix G); until win: at which
  the contrast overtakes the target.
- top-1 and IoU: whether the top token lies in the evidence, and how far the top |evidence| tokens overlap with it.
"""

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True)
class Measure:
    """How a column of the table is read."""

    title: str
    """Heading."""
    higher: bool
    """Whether more is better."""
    words: str
    """What it is."""


MEASURES = MappingProxyType(
    {
        "delta_a": Measure("ΔA", True, "AUC(LeRF) − AUC(MoRF), in units of the metric"),
        "auc_morf": Measure("AUC MoRF", False, "deletion: area under the curve, most relevant first"),
        "auc_lerf": Measure("AUC LeRF", True, "deletion: area under the curve, least relevant first"),
        "srg": Measure("SRG", True, "symmetric relevance gain on the probability of the first choice"),
        "comprehensiveness": Measure("compr.", True, "metric lost without the top tokens, AOPC"),
        "sufficiency": Measure("suff.", False, "metric lost with nothing but the top tokens, AOPC"),
        "loo_correlation": Measure("LOO ρ", True, "Spearman correlation with leave-one-out"),
        "flip_tokens": Measure("k flip", False, "tokens masked until the first choice changes"),
        "flipped": Measure("flipped", True, "share of prompts whose first choice changes within the limit"),
        "win_tokens": Measure("k win", False, "tokens masked until the contrast overtakes the target"),
        "won": Measure("won", True, "share of prompts whose contrast overtakes within the limit"),
        "evidence_top1": Measure("top-1", True, "top token towards the right answer lies in the evidence"),
        "evidence_iou": Measure("IoU", True, "overlap of the top tokens with the evidence"),
    }
)
"""Column → measure."""


def auc(masked: Float[np.ndarray, " step"], values: Float[np.ndarray, " step"]) -> float:
    """Area under the metric over the masked fraction, from 0 to 1, by the trapezoid rule.

    Example:
        >>> auc(np.array([0.0, 0.5, 1.0]), np.array([4.0, 2.0, 0.0]))
        2.0
    """
    return float(np.sum(np.diff(masked) * (values[1:] + values[:-1]) / 2))


def first_true(reached: Bool[np.ndarray, " step"]) -> int:
    """Tokens masked until the event, from whether it holds after 1, 2, …, K tokens; K + 1 if it never does.

    The cap makes the mean a restricted mean: a method that never gets there is not left out of it.

    Example:
        >>> first_true(np.array([False, True, False])), first_true(np.array([False, False, False]))
        (2, 4)
    """
    return int(np.argmax(reached)) + 1 if reached.any() else len(reached) + 1


def evidence_overlap(order: Int[np.ndarray, " n"], evidence: Bool[np.ndarray, " pos"]) -> tuple[float, float]:
    """Top-1 (0 or 1), and IoU of the evidence with as many top tokens; NaN where nothing maskable is evidence.

    Args:
        order: positions, the most relevant towards the right answer first.
        evidence: True at the evidence.

    Example:
        >>> evidence_overlap(np.array([2, 1, 3]), np.array([False, True, True, False]))
        (1.0, 1.0)
    """
    wanted = {int(one) for one in order if evidence[one]}
    if not wanted:
        return float("nan"), float("nan")
    top = {int(one) for one in order[: len(wanted)]}
    return float(int(order[0]) in wanted), len(top & wanted) / len(top | wanted)
