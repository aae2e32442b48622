"""Statistics of scores and cases against their definitions, written out as loops."""

from itertools import combinations, product
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lrp_lens.errors import InputError
from lrp_lens.views.statistics.agreement import (
    above_floor,
    halves,
    pearson,
    scale,
    sign_agreement,
    spearman,
    top_overlap,
)
from lrp_lens.views.statistics.intervals import (
    bootstrap_weights,
    holm,
    interval,
    mean_interval,
    paired_differences,
    percentile_interval,
)


# ------------------------------------------------------------------------------------ agreement
def test_statistics_equal_their_definitions():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 3, 40))
    b[:, :20] = 0  # ties
    for row in range(3):
        x, y = a[row], b[row]
        assert np.isclose(pearson(a, b)[row], np.corrcoef(x, y)[0, 1])
        assert np.isclose(scale(a, b)[row], np.linalg.lstsq(y[:, None], x, rcond=None)[0][0])
        expected = np.corrcoef(pd.Series(x).rank(), pd.Series(y).rank())[0, 1]
        assert np.isclose(spearman(a, b)[row], expected) and spearman(x, y) == spearman(a, b)[row]
        assert np.isclose(spearman(x, y), stats.spearmanr(x, y).statistic)
        sign = np.mean([np.sign(p) == np.sign(q) for p, q in zip(x, y, strict=True) if q != 0])
        assert np.isclose(sign_agreement(a, b)[row], sign)
        best = set(np.argsort(-np.abs(x))[:5]) & set(np.argsort(-np.abs(y))[:5])
        assert np.isclose(top_overlap(5)(a, b)[row], len(best) / 5)


def test_statistics_without_an_answer_are_nan():
    flat, some = np.zeros((1, 4)), np.array([[1.0, 2.0, 3.0, 4.0]])
    assert np.isnan(pearson(flat, some)) and np.isnan(spearman(some, flat))
    assert np.isnan(sign_agreement(some, flat)) and np.isnan(top_overlap(5)(some, some))
    assert np.isnan(interval(np.array([0.5]))[1])


def test_ties_in_the_top_k_are_broken_in_expectation():
    """Against the mean over random orders of the cells; no order of the cells matters."""
    rng = np.random.default_rng(3)
    scores, exact = rng.integers(-2, 3, size=(2, 1, 6)).astype(float)
    for k in range(1, 7):
        shares = []
        draws = np.random.default_rng(k)
        for _ in range(4000):
            tops = []
            for values in (scores[0], exact[0]):
                order = draws.permutation(6)
                tops.append(set(order[np.argsort(-np.abs(values[order]), kind="stable")[:k]]))
            shares.append(len(tops[0] & tops[1]) / k)
        found = top_overlap(k)(scores, exact)[0]
        assert abs(found - np.mean(shares)) < 4 * np.std(shares) / np.sqrt(4000) + 1e-12
        swap = rng.permutation(6)
        assert np.isclose(top_overlap(k)(scores[:, swap], exact[:, swap])[0], found)
    flat, some = np.zeros((1, 4)), np.array([[4.0, 3.0, 2.0, 1.0]])
    assert top_overlap(1)(flat, some) == 0.25  # chance, where the first cell would have been a hit
    assert np.isnan(top_overlap(1)(some, flat)) and np.isnan(top_overlap(1)(flat, flat))


def test_no_cell_is_above_the_floor_of_nothing():
    assert not above_floor(np.zeros(3), 0.01).any() and not above_floor(np.zeros(3), 0).any()
    assert above_floor(np.array([0.0, 1.0]), 0).all()


def test_bootstrap_weights_are_resampled_means():
    weights = bootstrap_weights(8, 2000, seed=0)
    np.testing.assert_allclose(weights.sum(1), 1)
    np.testing.assert_allclose(weights[0], 1 / 8)
    values = np.arange(8.0)
    drawn = (weights[1:] @ values).std()  # three standard errors of 2000 draws are 5 %
    assert np.isclose(drawn, values.std() / np.sqrt(8), rtol=0.05)


def test_halves_of_equal_prompts_agree():
    exact = np.tile(np.arange(5.0), (6, 1))
    np.testing.assert_allclose(halves(exact, pearson, 5, 0), (1, 1, 1))


# ------------------------------------------------------------------------------------ intervals
def test_the_interval() -> None:
    rng = np.random.default_rng(0)
    mean, low, high, n = mean_interval(rng.normal(2, 1, 400))
    assert n == 400 and low < mean < high
    # Three standard errors of the spread of 400 cases are 11 %.
    assert (high - low) / 2 == pytest.approx(1.96 / 20, rel=0.11)
    covered = 0
    for seed in range(200):
        _, low, high, _ = mean_interval(
            np.random.default_rng(seed).exponential(size=60), level=0.9, resamples=300
        )
        covered += low < 1 < high
    assert 0.8 < covered / 200 < 0.97  # 90 % ± three standard errors of 200 trials; skewed cases lose some
    mean, low, high, n = mean_interval(np.array([3.0, np.nan]))
    assert (mean, n) == (3.0, 1) and np.isnan([low, high]).all()
    assert np.isnan(mean_interval(np.array([np.nan]))[0])
    for wrong in (dict(level=1.0), dict(resamples=0)):
        with pytest.raises(InputError, match="0 < level < 1"):
            mean_interval(np.ones(3), **wrong)


def literal_interval(values: np.ndarray, level: float, resamples: int, seed: int, bca: bool) -> list[float]:
    """Efron (1979, 1987), case by case: bias z0 from the draws, acceleration a from leaving one case out."""
    n, draws = (
        len(values),
        np.random.default_rng(seed).integers(0, len(values), size=(resamples, len(values))),
    )
    means = sorted(values[draw].mean() for draw in draws)
    shares = [(1 - level) / 2, (1 + level) / 2]
    if bca:
        normal = NormalDist()
        mean = values.mean()
        below = sum(one < mean for one in means) + sum(one == mean for one in means) / 2
        z0 = normal.inv_cdf(below / resamples)
        without = [sum(v for j, v in enumerate(values) if j != i) / (n - 1) for i in range(n)]
        lean = [sum(without) / n - one for one in without]
        a = sum(u**3 for u in lean) / (6 * sum(u**2 for u in lean) ** 1.5)
        shifted = [z0 + normal.inv_cdf(share) for share in shares]
        shares = [normal.cdf(z0 + z / (1 - a * z)) for z in shifted]
    return [float(np.quantile(means, share)) for share in shares]


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_an_interval_is_its_definition(method: str) -> None:
    values = np.random.default_rng(2).exponential(size=11) - 0.3
    literal = literal_interval(values, 0.9, 400, 5, bca=method == "BCa")
    other = literal_interval(values, 0.9, 400, 5, bca=method != "BCa")
    mean, *bounds, n = mean_interval(values, level=0.9, resamples=400, seed=5, method=method)
    assert (mean, n) == (pytest.approx(values.mean(), rel=1e-12), 11)
    assert bounds == pytest.approx(literal, rel=1e-9) and bounds != pytest.approx(other, rel=1e-2)


def test_intervals_of_many_statistics_at_once() -> None:
    """Each has its own unknown draws."""
    samples = np.random.default_rng(0).normal(size=(50, 2, 3))
    samples[7:, 0, 0], samples[:, 1, 2] = np.nan, np.inf
    found = percentile_interval(samples, 0.8)
    for row, column in product(range(2), range(3)):
        known = [one for one in samples[:, row, column] if np.isfinite(one)]
        expected = np.quantile(known, [0.1, 0.9]) if known else [np.nan, np.nan]
        np.testing.assert_allclose(found[:, row, column], expected, rtol=1e-12)
    assert np.isnan(percentile_interval(np.zeros((0, 2)))).all()


def literal_flips(differences: np.ndarray) -> float:
    """Both tails of the mean among those of every choice of signs."""
    means = [
        np.mean([sign * one for sign, one in zip(signs, differences, strict=True)])
        for signs in product((1, -1), repeat=len(differences))
    ]
    mean = np.mean(differences)
    upper = sum(one >= mean - 1e-12 for one in means) / len(means)
    lower = sum(one <= mean + 1e-12 for one in means) / len(means)
    return min(1.0, 2 * min(upper, lower))


def cases_of(n: int) -> dict[str, np.ndarray]:
    """Three methods; "better" is better case by case, while cases differ far more."""
    rng = np.random.default_rng(4)
    hard = rng.normal(0, 5, n)
    same, better = hard + rng.normal(0, 0.3, n), hard + 1 + rng.normal(0, 0.3, n)
    return {"base": hard, "same": same, "better": better}


def test_paired_differences_are_their_definition() -> None:
    scores = cases_of(9)
    scores["same"][2] = np.nan
    table = paired_differences(scores, level=0.9, resamples=600, seed=3)
    assert list(zip(table["reference"], table["method"], strict=True)) == list(combinations(scores, 2))
    raw = []
    for row in table.itertuples():
        pairs = zip(scores[row.method], scores[row.reference], strict=True)
        each = np.array([one - other for one, other in pairs if one == one and other == other])
        assert (row.n, row.mean) == (len(each), pytest.approx(each.mean(), rel=1e-12))
        assert [row.low, row.high] == pytest.approx(literal_interval(each, 0.9, 600, 3, bca=True), rel=1e-9)
        raw.append(literal_flips(each))
    assert table["p"].tolist() == pytest.approx(raw, rel=1e-12)
    ordered, corrected = sorted(range(3), key=raw.__getitem__), [0.0] * 3
    for place, test in enumerate(ordered):  # Holm: never below a smaller one
        corrected[test] = min(1.0, max((3 - i) * raw[ordered[i]] for i in range(place + 1)))
    assert table["p_holm"].tolist() == pytest.approx(corrected, rel=1e-12)
    one = paired_differences(pd.DataFrame(scores), "base", level=0.9, resamples=600, seed=3)
    pd.testing.assert_frame_equal(one.drop(columns="p_holm"), table[:2].drop(columns="p_holm"))


def test_pairing_finds_what_the_scatter_of_cases_hides() -> None:
    scores = cases_of(40)
    table = paired_differences(scores, "base").set_index("method")
    assert table.low["better"] > 0 and table.p_holm["better"] < 0.01 and table.p_holm["same"] > 0.05
    shuffled = scores | {"better": np.random.default_rng(0).permutation(scores["better"])}
    unpaired = paired_differences(shuffled, "base").set_index("method")
    assert unpaired.low["better"] < 0 and unpaired.p_holm["better"] > 0.05


def test_the_test_of_a_difference_holds_its_level() -> None:
    """Without a difference, p ≤ 5 % in at most 5 % of all trials; 7 % is three standard errors of 1000 trials above."""
    draws = np.random.default_rng(0)
    trials = [draws.standard_t(3, size=6) for _ in range(1000)]
    found = [paired_differences({"a": np.zeros(6), "b": one}, resamples=64)["p"][0] for one in trials]
    assert 0.01 < np.mean(np.array(found) <= 0.05) < 0.07


def test_differences_at_their_ends() -> None:
    table = paired_differences({"a": np.zeros(3), "b": np.ones(3), "c": np.array([np.nan, np.nan, 1])}, "a")
    assert table[["mean", "low", "high"]].to_numpy()[0].tolist() == [1, 1, 1]
    assert table["p"].tolist() == [0.25, 1.0] and table["n"].tolist() == [3, 1]
    assert np.isnan(table[["low", "high"]].to_numpy()[1]).all()
    nothing = paired_differences({"a": np.zeros(3), "b": np.full(3, np.nan)})
    assert nothing["n"][0] == 0 and np.isnan(nothing[["mean", "p", "p_holm"]].to_numpy()).all()
    assert holm(np.array([0.01, 0.01, 0.9, np.nan])).tolist()[:3] == [0.03, 0.03, 0.9]


@pytest.mark.parametrize(
    ("scores", "options", "words"),
    [
        ({"a": np.zeros(3)}, {}, "at least two methods"),
        ({"a": np.zeros(3), "b": np.zeros(4)}, {}, r"received shapes \[\(3,\), \(4,\)\] for a, b"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, {"reference": "c"}, "methods here are a, b; received 'c'"),
        ({"a": np.zeros(3), "b": np.zeros(3)}, {"level": 95.0}, "0 < level < 1"),
    ],
)
def test_differences_that_are_none_are_refused(scores: dict, options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        paired_differences(scores, **options)


def test_values_that_are_equal_but_for_rounding_have_no_spread() -> None:
    values = 1 + np.array([0, 2e-16, -1e-16, 0, 1e-16])
    assert mean_interval(values, method="BCa") == (pytest.approx(1), pytest.approx(1), pytest.approx(1), 5)
    low, high = mean_interval(1e-9 * np.arange(6.0), method="BCa")[1:3]  # small is not equal
    assert low < high
