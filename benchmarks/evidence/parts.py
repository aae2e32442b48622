"""The measurements, each a table with one row per case (or pair) and method.

- tokens: do the tokens that a method blames matter? `faithfulness` on right answers and failures.
- shares: how much of the metric do all tokens together hold under a preset? The same prompts as those of tokens.
- components: does a method agree with activation patching, site by site? `compare`, denoising, by pair.
- missed: how large can the effect of a head be that a method does not rank among its first? `false_negative_bound`,
  which the draws of `patch_subsets` give, for one group of pairs.
- circuits: how much of the metric do the best k % of component edges carry? `circuit_curve` on indirect objects, in
  MIB's setting (Mueller et al. 2504.13151).
- stability: would other pairs have given the same edges?

The part heads is in `ablation`.
"""

from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.evidence.cases import Answered, answered, decided, pairs
from benchmarks.evidence.methods import (
    COMPONENT_METHODS,
    RULES,
    chosen_heads,
    metric,
)
from benchmarks.evidence.tasks import Prompt
from lrp_lens import LogitDiff, compare, faithfulness, run_with_relevance
from lrp_lens.circuits import ComponentEdges, circuit_curve, component_edges, stability
from lrp_lens.methods import METHODS, Method, as_method, attention_of, integrated_gradients
from lrp_lens.patching import false_negative_bound, patch_subsets
from lrp_lens.rules import PRESETS

SITES = (
    "resid_pre", "attn_out", "mlp_out",
    "attn_head_out_all_pos", "attn_head_q_all_pos", "attn_head_k_all_pos", "attn_head_v_all_pos",
)  # fmt: skip
STATISTICS = ("pearson", "spearman", "sign_agreement", "scale", "top_10")
GROUP = 4
"""Pairs that are patched together."""
CIRCUIT_METHODS = ("EAP", "EAP-IG (5 steps)", *(name for name in RULES if name != "GRADIENT"))
PATH_STEPS = 32
"""Of integrated gradients over tokens."""
DRAWS, PROBABILITY = 400, 0.1
"""Of subsets of heads that are patched together; so that each head is in tens of them."""
MISSED_SITE = "attn_head_out_all_pos"
TOP = (5, 10, 20)
"""Heads that are looked at before the others count as missed."""


class Task:
    """One model on the prompts of one task; what several parts ask for is run once."""

    def __init__(self, model: Any, halves: dict[str, list[Prompt]], half: str) -> None:
        self.model, self._halves, self._half = model, halves, half
        self._scored: dict[int, tuple[dict[str, ComponentEdges], pd.DataFrame]] = {}

    @cached_property
    def found(self) -> list[Answered]:
        """What the model makes of the half that is measured."""
        return (
            self.development
            if self._half == "development"
            else answered(self.model, self._halves[self._half])
        )

    @cached_property
    def development(self) -> list[Answered]:
        """What it makes of the development half."""
        return answered(self.model, self._halves["development"])

    def chosen(self, count: int) -> list[Answered]:
        """The prompts of tokens and shares: right answers, then as many failures."""
        return decided(self.found, True, count) + decided(self.found, False, count)

    @cached_property
    def token_methods(self) -> list[Method]:
        """Every method that scores tokens; what does not depend on the replacement is scored once a case."""
        methods = [_remembered(as_method(name)) for name in (*RULES, "random", "attention")]
        methods += [
            replace(integrated_gradients(PATH_STEPS), name="integrated gradients"),
            METHODS["ablation regression"],
            METHODS["leave-one-out"],
        ]
        groups = pairs(self.development, 2 * GROUP, GROUP)
        if groups:
            methods.append(_remembered(attention_of(chosen_heads(self.model, groups))))
        return methods

    def scored(self, count: int) -> tuple[dict[str, ComponentEdges], pd.DataFrame]:
        """Component edges by method, the mean over `count` development pairs, and how stable the strongest are."""
        if count not in self._scored:
            self._scored[count] = self._score(count)
        return self._scored[count]

    def _score(self, count: int) -> tuple[dict[str, ComponentEdges], pd.DataFrame]:
        groups = pairs(self.development, count, GROUP)
        means, rows = {}, []
        for name in CIRCUIT_METHODS if sum(map(len, groups)) else ():
            rules, steps = ("GRADIENT", 5 if "IG" in name else 1) if name.startswith("EAP") else (name, 1)
            edges = _joined(
                [
                    component_edges(
                        self.model, [one.text for one in group], [one.twin for one in group], metric(group),
                        rules=rules, steps=steps, progress=False,
                    )
                    for group in groups
                ]
            )  # fmt: skip
            for ranking in ("absolute", "signed"):
                found = stability(edges, absolute=ranking == "absolute")
                rows.append(found.assign(method=name, ranking=ranking, pairs=len(edges.values)))
            means[name] = replace(
                edges, values=edges.scores[None], arriving=edges.arriving.mean(0, keepdims=True)
            )
        return means, pd.concat(rows) if rows else pd.DataFrame(columns=["method", "ranking", "edges"])


_SCORES: dict[Any, Any] = {}
"""What was scored; no part of a method, as a checkpoint tells methods by what they are made of."""


def _remembered(method: Method) -> Method:
    def tokens(question: Any) -> Any:
        key = (id(question.model), method.name, *question.tokens.tolist(), question.full)
        if key not in _SCORES:
            _SCORES[key] = method.token_scores(question)
        return _SCORES[key]

    return replace(method, tokens=tokens)


def tokens(task: Task, *, replacement: str, count: int, seed: int, checkpoint: Path) -> pd.DataFrame:
    """Token faithfulness of `count` right answers and `count` failures of one task."""
    chosen = task.chosen(count)
    result = faithfulness(
        task.model,
        [one.case() for one in chosen],
        task.token_methods,
        replacement=replacement,  # type: ignore[arg-type]
        steps=10,
        limit=5,
        seed=seed,
        checkpoint=checkpoint,
    )
    if result.n_cases < len(chosen):  # interrupted; the checkpoint has what is finished
        raise KeyboardInterrupt
    return result.cases.drop(columns=["auc_morf", "auc_lerf"])


def shares(task: Task, *, count: int) -> pd.DataFrame:
    """The tokens' share of the metric of `count` right answers and `count` failures: a row per prompt and preset."""
    rows = []
    for index, one in enumerate(task.chosen(count)):
        case = one.case()
        asked = LogitDiff(case.target, case.contrast)
        for rules in PRESETS:
            _, relevance = run_with_relevance(task.model, one.text, asked, rules=rules)
            ledger = relevance.ledger()
            share = float(ledger.tokens[0] / ledger.metric[0])
            rows.append({"case": index, "correct": one.correct, "method": rules, "share": share})
    return pd.DataFrame(rows, columns=["case", "correct", "method", "share"])


def components(task: Task, *, count: int, checkpoint: Path) -> pd.DataFrame:
    """Agreement with activation patching of `count` pairs of one task: a row per pair, site and method.

    What a group of pairs gave is kept in a folder of its own in `checkpoint`.
    """
    rows: list[dict[str, Any]] = []
    done = 0
    for group in pairs(task.found, count, GROUP):
        clean, corrupted = [one.text for one in group], [one.twin for one in group]
        found = compare(
            task.model,
            clean,
            corrupted,
            metric(group),
            sites=SITES,
            methods=COMPONENT_METHODS,
            ks=10,
            samples=0,
            checkpoint=checkpoint / str(done),
        )
        for index, site, method in product(range(len(group)), SITES, COMPONENT_METHODS):
            values = {name: found.on_prompts("metric", site, method, [index], name) for name in STATISTICS}
            rows.append({"case": done + index, "site": site, "method": method, **values})
        done += len(group)
    return pd.DataFrame(rows, columns=["case", "site", "method", *STATISTICS])


def missed(task: Task, *, count: int, seed: int) -> pd.DataFrame:
    """What a method may have missed among the heads, in logits: a row per method and number of heads looked at.

    The first group of up to `count` pairs.  exact: the largest effect of a missed head, each patched by itself.
    """
    found = pairs(task.found, count, count)
    if not found:
        return pd.DataFrame(columns=["case", "method", "top", "missed", "bound", "exact"])
    clean, corrupted = [one.text for one in found[0]], [one.twin for one in found[0]]
    asked = metric(found[0])
    scored = compare(
        task.model, clean, corrupted, asked, sites=MISSED_SITE, methods=COMPONENT_METHODS, ks=10, samples=0
    )
    draws = patch_subsets(
        task.model, clean, corrupted, asked, site=MISSED_SITE, draws=DRAWS, probability=PROBABILITY, seed=seed,
        progress=False,
    )  # fmt: skip
    rows = false_negative_bound(scored, draws, top=TOP)
    return rows.assign(case=0)[["case", "method", "top", "missed", "bound", "exact"]]


def circuits(task: Task, *, count: int, judged: int) -> pd.DataFrame:
    """Edges scored on `count` development pairs, circuits run on `judged` pairs of a half.

    A row per method, ranking, size and pair: the metric of the circuit, of the whole model and with no edge at all,
    from which `tables` makes f, CPR and CMD over any set of pairs.
    """
    model, rankings = task.model, task.scored(count)[0]
    tables: list[dict[str, Any]] = []
    done = 0
    for group in pairs(task.found, judged, GROUP):
        curve = circuit_curve(
            model, rankings, [one.text for one in group], [one.twin for one in group], metric(group), n_resamples=1,
            random_controls=3,
        )  # fmt: skip
        axes = (range(len(curve.methods)), range(len(curve.fractions)), range(len(group)))
        tables += [
            {
                "case": done + pair,
                "method": curve.methods[row],
                "ranking": curve.rankings[row],
                "fraction": curve.fractions[size],
                "circuit": curve.values[row, size, pair],
                "full": curve.full[pair],
                "empty": curve.empty[pair],
            }
            for row, size, pair in product(*axes)
        ]
        done += len(group)
    return pd.DataFrame(tables, columns=["case", "method", "ranking", "fraction", "circuit", "full", "empty"])


def circuit_stability(task: Task, *, count: int) -> pd.DataFrame:
    """Whether other development pairs would have given the same edges: a row per method, ranking and size."""
    return task.scored(count)[1]


def _joined(parts: list[ComponentEdges]) -> ComponentEdges:
    """The edges of groups of pairs as those of one sample."""
    values, arriving = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("values", "arriving")
    )
    return replace(parts[0], values=values, arriving=arriving)
