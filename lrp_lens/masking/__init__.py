"""Faithfulness of token attributions: what happens to the model when the blamed tokens are masked."""

from lrp_lens.masking.evaluate import BASELINES, faithfulness
from lrp_lens.masking.measures import MEASURES
from lrp_lens.masking.question import Question
from lrp_lens.masking.result import Faithfulness

__all__ = ["BASELINES", "MEASURES", "Faithfulness", "Question", "faithfulness"]
