"""Stability of circuits: the matrix form against a literal loop, and circuits whose stability is known."""

import re
from itertools import combinations

import numpy as np
import pytest
from jaxtyping import TypeCheckError

from lrp_lens import RELP, LogitDiff, load_demo_model
from lrp_lens.circuits import ComponentEdges, ComponentGraph, component_edges, stability
from lrp_lens.demo import demo_prompts
from lrp_lens.errors import InputError
from lrp_lens.views.statistics.intervals import bootstrap_weights
from tools.picture import ROOT

GRAPH = ComponentGraph(
    n_layers=2, n_heads=2, n_key_value_heads=2, positions=True, biases=frozenset({(0, "b_O")})
)


def edges_of(values: np.ndarray) -> ComponentEdges:
    n = len(values)
    zeros = np.zeros((n, len(GRAPH.readers)))
    return ComponentEdges(GRAPH, values, zeros, np.zeros(n), None, "made up", "m", "none", (("a",),) * n)


def random_values(n: int, seed: int = 0, length: int | None = None) -> np.ndarray:
    shape = GRAPH.connected.shape if length is None else (*GRAPH.connected.shape, length)
    connected = GRAPH.connected if length is None else GRAPH.connected[..., None]
    return np.random.default_rng(seed).normal(size=(n, *shape)) * connected


def literal(
    edges: ComponentEdges, size: int, absolute: bool, resamples: int, seed: int
) -> tuple[list[float], float]:
    """Set by set: sorted edges of each draw; Jaccard with the circuit of all, and the mean of all pairs of draws."""
    circuits = []
    for weights in bootstrap_weights(len(edges.values), resamples, seed):
        mean = sum(weight * own for weight, own in zip(weights, edges.values, strict=True))
        free = [tuple(index) for index in np.argwhere(np.ones_like(mean)) if GRAPH.free[index[0], index[1]]]
        order = sorted(free, key=lambda one: -abs(mean[one]) if absolute else -mean[one])
        circuits.append({one for one in order[:size] if mean[one] != 0})

    def jaccard(a: set, b: set) -> float:
        return len(a & b) / len(a | b)

    own = [jaccard(circuits[0], one) for one in circuits[1:]]
    return own, float(np.mean([jaccard(a, b) for a, b in combinations(circuits[1:], 2)]))


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize("length", [None, 3])
def test_the_matrix_form_is_the_loop(absolute: bool, length: int | None) -> None:
    edges = edges_of(random_values(5, length=length))
    found = stability(edges, [1, 3, 11], absolute=absolute, resamples=12, seed=4).set_index("edges")
    for size in (1, 3, 11):
        own, pairwise = literal(edges, size, absolute, 12, 4)
        row = found.loc[size]
        np.testing.assert_allclose([row["jaccard"], row["pairwise"]], [np.mean(own), pairwise], rtol=1e-12)
        np.testing.assert_allclose([row["low"], row["high"]], np.quantile(own, [0.025, 0.975]), rtol=1e-12)
        assert row["stable"] == (np.mean(own) >= 0.8)


def test_the_circuit_is_that_of_top_edges() -> None:
    """One prompt of two, drawn twice, has the circuit of its own scores."""
    values = random_values(2)
    circuits = [edges_of(some).top(7, prune=False).mask for some in (values, values[:1], values[1:])]
    index = [
        (circuits[0] & circuits[place]).sum() / (circuits[0] | circuits[place]).sum() for place in (1, 2)
    ]
    draws = bootstrap_weights(2, 20, 0)[1:, 0]
    expected = np.mean([index[0] if share == 1 else index[1] if share == 0 else 1.0 for share in draws])
    found = stability(edges_of(values), [7], resamples=20).loc[0, "jaccard"]
    assert found == pytest.approx(expected, rel=1e-12) and set(draws) == {0, 0.5, 1} and max(index) < 1


def test_the_same_scores_for_every_prompt_are_stable_and_noise_is_not() -> None:
    signal = np.repeat(random_values(1), 30, axis=0)
    same = stability(edges_of(signal), [5])
    assert (
        same.loc[0, ["jaccard", "low", "high", "pairwise"]].tolist() == [1, 1, 1, 1] and same.loc[0, "stable"]
    )
    noise = stability(edges_of(random_values(30, seed=1)), [5]).loc[0]
    assert (
        not noise["stable"]
        and noise["chance"] < noise["jaccard"] < 0.7
        and noise["pairwise"] < noise["jaccard"]
    )
    clear = stability(edges_of(signal + 0.05 * random_values(30, seed=2)), [5]).loc[0]
    assert clear["jaccard"] > 0.8


def test_more_prompts_are_more_stable() -> None:
    signal, found = random_values(1), []
    for n in (4, 64):
        found.append(stability(edges_of(signal + random_values(n, seed=3)), [8]).loc[0, "jaccard"])
    assert found[0] + 0.1 < found[1]


def test_edges_that_score_nothing_are_in_no_circuit() -> None:
    """Else two circuits would agree on the order of the graph."""
    values = random_values(20)
    strong = np.argwhere(GRAPH.free)[-2:]
    kept = np.zeros_like(GRAPH.free)
    kept[tuple(strong.T)] = True
    found = stability(edges_of(values * kept), [GRAPH.n_edges]).loc[0]
    assert found["jaccard"] == 1 and found["share"] == 1 and found["chance"] == 1
    one = stability(edges_of(values * kept), [1]).loc[0]
    assert one["jaccard"] < 1
    assert stability(edges_of(values * 0), [3]).loc[0, ["jaccard", "low", "pairwise"]].isna().all()


def test_sizes_are_mibs_by_default_and_each_once() -> None:
    found = stability(edges_of(random_values(3)), resamples=5)
    n = GRAPH.n_edges
    assert found["edges"].tolist() == sorted(
        {max(1, int(share * n)) for share in (0.001, 0.05, 0.1, 0.2, 0.5, 1.0)}
    )
    assert found["jaccard"].iloc[-1] == 1


def test_what_is_refused() -> None:
    edges = edges_of(random_values(3))
    for sizes in ([0], [GRAPH.n_edges + 1], [2.5], [True], []):
        with pytest.raises((InputError, TypeCheckError)):
            stability(edges, sizes)
    with pytest.raises(InputError, match="two prompts"):
        stability(edges_of(random_values(1)))
    with pytest.raises(InputError, match="two draws"):
        stability(edges, resamples=1)
    with pytest.raises(InputError, match="NaN or infinite"):
        stability(edges_of(np.where(np.arange(3)[:, None, None] == 1, np.nan, random_values(3))))


def test_without_edges_of_prompts(unchecked: None) -> None:
    with pytest.raises(InputError, match="component_edges"):
        stability("edges")  # type: ignore[arg-type]


def test_the_manual_says_what_comes_out() -> None:
    prompts = [one for one in demo_prompts(400) if one.words[0] == "then"][:24]
    corrupted = [" ".join([*one.words[:9], one.answer, *one.words[10:]]) for one in prompts]
    metric = LogitDiff([one.answer for one in prompts], [one.foil for one in prompts])
    model = load_demo_model(device="cpu")
    edges = component_edges(model, [one.text for one in prompts], corrupted, metric, rules=RELP)
    found = stability(edges, [4, 23, 95])
    said = [f"{row.jaccard:.2f} [{row.low:.2f}, {row.high:.2f}]" for row in found.itertuples()]
    page = (
        (ROOT / "docs" / "circuits.md").read_text(encoding="utf-8").partition("## Is it the same circuit")[2]
    )
    row = next(line for line in page.splitlines() if line.startswith("| RELP |"))
    numbers = [float(number) for number in re.findall(r"[\d.]+", row)]
    ours = [float(number) for number in re.findall(r"[\d.]+", " ".join(said))]
    np.testing.assert_allclose(numbers, [*ours, round(found.loc[1, "pairwise"], 2)], atol=0.011)
