"""The bound on what a method misses: draws against runs one by one, the statistic against scipy, its coverage."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ttest_ind

from lrp_lens import LogitDiff, compare, load_demo_model
from lrp_lens.errors import InputError, SiteError
from lrp_lens.hosts import resolve
from lrp_lens.methods.facets import FACETS, record_name
from lrp_lens.patching import SubsetEffects, false_negative_bound, patch_subsets
from lrp_lens.patching.missed import LEAST, upper_limits
from tests import zoo

METRIC = LogitDiff("mary", "john")
CLEAN = [
    f"then mary and john went to the {place} . john gave the key to" for place in ("park", "garden", "store")
]
CORRUPTED = [one.replace("john gave", "mary gave") for one in CLEAN]


@pytest.fixture(scope="module")
def model() -> Any:
    return load_demo_model(device="cpu")


# ------------------------------------------------------------------------------------- draws
def one_by_one(
    model: Any, site: str, found: SubsetEffects, clean: Any, corrupted: Any, metric: Any
) -> list[float]:
    """Each draw in a run of its own, cell by cell, through TransformerLens' own hooks."""
    facet, records = FACETS[site], resolve(model).record_of
    _, cache = model.run_with_cache(clean)
    bound = metric.resolve(model)
    base = bound(model(corrupted))
    effects = []
    for chosen in found.chosen:
        hooks = []
        for layer in range(len(chosen)):

            def patch(
                tensor: torch.Tensor, hook: Any, layer: int = layer, chosen: Any = chosen
            ) -> torch.Tensor:
                tensor = tensor.clone()
                for cell in np.argwhere(chosen[layer]):
                    at = dict(zip(facet.axes, cell, strict=True))
                    index = tuple(at.get(dim, slice(None)) for dim in facet.dims)
                    tensor[index] = cache[record_name(facet.part, layer)][index]
                return tensor

            hooks.append((records[record_name(facet.part, layer)].port.name, patch))
        effects.append(float((bound(model.run_with_hooks(corrupted, fwd_hooks=hooks)) - base).mean()))
    return effects


@pytest.mark.parametrize(
    "site", ["mlp_out", "attn_head_out_all_pos", "attn_head_k_by_pos", "attn_head_pattern_dest_src_pos"]
)
def test_subsets_are_patched_as_cell_by_cell(site: str) -> None:
    model = zoo.bridge("gpt2")  # its own: `run_with_cache` leaves a bridge changed
    clean, corrupted, metric = zoo.prompt_tokens(2, 7, 3), zoo.prompt_tokens(2, 7, 5), LogitDiff(3, 4)
    found = patch_subsets(
        model, clean, corrupted, metric, site=site, draws=6, probability=0.4, batch_tokens=40, progress=False
    )
    with torch.no_grad():
        expected = one_by_one(model, site, found, clean, corrupted, metric)
    np.testing.assert_allclose(found.effects, expected, atol=1e-6)
    assert np.abs(found.effects).max() > 1e-4 and found.chosen.any()


def test_one_cell_drawn_alone_has_its_effect(model: Any) -> None:
    site = "attn_head_out_all_pos"
    exact = compare(model, CLEAN, CORRUPTED, METRIC, sites=site, methods=["RELP"], samples=0, progress=False)
    effects = exact.exact["metric", site].values.mean(0)  # type: ignore[union-attr]
    found = patch_subsets(
        model, CLEAN, CORRUPTED, METRIC, site=site, draws=200, probability=0.06, progress=False
    )
    alone = np.flatnonzero(found.chosen.sum((1, 2)) == 1)
    assert len(alone) > 50
    for draw in alone:
        np.testing.assert_allclose(found.effects[draw], effects[found.chosen[draw]][0], atol=1e-4)
    none = found.effects[found.chosen.sum((1, 2)) == 0]
    np.testing.assert_allclose(none, 0, atol=1e-5)


# ------------------------------------------------------------------------------------- the statistic
def drawn(effects: np.ndarray, draws: int, p: float, seed: int, noise: float = 0.0) -> SubsetEffects:
    """Cells whose effects add up, one layer."""
    rng = np.random.default_rng(seed)
    chosen = rng.random((draws, 1, len(effects))) < p
    found = chosen[:, 0] @ effects + noise * rng.standard_normal(draws)
    return SubsetEffects("mlp_out", ("pos",), chosen, np.ones((1, len(effects)), bool), found, p, "denoising")


def test_limits_are_those_of_welchs_test() -> None:
    """Cell by cell with scipy: at the limit the one-sided test just rejects."""
    subsets = drawn(np.random.default_rng(0).normal(size=6), 200, 0.3, 1, noise=0.2)
    difference, limit, counts = upper_limits(subsets, 0.95)
    for cell in range(6):
        inside = subsets.chosen[:, 0, cell]
        low, high = subsets.effects[inside], subsets.effects[~inside]
        assert counts[0, cell] == inside.sum()
        np.testing.assert_allclose(difference[0, cell], low.mean() - high.mean(), rtol=1e-9)
        sign = np.sign(difference[0, cell])
        shifted = ttest_ind(sign * low - limit[0, cell], sign * high, equal_var=False, alternative="less")
        assert shifted.pvalue == pytest.approx(0.05, abs=1e-9)


def coverage(plain: bool) -> float:
    """Share of 300 samples in which the bound holds; `plain`: |d| alone, the negative control."""
    held = 0
    for seed in range(300):
        rng = np.random.default_rng([7, seed])
        effects = rng.normal(size=30) * (rng.random(30) < 0.3)
        scores = np.abs(effects) * (rng.random(30) < 0.7)  # some that matter are missed
        subsets = drawn(effects, 250, 0.2, seed, noise=0.3)
        left = np.argsort(-scores, kind="stable")[5:]
        if plain:
            bound = np.abs(upper_limits(subsets, 0.95)[0][0, left]).max()
        else:
            bound = false_negative_bound({"m": scores[None]}, subsets, top=5).loc[0, "bound"]
        held += bool(np.abs(effects[left]).max() <= bound)
    return held / 300


def test_the_bound_holds_as_often_as_it_says() -> None:
    assert coverage(plain=False) >= 0.93  # .95, less two standard errors
    assert coverage(plain=True) < 0.8


def test_the_confidence_is_used_where_it_is_tight() -> None:
    """One missed cell only, so that its own limit is the bound: it fails about as often as it may."""
    held = [
        false_negative_bound({"m": np.array([[9.0, 0.0]])}, drawn(np.array([2.0, 1.0]), 200, 0.5, seed, 1.0), top=1)
        .loc[0, "bound"] >= 1.0
        for seed in range(400)
    ]  # fmt: skip
    assert 0.92 <= np.mean(held) <= 0.98


def test_a_planted_miss_is_found_and_nothing_else_is_alarming() -> None:
    effects = np.full(40, 0.01)
    effects[[3, 17]] = 2.0, -1.5
    good, blind = np.abs(effects)[None], np.where(np.arange(40) == 17, 0, np.abs(effects))[None]
    found = false_negative_bound(
        {"good": good, "blind": blind}, drawn(effects, 2000, 0.1, 0, 0.1), top=[2]
    ).set_index("method")
    assert found.loc["good", "bound"] < 0.4
    assert found.loc["blind", "bound"] >= 1.5 and (
        found.loc["blind", "layer"],
        found.loc["blind", "cell"],
    ) == (0, (17,))
    assert found.loc["blind", "difference"] == pytest.approx(-1.5, abs=0.15)
    more = false_negative_bound({"good": good}, drawn(effects, 8000, 0.1, 0, 0.1), top=2)
    assert more.loc[0, "bound"] < found.loc["good", "bound"]  # more draws, tighter


def test_a_cell_that_is_hardly_drawn_is_not_vouched_for() -> None:
    subsets = drawn(np.ones(3), 30, 0.5, 0)
    subsets.chosen[:, 0, 2] = np.arange(30) < LEAST - 1
    found = false_negative_bound({"m": np.array([[3.0, 2.0, 1.0]])}, subsets, top=1).loc[0]
    assert np.isinf(found["bound"]) and found["cell"] == (2,) and found["draws"] == LEAST - 1


def test_the_bound_of_a_model_holds_for_every_method(model: Any) -> None:
    site = "attn_head_out_all_pos"
    found = compare(
        model,
        CLEAN,
        CORRUPTED,
        METRIC,
        sites=site,
        methods=["RELP", "ATP_STAR", "CP_LRP"],
        samples=0,
        progress=False,
    )
    draws = patch_subsets(
        model, CLEAN, CORRUPTED, METRIC, site=site, draws=400, probability=0.1, progress=False
    )
    bounds = false_negative_bound(found, draws, top=(2, 6))
    assert (
        len(bounds) == 6
        and (bounds["bound"] >= bounds["exact"]).all()
        and (bounds["missed"] == 16 - bounds["top"]).all()
    )
    assert np.isfinite(bounds["bound"]).all()
    # negative control: a method that ranks the strongest head last has missed it, and the bound says so
    exact = found.exact["metric", site].values.mean(0)  # type: ignore[union-attr]
    turned = {"turned round": 1 / (np.abs(exact) + 1e-6)}
    crowded = false_negative_bound(turned, draws, top=2).loc[0]
    rare = patch_subsets(
        model, CLEAN, CORRUPTED, METRIC, site=site, draws=900, probability=0.02, progress=False
    )
    worst = false_negative_bound(turned, rare, top=2).loc[0]
    # two heads of this model do the same work: among others each seems to do less, the less so the rarer the draws
    assert (
        crowded["bound"] < np.abs(exact).max() <= worst["bound"] and crowded["bound"] > bounds["bound"].max()
    )
    strongest = np.argsort(-np.abs(exact), axis=None)[:2]
    assert np.ravel_multi_index((crowded["layer"], *crowded["cell"]), exact.shape) in strongest
    assert np.isnan(worst["exact"])


# ------------------------------------------------------------------------------------- bad input
def test_what_is_refused(model: Any) -> None:
    subsets = drawn(np.ones(4), 50, 0.5, 0)
    good = {"m": np.ones((1, 4))}
    for options in ({"top": 4}, {"top": -1}, {"top": 1, "confidence": 1.0}):
        with pytest.raises(InputError):
            false_negative_bound(good, subsets, **options)  # type: ignore[arg-type]
    for scored in ({}, {"m": np.ones((1, 5))}):
        with pytest.raises(InputError, match=r"\[layer, pos\]"):
            false_negative_bound(scored, subsets, top=1)
    for options in ({"draws": 1}, {"probability": 0.0}, {"probability": 1.0}, {"site": "nowhere"}):
        with pytest.raises(InputError):
            patch_subsets(model, CLEAN, CORRUPTED, METRIC, **{"site": "mlp_out", **options})  # type: ignore[arg-type]
    found = compare(
        model, CLEAN, CORRUPTED, METRIC, sites="mlp_out", methods=["RELP"], samples=0, progress=False
    )
    noising = patch_subsets(
        model, CLEAN, CORRUPTED, METRIC, site="mlp_out", draws=2, direction="noising", progress=False
    )
    with pytest.raises(InputError, match="one site, metric and direction"):
        false_negative_bound(found, noising)


def test_streams_that_are_patched_by_a_difference_are_refused() -> None:
    bridge = zoo.shared("bridge", "gpt2")
    clean, corrupted = zoo.prompt_tokens(1, 7, 3), zoo.prompt_tokens(1, 7, 5)
    with pytest.raises(SiteError, match="patched together"):
        patch_subsets(bridge, clean, corrupted, LogitDiff(3, 4), site="resid_mid", draws=2)


def test_scores_that_are_none(unchecked: None) -> None:
    with pytest.raises(InputError, match="name → array"):
        false_negative_bound("scores", drawn(np.ones(4), 50, 0.5, 0))  # type: ignore[arg-type]
