"""Faithfulness of token attributions: what happens to the model when the blamed tokens are masked."""

from lrp_lens.masking.baselines import BASELINES, ablation_regression, integrated_gradients
from lrp_lens.masking.evaluate import faithfulness
from lrp_lens.masking.measures import MEASURES
from lrp_lens.masking.methods import TokenMethod, relevance_method
from lrp_lens.masking.question import Question
from lrp_lens.masking.result import Faithfulness

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
