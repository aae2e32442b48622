"""Does a head's relevance, or its direct part, tell what ablating it does?  Zero and mean ablation, a row per prompt.

1. z of each head, at every position, becomes 0 or its mean over all positions of the task's prompts, one head at a
   time; the heads of a layer are one batch.
2. What the metric loses is correlated, over all heads, with each head's relevance under each rule set, and with its
   direct part.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch

from benchmarks.evidence.cases import Answered, decided
from benchmarks.evidence.methods import RULES, metric
from benchmarks.evidence.parts import Task
from lrp_lens import decompose, run_with_relevance
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.scope import attached
from lrp_lens.hosts.sites import AttentionSite
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.views.statistics.agreement import pearson, spearman


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
