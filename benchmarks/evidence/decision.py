"""The default rule set by the criterion of `benchmarks.evidence`, as a table and a sentence.

1. Candidates: the rule sets that conserve at every site of every model, by what their rules answer
   (`lrp_lens.rules.conserves`), not by name.
2. ΔA of a case is the mean over both replacements; each case once, each model the same weight (`ranking`).
3. The best stays if the 95 % interval of its paired difference to the next does not contain 0.  Else the simpler of
   the two: the one that cuts more records off (its relevance passes fewer operations), then the one with a rule for
   fewer operations.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.evidence.ranking import Ranking, by_case, estimate, markdown, ranked
from lrp_lens.hosts import resolve
from lrp_lens.rules import as_rule_set, conserves
from lrp_lens.views.statistics.intervals import interval

MODELS = ("smollm2", "gemma3-270m")
REPLACEMENTS = ("mean", "resample")


def facts(model: Any, names: Iterable[str]) -> pd.DataFrame:
    """What rule sets say of themselves on a model: whether they conserve, how many records they cut off, how many
    operations they have a rule for."""
    sites = resolve(model)
    every = [as_rule_set(name) for name in names]
    return pd.DataFrame(
        {
            "rules": rules.name,
            "conserves": conserves(rules, sites),
            "cut": len(rules.cut(sites)),
            "ruled": len(rules.ruled),
        }
        for rules in every
    )


@dataclass(frozen=True, eq=False)
class Decision:
    """What the criterion says."""

    ranking: Ranking | None
    """Of the candidates; None where rows are missing."""
    chosen: str
    """Its name; empty where rows are missing."""
    sentence: str


def decide(rows: pd.DataFrame, asked: pd.DataFrame) -> Decision:
    """The criterion, on rows of the part "tokens".

    Args:
        rows: model, task, half, case, replacement, method, delta_a.
        asked: `facts` of every model, with a column model.
    """
    held = rows[rows["half"] == "held out"] if len(rows) else rows
    there = set(zip(held["model"], held["replacement"], strict=True)) if len(held) else set()
    missing = [f"{model}, {how}" for model in MODELS for how in REPLACEMENTS if (model, how) not in there]
    if missing:
        return Decision(None, "", f"No decision: there are no held-out rows of {'; '.join(missing)}.")
    asked = asked[asked["model"].isin(MODELS)]
    everywhere = asked.groupby("rules", sort=False)["conserves"].agg(["all", "size"])
    candidates = everywhere.index[everywhere["all"] & (everywhere["size"] == len(MODELS))]
    cases = by_case(held[held["model"].isin(MODELS)], "delta_a", "replacement", REPLACEMENTS)
    ranking = ranked(cases, candidates)
    if ranking is None or len(ranking.cases) < len(MODELS):
        return Decision(None, "", "No decision: no case has ΔA under both replacements on every model.")
    best = ranking.names[0]
    said = (
        f"of the {len(ranking.names)} rule sets that conserve, {best} has the highest mean held-out ΔA, "
        f"{estimate(ranking.of(best))} ({ranking.n} cases)"
    )
    if len(ranking.names) == 1:
        return Decision(ranking, best, f"The default is {best}: {said}.")
    after = ranking.names[1]
    gap = ranking.difference(best, after)
    _, low, high = interval(gap)
    apart = f"its paired difference to the next, {after}, is {estimate(gap, '+')}"
    if low > 0 or high < 0:
        return Decision(ranking, best, f"The default is {best}: {said}; {apart}, which does not contain 0.")
    size = asked.groupby("rules")[["cut", "ruled"]].sum().to_dict("index")
    parts = {name: (-int(size[name]["cut"]), int(size[name]["ruled"])) for name in (best, after)}
    chosen = min(parts, key=lambda name: parts[name])  # the best where both are as simple
    why = (
        f"and {chosen} is the simpler of the two"
        if len(set(parts.values())) > 1
        else "and both are as simple"
    )
    return Decision(ranking, chosen, f"The default is {chosen}: {said}; {apart}, which contains 0, {why}.")


def decision_table(decision: Decision, rows: pd.DataFrame) -> str:
    """One line per candidate, best first, the decision as a sentence, and right answers and failures apart.

    Args:
        decision: the criterion's.
        rows: those it was taken from.
    """
    ranking = decision.ranking
    if ranking is None:
        return decision.sentence
    lines = []
    for place, name in enumerate(ranking.names):
        others = (ranking.names[0] if place else None, *ranking.names[place + 1 : place + 2])
        best, after = ([*others, None])[:2]
        lines.append(
            [
                name,
                estimate(ranking.of(name)),
                *(
                    "–" if one is None else estimate(ranking.difference(name, one), "+")
                    for one in (best, after)
                ),
                f"{ranking.p[name]:.3g}" if name in ranking.p else "–",
            ]
        )
    header = ["conserving rules", "ΔA", "minus the best", "minus the next", "p against the best (Holm)"]
    apart = apart_table(decision, rows)
    return f"{markdown(lines, header)}\n\n{ranking.n} cases, held out. **{decision.sentence}**\n\n{apart}"


def apart_table(decision: Decision, rows: pd.DataFrame) -> str:
    """What was chosen minus each other candidate, on right answers and on failures apart; not part of the criterion."""
    assert decision.ranking is not None
    names = [decision.chosen, *(name for name in decision.ranking.names if name != decision.chosen)]
    lines: dict[str, list[str]] = {name: [name] for name in names[1:]}
    header = [f"{decision.chosen} minus"]
    for kind, correct in (("right answers", True), ("failures", False)):
        own = rows[(rows["correct"] == correct) & rows["model"].isin(MODELS)]
        ranking = ranked(by_case(own, "delta_a", "replacement", REPLACEMENTS), names)
        header.append(f"ΔA: {'no ' + kind if ranking is None else f'{ranking.n} {kind}'}")
        for name, line in lines.items():
            there = ranking is not None and {name, decision.chosen} <= set(ranking.names)
            line.append(
                estimate(ranking.difference(decision.chosen, name), "+") if ranking and there else "–"
            )
    return markdown(lines.values(), header)
