"""compare, rule suggestions and plots."""

import collections
import sys
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch

from lrp_lens import (
    CP_LRP,
    GRADIENT,
    RELP,
    InputError,
    LogitDiff,
    LogProb,
    MetricError,
    RuleError,
    RunnerUp,
    SequenceLogitDiff,
    SiteError,
    View,
    component_edges,
    hosts,
    load_demo_model,
)
from lrp_lens.hosts import tokens
from lrp_lens.methods import Method, relevance_method
from lrp_lens.methods.facets import FACETS
from lrp_lens.metrics import Metric
from lrp_lens.patching import (
    compare,
    get_act_patch_mlp_out,
    get_lrp_patch_mlp_out,
    patch_subsets,
    patching_pass,
    storage,
    suggest_rules,
)
from lrp_lens.patching.activation import activation_values
from lrp_lens.patching.compare import _pieces
from lrp_lens.patching.comparison import Comparison
from lrp_lens.patching.cost import Meter
from lrp_lens.patching.scored import Cost, Scores
from lrp_lens.plots.comparison import plot_comparison
from lrp_lens.plots.palette import plotly_text
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
    assert costs.loc["RELP"].tolist() == [2, 2, 1, 1] and costs.loc["integrated gradients"].tolist() == [
        8,
        8,
        6,
        6,
    ]
    assert rows[rows.site == "mlp_out"].exact_forwards.eq(2 * 4).all()
    assert found.to_dataframe().equals(found.to_dataframe()) and "6 prompts of 4 tokens" in repr(found)
    page = found._repr_html_()
    assert "<table" in page and "<th>top_5</th>" in page and "cut off by CP_LRP" in page
    value = rows.set_index(["metric", "site", "method"]).pearson["difference", "mlp_out", "RELP"]
    assert "difference, mlp_out: GRADIENT" in repr(found) and f"RELP {value:.2f}" in repr(found)


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
    rollout = rows.loc[("difference", "mlp_out", "attention rollout")]
    assert np.isnan(rollout.pearson) and "defined on resid_pre" in rollout.note
    assert np.isfinite(rows.loc[("difference", "resid_pre", "attention rollout")].pearson)
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
    with pytest.raises(InputError, match="one of pearson, spearman, sign_agreement, top_3, top_5; received"):
        found.losses("kendall")
    with pytest.raises(InputError, match="received 'scale'"):
        found.losses("scale")


def one_site(values, scores, ks=(2,), samples=20):
    """A comparison of [prompt, cell] arrays as one layer of resid_pre."""
    comparison = Comparison(len(values), values.shape[1], 1, ks, samples, 0, "denoising")
    facet, cost = FACETS["resid_pre"], Cost(0, 0, 0.0, 0.0)
    comparison.add_exact("metric", facet, values[:, None], cost)
    comparison.add("metric", facet, Scores("TWIN", scores[:, None], cost))
    return comparison


def test_without_effects_there_is_no_agreement_and_a_note():
    scores = np.random.default_rng(0).normal(size=(4, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        comparison = one_site(np.zeros((4, 5)), scores)
        row, floor = comparison.table().iloc[0], comparison.noise_floor().iloc[0]
        flat = one_site(scores, np.zeros((4, 5))).table().iloc[0]
        nothing = one_site(np.full((4, 5), np.nan), scores)
        assert np.isnan(nothing.noise_floor().pearson[0]) and np.isnan(nothing.table().top_2[0])
    for name in ("pearson", "spearman", "sign_agreement", "top_2", "top_2_low"):
        assert np.isnan(row[name]) and np.isnan(floor[name])
    assert row.note == floor.note == "no cell has an effect" and row.n_ranked == row.top_2_cells == 0
    assert flat.note == "all scores are equal" and np.isclose(flat.top_2, 2 / 5)
    assert one_site(scores, scores).table().note[0] == ""


def test_k_is_capped_by_what_is_ranked_and_by_the_cells_alike():
    values = np.tile([5.0, 4.0, 3.0, 1e-5, 2e-5], (3, 1))
    comparison = one_site(values, values, ks=(2, 4, 50))
    row = comparison.table().iloc[0]
    assert (row.n_ranked, row.top_2_cells, row.top_4_cells, row.top_50_cells) == (3, 2, 3, 3)
    assert row.top_2 == row.top_4 == row.top_50 == 1
    every = comparison.with_floor(0).table().iloc[0]
    assert (every.top_4_cells, every.top_50_cells) == (4, 5) and every.top_50 == 1


def test_random_rankings_are_drawn_for_each_site_and_averaged(model, found):
    options = dict(sites=["resid_pre", "mlp_out"], methods="RANDOM", ks=3, samples=200)
    result = compare(model, CLEAN, CORRUPTED, METRIC, seed=1, **options)
    draws = {site: result.scores["metric", site, "random"].draws for site in options["sites"]}
    assert draws["resid_pre"].shape == draws["mlp_out"].shape == (20, 2, 4)
    both = np.corrcoef(draws["resid_pre"].ravel(), draws["mlp_out"].ravel())[0, 1]
    assert abs(both) < 0.3
    assert np.corrcoef(draws["mlp_out"].reshape(20, -1))[np.triu_indices(20, 1)].max() < 0.999
    again = compare(model, CLEAN, CORRUPTED, METRIC, seed=1, **options)
    other = compare(model, CLEAN, CORRUPTED, METRIC, seed=2, **options)
    np.testing.assert_array_equal(draws["mlp_out"], again.scores["metric", "mlp_out", "random"].draws)
    assert not np.allclose(draws["mlp_out"], other.scores["metric", "mlp_out", "random"].draws)
    rows = result.table().set_index("site")
    exact = result.view("mlp_out").values.ravel()
    each = [np.corrcoef(draw.ravel(), exact)[0, 1] for draw in draws["mlp_out"]]
    assert np.isclose(rows.pearson["mlp_out"], np.mean(each))
    assert rows.pearson_low["mlp_out"] < min(0, np.mean(each)) and rows.pearson_high["mlp_out"] > 0
    assert np.isclose(result.on_prompts("metric", "mlp_out", "random", range(6), "pearson"), np.mean(each))
    assert rows.note.str.startswith("mean over 20 random rankings").all()


def test_costs_are_those_of_what_ran(model, found):
    costs = found.table().groupby("method")[["forwards", "backwards"]].max()
    assert costs.loc["random"].tolist() == [0, 0] and costs.loc["attention rollout"].tolist() == [1, 0]
    assert costs.loc["ATP_STAR"].tolist() == [
        1 + 2 + 1,
        3,
    ]  # run, softmax twice (keys), clean run; drops share the run's
    out = compare(model, CLEAN, CORRUPTED, METRIC, sites="mlp_out", methods="ATP_STAR", samples=0).table()
    assert out[["forwards", "backwards"]].values.tolist() == [[1 + 1, 3]]


def test_passes_are_counted_as_they_are_run(model):
    """Every forward pass of the model is counted by a hook, against the table."""
    for method in ("RANDOM", "ROLLOUT", "GRADIENT", "ATP_STAR", "ATP_QK_FIX", "IG"):
        seen = []
        hook = ("hook_embed", lambda tensor, hook, seen=seen: seen.append(1))
        with model.hooks(fwd_hooks=[hook]):
            result = compare(
                model,
                CLEAN,
                CORRUPTED,
                METRIC,
                sites=["resid_pre"],
                methods=[method],
                samples=0,
                engine="transformer_lens",
            )
        exact = 2 * 4 + 2  # patches, and both runs
        assert len(seen) - exact == result.table().forwards[0], method


def test_what_cannot_run_is_refused_first_or_noted(monkeypatch):
    gptj = zoo.bridge("gptj")
    options = dict(samples=0, ks=3)
    found = compare(gptj, CLEAN, CORRUPTED, METRIC, sites="mlp_out", methods=["GRADIENT", "GIM"], **options)
    rows = found.table().set_index("method")
    assert np.isfinite(rows.pearson["GRADIENT"]) and np.isnan(rows.pearson["GIM"])
    assert "GIM cannot run here: Every edit must reach the logits" in rows.note["GIM"]
    room = sys.modules["lrp_lens.patching.compare"]  # the façade's name is the function's
    monkeypatch.setattr(room, "patched_values", None)  # nothing may be patched
    with pytest.raises(SiteError, match="has no resid_mid"):
        compare(gptj, CLEAN, CORRUPTED, METRIC, sites=["mlp_out", "resid_mid"], **options)
    with pytest.raises(InputError, match="is the constant 0"):
        compare(gptj, CLEAN, CORRUPTED, lambda logits: 0 * logits[:, -1, 0])
    with pytest.raises(MetricError, match="a finite number for each prompt"):
        compare(gptj, CLEAN, CORRUPTED, lambda logits: logits[:, -1, 0] * float("nan"))
    with pytest.raises(InputError, match="differentiably; mine does not"):
        compare(gptj, CLEAN, CORRUPTED, {"mine": lambda logits: logits[:, -1].argmax(-1).double()})
    with pytest.raises(InputError, match="an empty mapping"):
        compare(gptj, CLEAN, CORRUPTED, {})
    for statistic in ("scale", "kendall"):
        with pytest.raises(
            InputError, match=f"pearson, spearman, sign_agreement, top_10; received '{statistic}'"
        ):
            suggest_rules(gptj, CLEAN, CORRUPTED, METRIC, statistic=statistic)
    for calibration in (0.0, 1.0):
        with pytest.raises(InputError, match=f"received {calibration}"):
            suggest_rules(gptj, CLEAN, CORRUPTED, METRIC, calibration=calibration)
    with pytest.raises(InputError, match="two prompts each at least; received 2 and 1"):
        suggest_rules(gptj, CLEAN[:3], CORRUPTED[:3], METRIC)
    with pytest.raises(RuleError, match="received 'LRP'"):
        suggest_rules(gptj, CLEAN, CORRUPTED, METRIC, candidates=["RELP", "LRP"])


def test_one_for_a_list_repeats_and_the_default_metric(model):
    options = dict(samples=0, methods=RELP)
    one = compare(model, CLEAN, CORRUPTED, sites="mlp_out", ks=3, **options)
    two = compare(model, CLEAN, CORRUPTED, None, sites=["mlp_out"] * 2, ks=(3, 3), **options)
    ids = model(CLEAN)[:, -1].topk(2).indices
    chosen = LogitDiff(ids[:, 0].tolist(), ids[:, 1].tolist())
    named = compare(model, CLEAN, CORRUPTED, chosen, sites=["mlp_out"], ks=(3,), **options)
    timed = ["seconds", "peak_mb", "exact_seconds"]
    given = compare(model, CLEAN, CORRUPTED, RunnerUp(), sites="mlp_out", ks=(3,), **options)
    for other in (two, named, given):
        assert one.table().drop(columns=timed).equals(other.table().drop(columns=timed))
    assert len(one.plot("mlp_out", "RELP").data) == 4
    plain = compare(model, CLEAN, CORRUPTED, sites="mlp_out", methods="GRADIENT", samples=0)
    assert plain.losses().empty and "difference" in plain.losses()
    words = suggest_rules(model, CLEAN, CORRUPTED, METRIC, sites="mlp_out", candidates=["GRADIENT", "RELP"])
    assert words.rules["mlp_out"].name in ("GRADIENT", "RELP")


def test_a_metric_that_chooses_its_tokens_chooses_them_in_the_clean_run(model):
    """Each run's own choice would compare two questions: the corrupted run's first choice is another token."""
    first, second = model(CLEAN)[:, -1].topk(2).indices.T.tolist()
    other = int(model(CORRUPTED)[0, -1].argmin())
    for asked, same in (
        (None, LogitDiff(first, second)),
        (RunnerUp(), LogitDiff(first, second)),
        (RunnerUp(target=other), LogitDiff([other] * len(first), first)),
    ):
        for twin in (get_act_patch_mlp_out, get_lrp_patch_mlp_out):
            assert torch.equal(twin(model, CORRUPTED, CLEAN, asked), twin(model, CORRUPTED, CLEAN, same)), (
                asked
            )
        draws = [
            patch_subsets(model, CLEAN, CORRUPTED, one, site="mlp_out", draws=4) for one in (asked, same)
        ]
        np.testing.assert_array_equal(draws[0].effects, draws[1].effects)
        edges = [component_edges(model, CLEAN, CORRUPTED, one) for one in (asked, same)]
        np.testing.assert_array_equal(edges[0].values, edges[1].values)
    with pytest.raises(InputError, match=r"names its tokens; received RunnerUp"):
        patching_pass(model, CORRUPTED, RunnerUp())
    with pytest.raises(InputError, match="received a cache of activations"):
        get_act_patch_mlp_out(model, CORRUPTED, model.run_with_cache(CLEAN)[1], RunnerUp())


def test_a_model_is_asked_a_handful_of_times(model, monkeypatch):
    """2 sites × 3 methods once took 63 look-ups of the sites, 126 `bind` and 16 `tokenize`."""
    counts = collections.Counter()
    entry, bind = hosts._entry, Metric.bind
    monkeypatch.setattr(hosts, "_entry", lambda model: counts.update(["resolve"]) or entry(model))
    monkeypatch.setattr(Metric, "bind", lambda *args: counts.update(["bind"]) or bind(*args))
    own = tokens.tokenize
    for name, room in list(sys.modules.items()):
        if name.startswith("lrp_lens.") and getattr(room, "tokenize", None) is own:
            monkeypatch.setattr(room, "tokenize", lambda *a, **k: counts.update(["tokenize"]) or own(*a, **k))
    compare(model, CLEAN, CORRUPTED, METRIC, sites=["mlp_out", "resid_pre"], samples=0,
            methods=["RELP", "ATTN_LRP", "GRADIENT"])  # fmt: skip
    assert 0 < counts["resolve"] <= 30 and 0 < counts["bind"] <= 6 and counts["tokenize"] <= 6, counts


def test_positions_have_the_tokens_of_all_clean_prompts(model, found):
    """One token, or up to three different ones, or the first of more; in views, too."""
    ids = torch.tensor([[1, 5, 7, 3], [1, 6, 7, 4], [1, 5, 7, 5], [1, 5, 7, 6]])
    few = compare(model, ids, ids.flip(1), METRIC, sites="mlp_out", methods="GRADIENT", samples=0)
    assert few.tokens == ("<1>", "<5>/<6>", "<7>", "<3>/…")
    assert few.view("mlp_out").labels["position"] == few.tokens and len(found.tokens) == found.length
    pattern = compare(
        model, ids[:2], ids[:2].flip(1), METRIC, sites="attn_head_pattern_dest_src_pos", methods="RANDOM"
    )
    view = pattern.view("attn_head_pattern_dest_src_pos")
    assert view.labels["position"] == view.labels["source"] == pattern.tokens
    answers = SequenceLogitDiff((5, 8), (7, 9))
    longer = compare(model, ids[:2], ids[:2].flip(1), answers, sites="mlp_out", methods="RANDOM", samples=0)
    assert longer.view("mlp_out").labels["position"] == ("<1>", "<5>/<6>", "<7>", "<3>/<4>", "<5>/<7>")


def test_a_comparison_knows_words_where_the_prompts_agree_on_them():
    """Pieces as tokens are told; none where a word begins in one prompt and goes on in the other."""

    told = _pieces([(" un", "happy", " cat"), (" un", "like", " dog")])
    assert told == (" un", "happy/like", " cat/ dog")
    assert _pieces([(" un", "happy", " cat"), (" a", " dog", " sat")]) == ()
    assert _pieces([]) == ()


def test_a_saved_comparison_is_the_same(found, tmp_path, monkeypatch):
    path = tmp_path / "comparison.safetensors"
    found.save(path)
    again = Comparison.load(path)
    assert again.table().equals(found.table()) and again.noise_floor().equals(found.noise_floor())
    assert again.losses().equals(found.losses()) and repr(again) == repr(found)
    assert (again.tokens, again.pieces) == (found.tokens, found.pieces) and again.pieces
    monkeypatch.setattr(storage, "_LATER", {})  # a file of the time before
    found.save(path)
    monkeypatch.undo()
    assert Comparison.load(path).pieces == () and Comparison.load(path).tokens == found.tokens
    assert np.array_equal(again.view("resid_pre", "RANDOM").values, found.view("resid_pre", "RANDOM").values)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    again.with_floor(0).save(path)
    assert Comparison.load(path).floor == 0
    with pytest.raises(InputError, match="nothing is at"):
        Comparison.load(tmp_path / "none")
    with pytest.raises(InputError, match="Cannot write"):
        found.save(tmp_path / "none" / "there")
    found.view("mlp_out").save(path)
    with pytest.raises(InputError, match="of the kind 'View/1'"):
        Comparison.load(path)
    path.write_bytes(b"no")
    with pytest.raises(InputError, match="is a safetensors file"):
        Comparison.load(path)


def wrong_options():
    yield from (dict(ks=ks) for ks in (True, 1.5, "a", [True], [2.0], [0], None))
    yield from (dict(samples=value) for value in (-1, 1.5, True, "a"))
    yield from (dict(seed=value) for value in (-1, 1.5, True, "a"))
    yield from (dict(floor=value) for value in ("0.1", True, None))
    yield from (dict(engine=value) for value in ("foo", None))
    yield from (dict(layers=value) for value in (4, -5, True, 1.0, "a", [], [0, 9]))
    yield from (dict(positions=value) for value in (15, -16, True, 1.0, "a", []))
    yield from (dict(positions=0, sites="attn_head_out_all_pos"), dict(layers=0, engine="transformer_lens"))
    yield from (dict(batch_tokens=value) for value in (0, True, 1.5, None))
    yield from (dict(sites=value) for value in ([], 3, None))
    yield from (dict(methods=value) for value in ([], 3, [None]))


def test_options_of_another_type_are_refused_before_anything_runs(unchecked, monkeypatch):
    monkeypatch.setattr(
        sys.modules["lrp_lens.patching.compare"], "patched_values", None
    )  # nothing may be patched
    model, metric = load_demo_model(device="cpu"), LogitDiff("mary", "john")
    text = "then {} and {} went to the park . {} gave the key to"
    clean, corrupted = ([text.format("mary", "john", name)] * 2 for name in ("john", "mary"))
    for options in wrong_options():
        with pytest.raises(InputError, match="received"):
            compare(model, clean, corrupted, metric, **options)
    for options in (
        dict(statistic=None),
        dict(calibration="a"),
        dict(calibration=True),
        dict(candidates=[None]),
        dict(seed=-1),
    ):
        with pytest.raises((InputError, RuleError), match="received"):
            suggest_rules(model, clean * 2, corrupted * 2, metric, **options)
    with pytest.raises(InputError, match=r"received \['a', 'b'\]"):
        suggest_rules(model, clean * 2, corrupted * 2, {"a": metric, "b": metric})


def test_a_method_that_is_exact_agrees_exactly(model):
    """A Method is any pass and any score: here activation patching itself."""

    def score(passed, source, facet):
        values = activation_values(model, passed.tokens, source, facet, [METRIC], engine="batched")[0]
        return values - passed.value[:, None, None]

    truth = Method("TRUTH", sites=relevance_method(GRADIENT).sites, score=score)
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
    there = plotly_text(found.tokens[3])
    assert f"L1H1, position 3: {there}" in figure.data[0].customdata[-1]
    assert there in figure.layout.xaxis.ticktext
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
