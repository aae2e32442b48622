"""compare, its statistics, rule suggestions and plots; statistics against literal definitions."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from lrp_lens import CP_LRP, GRADIENT, RELP, InputError, LogitDiff, LogProb, View
from lrp_lens.patching import Method, compare, of_rules, suggest_rules
from lrp_lens.patching.activation import activation_values
from lrp_lens.patching.comparison import Comparison, Cost, Scores
from lrp_lens.patching.cost import Meter
from lrp_lens.patching.facets import FACETS
from lrp_lens.patching.statistics import (
    bootstrap_weights,
    halves,
    interval,
    pearson,
    scale,
    sign_agreement,
    spearman,
    top_overlap,
)
from lrp_lens.plots.comparison import plot_comparison
from tests import zoo

METRIC = LogitDiff(5, 7)
CLEAN, CORRUPTED = zoo.prompt_tokens(6, 4, 1), zoo.prompt_tokens(6, 4, 2)
SITES = ["resid_pre", "attn_head_k_by_pos", "mlp_out"]
METHODS = [
    "GRADIENT",
    "RELP",
    "CP_LRP",
    "ATP_STAR",
    "ATP_QK_FIX",
    "IG",
    "GRADIENT_X_INPUT",
    "ROLLOUT",
    "RANDOM",
]


@pytest.fixture(scope="module")
def model():
    return zoo.bridge("llama")


@pytest.fixture(scope="module")
def found(model):
    metrics = {"difference": METRIC, "log-probability": LogProb(5)}
    return compare(
        model,
        CLEAN,
        CORRUPTED,
        metrics,
        sites=SITES,
        methods=METHODS,
        ks=(3, 5),
        samples=100,
        engine="batched",
    )


# ------------------------------------------------------------------------------------ statistics
def test_statistics_equal_their_definitions():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 40))
    b[:, :20] = 0  # ties
    for row in range(3):
        x, y = a[row], b[row]
        assert np.isclose(pearson(a, b)[row], np.corrcoef(x, y)[0, 1])
        assert np.isclose(scale(a, b)[row], np.linalg.lstsq(y[:, None], x, rcond=None)[0][0])
        expected = np.corrcoef(pd.Series(x).rank(), pd.Series(y).rank())[0, 1]
        assert np.isclose(spearman(a, b)[row], expected)
        sign = np.mean([np.sign(p) == np.sign(q) for p, q in zip(x, y, strict=True) if q != 0])
        assert np.isclose(sign_agreement(a, b)[row], sign)
        best = set(np.argsort(-np.abs(x))[:5]) & set(np.argsort(-np.abs(y))[:5])
        assert np.isclose(top_overlap(5)(a, b)[row], len(best) / 5)


def test_statistics_without_an_answer_are_nan():
    flat, some = np.zeros((1, 4)), np.array([[1.0, 2.0, 3.0, 4.0]])
    assert np.isnan(pearson(flat, some)) and np.isnan(spearman(some, flat))
    assert np.isnan(sign_agreement(some, flat)) and np.isnan(top_overlap(5)(some, some))
    assert np.isnan(interval(np.array([0.5]))[1])


def test_bootstrap_weights_are_resampled_means():
    weights = bootstrap_weights(8, 2000, seed=0)
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights[0], 1 / 8)
    values = np.arange(8.0)
    assert np.isclose((weights[1:] @ values).std(), values.std() / np.sqrt(8), rtol=0.1)


def test_halves_of_equal_prompts_agree():
    exact = np.tile(np.arange(5.0), (6, 1))
    np.testing.assert_allclose(halves(exact, pearson, 5, 0), (1, 1, 1))


# ------------------------------------------------------------------------------------ the comparison
def test_the_table_holds_what_was_asked(found):
    rows = found.table()
    assert len(rows) == 2 * len(SITES) * len(METHODS)
    assert {
        "pearson_low",
        "n_ranked",
        "spearman",
        "sign_agreement_high",
        "top_3",
        "top_5",
        "seconds",
        "peak_mb",
    } <= set(rows)
    known = rows.dropna(subset=["pearson"])
    assert (known.pearson_low <= known.pearson_high).all() and known.pearson.between(-1, 1).all()
    costs = rows.groupby("method")[["forwards", "backwards"]].agg(["min", "max"])
    assert costs.loc["RELP"].tolist() == [2, 2, 1, 1] and costs.loc["IG"].tolist() == [8, 8, 6, 6]
    assert rows[rows.site == "mlp_out"].exact_forwards.eq(2 * 4).all()
    assert found.to_dataframe().equals(found.to_dataframe()) and "6 prompts of 4 tokens" in repr(found)
    assert "<table" in found._repr_html_()


def test_exact_effects_are_activation_patching_minus_the_base(model, found):
    values = activation_values(
        model, CORRUPTED, CLEAN, FACETS["mlp_out"], [METRIC], engine="transformer_lens"
    )
    base = METRIC(model(CORRUPTED)).detach()
    exact = torch.from_numpy(found.exact["difference", "mlp_out"].values)
    torch.testing.assert_close(exact, values[0] - base[:, None, None], atol=1e-9, rtol=1e-9)
    np.testing.assert_allclose(found.view("mlp_out").values, exact.mean(0))


def test_agreement_is_that_of_the_mean_scores(found):
    assert found.floor == 0.01
    row = found.table().set_index(["metric", "site", "method"]).loc[("difference", "mlp_out", "RELP")]
    score, exact = found.view("mlp_out", "RELP").values, found.view("mlp_out").values
    assert np.isclose(row.pearson, np.corrcoef(score.ravel(), exact.ravel())[0, 1])
    kept = np.abs(exact) >= 0.01 * np.abs(exact).max()
    ranks = [pd.Series(values[kept]).rank() for values in (score, exact)]
    assert row.n_ranked == kept.sum() < row.n_cells == exact.size
    assert np.isclose(row.spearman, np.corrcoef(*ranks)[0, 1])
    assert np.isclose(row.sign_agreement, np.mean(np.sign(score[kept]) == np.sign(exact[kept])))


def test_missing_cells_say_why(found):
    rows = found.table().set_index(["metric", "site", "method"])
    cut = rows.loc[("difference", "attn_head_k_by_pos", "CP_LRP")]
    assert np.isnan(cut.pearson) and cut.n_cells == 0 and "cut off by CP_LRP" in cut.note
    rollout = rows.loc[("difference", "mlp_out", "ROLLOUT")]
    assert np.isnan(rollout.pearson) and "defined on resid_pre" in rollout.note
    assert np.isfinite(rows.loc[("difference", "resid_pre", "ROLLOUT")].pearson)
    star = rows.loc[("difference", "mlp_out", "ATP_STAR")]
    assert star.unsigned and np.isnan(star.sign_agreement)


def noisy_twin(floor):
    """Exact effects of a few strong cells among many tiny ones; scores get the strong ones right, the tiny ones not."""
    rng = np.random.default_rng(0)
    strong = np.array([5.0, -4.0, 3.0, -2.0])
    tiny = 1e-3 * rng.uniform(0.5, 1, size=96) * rng.choice([-1, 1], size=96)
    exact = np.concatenate([strong, tiny])
    scores = np.concatenate([strong, -tiny])
    prompts = np.array([0.9, 1.0, 1.1])[:, None, None]  # [prompt, layer, pos]
    comparison = Comparison(3, 100, 1, (2, 10), 20, 0, "denoising", floor=floor)
    facet, cost = FACETS["resid_pre"], Cost(0, 0, 0.0, 0.0)
    comparison.add_exact("metric", facet, prompts * exact, cost)
    comparison.add("metric", facet, Scores("TWIN", prompts * scores, cost))
    return comparison, comparison.table().iloc[0]


def test_ranks_and_signs_are_taken_above_the_floor():
    _, everything = noisy_twin(0.0)
    assert (everything.n_cells, everything.n_ranked) == (100, 100)
    assert everything.spearman < 0 and everything.sign_agreement == 0.04 and everything.pearson > 0.999
    found, above = noisy_twin(0.01)
    assert (above.n_cells, above.n_ranked) == (100, 4)
    assert above.spearman == above.sign_agreement == above.spearman_low == 1
    assert above.pearson == everything.pearson and above["scale"] == everything["scale"]
    assert found.on_prompts("metric", "resid_pre", "TWIN", [0, 1], "spearman") == 1
    assert found.with_floor(0).table().iloc[0].equals(everything)
    with pytest.raises(InputError, match="received 1"):
        found.with_floor(1)
    assert noisy_twin(0.5)[1].n_ranked == 3 and noisy_twin(0.99)[1].n_ranked == 1
    assert np.isnan(noisy_twin(0.99)[1].spearman)  # one cell has no rank


def test_the_floor_is_a_share_of_the_mean_over_prompts():
    """Effects that cancel over prompts are no effects: what is ranked is the mean, as everywhere in the table."""
    comparison, _ = noisy_twin(0.01)
    values = comparison.exact["metric", "resid_pre"].values.copy()
    values[:, 0, 50] = [300.0, -600.0, 300.0]
    comparison.add_exact("metric", FACETS["resid_pre"], values, Cost(0, 0, 0.0, 0.0))
    assert comparison.table().n_ranked.tolist() == [4]


def test_tiny_cells_neither_fill_the_top_k_nor_hide_false_alarms():
    comparison, row = noisy_twin(0.01)
    assert row.top_2 == row.top_10 == 1  # the top 10 are the 4 that have an effect
    assert noisy_twin(0.0)[1].top_10 == 1
    loud = comparison.scores["metric", "resid_pre", "TWIN"].values.copy()
    loud[:, 0, 60] = 100.0  # blames a cell without effect
    comparison.add("metric", FACETS["resid_pre"], Scores("LOUD", loud, Cost(0, 0, 0.0, 0.0)))
    row = comparison.table().set_index("method").loc["LOUD"]
    assert row.top_2 == 0.5 and row.top_10 == 0.75 and row.pearson < 0.5
    assert row.spearman == 1  # the floor is blind to it, which is why Pearson stays over every cell


def test_the_floor_holds_for_the_noise_floor_too():
    values = 1e-3 * np.random.default_rng(1).normal(size=(6, 1, 50))
    values[:, 0, :3] = [5.0, -4.0, 3.0]
    rows = []
    for floor in (0.0, 0.01):
        comparison = Comparison(6, 50, 1, (3,), 0, 0, "denoising", floor=floor)
        comparison.add_exact("metric", FACETS["resid_pre"], values, Cost(0, 0, 0.0, 0.0))
        rows.append(comparison.noise_floor().iloc[0])
    assert rows[0].spearman < 0.5 and rows[1].spearman == rows[1].sign_agreement == 1


def test_noise_floor_and_losses(found):
    floor = found.noise_floor()
    assert len(floor) == 2 * len(SITES) and floor.pearson.between(-1, 1).all()
    losses = found.losses()
    assert set(losses.method) == {"RELP", "CP_LRP"}
    assert losses.difference.dropna().is_monotonic_increasing
    np.testing.assert_allclose(losses.difference, losses.lrp - losses.gradient)
    assert (losses.loses == (losses.difference_high < 0)).all()
    with pytest.raises(InputError, match="A statistic is one of"):
        found.losses("kendall")


def test_a_method_that_is_exact_agrees_exactly(model):
    """A Method is any pass and any score: here activation patching itself."""

    def score(passed, source, facet):
        values = activation_values(model, passed.tokens, source, facet, [METRIC], engine="batched")[0]
        return values - passed.value[:, None, None]

    truth = Method("TRUTH", of_rules(GRADIENT).make, score)
    result = compare(model, CLEAN, CORRUPTED, METRIC, sites=["mlp_out"], methods=[truth], samples=10, ks=(3,))
    (row,) = result.table().to_dict("records")
    for name in ("pearson", "spearman", "sign_agreement", "top_3", "pearson_low"):
        assert np.isclose(row[name], 1)
    with pytest.raises(InputError, match="Add it to methods"):
        result.losses()


def test_noising_swaps_the_roles(model):
    options = dict(sites=["mlp_out"], methods=[RELP], samples=0)
    noising = compare(model, CLEAN, CORRUPTED, METRIC, direction="noising", **options)
    swapped = compare(model, CORRUPTED, CLEAN, METRIC, **options)
    np.testing.assert_allclose(noising.view("mlp_out").values, swapped.view("mlp_out").values)
    np.testing.assert_allclose(noising.view("mlp_out", "RELP").values, swapped.view("mlp_out", "RELP").values)


def test_bad_inputs_are_refused(model):
    with pytest.raises(InputError, match="at least two"):
        compare(model, CLEAN[:1], CORRUPTED[:1], METRIC)
    with pytest.raises(InputError, match="received 'heads'"):
        compare(model, CLEAN, CORRUPTED, METRIC, sites=["heads"])
    with pytest.raises(InputError, match="received 'SHAP'"):
        compare(model, CLEAN, CORRUPTED, METRIC, methods=["SHAP"])
    with pytest.raises(InputError, match="names of their own"):
        compare(model, CLEAN, CORRUPTED, METRIC, methods=[RELP, "RELP"])
    with pytest.raises(InputError, match="k >= 1"):
        compare(model, CLEAN, CORRUPTED, METRIC, ks=(0,))
    for floor in (-0.1, 1.0):
        with pytest.raises(InputError, match=f"0 <= floor < 1; received {floor}"):
            compare(model, CLEAN, CORRUPTED, METRIC, floor=floor)
    with pytest.raises(InputError, match="same number of tokens; received 3 and 4"):
        compare(model, CLEAN[:, :3], CORRUPTED, METRIC)
    with pytest.raises(InputError, match="received 5 clean and 6 corrupted"):
        compare(model, CLEAN[:5], CORRUPTED, METRIC)


# ------------------------------------------------------------------------------------ suggestions, plots, cost
def test_suggested_rules_are_chosen_on_one_half_and_judged_on_the_other(model):
    chosen = suggest_rules(
        model,
        CLEAN,
        CORRUPTED,
        METRIC,
        sites=["mlp_out", "attn_head_k_by_pos"],
        candidates=(GRADIENT, RELP, CP_LRP),
    )
    order = np.random.default_rng(0).permutation(6).tolist()
    for row in chosen.table.to_dict("records"):
        values = {
            name: chosen.comparison.on_prompts("metric", row["site"], name, order[:3], "pearson")
            for name in ("GRADIENT", "RELP", "CP_LRP")
        }
        assert row["calibration"] == max(value for value in values.values() if value == value)
        assert chosen.rules[row["site"]].name == row["chosen"]
        assert row["held_out"] == row[row["chosen"]] <= row["best_held_out"]
    assert "Suggestion(mlp_out: " in repr(chosen)
    with pytest.raises(InputError, match="two prompts each"):
        suggest_rules(model, CLEAN[:3], CORRUPTED[:3], METRIC, sites=["mlp_out"])
    with pytest.raises(InputError, match="every one cuts it off"):
        suggest_rules(model, CLEAN, CORRUPTED, METRIC, sites=["attn_head_q_all_pos"], candidates=[CP_LRP])


def test_heat_maps_share_a_scale_beside_scatters_with_the_identity_line(found):
    figure = found.plot("attn_head_k_by_pos")
    names = [trace.name for trace in figure.data]
    assert names[:4] == ["activation patching", "GRADIENT", "identity", "GRADIENT"]
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert {trace.coloraxis for trace in maps if trace.name != "missing"} == {"coloraxis"}
    grey = [before.name for before, trace in pairwise(maps) if trace.name == "missing"]
    assert grey == ["CP_LRP"]  # which cuts keys off
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax
    identity = figure.data[2]
    assert identity.x == identity.y
    assert "L1H1, tok_3" in figure.data[0].customdata[-1]
    row = (
        found.table()
        .set_index(["metric", "site", "method"])
        .loc[("difference", "attn_head_k_by_pos", "GRADIENT")]
    )
    assert any(f"r = {row.pearson:.3f}" in note.text for note in figure.layout.annotations)
    assert len(found.plot("resid_pre", ["RELP"]).data) == 4
    with pytest.raises(InputError, match="no scores"):
        found.view("mlp_out", "ROLLOUT")
    with pytest.raises(InputError, match="one shape"):
        plot_comparison(View(np.eye(2), ("layer", "head")), [View(np.eye(3), ("layer", "head"))])


def test_the_meter_sees_seconds_and_memory():
    with Meter() as meter:
        block = torch.ones(30_000_000)
        block.sum()
        for _ in range(50):
            block.add_(1)
    assert meter.seconds > 0 and meter.peak_mb > 60
