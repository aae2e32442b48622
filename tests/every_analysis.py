"""One check for a rule set: every analysis that lrp_lens has is right under it."""

from typing import Any

import numpy as np
import torch

from lrp_lens import (
    GRADIENT,
    LogitDiff,
    RuleSet,
    attribution_graph,
    component_edges,
    decompose,
    faithfulness,
    run_with_relevance,
)
from lrp_lens.attribution_graphs.closed_form.batch_packed import batch_packed
from lrp_lens.patching import get_lrp_patch_mlp_out, patching_pass
from tests import zoo

METRIC = LogitDiff(3, 7)
TIGHT = 1e-9
EVERYTHING: dict[str, Any] = dict(mass=1.0, node_threshold=0.0, edge_threshold=0.0, max_edges=None)


def disagreement(graph: Any) -> float:
    """Largest difference of a graph's edges to their definition, relative to the largest edge."""
    worst = 0.0
    for number, (start, end) in enumerate(graph.made_by.pairs):
        place = [
            (0, False) if one.layer is None else (one.layer + (not one.mid), one.mid) for one in (start, end)
        ]
        slow = batch_packed(graph.made_by.run, *place).double().numpy()
        found, chosen = np.zeros_like(slow), graph.transition == number
        found[graph.target[chosen], graph.source[chosen]] = graph.relevance[chosen]
        worst = max(worst, float(np.abs(found - slow).max() / np.abs(graph.relevance).max()))
    return worst


def check_every_analysis(model: Any, rules: RuleSet, tolerance: float = TIGHT) -> None:
    """Ledger, decomposition, edges of states and of components, patching and faithfulness are right."""
    tokens, other = zoo.prompt_tokens(1, 9), zoo.prompt_tokens(1, 9).flip(1)
    plain = model(tokens)
    logits, cache = run_with_relevance(model, tokens, METRIC, rules=rules)
    assert torch.equal(logits, plain)
    assert cache.ledger().relative_remainder < tolerance
    parts = decompose(model, tokens, METRIC, rules=rules)
    left = abs(parts.direct.sum() - parts.metric[0])
    assert left < tolerance * np.abs(parts.direct).sum()
    graph = attribution_graph(model, tokens, METRIC, rules=rules, **EVERYTHING)
    assert disagreement(graph) < tolerance
    assert graph.balance()["remainder"].abs().max() < tolerance * np.abs(graph.node_relevance).max()
    edges = component_edges(model, tokens, metric=METRIC, rules=rules)
    embed = cache["hook_embed"].sum().item()
    assert (
        abs(edges.node_scores[edges.graph.writer("embed")] - embed) < tolerance * np.abs(edges.values).max()
    )
    passed = patching_pass(model, tokens, METRIC, rules=rules, parts=["mlp_out"])
    change = get_lrp_patch_mlp_out(model, tokens, other, METRIC, backward=passed)
    _, clean = run_with_relevance(model, other, METRIC, rules=GRADIENT)
    slow = [
        (clean.activations["mlp_out", layer] - cache.activations["mlp_out", layer])
        * cache.gradients["mlp_out", layer]
        for layer in range(2)
    ]
    torch.testing.assert_close(change, torch.cat(slow).sum(-1), atol=tolerance, rtol=tolerance)
    trust = faithfulness(model, [tokens[0]], methods=[rules], metric=METRIC, steps=2, limit=1, progress=False)
    assert rules.name in str(trust)
