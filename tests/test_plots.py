"""Plots: nothing merged, nothing unescaped, symmetric about 0, special tokens out of the scale."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import plotly.io
import pytest

from lrp_lens.errors import InputError
from lrp_lens.markup import Cell
from lrp_lens.plots import (
    plot_circuit_curve,
    plot_comparison,
    plot_component_edges,
    plot_components,
    plot_composition,
    plot_cumulative,
    plot_decomposition,
    plot_facets,
    plot_faithfulness,
    plot_faithfulness_measure,
    plot_heads,
    plot_layers,
    plot_ledger,
    plot_masking,
    plot_profile_steps,
    plot_segments,
    plot_sources,
    token_heatmap_html,
    token_heatmap_text,
    visible_token,
)
from lrp_lens.plots.cells import html_table, shaded_cell, word_cell
from lrp_lens.plots.palette import GREY, colorscale, limit
from lrp_lens.run.ledger import Ledger, LedgerRow
from lrp_lens.views import View

TOKENS = ("<bos>", " John", " Mary", " John", "<script>", "\n")
SPECIAL = np.array([True, False, False, False, False, False])


def tokens_view(values: object = (9.0, 2.0, -1.0, 0.5, 0.0, 0.1), name: str = "AttnLRP") -> View:
    labels = {"position": TOKENS}
    return View(np.array(values), ("position",), labels, name, special=SPECIAL, towards=(" John", " Mary"))


def layers_view() -> View:
    values = np.arange(12.0).reshape(2, 6) - 4
    values[:, 0] = 50
    return View(values, ("layer", "position"), {"position": TOKENS}, "layers", special=SPECIAL)


def spans(html: str) -> list[tuple[str, str]]:
    """(title, class) of each token, in order."""
    return [
        (title, kind)
        for kind, title in re.findall(r'<span class="(lrp-t[^"]*)" tabindex="0" title="([^"]*)"', html)
    ]


def test_every_token_is_shown_once_in_order() -> None:
    titles = [title for title, _ in spans(token_heatmap_html(tokens_view()))]
    assert [int(re.search(r"position (\d+)", title)[1]) for title in titles] == [0, 1, 2, 3, 4, 5]
    assert titles[1].startswith("token &#x27; John&#x27; · position 1 · +2 logits · 15.9 % of")


def test_markup_in_tokens_is_escaped_everywhere() -> None:
    html = token_heatmap_html(tokens_view())
    assert "<script" not in html and "<bos>" not in html
    assert "&lt;script&gt;" in html and "&lt;bos&gt;" in html
    figure = plot_layers(layers_view())
    ticks = figure.layout.xaxis.ticktext
    assert ticks[0] == "&lt;bos&gt;" and ticks[4] == "&lt;script&gt;"
    assert not any("<bos>" in text or "<script>" in text for row in figure.data[0].customdata for text in row)
    named = View(np.ones(1), ("component",), {"component": ("<b>x</b>",)})
    assert plot_components(named).layout.yaxis.ticktext == ("&lt;b&gt;x&lt;/b&gt;",)


def test_special_tokens_are_grey_and_out_of_the_scale() -> None:
    html = token_heatmap_html(tokens_view())
    title, kind = spans(html)[0]
    assert kind == "lrp-t lrp-s" and "+9 logits" in title and "special token" in title
    assert "<small>+9</small>" in html
    assert "+2 logits" in html and "special, out of the scale (71 % of" in html
    assert limit(tokens_view()) == 2.0


def test_opacity_is_proportional_and_symmetric() -> None:
    html = token_heatmap_html(tokens_view((9.0, 2.0, -2.0, 1.0, -0.5, 0.0)))
    shades = re.findall(r"rgba\(var\(--lrp-(\w+),[\d,]+\),([\d.]+)\)", html)
    assert shades == [
        ("blue", "1.000"),
        ("red", "1.000"),
        ("blue", "0.500"),
        ("red", "0.250"),
        ("blue", "0.000"),
    ]


def test_lrp_palette_turns_the_colours_around() -> None:
    html = token_heatmap_html(tokens_view(), palette="lrp")
    assert "red: towards &#x27; John&#x27;" in html and "blue: towards &#x27; Mary&#x27;" in html
    assert re.search(r"--lrp-(\w+),[\d,]+\),1.000", html)[1] == "red"
    assert colorscale("lrp")[0][1] == colorscale("default")[-1][1]
    assert [at for at, _ in colorscale("lrp")] == sorted(at for at, _ in colorscale("lrp"))


def test_weak_evidence_stays_pale() -> None:
    weak = tokens_view((0.0, 0.01, -0.005, 0.0, 0.0, 0.0))
    assert limit(weak) == 0.1
    assert "),0.100)" in token_heatmap_html(weak)
    assert limit(weak.normalise()) == 1.0
    assert limit(weak, floor=5.0) == 5.0
    assert limit(tokens_view((0.0,) * 6), floor=0.0) == 1.0


def test_whitespace_is_visible_and_newlines_break_the_line() -> None:
    assert [visible_token(one) for one in (" a", "\n", "\t", "", "\x00", "é")] == [
        "·a",
        "⏎",
        "⇥",
        "∅",
        "\\x00",
        "é",
    ]
    html = token_heatmap_html(tokens_view())
    assert "⏎" in html and html.count("<br>") == 1 and "·" in html


def test_several_methods_in_rows_with_their_own_scale() -> None:
    one, two = tokens_view(), tokens_view((0, 20.0, 0, 0, 0, 0), name="Gradient")
    html = token_heatmap_html([one, two])
    assert html.count('class="lrp-name"') == 2 and html.count("towards &#x27; John") == 1
    assert "+2 logits" in html and "+20 logits" in html
    assert len(spans(html)) == 12
    assert "my &lt;row&gt;" in token_heatmap_html({"my <row>": one, "b": two})
    assert token_heatmap_html([one, one]).count('class="lrp-name"') == 2
    with pytest.raises(InputError, match="received none"):
        token_heatmap_html([])


def test_a_batch_has_one_row_per_example_without_padding() -> None:
    labels = {"position": (("", "a"), ("b", "c"))}
    special = np.array([[True, False], [False, False]])
    html = token_heatmap_html(
        View(np.array([[0.0, 1], [2, 3]]), ("batch", "position"), labels, special=special)
    )
    assert "example 0" in html and "example 1" in html and len(spans(html)) == 3


def test_missing_and_empty_input() -> None:
    html = token_heatmap_html(tokens_view((np.nan, np.nan, 1.0, 0, 0, 0)))
    assert "n/a" in html and "lrp-m" in html and "rgba(nan" not in html
    assert "no tokens" in token_heatmap_html(View(np.zeros(0), ("position",)))
    assert "missing" in plot_heads(View(np.array([[np.nan]]), ("layer", "head"))).data[0].customdata[0][0]
    assert plot_heads(View(np.zeros((0, 0)), ("layer", "head"))).data
    assert plot_components(View(np.zeros(0), ("component",))).data


def test_no_script_and_no_request_in_the_heat_map() -> None:
    html = token_heatmap_html(tokens_view())
    assert "<script" not in html and "http" not in html and "prefers-color-scheme" in html
    assert "<style" not in token_heatmap_html(tokens_view(), style=False)


def test_terminal_text_of_float32() -> None:
    view = View(np.array([1, -0.25], dtype=np.float32), ("position",))
    assert token_heatmap_text(view).plain.startswith("tok_0 tok_1")


def test_terminal_text() -> None:
    text = token_heatmap_text(tokens_view())
    assert "<bos> +9.00" in text.plain and "<script>" in text.plain
    assert text.plain.count("·John") == 2
    assert "blue: towards ' John'" in text.plain and "full colour: 2 logits" in text.plain
    styles = [str(span.style) for span in text.spans]
    assert styles[0] == "dim italic" and any("38,110,186" in style for style in styles)


def test_maps_are_symmetric_and_keep_repeated_tokens_apart() -> None:
    figure = plot_layers(layers_view())
    ordinary, grey = figure.data
    assert (ordinary.zmin, ordinary.zmax, ordinary.zmid) == (-7.0, 7.0, 0)
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2, 3, 4, 5]
    assert figure.layout.xaxis.ticktext[1] == figure.layout.xaxis.ticktext[3] == "·John"
    assert np.isnan(ordinary.z[:, 0]).all() and not np.isnan(ordinary.z[:, 1:]).any()
    assert grey.x == ordinary.x and grey.showscale is False
    assert (grey.z[:, 0] == 0).all() and np.isnan(grey.z[:, 1:]).all()
    assert "+50 logits" in grey.customdata[0][0] and "special" in grey.customdata[0][0]


def test_heads_are_named_in_the_hover_text() -> None:
    figure = plot_heads(View(np.array([[0.0, 1.0], [-3.0, 2.0]]), ("layer", "head")))
    assert figure.data[0].customdata[1][0] == "L1H0<br>−3 logits"
    assert figure.data[0].text[1][0] == "−3.00"
    assert figure.data[0].texttemplate == "%{text}"
    assert plot_heads(View(np.zeros((12, 12)), ("layer", "head"))).data[0].texttemplate is None


def test_components_are_ranked_and_what_is_left_out_is_said() -> None:
    view = View(np.array([0.5, -2.0, 3.0]), ("component",), {"component": ("a", "b", "c")})
    figure = plot_components(view, show=2)
    assert list(figure.data[0].x) == [3.0, -2.0]
    assert figure.layout.yaxis.ticktext == ("c", "b")
    assert figure.layout.xaxis.title.text == "logits, the largest 2 of 3"
    assert plot_components(view).layout.xaxis.title.text == "logits"


def test_segments_keep_their_order_and_add_up() -> None:
    view = View(
        np.array([0.5, -2.0, 3.0]),
        ("segment",),
        {"segment": ("<facts>", "question", "(rest)")},
        towards=("x", "y"),
    )
    figure = plot_segments(view)
    assert list(figure.data[0].x) == [0.5, -2.0, 3.0]
    assert figure.layout.yaxis.ticktext == ("&lt;facts&gt;", "question", "(rest)")
    assert figure.layout.xaxis.title.text == "logits, +1.5 together"
    assert figure.layout.title.text == "blue: towards 'x', red: towards 'y'"
    assert plot_segments(View(np.zeros(0), ("segment",))).data


def facet(values: object, name: str = "q") -> View:
    return View(np.array(values, dtype=float), ("layer", "head"), name=name, units="change of the metric")


def test_facets_share_one_scale() -> None:
    figure = plot_facets({"q": facet([[1.0, -4.0]]), "<k>": facet([[0.5, 2.0]])}, title="RELP")
    assert [trace.coloraxis for trace in figure.data] == ["coloraxis", "coloraxis"]
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-4.0, 4.0)
    assert list(figure.layout.coloraxis.colorbar.ticktext) == ["−4", "−2", "0", "+2", "+4"]
    assert [note.text for note in figure.layout.annotations] == ["q", "&lt;k&gt;"]
    assert figure.layout.title.text == "RELP (change of the metric)"
    assert figure.data[0].customdata[0][1] == "L0, H1"
    five = {str(index): facet([[1.0]]) for index in range(5)}
    assert len(plot_facets(five).data) == 5 and plot_facets(five).layout.xaxis6.visible is False
    by_position = View(np.ones((2, 3, 2)), ("layer", "position", "head"), units="change of the metric")
    assert plot_facets([by_position]).data[0].z.shape == (4, 3)


def test_missing_cells_are_grey_not_white() -> None:
    cut = facet([[np.nan, 1.0]], "k")
    for figure in (plot_facets([cut]), plot_comparison(facet([[1.0, 2.0]]), [cut])):
        (grey,) = [trace for trace in figure.data if trace.name == "missing"]
        assert grey.colorscale == ((0, GREY), (1, GREY)) and "missing" in grey.hovertemplate
        assert grey.z[0, 0] == 0 and np.isnan(grey.z[0, 1])
    assert plot_facets([cut]).layout.annotations[0].text == "k (50 % missing)"
    assert plot_facets([facet([[np.nan]])]).layout.annotations[0].text == "q (all missing)"
    assert not [trace for trace in plot_facets([facet([[1.0]])]).data if trace.name == "missing"]


def test_facets_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(InputError, match=r"received \[\] for 0 views"):
        plot_facets([])
    with pytest.raises(InputError, match=r"names of their own; received \['q'\] for 2"):
        plot_facets([facet([[1.0]]), facet([[2.0]])])
    with pytest.raises(InputError, match=r"two dims or more; received \('layer',\)"):
        plot_facets([View(np.ones(2), ("layer",))])
    with pytest.raises(InputError, match=r"same units; received \['change of the metric', 'logits'\]"):
        plot_facets([facet([[1.0]]), View(np.ones((1, 1)), ("layer", "head"), name="z")])


def test_the_colour_bar_names_its_ends() -> None:
    bar = plot_heads(View(np.array([[0.0, 1.0], [-3.0, 2.0]]), ("layer", "head"))).data[0].colorbar
    assert list(bar.tickvals) == [-3.0, 0.0, 3.0] and list(bar.ticktext) == ["−3", "0", "+3 logits"]


@pytest.mark.parametrize(
    ("dims", "trace"),
    [
        (("layer", "position"), "heatmap"),
        (("layer", "head"), "heatmap"),
        (("layer", "head", "position"), "heatmap"),
        (("component",), "bar"),
        (("neuron",), "bar"),
        (("segment",), "bar"),
        (("layer",), "scatter"),
        (("layer", "component"), "bar"),
        (("writer", "reader"), "heatmap"),
    ],
)
def test_a_view_draws_what_suits_its_axes(dims: tuple[str, ...], trace: str) -> None:
    view = View(np.arange(2.0 ** len(dims)).reshape((2,) * len(dims)), dims)
    assert trace in {one.type for one in view.plot().data}


def test_tokens_draw_themselves_as_text() -> None:
    """A string as before, which a notebook draws."""
    html = tokens_view().plot(palette="lrp")
    assert html == token_heatmap_html(tokens_view(), palette="lrp") == html._repr_html_()
    assert type(html._repr_html_()) is str and isinstance(html, str)
    batch = View(np.ones((2, 1)), ("batch", "position"), {"position": (("a",), ("b",))})
    assert len(spans(batch.plot())) == 2


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (View(np.array(1.0), ()), "received a scalar"),
        (View(np.ones((1, 2)), ("position", "neuron")), r"received position × neuron.*\.select or \.sum"),
        (View(np.ones((1, 2, 2)), ("batch", "layer", "head")), r"one example with \.select\(batch=0\)"),
    ],
)
def test_views_that_have_no_figure_say_which_do(view: View, message: str) -> None:
    with pytest.raises(InputError, match=message):
        view.plot()


def test_ledger_waterfall_ends_at_the_total() -> None:
    table = pd.DataFrame(
        {
            "layer": [np.nan, 0, 1],
            "name": ["tokens", "b_O", "<b>"],
            "kind": ["tokens", "bias", "bias"],
            "amount": [2.0, 0.5, -1.0],
        }
    )
    figure = plot_ledger(table)
    assert list(figure.data[0].x) == [2.0, -0.5, 1.5]
    assert list(figure.data[0].measure) == ["relative", "relative", "total"]
    assert figure.layout.yaxis.ticktext == ("tokens", "bias", "total")
    assert figure.data[0].customdata[1][0] == "<b>bias</b>: −0.5 logits<br>L1 &lt;b&gt;: −1<br>L0 b_O: +0.5"
    assert list(figure.data[0].text) == ["+2.00", "−0.50", "+1.50"]
    assert figure.layout.title.text == "blue: adds, red: takes away"
    assert plot_ledger(table, towards=("a", "<b>")).layout.title.text.endswith("red: towards '&lt;b&gt;'")
    assert len(plot_ledger(table[:0]).data) == 1
    with pytest.raises(InputError, match="'amount'"):
        plot_ledger(table.drop(columns="amount"))


RESULTS = """
import sys
import numpy as np
from lrp_lens import plots
from lrp_lens.errors import InputError
class Faithfulness:
    pass
for name in ("plot_decomposition", "plot_faithfulness", "plot_faithfulness_measure", "plot_ledger"):
    try:
        getattr(plots, name)(Faithfulness())
    except InputError as error:
        sys.stdout.write(f"{error}\\n")
"""


def test_a_result_object_is_no_table() -> None:
    """In a process of its own: under pytest the annotations are checked first."""
    done = subprocess.run([sys.executable, "-c", RESULTS], capture_output=True, text=True, check=True)
    start = "draws a table; received a Faithfulness. Pass"
    assert done.stdout.splitlines() == [
        f"plot_decomposition {start} `decomposition.table()`, or call `decomposition.plot()`.",
        f"plot_faithfulness {start} `result.curves()`, or call `result.plot()`.",
        f"plot_faithfulness_measure {start} `result.summary()`, or call `result.plot()`.",
        f"plot_ledger {start} `cache.ledger()` or its `.to_dataframe()`.",
    ]


def test_a_ledger_is_drawn_as_its_table_is() -> None:
    one, two = np.array([3.0]), np.array([3.0, 1.0])
    parts = dict(positions=np.zeros(1), stream=np.ones((1, 2)), magnitude=one, towards=(" Mary", " John"))
    ledger = Ledger(metric=one, tokens=np.array([2.5]), rows=(LedgerRow(0, "b_V", "bias", one / 6),), **parts)
    figure = plot_ledger(ledger)
    assert figure == plot_ledger(ledger.to_dataframe(), towards=ledger.towards) == ledger.plot()
    assert "' Mary'" in figure.layout.title.text
    assert "' a'" in plot_ledger(ledger, towards=(" a", " b")).layout.title.text
    batch = dict(positions=0 * two, stream=np.ones((2, 2)), magnitude=two)
    with pytest.raises(InputError, match=r"one example; received 2. Pick one with ledger.plot\(example=0\)"):
        plot_ledger(Ledger(metric=two, tokens=two, rows=(), **batch))


def test_lines_over_the_layers() -> None:
    stages = {"layer": ("embed", "<b>")}
    frozen = View(np.array([1.0, -2.0]), ("layer",), stages, "frozen", towards=("x", "<y>"))
    other = View(np.array([0.5, -2.0]), ("layer",), stages, "recomputed")
    figure = plot_cumulative([frozen, other])
    assert [trace.name for trace in figure.data] == ["frozen", "recomputed"]
    assert figure.data[0].y == (1.0, -2.0) and figure.data[1].line.dash == "dash"
    assert figure.layout.xaxis.ticktext == ("embed", "&lt;b&gt;")
    assert figure.layout.title.text == "up: towards 'x', down: towards '&lt;y&gt;'"
    assert len(plot_cumulative(View(np.zeros(97), ("layer",))).layout.xaxis.tickvals) == 33
    for views, words in (
        ([], "1 to 3 views; received 0"),
        ([View(np.zeros((1, 2)), ("batch", "layer"))], r"select\(batch=0\)"),
        ([frozen, View(np.zeros(2), ("layer",))], "same stages"),
    ):
        with pytest.raises(InputError, match=words):
            plot_cumulative(views)


def test_heads_by_source_token() -> None:
    values = np.zeros((2, 2, 6))
    values[0, 1, 2], values[1, 0, 1], values[1, 1, 0] = 1.0, -3.0, 0.5
    labels = {"position": TOKENS}
    view = View(values, ("layer", "head", "position"), labels, special=SPECIAL, towards=("a", "b"))
    figure = plot_sources(view, show=2)
    assert figure.layout.yaxis.ticktext == ("L0H1", "L1H0")
    assert (
        figure.layout.title.text
        == "blue: towards 'a', red: towards 'b'<br><sup>the largest 2 of 4 heads</sup>"
    )
    assert figure.data[0].z[1, 1] == -3 and np.isnan(figure.data[0].z[:, 0]).all()
    assert figure.data[0].customdata[1][1] == "L1H0, position 1: <b>·John</b><br>−3 logits"
    assert plot_sources(view).layout.yaxis.ticktext == ("L0H0", "L0H1", "L1H0", "L1H1")
    with pytest.raises(InputError, match="plot_sources"):
        plot_sources(layers_view())


def test_cells_of_tables() -> None:
    assert "rgba(214,96,77,0.38)" in shaded_cell("x", -0.5).style
    assert "rgba(67,147,195,0.00)" in shaded_cell("x", 0.0).style
    assert shaded_cell("x", float("nan")) == Cell("x", "text-align:right")
    assert html_table(["<a>"], ["n"], [[word_cell("<b>"), shaded_cell("1", float("nan"))]]) == (
        '<table><thead><tr><th style="text-align:left">&lt;a&gt;</th><th style="text-align:right">n</th></tr></thead>'
        '<tbody><tr><td style="text-align:left">&lt;b&gt;</td><td style="text-align:right">1</td></tr></tbody></table>'
    )


def test_a_waterfall_shows_one_example() -> None:
    table = pd.DataFrame({"example": [0, 1], "name": "tokens", "kind": "tokens", "amount": [2.0, 0.5]})
    with pytest.raises(InputError, match="one example; received 2"):
        plot_ledger(table)


def test_masking_chart() -> None:
    table = pd.DataFrame({"masked": [0, 1], "gap": [2.0, -1.0], "control": [2.0, 1.5]})
    with pytest.raises(InputError, match="control_spread"):
        plot_masking(table)
    figure = plot_masking(table.assign(control_spread=[0.0, 0.5]), target="<x>")
    assert list(figure.data[0].y) == [2.0, 2.0, 1.0, 2.0]
    assert list(figure.data[2].y) == [2.0, -1.0]
    assert "&lt;x&gt;" in figure.layout.yaxis.title.text
    known = table.assign(control_spread=[0.0, 0.5])
    figure = plot_masking(known, random=[[2.0, 2.0], [1.5, float("nan")]], interval=(0.5, 2.5))
    assert list(figure.data[0].y) == [2.5, 2.5, 0.5, 0.5]  # the band
    assert (list(figure.data[1].x), list(figure.data[1].y)) == ([1], [1.5])
    assert list(figure.data[3].y) == [-1.0, -1.0]  # the claim's mean
    nothing = plot_masking(known.iloc[:1], random=[[]], interval=(float("nan"), float("nan")))
    assert list(nothing.data[-1].y) == [2.0]


@pytest.mark.parametrize(
    "plot", [token_heatmap_text, plot_layers, plot_heads, plot_components, plot_segments]
)
def test_wrong_dims_and_palettes_are_refused(plot: object) -> None:
    with pytest.raises(InputError, match=r"dims .*received \('batch', 'neuron'\).*select\(batch=0\)"):
        plot(View(np.zeros((1, 1)), ("batch", "neuron")))


def test_unknown_palette() -> None:
    with pytest.raises((InputError, TypeError), match=r"palette|viridis"):
        token_heatmap_html(tokens_view(), palette="viridis")


def test_global_plotly_settings_are_untouched() -> None:
    before = plotly.io.templates.default
    plot_layers(layers_view())
    assert plotly.io.templates.default == before


def test_large_maps_carry_no_words() -> None:
    figure = plot_layers(View(np.zeros((30, 700)), ("layer", "position")), touched_only=False)
    assert figure.data[0].customdata is None and "%{z" in figure.data[0].hovertemplate
    assert len(figure.layout.xaxis.tickvals) <= 140


def sparse_view(dims: tuple[str, ...] = ("layer", "position")) -> View:
    """50 tokens: relevance at 5, 20 and 49, much of it; little at 7; a special token at 0 and at 9."""
    values = np.zeros((2, 50))
    values[0, [5, 20, 49]], values[1, 7] = (3.0, -4.0, 12.0), 0.5
    values[:, [0, 9]] = 100.0
    words = tuple(f" w{i}" for i in range(50))
    special = np.isin(np.arange(50), [0, 9])
    return View(values.reshape(-1, *[1] * (len(dims) - 2), 50), dims, {"position": words}, special=special)


@pytest.mark.parametrize("draw", [plot_layers, plot_sources])
def test_long_prompts_show_the_tokens_that_carry_most(draw: object) -> None:
    dims = ("layer", "position") if draw is plot_layers else ("layer", "head", "position")
    view = sparse_view(dims)
    few, every = draw(view), draw(view, touched_only=False)
    assert few.layout.xaxis.ticktext == ("·w5 5", "·w20 20", "·w49 49") and len(few.data) == 1
    assert few.data[0].z[0].tolist() == [3.0, -4.0, 12.0] and few.data[0].zmax == every.data[0].zmax == 12
    assert ", position 20: <b>·w20</b><br>−4 " in few.data[0].customdata[0][1]
    assert "3 of 50 tokens, 97 % of Σ|R| outside special tokens" in few.layout.title.text
    assert " of " not in every.layout.title.text and every.data[0].z.shape == (2, 50)
    assert len(every.layout.xaxis.ticktext) == 50 and every.layout.xaxis.ticktext[5] == "·w5"
    thin = draw(view, touched_only=False, width=220)
    assert len(thin.layout.xaxis.ticktext) == 17 and (thin.data[0].xgap, every.data[0].xgap) == (0, 1)
    short = view.select(position=list(range(32)))
    assert draw(short).data[0].z.shape == (2, 32) and len(draw(short, touched_only=True).data[0].z[0]) == 3


def test_what_counts_as_touched() -> None:
    """95 % of the mass, 32 tokens at most; a view without any mass and one without tokens are shown, too."""
    even = View(np.ones((1, 400)), ("layer", "position"))
    assert len(plot_layers(even).data[0].x) == 32
    assert len(plot_layers(View(np.zeros((1, 400)), ("layer", "position"))).data[0].x) == 32
    assert len(plot_layers(View(np.full((2, 400), np.nan), ("layer", "position"))).data[0].x) == 32
    assert plot_layers(View(np.zeros((1, 0)), ("layer", "position")), touched_only=True).data
    falling = View(np.array([[8.0, 4.0, 2.0, 1.0, 0.0]]), ("layer", "position"))
    assert plot_layers(falling, touched_only=True).data[0].z.tolist() == [[8, 4, 2, 1]]
    assert plot_layers(falling.select(position=[0, 1, 2, 4]), touched_only=True).data[0].x == (0, 1, 2)


@pytest.mark.parametrize("draw", [plot_layers, plot_sources])
def test_every_cell_belongs_to_one_trace(draw: object) -> None:
    """Several special tokens: both traces lie on one grid, for plotly stretches the columns of a sparse one."""
    dims = ("layer", "position") if draw is plot_layers else ("layer", "head", "position")
    special = np.isin(np.arange(10), [0, 6])
    view = View(np.ones((3, *[1] * (len(dims) - 2), 10)), dims, special=special)
    ordinary, grey = draw(view).data
    assert ordinary.x == grey.x == tuple(range(10)) and ordinary.y == grey.y
    assert (np.isnan(ordinary.z) == special).all() and (np.isnan(grey.z) != special).all()
    for column in range(10):
        told = (grey if special[column] else ordinary).customdata[1][column]
        assert f"position {column}: <b>tok_{column}</b>" in told
        assert ("special token" in told) == special[column]
    assert not ordinary.hoverongaps and not grey.hoverongaps


WORDS = "<b> $x$ %{y} &"


def figures_of_words() -> list[object]:
    """Every kind of figure with these words at every place that takes words."""
    ends, units = (WORDS, WORDS), WORDS

    def view(*dims: str) -> View:
        shape = (2,) * len(dims)
        labels = dict.fromkeys(dims, (WORDS, f"{WORDS}2"))
        return View(np.ones(shape), dims, labels, WORDS, units, towards=ends)

    ledger = pd.DataFrame({"layer": [WORDS], "name": WORDS, "kind": WORDS, "amount": 1.0})
    parts = pd.DataFrame({"component": [WORDS], "direct": 1.0, "indirect": 1.0, "total": 2.0})
    masking = pd.DataFrame({"masked": [0, 1], "gap": 1.0, "control": 1.0, "control_spread": 0.1})
    curve = {"method": WORDS, "ranking": "absolute", "fraction": [0.1, 1.0], "edges": 2, "recovered": 0.5}
    curve = pd.DataFrame(curve | {"low": 0.4, "high": 0.6})
    curves = {"method": WORDS, "order": ["MoRF", "LeRF"], "masked": 0.5, "mean": 1.0, "low": 0.5, "high": 1.5}
    measures = pd.DataFrame({"method": [WORDS], "measure": WORDS, "mean": 1.0, "low": 0.5, "high": 1.5})
    grid = view("layer", "position")
    return [
        plot_layers(grid),
        plot_heads(view("layer", "head")),
        plot_sources(view("layer", "head", "position")),
        plot_components(view("component")),
        plot_segments(view("segment")),
        plot_facets({WORDS: grid}, title=WORDS),
        plot_comparison(grid, [grid], title=WORDS),
        plot_component_edges(view("writer", "reader")),
        plot_cumulative(view("layer")),
        plot_composition(view("layer", "component")),
        plot_profile_steps(view("batch", "layer")),
        plot_ledger(ledger, towards=ends, units=units),
        plot_decomposition(parts, towards=ends, units=units),
        plot_masking(masking, target=WORDS, contrast=WORDS),
        plot_circuit_curve(curve),
        plot_faithfulness(pd.DataFrame(curves), units=units),
        plot_faithfulness_measure(measures, WORDS, title=WORDS, reference=WORDS),
    ]


def test_plotly_shows_every_text_as_it_is() -> None:
    """No text is markup, a formula (between dollars, where a page has MathJax) or a variable of a hover template."""
    hidden = {"name", "legendgroup"}  # of traces without legend, and never shown
    seen = 0

    def walk(part: object, key: str = "") -> None:
        nonlocal seen
        for name, inner in part.items() if isinstance(part, dict) else []:
            walk(inner, name)
        for inner in part if isinstance(part, list) else []:
            walk(inner, key)
        if isinstance(part, str) and key not in hidden:
            seen += "&#36;x&#36;" in part
            assert not re.search(r"\$x|<b> |%\{y\} &", part), (key, part)

    for figure in figures_of_words():
        before = seen
        walk(figure.to_plotly_json() | {"data": [json.loads(one.to_json()) for one in figure.data]})
        assert seen > before, figure.layout.title.text


def test_compared_positions_are_tokens() -> None:
    """Columns are named by their tokens and say their position on hover; a position of no known token is a number."""
    labels = {"position": ("<bos>", " a long token of a name", "tok_2")}
    view = View(np.ones((2, 3)), ("layer", "position"), labels, "exact")
    figure = plot_comparison(view, [view])
    assert figure.layout.xaxis.ticktext == ("&lt;bos&gt;", "·a·long·t…", "2")
    assert figure.data[0].customdata[1] == [
        "L1, position 0: &lt;bos&gt;",
        "L1, position 1: ·a·long·token·of·a·name",
        "L1, position 2",
    ]
    assert figure.data[-1].customdata[1] == "L0, position 1: ·a·long·token·of·a·name"
    by_head = View(np.ones((2, 3, 2)), ("layer", "position", "head"), labels, units="logits")
    facets = plot_facets([by_head])
    assert facets.data[0].customdata[3][0] == "L1H1, position 0: &lt;bos&gt;"
    pairs = View(np.ones((1, 2, 3, 3)), ("layer", "head", "position", "source"), labels, units="logits")
    assert (
        plot_facets([pairs]).data[0].customdata[1][4] == "L0H1, position 1: ·a·long·token·of·a·name, source 1"
    )


def test_edges_of_a_large_model_show_the_strongest_components() -> None:
    """30 layers of 9 heads: 301 writers, 481 readers; legible and below 1 MB, all of them on demand."""
    random = np.random.default_rng(0)
    values = random.normal(scale=0.01, size=(301, 481))
    values[np.tril_indices(301, -1, 481)] = np.nan
    strong = [(3, 40), (200, 470), (10, 11)]
    for writer, reader in strong:
        values[writer, reader] = 2.0
    labels = {"writer": tuple(f"w{i}" for i in range(301)), "reader": tuple(f"r{i}" for i in range(481))}
    view = View(values, ("writer", "reader"), labels, "component edges")
    figure = plot_component_edges(view)
    assert len(figure.to_json()) < 1_000_000
    assert figure.data[1].z.shape == (60, 60) and len(figure.layout.xaxis.ticktext) == 60
    names = np.array(figure.data[1].customdata)
    assert {f"w{w} → r{r}" for w, r in strong} <= set(names.ravel())
    row, column = np.argwhere(names == "w3 → r40")[0]
    assert figure.data[1].z[row, column] == 2.0
    assert list(figure.layout.yaxis.ticktext) == sorted(
        figure.layout.yaxis.ticktext, key=lambda one: int(one[1:])
    )
    assert "60 of 301 writers and 60 of 481 readers" in figure.layout.title.text
    every = plot_component_edges(view, show=None)
    assert every.data[1].z.shape == (301, 481) and every.data[1].customdata is None
    assert " of " not in every.layout.title.text and len(every.layout.xaxis.ticktext) <= 100
    small = plot_component_edges(view, show=2)
    assert small.data[1].z.shape == (2, 2)
    with pytest.raises(InputError, match="one writer and one reader or more; received show=0"):
        plot_component_edges(view, show=0)


def test_the_ledger_names_the_layer_on_hover() -> None:
    table = pd.DataFrame(
        {"layer": pd.array([pd.NA, 3, 11], dtype="Int64"), "name": ["norm", "b_O", "b_O"], "kind": "bias"}
    ).assign(amount=[0.1, -2.0, 1.0])
    for one in (table, table.set_index(pd.Index([7, 7, 7]))):
        said = plot_ledger(one).data[0].customdata[0][0]
        assert said == "<b>bias</b>: −0.9 logits<br>L3 b_O: −2<br>L11 b_O: +1<br>norm: +0.1"


def test_long_labels_are_cut_on_the_axis_only() -> None:
    view = View(np.ones((1, 1)), ("layer", "position"), {"position": ("<" * 40,)})
    figure = plot_layers(view)
    assert figure.layout.xaxis.ticktext[0] == "&lt;" * 15 + "…"
    assert "&lt;" * 40 in figure.data[0].customdata[0][0]
