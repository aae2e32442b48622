"""The criterion for the default rule set and the table of recommendations, on rows whose answer is known."""

import argparse
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks.evidence import run
from benchmarks.evidence.decision import MODELS, decide, decision_table, facts
from benchmarks.evidence.methods import RULES
from benchmarks.evidence.ranking import KEY, by_case, means_over_models, ranked
from benchmarks.evidence.recommendations import ATTENTION, STREAM, recommendation_table
from lrp_lens import load_demo_model, run_with_relevance
from lrp_lens.metrics import LogitDiff
from lrp_lens.rules import RELP, RELP_FROZEN_PATTERN, VARIANTS, Epsilon, as_rule_set, conserves

CASES = {"smollm2": 40, "gemma3-270m": 10}
ASKED = pd.DataFrame(
    {"model": model, "rules": rules, "conserves": conserves, "cut": cut, "ruled": ruled}
    for model in MODELS
    for rules, conserves, cut, ruled in (("RELP", False, 0, 4), ("A", True, 9, 5), ("B", True, 3, 5), ("C", True, 0, 6))
)  # fmt: skip


def token_rows(
    means: dict[str, dict[str, float]], noise: float = 1.0, half: str = "held out"
) -> pd.DataFrame:
    """Means of each model and method; cases differ, the difference of two methods has the given spread."""
    rng = np.random.default_rng(0)
    rows = []
    for model, n in CASES.items():
        base = rng.normal(size=n)
        for method, mean in means[model].items():
            own = noise * rng.normal(size=n)
            own += mean - own.mean() - base.mean()
            rows += [
                {
                    "model": model,
                    "task": "t",
                    "half": half,
                    "case": case,
                    "method": method,
                    "replacement": how,
                }
                | {"delta_a": base[case] + own[case] + shift, "correct": case % 2 == 0}
                for case in range(n)
                for how, shift in (("mean", 0.5), ("resample", -0.5))
            ]
    return pd.DataFrame(rows)


def both(**means: float) -> dict[str, dict[str, float]]:
    return dict.fromkeys(MODELS, means)


def test_the_best_that_conserves_wins_where_the_interval_says_so() -> None:
    decision = decide(token_rows(both(RELP=9, A=1, B=2, C=4), noise=0.1), ASKED)
    assert decision.chosen == "C" and decision.ranking is not None
    assert decision.ranking.names == ("C", "B", "A")  # RELP does not conserve
    assert "its paired difference to the next, B, is +2.00 [" in decision.sentence
    assert "does not contain 0" in decision.sentence and "10 gemma3-270m + 40 smollm2" in decision.sentence
    table = decision_table(decision, token_rows(both(RELP=9, A=1, B=2, C=4), noise=0.1))
    assert "| C | 4.00 [" in table and "**The default is C" in table and "RELP" not in table
    assert "| B | 2.00 [" in table and "| -2.00 [" in table and "| +1.00 [" in table


def test_right_answers_and_failures_are_shown_apart() -> None:
    rows = token_rows(both(A=1, B=2, C=4), noise=0.001)
    rows.loc[~rows["correct"] & (rows["method"] == "B"), "delta_a"] += 2.5  # ahead on failures alone
    decision = decide(rows, ASKED)
    assert decision.chosen == "C"
    _, _, table = decision_table(decision, rows).rpartition("\n\n")
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()]
    assert lines[0][1:] == [
        f"ΔA: 5 gemma3-270m + 20 smollm2 {kind}" for kind in ("right answers", "failures")
    ]
    found = {name: [float(cell.split()[0]) for cell in cells] for name, *cells in lines[2:]}
    np.testing.assert_allclose(found["B"], [2, -0.5], atol=0.002)
    np.testing.assert_allclose(found["A"], [3, 3], atol=0.002)
    # no failure was measured: said, not made up
    right = rows[rows["correct"]]
    assert decision_table(decide(right, ASKED), right).endswith(" |") and "ΔA: no failures" in decision_table(
        decide(right, ASKED), right
    )


def test_the_simpler_wins_where_the_next_is_level() -> None:
    level = token_rows(both(RELP=9, A=1.0, B=1.9, C=2.0), noise=3.0)
    decision = decide(level, ASKED)
    assert decision.chosen == "B" and "contains 0, and B is the simpler of the two" in decision.sentence
    # A, far simpler, is not the next; and where both are as simple the best stays
    alike = ASKED.assign(cut=3, ruled=5)
    assert decide(level, alike).chosen == "C" and "both are as simple" in decide(level, alike).sentence
    # fewer rules decide only where as much is cut off
    fewer = ASKED.assign(cut=3, ruled=[5, 5, 6, 5] * 2)
    assert decide(level, fewer).chosen == "C"


def test_each_model_has_the_same_weight_and_each_case_counts_once() -> None:
    means = {"smollm2": {"A": 0.0, "B": 1.0, "C": 0.2}, "gemma3-270m": {"A": 3.0, "B": 0.0, "C": 0.2}}
    rows = token_rows(means, noise=0.1)
    decision = decide(rows, ASKED)  # over all 50 cases B would have the higher mean, .8 against .6
    assert decision.chosen == "A" and decision.ranking is not None
    np.testing.assert_allclose(decision.ranking.of("A")[0], 1.5)
    np.testing.assert_allclose(decision.ranking.of("B")[0], 0.5)
    # a case with one replacement only is no case; nor is one where a candidate has no number
    row = (rows["model"] == "smollm2") & (rows["case"] == 3) & (rows["replacement"] == "mean")
    assert decide(rows[~row], ASKED).ranking.cases == {"gemma3-270m": 10, "smollm2": 39}  # type: ignore[union-attr]
    rows.loc[row & (rows["method"] == "C"), "delta_a"] = np.nan
    assert decide(rows, ASKED).ranking.cases == {"gemma3-270m": 10, "smollm2": 39}  # type: ignore[union-attr]


def test_without_held_out_rows_of_everything_nothing_is_decided() -> None:
    rows = token_rows(both(A=1, B=2, C=4))
    for lacking in (
        rows[rows["model"] == "smollm2"],
        rows[rows["replacement"] == "mean"],
        rows.assign(half="development"),
        pd.DataFrame(),
    ):
        decision = decide(lacking, ASKED)
        assert decision.chosen == "" and decision_table(decision, lacking).startswith("No decision: ")
    # development rows do not count beside held-out ones
    other = token_rows(both(A=50, B=0, C=0), half="development")
    assert decide(pd.concat([rows, other]), ASKED).chosen == "C"


def test_a_rule_set_that_conserves_on_one_model_only_is_no_candidate() -> None:
    asked = ASKED.copy()
    asked.loc[(asked["rules"] == "C") & (asked["model"] == "smollm2"), "conserves"] = False
    decision = decide(token_rows(both(A=1, B=2, C=4), noise=0.1), asked)
    assert decision.chosen == "B" and "C" not in decision.sentence


def test_the_rules_are_asked_and_a_pass_agrees() -> None:
    model = load_demo_model(device="cpu")
    found = facts(model, RULES).set_index("rules")
    prompt = "then mary and john went to the garden . john gave the key to"
    for name in ("ATTN_LRP", "CP_LRP", "RELP_FROZEN_PATTERN", "RELP_QK_HALF", "RELP_CONSERVING_SECANT"):
        _, relevance = run_with_relevance(model, prompt, LogitDiff("mary", "john"), rules=name)
        ledger = relevance.ledger()
        lost = max((abs(float(row.amount[0])) for row in ledger.rows if row.kind != "bias"), default=0.0)
        assert (lost < 1e-5) == bool(found.loc[name, "conserves"]), name
        # what a set that conserves says is checked by the pass, whose remainder would show it
        assert ledger.relative_remainder < 1e-5
    conserving = set(found.index[found["conserves"]])
    assert conserving == {"CP_LRP", "RELP_FROZEN_PATTERN", "RELP_CONSERVING", "RELP_CONSERVING_SECANT"}
    assert (
        found.loc["CP_LRP", "cut"]
        > found.loc["RELP_FROZEN_PATTERN", "cut"]
        > found.loc["RELP_CONSERVING", "cut"]
    )
    assert found.loc["RELP_CONSERVING_SECANT", "ruled"] == found.loc["RELP_CONSERVING", "ruled"] + 1


def test_conserving_is_asked_of_the_rules_and_not_of_a_list_of_names() -> None:
    from lrp_lens.hosts import resolve

    sites = resolve(load_demo_model(device="cpu"))
    renamed = RELP_FROZEN_PATTERN.replace(name="RELP")
    assert conserves(renamed, sites) and not conserves(RELP, sites)
    assert not conserves(renamed.replace(linear=Epsilon(0.1)), sites)
    assert not conserves(renamed.override(layers=[1], attention=RELP.attention), sites)


def component_rows(values: dict[str, dict[str, float]], noise: float = 0.02, seed: int = 1) -> pd.DataFrame:
    """Method → site → mean, NaN where the method says nothing."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"model": model, "task": "t", "half": "held out", "case": case, "site": site, "method": method}
        | {"pearson": value + noise * rng.normal()}
        for model, n in CASES.items()
        for case, (method, sites) in product(range(n), values.items())
        for site, value in sites.items()
    )


def parts() -> dict[str, pd.DataFrame]:
    every = (*STREAM, *ATTENTION)
    cut = dict.fromkeys(ATTENTION[1:3], np.nan)
    components = component_rows(
        {
            "RELP": dict.fromkeys(every, 0.5),
            "GIM": dict.fromkeys(STREAM, 0.7) | dict.fromkeys(ATTENTION, 0.4),
            "CP_LRP": dict.fromkeys(STREAM, 0.6) | dict.fromkeys(ATTENTION, 0.9) | cut,
            "integrated gradients": dict.fromkeys(every, 0.95),
        }
    )
    heads = pd.DataFrame(
        {"model": model, "task": "t", "half": "held out", "case": case, "ablation": kind, "method": method}
        | {"pearson": value + 0.001 * case}
        for model, n in CASES.items()
        for case, kind, (method, value) in product(
            range(n), ("zero", "mean"), (("GRADIENT", 0.8), ("RELP", 0.5))
        )
    )
    tokens = token_rows(both(RELP=4.0, CP_LRP=2.0, GIM=1.0, random=0.5), noise=0.1)
    return {"tokens": tokens, "components": components, "heads": heads}


def test_every_question_has_its_rule_set_its_value_and_the_next_best() -> None:
    found = parts()
    asked = pd.DataFrame(
        {"model": model, "rules": name, "conserves": name == "CP_LRP", "cut": 1, "ruled": 1}
        for model in MODELS for name in ("RELP", "CP_LRP", "GIM")
    )  # fmt: skip
    decision = decide(found["tokens"], asked)
    lines = recommendation_table(found, decision).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [(row[0].split(",")[0], row[1]) for row in cells] == [
        ("tokens", "CP_LRP"), ("tokens", "RELP"), ("components and residual sites", "GIM"), ("attention", "RELP"),
        ("head ablation", "GRADIENT"),
    ]  # fmt: skip
    assert cells[0][5] == "–" and cells[0][6].startswith("random: 0.50")
    assert cells[1][3].startswith("4.00 [") and cells[1][5].startswith("CP_LRP: 2.00 [")
    assert cells[2][3].startswith("0.70 [") and "RELP: 0.50 [" not in cells[2][5]
    assert (
        cells[2][5].startswith("CP_LRP: 0.60 [") and "+0.10 [" in cells[2][5] and "level" not in cells[2][5]
    )
    assert cells[2][6].startswith("integrated gradients: 0.95")
    assert cells[3][5].startswith("GIM: 0.40 [")  # CP_LRP cuts q and k off: it is not ranked
    assert cells[4][5].startswith("RELP: 0.5") and "+0.30 [+0.30, +0.30]" in cells[4][5]
    assert all(row[4] == "10 gemma3-270m + 40 smollm2" for row in cells)


def test_what_is_level_is_called_level_and_what_was_not_measured_says_so() -> None:
    rows = component_rows(
        {"RELP": dict.fromkeys(STREAM, 0.5), "GIM": dict.fromkeys(STREAM, 0.5)}, noise=0.3, seed=4
    )
    lines = recommendation_table({"components": rows}, decide(pd.DataFrame(), ASKED)).splitlines()
    assert ", level |" in lines[4]
    assert all("not measured" in lines[place] for place in (2, 3, 5, 6))


def test_intervals_and_tests_hold_what_they_promise() -> None:
    """Of 100 samples about 95 intervals of a paired difference hold the truth; one that ignores models does not."""
    rng = np.random.default_rng(2)
    held = pooled = 0
    for _ in range(100):
        values = [
            pd.DataFrame(
                {"A": rng.normal(mean, 1, n), "B": rng.normal(0, 1, n)},
                index=pd.MultiIndex.from_tuples(
                    [(model, case) for case in range(n)], names=["model", "case"]
                ),
            )
            for model, n, mean in (("smollm2", 60, 0.0), ("gemma3-270m", 30, 2.0))
        ]
        samples = means_over_models(pd.concat(values), 300)
        gap = samples[:, 0] - samples[:, 1]
        low, high = np.quantile(gap[1:], [0.025, 0.975])
        held += bool(low <= 1.0 <= high)
        together = pd.concat(values)
        plain = together["A"].mean() - together["B"].mean()
        pooled += abs(plain - 1.0) < 2 * (high - low) / 4
    assert held >= 88 and pooled < 60


def test_holm_corrects_for_the_rule_sets_that_were_compared() -> None:
    rng = np.random.default_rng(3)
    index = pd.MultiIndex.from_tuples([("m", "t", "held out", case) for case in range(12)], names=KEY)
    cases = pd.DataFrame({name: rng.normal(size=12) for name in "ABCDE"}, index=index)
    many = ranked(cases, "ABCDE")
    assert many is not None and set(many.p) == set(many.names[1:])
    two = ranked(
        cases, [many.names[0], many.names[-1]]
    )  # the least of the four p is multiplied by their number
    assert two is not None
    assert many.p[many.names[-1]] == pytest.approx(min(1.0, 4 * two.p[many.names[-1]]), rel=1e-9)


def test_a_case_counts_only_with_all_its_numbers() -> None:
    rows = component_rows({"RELP": dict.fromkeys(STREAM, 0.5)}, noise=0.0)
    rows = rows[~((rows["model"] == "smollm2") & (rows["case"] == 0) & (rows["site"] == "mlp_out"))]
    cases = by_case(rows, "pearson", "site", STREAM)["RELP"]
    assert cases.isna().sum() == 1 and cases.dropna().to_numpy() == pytest.approx(0.5)


def test_counts_of_parts() -> None:
    assert run.part_count("tokens=5") == ("tokens", 5)
    for wrong in ("tokens", "tokens=1", "tokens=-3", "token=5", "tokens=five"):
        with pytest.raises(argparse.ArgumentTypeError, match="part=number"):
            run.part_count(wrong)


def test_the_tables_of_a_folder_begin_with_the_decision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.evidence.store import Store

    store = Store(tmp_path)
    found = parts()
    zeros = dict.fromkeys(("comprehensiveness", "loo_correlation", "evidence_top1", "evidence_iou"), 0.0)
    found["tokens"] = found["tokens"].assign(correct=True, **zeros)
    found["components"] = found["components"].assign(
        **dict.fromkeys(("spearman", "sign_agreement", "scale"), 0.0)
    )
    for part in ("tokens", "components", "heads"):
        store.rows((part, "all"), {"count": 5, "seed": 0}, partial(found.get, part))
    models: list[str] = []

    def load(name: str, device: str) -> Any:
        models.append(name)
        return load_demo_model(device=device)

    monkeypatch.setattr(run, "load_model", load)
    for name in (*MODELS, *MODELS):
        run.ask_rules(store, name)
    assert models == list(MODELS)  # asked once
    text = run.show(store, "RELP")
    assert text.startswith("## Recommended rule sets") and "The default is CP_LRP" in text
    assert '"count": 5' in text.replace("'", '"')
    assert set(store.every("rules")["rules"]) == {as_rule_set(name).name for name in RULES} >= set(VARIANTS)
