"""What is compared: every preset, every variant of RELP under trial, and the baselines."""

from functools import partial
from typing import Any

import numpy as np
import torch
from lrp_lens.masking.baselines import pattern_points
from lrp_lens.masking.methods import TokenMethod

from benchmarks.evidence.cases import Answered
from lrp_lens import LogitDiff
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.scope import attached
from lrp_lens.masking.question import Question
from lrp_lens.patching import get_act_patch_attn_head_out_all_pos
from lrp_lens.rules import PRESETS
from lrp_lens.rules.presets import VARIANTS

RULES = (*PRESETS, *VARIANTS)
"""Names of the rule sets."""
TOKEN_BASELINES = ("random", "attention", "integrated gradients", "ablation regression", "leave-one-out")
COMPONENT_METHODS = (*RULES, "ATP_STAR_SIGNED", "IG", "IG_RELP", "GRADIENT_X_INPUT")
CHOSEN_HEADS = 5
CHOSEN_NAME = "attention of chosen heads"


def metric(group: list[Answered]) -> LogitDiff:
    """Each prompt's right answer against its wrong one."""
    return LogitDiff([one.prompt.right for one in group], [one.prompt.wrong for one in group])


def chosen_heads(model: Any, groups: list[list[Answered]]) -> list[tuple[int, int]]:
    """The heads whose outputs, patched alone from the prompt into its twin, restore the right answer most.

    Means over pairs of the share of the difference between prompt and twin; ATTNATTRIB of "On Mechanistic Circuits
    for Extractive Question-Answering" reads the attention of a few such heads, chosen on other prompts.
    """
    shares = []
    for group in groups:
        clean, corrupted = [one.text for one in group], [one.twin for one in group]
        effects = get_act_patch_attn_head_out_all_pos(model, corrupted, clean, metric(group), progress=False)
        shares.append(effects.double().cpu().numpy())
    mean = np.mean(shares, axis=0)
    best = np.argsort(-mean, axis=None)[:CHOSEN_HEADS]
    return [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(best, mean.shape), strict=True)]


def attention_of(heads: list[tuple[int, int]]) -> TokenMethod:
    """Mean attention of these heads from the position of the decision."""

    def scores(question: Question) -> torch.Tensor:
        kept: list[torch.Tensor] = []
        points = pattern_points(question.model)

        def keep(value: torch.Tensor, hook: object = None, *, head: int) -> None:
            kept.append(value[0, head, question.decision].double())

        hooks = [(points[layer], partial(keep, head=head)) for layer, head in heads]
        with torch.no_grad(), attached(question.model, hooks):
            forward(question.model, question.tokens[None], None)
        return torch.stack(kept).mean(0)

    return TokenMethod(CHOSEN_NAME, scores, "1F", pattern_points)
