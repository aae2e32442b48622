"""README's table of recommendations: for each question the rule set that is ahead on held-out prompts, and by how much.

1. tokens, with the metric held: the default rule set, by the criterion (`decision`); tokens, any rule set: ΔA.
2. components and residual sites: Pearson with activation patching, mean over resid_pre, attn_out and mlp_out.
3. attention, queries and keys: the same over head outputs, q, k and v.  A rule set that cuts q or k off is not ranked.
4. head ablation: Pearson over heads of relevance with what zero and mean ablation take, mean of both.

Each case (pair, prompt) once, each model the same weight; intervals and differences as in `ranking`.  The best method
that is no rule set stands beside.  A value is of the best of many, chosen by these very cases: a little too high.
"""

import pandas as pd

from benchmarks.evidence.decision import MODELS, REPLACEMENTS, Decision
from benchmarks.evidence.methods import RULES
from benchmarks.evidence.ranking import Ranking, by_case, estimate, markdown, means_over_models, ranked
from lrp_lens.views.statistics.intervals import interval

STREAM = ("resid_pre", "attn_out", "mlp_out")
ATTENTION = ("attn_head_out_all_pos", "attn_head_q_all_pos", "attn_head_k_all_pos", "attn_head_v_all_pos")
QUESTIONS = {
    "tokens, any rule set": ("tokens", "delta_a", "replacement", REPLACEMENTS, "ΔA"),
    "components and residual sites": ("components", "pearson", "site", STREAM, "Pearson with patching"),
    "attention, queries and keys": ("components", "pearson", "site", ATTENTION, "Pearson with patching"),
    "head ablation": ("heads", "pearson", "ablation", ("zero", "mean"), "Pearson with ablation"),
}
"""Question → part, column, over what a case's number is the mean, its values, the measure in words."""
HEADER = [
    "question", "rule set", "measure", "value [95 %]", "cases", "next best: value, difference [95 %], p (Holm)",
    "best that is no rule set",
]  # fmt: skip


def recommendation_table(parts: dict[str, pd.DataFrame], decision: Decision) -> str:
    """One line per question.

    Args:
        parts: "tokens", "components" and "heads" → rows; a part that is missing or empty is not measured.
        decision: the criterion's, of the same token rows.
    """
    first = "tokens, so that they hold the metric (the default)"
    if decision.ranking is None:
        lines = [[first, "not measured", "ΔA", *["–"] * 4]]
    else:
        lines = [_line(first, "ΔA", decision.ranking, decision.chosen)]
    for question, (part, column, over, wanted, measure) in QUESTIONS.items():
        rows = parts.get(part, pd.DataFrame())
        ranking = None
        if len(rows):
            ranking = ranked(by_case(rows[rows["model"].isin(MODELS)], column, over, wanted), RULES)
        if ranking is None:
            lines.append([question, "not measured", measure, *["–"] * 4])
        else:
            lines.append(_line(question, measure, ranking, ranking.names[0]))
    return markdown(lines, HEADER)


def _line(question: str, measure: str, ranking: Ranking, chosen: str) -> list[str]:
    """The rule set, and beside it the best of the others."""
    left = [name for name in ranking.names if name != chosen]
    after = "–"
    if left:
        gap = ranking.difference(chosen, left[0])
        _, low, high = interval(gap)
        p = ranking.p.get(left[0], ranking.p.get(chosen))  # of the pair, one of which is the best
        apart = "" if low > 0 or high < 0 else ", level"
        after = f"{left[0]}: {estimate(ranking.of(left[0]))}, {estimate(gap, '+')}, p = {p:.2g}{apart}"
    return [question, chosen, measure, estimate(ranking.of(chosen)), ranking.n, after, _beside(ranking)]


def _beside(ranking: Ranking) -> str:
    """The best of the methods that are no rule sets, on the same cases."""
    whole = ranking.known.columns[ranking.known.notna().all()]
    others = [name for name in whole if name not in RULES]
    if not others:
        return "–"
    samples = means_over_models(ranking.known[others], len(ranking.samples) - 1)
    best = int(samples[0].argmax())
    return f"{others[best]}: {estimate(samples[:, best])}"
