"""Methods of attribution: `compare` takes those that score sites, `faithfulness` those that score tokens.

A family of methods is a file: relevance under rules (`relevance`), AtP* (`atp_star`), integrated gradients
(`integrated`), attention (`attention`), masking (`ablation`), and the random control (`chance`).
"""

from lrp_lens.methods.ablation import ablation_regression
from lrp_lens.methods.attention import attention_of, attention_rollout
from lrp_lens.methods.chance import random_scores
from lrp_lens.methods.integrated import integrated_gradients
from lrp_lens.methods.method import Method
from lrp_lens.methods.question import TokenQuestion
from lrp_lens.methods.registry import METHODS, as_method
from lrp_lens.methods.relevance import gradient_times_input, relevance_method

__all__ = [
    "METHODS",
    "Method",
    "TokenQuestion",
    "ablation_regression",
    "as_method",
    "attention_of",
    "attention_rollout",
    "gradient_times_input",
    "integrated_gradients",
    "random_scores",
    "relevance_method",
]
