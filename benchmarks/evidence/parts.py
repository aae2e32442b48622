"""The measurements, each a table with one row per case (or pair) and method.

- tokens: do the tokens that a method blames matter? `faithfulness` on right answers and failures.
- components: does a method agree with activation patching, site by site? `compare`, denoising, by pair.
- heads: does a head's relevance, or its direct part, tell what ablating it does? zero and mean ablation, by prompt.
- circuits: how much of the metric do the best k % of component edges carry? `circuit_curve` on indirect objects, in
  MIB's setting (Mueller et al. 2504.13151).
- stability: would other pairs have given the same edges?
"""

from dataclasses import replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.evidence.cases import Answered, answered, decided, pairs
from benchmarks.evidence.methods import (
    COMPONENT_METHODS,
    RULES,
    chosen_heads,
    metric,
)
from benchmarks.evidence.tasks import Prompt
from lrp_lens import compare, decompose, faithfulness, run_with_relevance
from lrp_lens.circuits import ComponentEdges, circuit_curve, component_edges, stability
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.sites import AttentionSite
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.methods import METHODS, Method, as_method, attention_of, integrated_gradients
from lrp_lens.views.statistics.agreement import pearson, spearman

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
    chosen = decided(task.found, True, count) + decided(task.found, False, count)
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


def components(task: Task, *, count: int) -> pd.DataFrame:
    """Agreement with activation patching of `count` pairs of one task: a row per pair, site and method."""
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
        )
        for index, site, method in product(range(len(group)), SITES, COMPONENT_METHODS):
            values = {name: found.on_prompts("metric", site, method, [index], name) for name in STATISTICS}
            rows.append({"case": done + index, "site": site, "method": method, **values})
        done += len(group)
    return pd.DataFrame(rows, columns=["case", "site", "method", *STATISTICS])


def heads(task: Task, *, count: int) -> pd.DataFrame:
    """Correlation over heads of the metric lost by ablating each with its relevance and its direct part."""
    model = task.model
    chosen = decided(task.found, True, count)
    if not chosen:
        return pd.DataFrame(columns=["case", "ablation", "method", "pearson", "spearman"])
    means = _mean_outputs(model, task.found)
    rows = []
    for index, one in enumerate(chosen):
        asked = metric([one])
        scores = {"direct part": np.asarray(decompose(model, one.text, asked).heads("direct").values)}
        for rules in RULES:
            _, relevance = run_with_relevance(model, one.text, asked, rules=rules)
            scores[rules] = np.asarray(relevance.heads().values)
        for ablation, replacement in (("zero", torch.zeros_like(means)), ("mean", means)):
            lost = _lost(model, one, asked, replacement)[None]
            for method, values in scores.items():
                row = values.reshape(1, -1)
                rows.append(
                    {
                        "case": index,
                        "ablation": ablation,
                        "method": method,
                        "pearson": float(pearson(row, lost)[0]),
                        "spearman": float(spearman(row, lost)[0]),
                    }
                )
    return pd.DataFrame(rows)


def _mean_outputs(model: Any, found: list[Answered]) -> torch.Tensor:
    """Mean of z over all positions of all prompts, [layer, head, d_head]."""
    sites = list(resolve(model).of(AttentionSite))
    totals: list[Any] = [0.0] * len(sites)
    count = 0
    for one in found:
        kept: dict[int, torch.Tensor] = {}

        def keep(value: torch.Tensor, hook: object = None, *, layer: int, kept: Any = kept) -> None:
            kept[layer] = value[0].double().sum(0)

        hooks = [(site.z.point, _with_layer(keep, index)) for index, site in enumerate(sites)]
        batch = tokenize(model, one.text, None, None)
        with torch.no_grad(), attached(model, hooks):
            forward(model, batch.ids, None)
        totals = [total + kept[index] for index, total in enumerate(totals)]
        count += batch.ids.shape[1]
    return torch.stack(totals) / count


def _with_layer(function: Any, layer: int) -> Any:
    def hook(value: torch.Tensor, hook: object = None) -> torch.Tensor | None:
        found: torch.Tensor | None = function(value, hook, layer=layer)
        return found

    return hook


def _lost(model: Any, one: Answered, asked: Any, replacement: torch.Tensor) -> np.ndarray:
    """Metric lost by replacing each head's z at every position, [layer · head]; the heads of a layer are one batch."""
    sites = list(resolve(model).of(AttentionSite))
    batch = tokenize(model, one.text, None, None)
    bound = asked.resolve(model)
    with torch.no_grad():
        whole = float(bound(forward(model, batch.ids, None))[0])
        lost = []
        for layer, site in enumerate(sites):
            n_heads = replacement.shape[1]

            def ablate(value: torch.Tensor, hook: object = None, *, layer: int) -> torch.Tensor:
                changed = value.clone()
                each = torch.arange(len(changed))
                changed[each, :, each] = replacement[layer].to(value)[:, None]
                return changed

            with attached(model, [(site.z.point, _with_layer(ablate, layer))]):
                logits = forward(model, batch.ids.repeat(n_heads, 1), None)
            many = metric([one] * n_heads).resolve(model)
            lost.append(whole - many(logits).double().cpu().numpy())
    return np.concatenate(lost)


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
