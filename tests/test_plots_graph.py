"""Plots of graphs: what the page embeds follows pruning's rule, tokens stay text, signs and special tokens as said."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest

from lrp_lens.attribution_graphs.arrays import AttributionGraph, composition
from lrp_lens.errors import InputError
from lrp_lens.plots import graph_html, plot_composition, plot_graph, plot_profile_steps
from lrp_lens.plots.graph_data import drawn, graph_data, shares_before
from lrp_lens.views import View
from tests.frozen_network import FrozenNetwork

NETWORK = FrozenNetwork(positions=13, layers=3)
EVIL = "</script><img src=x onerror=alert(1)>"


def embedded(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1])


def evil_graph() -> AttributionGraph:
    tokens = ("<bos>", EVIL, *NETWORK.graph().token_strings[2:])
    return NETWORK.graph(
        token_strings=tokens, metric_text=EVIL, rules_text=EVIL, notes=(EVIL,), towards=(EVIL, EVIL)
    )


@pytest.mark.parametrize("mass", [0.3, 0.6, 0.85, 1.0])
def test_the_slider_follows_the_rule_of_pruning(mass: float) -> None:
    graph = NETWORK.graph()
    data = graph_data(graph, 10**6)
    shown = [i for i, before in enumerate(data["edges"][4]) if before < mass or mass == 1]
    got = {(data["edges"][0][i], data["edges"][2][i], data["edges"][1][i]) for i in shown}
    kept = graph.prune(mass=mass)
    assert got == set(zip(kept.transition.tolist(), kept.target.tolist(), kept.source.tolist(), strict=True))


def test_a_pruned_graph_keeps_its_ranks() -> None:
    graph = NETWORK.graph()
    small = graph.prune(mass=0.8)
    kept = small.prune(mass=0.5)
    assert (shares_before(small) < 0.5).sum() == len(kept.relevance) == len(graph.prune(mass=0.5).relevance)


def test_at_most_so_many_edges_are_embedded_and_the_page_says_so() -> None:
    graph = NETWORK.graph()
    html = graph_html(graph, max_edges=20)
    data = embedded(html)
    assert len(data["edges"][0]) == 20
    left = np.setdiff1d(np.arange(len(graph.relevance)), drawn(graph, 20))
    assert shares_before(graph)[drawn(graph, 20)].max() <= shares_before(graph)[left].min()
    said = re.search(r"page holds 20 of the graph’s (\d+) edges, .* carry ([\d.]+) % of what all", html)
    assert int(said[1]) == len(graph.relevance)
    share = np.abs(graph.relevance[drawn(graph, 20)]).sum() / np.abs(graph.relevance).sum()
    assert float(said[2]) == pytest.approx(100 * share, abs=0.051)  # one decimal is printed
    assert 'class="lrp-cap"' not in graph_html(graph)
    assert [abs(one) for one in data["edges"][3]] == sorted(abs(one) for one in data["edges"][3])


def test_the_page_holds_the_numbers() -> None:
    graph = NETWORK.graph()
    view = graph.refine(("L0", 4), into="dimensions")
    data = embedded(graph_html(graph))
    boundary, position, relevance, sinks = data["nodes"]
    assert set(zip(boundary, position, strict=True)) == set(zip(*np.nonzero(graph.in_graph), strict=True))
    np.testing.assert_allclose(relevance, graph.node_relevance[boundary, position], rtol=1e-4)
    for b, p, held in zip(boundary, position, sinks, strict=True):
        wanted = graph.sinks[b - 1, :, p] if b else np.zeros(2)
        np.testing.assert_allclose([dict(held).get(kind, 0.0) for kind in range(2)], wanted, rtol=1e-4)
    np.testing.assert_allclose(data["mass"], [graph.total_mass.sum(), graph.pruned_mass.sum()])
    for t, i, j, value, _, parts in zip(*data["edges"], strict=True):
        exact = NETWORK.matrix(t, t + 1)[j, i]
        assert value == pytest.approx(exact, rel=1e-4)
        assert sum(one[1] for one in parts) == pytest.approx(
            exact,
            abs=len(parts) * 5e-4 * max(abs(one[1]) for one in parts),  # each to four digits
        )
    rows = dict(data["refinements"]["L0@4 into dimensions"])
    assert rows["d0"] == pytest.approx(view.values[0], rel=5e-4)  # four digits
    assert data["targets"] == [[6, 12]] and data["special"] == [0]
    ordinary = ~graph.special[graph.source] & ~graph.special[graph.target] & (graph.source != graph.target)
    assert data["edgeMax"] == np.abs(graph.relevance[ordinary]).max()


def test_the_page_holds_the_strongest_paths_whatever_edges_it_holds() -> None:
    graph = NETWORK.graph()
    listed = embedded(graph_html(graph, max_edges=1))["paths"]
    wanted = graph.paths(8)
    assert [tuple(one["positions"]) for one in listed] == wanted["positions"].tolist()
    np.testing.assert_allclose([one["relevance"] for one in listed], wanted["relevance"], rtol=1e-4)
    for one, text in zip(listed, wanted["text"], strict=True):
        carriers = re.findall(r"→ (L\d\S* ?\w*) →", text)
        assert [carrier for _, carrier, _ in one["moves"]] == carriers
        for t, _, value in one["moves"]:
            i, j = one["positions"][t], one["positions"][t + 1]
            assert i != j and value == pytest.approx(NETWORK.matrix(t, t + 1)[j, i], rel=1e-4)


def test_long_refinements_and_parts_end_in_their_rest() -> None:
    network = FrozenNetwork(positions=4, layers=1, heads=9, width=20)
    graph = network.graph()
    view = graph.refine(("L0", 3), into="dimensions")
    data = embedded(graph_html(graph))
    rows = data["refinements"]["L0@3 into dimensions"]
    assert len(rows) == 15 and rows[-1][0] == "6 more"
    rounded = 5e-4 * sum(abs(one[1]) for one in rows)  # each to four digits
    assert sum(one[1] for one in rows) == pytest.approx(view.values.sum(), abs=rounded)
    assert any(parts[-1][0] == "5 more" for parts in data["edges"][5])


def test_nothing_from_the_prompt_is_markup() -> None:
    html = graph_html(evil_graph(), title=EVIL)
    assert "<img" not in html and html.count("</script>") == 2
    data = embedded(html)
    assert data["tokens"][1] == EVIL.replace(" ", "·") and data["tokens"][2] == "·and"
    figure = plot_graph(evil_graph())
    texts = [figure.layout.title.text, *figure.layout.xaxis.ticktext]
    texts += [text for trace in figure.data if trace.customdata is not None for text in trace.customdata]
    assert not any("<img" in text or "<bos>" in text for text in texts)
    assert any("&lt;img" in text for text in texts)


def test_the_page_is_self_contained() -> None:
    html = graph_html(NETWORK.graph())
    assert not re.search(r"(?:src|href)\s*=", html)
    assert set(re.findall(r"https?://[^\s\"']+", html)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in html and "prefers-color-scheme:dark" in html
    assert "innerHTML" not in html


def test_palette_title_and_fragment() -> None:
    graph = NETWORK.graph()
    blue, red = graph_html(graph), graph_html(graph, palette="lrp")
    assert "--plus: rgb(67,147,195);--minus: rgb(214,96,77)" in blue
    assert "--plus: rgb(214,96,77);--minus: rgb(67,147,195)" in red
    assert "blue: towards &#x27; Mary&#x27;" in blue and "red: towards &#x27; Mary&#x27;" in red
    fragment = graph_html(graph, page=False, title="A < B")
    assert fragment.startswith('<div class="lrp-graph">') and "<h1>A &lt; B</h1>" in fragment
    assert fragment in graph_html(graph, title="A < B") and "<html" not in fragment


def test_an_empty_graph_and_one_without_target_draw() -> None:
    empty = NETWORK.graph().prune(edge_threshold=1e9)
    assert embedded(graph_html(empty))["edges"][0] == []
    assert len(plot_graph(empty).data) == 2
    data = embedded(graph_html(NETWORK.graph(target_positions=(), towards=None)))
    assert data["targets"] == []


def test_the_figure_draws_every_edge_once_in_its_colour() -> None:
    graph = NETWORK.graph().prune(mass=0.9)
    figure = plot_graph(graph)
    lines = [trace for trace in figure.data if trace.name == "edges"]
    found = {}
    for trace in lines:
        x, y = np.reshape(trace.x, (-1, 3)), np.reshape(trace.y, (-1, 3))
        assert np.isnan(x[:, 2]).all()
        for i, j, t, above in zip(x[:, 0], x[:, 1], y[:, 0], y[:, 1], strict=True):
            assert above == t + 1
            found[int(t), int(j), int(i)] = trace.line.color
    wanted = {}
    for t, j, i, value in zip(graph.transition, graph.target, graph.source, graph.relevance, strict=True):
        special = graph.special[i] or graph.special[j]
        wanted[int(t), int(j), int(i)] = (
            "#a3abb5" if special else "rgb(67, 147, 195)" if value >= 0 else "rgb(214, 96, 77)"
        )
    assert found == wanted and len(set(wanted.values())) == 3
    nodes = figure.data[-1]
    assert len(nodes.x) == graph.in_graph.sum()
    assert list(nodes.marker.line.color).count("#16191d") == 1
    assert figure.layout.yaxis.ticktext[0] == "embed"


def test_wider_lines_are_stronger_edges() -> None:
    graph = NETWORK.graph()
    widths = {}
    for trace in plot_graph(graph).data:
        if trace.name == "edges" and trace.line.color != "#a3abb5":
            x, y = np.reshape(trace.x, (-1, 3)), np.reshape(trace.y, (-1, 3))
            for i, j, t in zip(x[:, 0], x[:, 1], y[:, 0], strict=True):
                widths.setdefault(trace.line.width, []).append(
                    abs(NETWORK.matrix(int(t), int(t) + 1)[int(j), int(i)])
                )
    ordered = sorted(widths)
    assert len(ordered) > 2
    for thin, thick in pairwise(ordered):
        assert max(widths[thin]) <= min(widths[thick])


def test_the_figure_says_what_it_leaves_out() -> None:
    graph = NETWORK.graph()
    assert "10 of" in plot_graph(graph, max_edges=10).layout.title.text
    assert " of " not in plot_graph(graph).layout.title.text


def test_tokens_that_no_edge_touches_may_be_left_out() -> None:
    graph = NETWORK.graph().prune(edge_threshold=0.2)
    touched = sorted({*graph.source.tolist(), *graph.target.tolist(), *graph.target_positions})
    assert 0 < len(touched) < len(graph.token_strings)
    few, every = plot_graph(graph, touched_only=True), plot_graph(graph)
    assert len(every.layout.xaxis.ticktext) == len(graph.token_strings)
    shown = [text.removesuffix("</i>") for text in few.layout.xaxis.ticktext]
    assert [int(text.rpartition(" ")[2]) for text in shown] == touched
    assert f"{len(touched)} of {len(graph.token_strings)} tokens" in few.layout.title.text
    hovers = [sorted(figure.data[-1].customdata) for figure in (few, every)]
    assert hovers[0] == hovers[1]  # the same nodes, in other columns


def test_a_graph_draws_itself() -> None:
    graph = NETWORK.graph()
    assert graph.plot(max_edges=10, palette="lrp") == plot_graph(graph, max_edges=10, palette="lrp")
    with pytest.raises(InputError, match="received max_edges=0"):
        graph.plot(max_edges=0)


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda graph: graph_html(graph, mass=1.2), "share from 0 to 1; received 1.2"),
        (lambda graph: graph_html(graph, max_edges=0), "one edge or more; received max_edges=0"),
        (lambda graph: plot_graph(graph, max_edges=0), "one edge or more; received max_edges=0"),
        (lambda graph: plot_graph(graph, palette="viridis"), r"palette|viridis"),
        (lambda graph: graph_html(graph, palette="viridis"), r"palette|viridis"),
    ],
)
def test_bad_options(draw: object, words: str) -> None:
    with pytest.raises((InputError, TypeError), match=words):
        draw(NETWORK.graph())


def long_graph() -> AttributionGraph:
    """200 tokens, of which few are touched by the strongest edges."""
    return FrozenNetwork(positions=200, layers=1, heads=1, width=2, sharpness=4.0).graph()


def test_long_prompts_show_the_tokens_that_matter() -> None:
    graph = long_graph()
    data = embedded(graph_html(graph, max_edges=30))
    assert len(data["tokens"]) == 200 and len(data["nodes"][0]) < 300  # every token, few nodes
    figure = plot_graph(graph, max_edges=30)
    chosen = drawn(graph, 30)
    places = sorted({*graph.source[chosen].tolist(), *graph.target[chosen].tolist(), 199})
    assert len(figure.layout.xaxis.tickvals) == len(places) < 60
    assert figure.layout.xaxis.ticktext[-1].endswith(" 199")
    assert figure.data[-1].x.max() == len(places) - 1
    assert f"@{places[-2]}" in " ".join(figure.data[-1].customdata)


def test_the_figure_of_a_long_prompt_fits() -> None:
    """At most 32 columns, those with the strongest edges and the target, and no width of its own; all on demand."""
    graph = long_graph()
    figure, every = plot_graph(graph), plot_graph(graph, touched_only=False)
    assert figure.layout.width is None and len(figure.layout.xaxis.ticktext) == 32
    places = [int(text.removesuffix("</i>").rpartition(" ")[2]) for text in figure.layout.xaxis.ticktext]
    assert places == sorted(places) and places[-1] == 199
    ordinary = ~graph.special[graph.source] & ~graph.special[graph.target]
    shown = drawn(graph, 1500)
    shown = shown[ordinary[shown]]
    mass = np.bincount(graph.source[shown], np.abs(graph.relevance[shown]), 200)
    mass += np.bincount(graph.target[shown], np.abs(graph.relevance[shown]), 200)
    left = np.setdiff1d(np.arange(199), places)
    assert mass[left].max() <= mass[places[:-1]].min()
    (edges,) = [trace for trace in figure.data if trace.name == "edge"]
    said = re.search(
        r"([\d,]+) of [\d,]+ edges, (\d+) % of their Σ\|A\|; 32 of 200 tokens", figure.layout.title.text
    )
    assert int(said[1].replace(",", "")) == len(edges.x) < 1500
    assert every.data[-1].x.max() == 199 and "tokens" not in every.layout.title.text
    assert len(every.layout.xaxis.tickvals) == 67
    assert len(plot_graph(graph, touched_only=False, width=2400).layout.xaxis.tickvals) == 200
    assert plot_graph(graph, width=900).layout.width == 900


def test_a_metric_of_all_positions_of_a_long_prompt_draws() -> None:
    graph = FrozenNetwork(positions=200, layers=1, heads=1, width=2, targets=tuple(range(200))).graph()
    assert len(embedded(graph_html(graph, max_edges=10))["targets"]) == 200
    assert len(plot_graph(graph, max_edges=10).data[-1].x) <= 60


@pytest.mark.parametrize("mass", [0.6, 1.0])
def test_composition_bars_stack_up_to_the_node(mass: float) -> None:
    split = composition(NETWORK.graph().prune(mass=mass))
    figure = plot_composition(split)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    np.testing.assert_allclose(np.sum([one.y for one in bars], axis=0), split.values.sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(figure.data[-1].y, NETWORK.graph().node_relevance[1:, 12], atol=1e-12)
    assert len({one.marker.color for one in bars}) == len(bars) and figure.layout.barmode == "relative"
    assert "remainder" in bars[-1].hovertemplate and figure.layout.xaxis.ticktext[0] == "L0 mid"
    with pytest.raises(InputError, match="plot_composition shows a view with dims"):
        plot_composition(split.sum("component"))


def test_the_peak_of_each_profile_is_boxed() -> None:
    labels = {"batch": ("a", "<b>"), "layer": ("embed", "L0", "L1", "L2")}
    matrix = View(np.array([[0.0, 1, 5, 4], [3.0, -3, -3, 0]]), ("batch", "layer"), labels)
    figure = plot_profile_steps(matrix)
    assert figure.data[0].z.tolist() == [[1, 4, 1], [6, 0, 3]]
    boxes = [(one.x0 + 0.5, one.y0 + 0.5) for one in figure.layout.shapes]
    assert boxes == [(1, 0), (0, 1)]
    assert (
        figure.layout.yaxis.ticktext == ("a", "&lt;b&gt;") and figure.layout.xaxis.ticktext[0] == "embed → L0"
    )
    one = plot_profile_steps(matrix.select(batch=0))
    assert len(one.layout.shapes) == 1 and one.data[0].z.shape == (1, 3)
