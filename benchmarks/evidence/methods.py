"""What is compared: every preset, every variant of RELP under trial, and the baselines."""

from typing import Any

import numpy as np

from benchmarks.evidence.cases import Answered
from lrp_lens import LogitDiff
from lrp_lens.patching import get_act_patch_attn_head_out_all_pos
from lrp_lens.rules import PRESETS
from lrp_lens.rules.presets import VARIANTS

RULES = (*PRESETS, *VARIANTS)
"""Names of the rule sets."""
COMPONENT_METHODS = (
    *RULES,
    "ATP_STAR_SIGNED",
    "integrated gradients",
    "integrated gradients with RELP",
    "GRADIENT_X_INPUT",
)
CHOSEN_HEADS = 5


def metric(group: list[Answered]) -> LogitDiff:
    """Each prompt's right answer against its wrong one."""
    return LogitDiff([one.prompt.right for one in group], [one.prompt.wrong for one in group])


def chosen_heads(model: Any, groups: list[list[Answered]]) -> list[tuple[int, int]]:
    """The heads whose outputs, patched alone from the prompt into its twin, restore the right answer most.

    By the metric of the patched twins, mean over groups of pairs; ATTNATTRIB of "On Mechanistic Circuits for
    Extractive Question-Answering" reads the attention of a few such heads, chosen on other prompts.
    """
    restored = []
    for group in groups:
        clean, corrupted = [one.text for one in group], [one.twin for one in group]
        patched = get_act_patch_attn_head_out_all_pos(model, corrupted, clean, metric(group), progress=False)
        restored.append(patched.double().cpu().numpy())
    mean = np.mean(restored, axis=0)
    best = np.argsort(-mean, axis=None)[:CHOSEN_HEADS]
    return [(int(layer), int(head)) for layer, head in zip(*np.unravel_index(best, mean.shape), strict=True)]
