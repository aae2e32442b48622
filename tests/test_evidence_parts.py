"""The parts of benchmarks/evidence on the demo model against their definitions, and their tables on known rows."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.evidence import ablation, parts, tables
from benchmarks.evidence.cases import Answered
from benchmarks.evidence.tasks import Prompt
from lrp_lens import PRESETS, LogitDiff, compare, load_demo_model, run_with_relevance
from lrp_lens.demo import demo_prompts
from lrp_lens.patching import get_act_patch_attn_head_out_all_pos

KEY = {"model": "m", "task": "t", "half": "held out"}


@cache
def task() -> parts.Task:
    """The demo model on six pairs of indirect objects, the last two called failures."""
    model = load_demo_model(device="cpu")
    chosen = [one for one in demo_prompts(200) if one.words[0] == "then"][:6]
    found = []
    for index, one in enumerate(chosen):
        twin = " ".join([*one.words[:9], one.answer, *one.words[10:]])
        right, wrong = (one.answer, one.foil) if index < 4 else (one.foil, one.answer)
        prompt = Prompt("t", one.text, twin, right, wrong, ())
        found.append(Answered(prompt, one.text, twin, 15, 3.0 if index < 4 else -3.0, {}))
    made = parts.Task(model, {}, "held out")
    made.__dict__ |= {"development": found, "found": found}
    return made


def test_shares_are_what_all_tokens_hold() -> None:
    rows = parts.shares(task(), count=1)
    assert rows["correct"].tolist() == [True] * len(PRESETS) + [False] * len(PRESETS)
    for one, correct in ((task().found[0], True), (task().found[4], False)):
        answers = (one.prompt.right, one.prompt.wrong)
        metric = LogitDiff(*(answers if correct else answers[::-1]))  # the preferred answer against the other
        own = rows[rows["correct"] == correct].set_index("method")["share"]
        for rules in ("ATTN_LRP", "RELP"):
            logits, cache = run_with_relevance(task().model, one.text, metric, rules=rules)
            value = float(metric.resolve(task().model)(logits)[0])
            assert value > 0
            np.testing.assert_allclose(own[rules], cache.tokens().values.sum() / value, rtol=1e-4)
    assert not len(parts.shares(empty(), count=1))


def empty() -> parts.Task:
    made = parts.Task(task().model, {}, "held out")
    made.__dict__ |= {"development": [], "found": []}
    return made


def test_ablating_a_head_is_a_hook_that_replaces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Correlation over heads of relevance with what a plain hook takes, one head and one pass at a time."""
    monkeypatch.setattr(ablation, "RULES", ("RELP",))
    rows = ablation.heads(task(), count=1).set_index(["ablation", "method"])
    model, one = task().model, task().found[0]
    metric = LogitDiff(one.prompt.right, one.prompt.wrong)
    bound = metric.resolve(model)
    means = mean_heads()
    scores = run_with_relevance(model, one.text, metric, rules="RELP")[1].heads().values
    with torch.no_grad():
        whole = float(bound(model(one.text))[0])
        for kind, values in (("zero", torch.zeros_like(means)), ("mean", means)):
            lost = np.zeros(scores.shape)
            for layer, head in np.ndindex(*scores.shape):

                def ablate(z: Any, hook: Any, head: int = head, value: Any = values[layer, head]) -> Any:
                    z[:, :, head] = value
                    return z

                hook = (f"blocks.{layer}.attn.hook_z", ablate)
                lost[layer, head] = whole - float(bound(model.run_with_hooks(one.text, fwd_hooks=[hook]))[0])
            expected = np.corrcoef(lost.ravel(), scores.ravel())[0, 1]
            assert rows.loc[(kind, "RELP"), "pearson"] == pytest.approx(expected, abs=1e-4)
    assert rows.loc[("zero", "RELP"), "pearson"] != pytest.approx(rows.loc[("mean", "RELP"), "pearson"])
    assert not len(ablation.heads(empty(), count=1))


def mean_heads() -> torch.Tensor:
    """Mean of z over all positions of all prompts, [layer, head, d_head], from the model's own cache."""
    model = task().model
    kept = [model.run_with_cache(one.text)[1] for one in task().found]
    layers = range(model.cfg.n_layers)
    return torch.stack([torch.cat([run["z", layer][0] for run in kept]).mean(0) for layer in layers])


def test_missed_heads_are_those_that_single_patches_find(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "COMPONENT_METHODS", ("RELP", "GRADIENT"))
    monkeypatch.setattr(parts, "TOP", (2, 5))
    monkeypatch.setattr(parts, "DRAWS", 150)
    monkeypatch.setattr(parts, "PROBABILITY", 0.3)
    rows = parts.missed(task(), count=4, seed=0)
    assert list(rows["method"]) == ["RELP"] * 2 + ["GRADIENT"] * 2
    group = task().found[:4]
    clean, corrupted = [one.text for one in group], [one.twin for one in group]
    asked = LogitDiff([one.prompt.right for one in group], [one.prompt.wrong for one in group])
    model = task().model
    patched = get_act_patch_attn_head_out_all_pos(model, corrupted, clean, asked, progress=False)
    with torch.no_grad():
        before = asked.resolve(model)(model(corrupted)).mean()
    effects = (patched - before).double().numpy()
    found = compare(
        model, clean, corrupted, asked, sites=parts.MISSED_SITE, methods=["RELP"], ks=2, samples=0
    )
    scores = np.asarray(found.view(parts.MISSED_SITE, "RELP").values)
    for top, exact, bound in rows.loc[rows["method"] == "RELP", ["top", "exact", "bound"]].to_numpy():
        left = np.argsort(-np.abs(scores), axis=None)[int(top) :]
        assert exact == pytest.approx(np.abs(effects.ravel()[left]).max(), rel=1e-5)
        assert np.isfinite(bound) and bound > 0
    assert list(parts.missed(empty(), count=4, seed=0).columns) == list(rows.columns)


# ---------------------------------------------------------------------------------------------------- tables
def test_kinds_of_prompts_have_tables_of_their_own_and_precision_follows_from_the_overlap() -> None:
    rows = pd.DataFrame(
        KEY | {"case": case, "method": "A", "replacement": "mean", "correct": case < 2}
        | {"delta_a": 1.0 if case < 2 else 5.0, "comprehensiveness": 0.0, "loo_correlation": 0.0}
        | {"evidence_top1": 1.0, "evidence_iou": 1 / 3}
        for case in range(5)
    )  # fmt: skip
    right, failures = tables.token_table(rows).split("\n\n**m**")
    assert "2 right answers" in right and "| A | 1.00 [1.00, 1.00] |" in right
    assert "3 failures" in failures and "| A | 5.00 [5.00, 5.00] |" in failures
    # two sets of two tokens that share one: IoU 1/3, precision 1/2
    assert right.endswith("| 0.50 [0.50, 0.50] |")


def test_differences_are_apart_for_right_answers_and_failures() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=20)
    rows = pd.DataFrame(
        KEY | {"case": case, "method": method, "replacement": how, "correct": case < 8}
        | {"delta_a": base[case] + (method == "B") * (1.0 if case < 8 else -2.0)}
        for case in range(20) for method in ("A", "B") for how in ("mean", "resample")
    )  # fmt: skip
    (line,) = [one for one in tables.token_differences(rows, "A", ["A", "B"]).splitlines() if "| B |" in one]
    cells = line.strip("| ").split(" | ")
    assert cells[2::3] == ["20", "8", "12"]
    assert [cell.split()[0] for cell in cells[1::3]] == ["-0.80", "+1.00", "-2.00"]


def test_components_are_compared_by_group_of_sites() -> None:
    rows = pd.DataFrame(
        KEY | {"case": case, "site": site, "method": method}
        | {"pearson": 0.5 + case / 100 + (method == "B") * (0.1 if site in parts.SITES[:3] else -0.2)}
        for case in range(6) for site in parts.SITES for method in ("A", "B")
    )  # fmt: skip
    rows.loc[(rows["site"] == "attn_head_q_all_pos") & (rows["method"] == "C"), "pearson"] = np.nan
    (line,) = [
        one for one in tables.component_differences(rows, "A", ["A", "B", "C"]).splitlines() if "| B |" in one
    ]
    assert [cell.split()[0] for cell in line.strip("| ").split(" | ")[1::3]] == ["+0.10", "-0.20"]


def test_shares_show_how_far_they_spread() -> None:
    rows = pd.DataFrame(
        KEY | {"case": case, "method": "A", "correct": True, "share": share}
        for case, share in enumerate((-1.0, 0.4, 1.0, 1.5, 3.0))
    )  # fmt: skip
    table = tables.share_table(rows)
    assert "5 prompts of 1 tasks" in table and "| A | 100 % | -44 % | 240 % | 60 % |" in table


def test_what_was_missed_stands_beside_its_bound() -> None:
    rows = pd.DataFrame(
        KEY | {"task": task, "case": 0, "method": "A", "top": top}
        | {"missed": 16 - top, "bound": 4.0 / top, "exact": exact}
        for task, exact in (("t", 1.0), ("u", 2.0)) for top in (2, 4)
    )  # fmt: skip
    table = tables.missed_table(rows)
    assert "| rules or method | first 2 of 16 | first 4 of 16 |" in table and "of 2 tasks" in table
    assert "| A | 1.50 (≤ 2.00) | 1.50 (≤ 1.00) |" in table
