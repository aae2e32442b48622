"""Faithfulness of token attributions: what happens to the model when the blamed tokens are masked."""

from lrp_lens.perturbation.baselines import BASELINES, ablation_regression, integrated_gradients
from lrp_lens.perturbation.evaluate import faithfulness
from lrp_lens.perturbation.measures import MEASURES
from lrp_lens.perturbation.methods import TokenMethod, relevance_method
from lrp_lens.perturbation.question import Question
from lrp_lens.perturbation.result import Faithfulness

__all__ = [
    "BASELINES",
    "MEASURES",
    "Faithfulness",
    "Question",
    "TokenMethod",
    "ablation_regression",
    "faithfulness",
    "integrated_gradients",
    "relevance_method",
]
