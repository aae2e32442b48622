"""Still pictures: every figure leaves one wherever it is shown; values, places and words are the figure's own."""

import re
import sys
import types
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrp_lens import plots
from lrp_lens.plots.figure import STILL, Figure
from lrp_lens.plots.palette import plotly_text
from lrp_lens.plots.still import still_svg
from lrp_lens.views import View
from tests.frozen_network import FrozenNetwork

SVG = "{http://www.w3.org/2000/svg}"
EYE, ROW = np.eye(2), np.array([1.0, -2.0])


def view(*dims: str, name: str = "v") -> View:
    values = np.arange(2.0 ** len(dims)).reshape((2,) * len(dims)) - 1
    return View(values, dims, name=name, towards=(" Mary", " <John>"))


def _curves() -> pd.DataFrame:
    row = {"method": "a", "masked": 0.0, "mean": 1.0, "low": 0.5, "high": 2.0}
    rows = [row | {"order": order, "masked": masked} for order in ("MoRF", "LeRF") for masked in (0.0, 1.0)]
    return pd.DataFrame(rows)


MASKING = pd.DataFrame(
    {"masked": [0, 1], "gap": [2.0, -1.0], "control": [2.0, 1.5], "control_spread": [0.0, 0.5]}
)
LEDGER = pd.DataFrame(
    {"name": ["tokens", "b"], "kind": ["tokens", "bias"], "amount": [2.0, -0.5], "layer": [None, 0]}
)
PARTS = pd.DataFrame({"component": ["a", "b"], "direct": ROW, "indirect": -ROW, "total": 0 * ROW})
CIRCUITS = pd.DataFrame(
    {"method": "a", "ranking": "absolute", "fraction": [0.01, 1], "edges": [1, 9]}
).assign(recovered=[0.0, 1.0], low=[0.0, 1.0], high=[0.1, 1.0])
SUMMARY = pd.DataFrame(
    {"method": ["a", "b"], "measure": "delta_a", "mean": ROW, "low": ROW - 1, "high": ROW + 1}
)
RUN_MEANS = pd.DataFrame({"run": ["a", "b"], "mean": ROW, "low": ROW - 1, "high": ROW + 1})
TRANSITIONS = pd.DataFrame(
    [[1, 2], [0, 3]],
    index=pd.Index(["input", "none"], name="a"),
    columns=pd.Index(["input", "none"], name="b"),
)

DRAWN: dict[str, Callable[[], go.Figure]] = {
    "plot_circuit_curve": lambda: plots.plot_circuit_curve(CIRCUITS),
    "plot_comparison": lambda: plots.plot_comparison(view("layer", "head"), [view("layer", "head")]),
    "plot_component_edges": lambda: plots.plot_component_edges(view("writer", "reader")),
    "plot_components": lambda: plots.plot_components(view("component")),
    "plot_composition": lambda: plots.plot_composition(view("layer", "component")),
    "plot_cumulative": lambda: plots.plot_cumulative([view("layer"), view("layer", name="w")]),
    "plot_decomposition": lambda: plots.plot_decomposition(PARTS),
    "plot_facets": lambda: plots.plot_facets([view("layer", "head"), view("layer", "position", name="w")]),
    "plot_faithfulness": lambda: plots.plot_faithfulness(_curves()),
    "plot_faithfulness_measure": lambda: plots.plot_faithfulness_measure(SUMMARY),
    "plot_graph": lambda: plots.plot_graph(FrozenNetwork(positions=5, layers=2).graph()),
    "plot_heads": lambda: plots.plot_heads(view("layer", "head")),
    "plot_layers": lambda: plots.plot_layers(view("layer", "position")),
    "plot_ledger": lambda: plots.plot_ledger(LEDGER),
    "plot_masking": lambda: plots.plot_masking(MASKING),
    "plot_profile_steps": lambda: plots.plot_profile_steps(view("layer")),
    "plot_run_means": lambda: plots.plot_run_means(RUN_MEANS, units="logits"),
    "plot_run_profiles": lambda: plots.plot_run_profiles({"a": view("batch", "layer")}),
    "plot_gap_pairs": lambda: plots.plot_gap_pairs(pd.DataFrame({"a": [2.0, 1.0], "<b>": [-1.0, 3.0]})),
    "plot_scores": lambda: plots.plot_scores(
        pd.DataFrame({"example": ["p", "q"], "PC1": ROW, "PC2": -ROW}), ["a", "b"], [0.75, 0.25]
    ),
    "plot_segments": lambda: plots.plot_segments(view("segment")),
    "plot_sources": lambda: plots.plot_sources(view("layer", "head", "position")),
    "plot_transitions": lambda: plots.plot_transitions(TRANSITIONS),
    "plot_view": lambda: plots.plot_view(view("layer", "head")),
}


def words(svg: str) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def shapes(svg: str, colour: str) -> list[list[float]]:
    """The numbers of the paths that are filled with a colour."""
    found = [one for one in ElementTree.fromstring(svg).iter(f"{SVG}path") if one.get("fill") == colour]
    return [[float(n) for n in re.findall(r"-?[\d.]+", one.attrib["d"])] for one in found]


def test_every_plot_function_is_here() -> None:
    assert set(DRAWN) == {name for name in plots.__all__ if name.startswith("plot_")}


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_leaves_a_picture(name: str) -> None:
    """Well-formed, small, with the words of its title and axes, and nothing outside the frame."""
    figure = DRAWN[name]()
    assert isinstance(figure, Figure)
    before = figure.to_json()
    svg = figure._repr_mimebundle_()[STILL]
    assert figure.to_json() == before and len(svg) < 40_000
    shown, root = words(svg), ElementTree.fromstring(svg)
    for axis in (*figure.select_xaxes(), *figure.select_yaxes()):
        if axis.visible is not False and axis.showticklabels is not False and axis.ticktext:
            assert {_plain(one) for one in axis.ticktext} <= set(shown)
    if figure.layout.title.text:
        assert _plain(figure.layout.title.text.partition("<br>")[0]) in shown
    width, height = (float(root.attrib[side]) for side in ("width", "height"))
    for text in root.iter(f"{SVG}text"):
        assert 0 <= float(text.attrib["x"]) <= width and 0 <= float(text.attrib["y"]) <= height, text.text
    assert "nan" not in svg and "None" not in svg


def _plain(text: str) -> str:
    return re.sub(r"<[^>]*>", "", text).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def test_a_heat_map_has_its_cells_where_they_belong() -> None:
    values = np.array([[4.0, -4.0, 0.0], [0.0, np.nan, 2.0]])
    svg = still_svg(plots.plot_heads(View(values, ("layer", "head"), towards=("a", "b")), palette="default"))
    assert svg is not None
    ((highest_x, highest_y, *_),) = shapes(svg, "#2166ac")[:1]  # the cells come before the colour bar
    ((lowest_x, lowest_y, *_),) = shapes(svg, "#b2182b")[:1]
    assert highest_x < lowest_x and highest_y == lowest_y  # H0 left of H1, both in layer 0
    whites = shapes(svg, "#f7f7f7")[0]
    assert len(whites) == 2 * 5 and whites[1] > whites[6]  # two zeros; layer 0 below layer 1
    assert {"+4.00", "−4.00", "+2.00", "H2", "L1", "blue: towards 'a', red: towards 'b'", "+4 logits"} <= set(
        words(svg)
    )


def test_a_colour_bar_stands_beside_the_map_or_lies_above_it() -> None:
    bar = {"tickvals": [-1, 1], "ticktext": ["low", "high"], "thickness": 8}
    scale = [[0, "#ff0000"], [0.5, "rgb(255,255,255)"], [1, "#0000ff"]]
    heat = go.Heatmap(z=[[-1.0, 1.0]], zmin=-1, zmax=1, colorscale=scale, colorbar=bar)
    lying = bar | {"orientation": "h", "lenmode": "pixels", "len": 130, "x": 0, "y": 1}
    for settings_, along, across in ((bar, 1, 0), (lying, 0, 1)):
        heat.colorbar = settings_
        svg = still_svg(go.Figure(heat)) or ""
        (_, blue_cell), (red, blue) = zip(*(shapes(svg, one) for one in ("#ff0000", "#0000ff")), strict=True)
        assert (
            red[across] == blue[across] and red[along] != blue[along] and {"low", "high"} <= set(words(svg))
        )
        assert red[1] < blue_cell[1] if settings_ is lying else red[0] > blue_cell[0] + blue_cell[2]


def test_bars_are_as_long_as_their_values_and_the_first_is_on_top() -> None:
    named = View(np.array([3.0, -1.5, 0.75]), ("component",), {"component": ("x", "y", "z")})
    svg = still_svg(plots.plot_components(named))
    assert svg is not None
    (a, b), (c,) = shapes(svg, "#4393c3"), shapes(svg, "#d6604d")
    lengths = [one[2] - one[0] for one in (a, c, b)]
    np.testing.assert_allclose(np.array(lengths) / lengths[0], [1, 0.5, 0.25], atol=5e-4)
    assert a[1] < c[1] < b[1] and c[2] == a[0] == b[0]  # in order downwards; all start or end at 0


def test_a_waterfall_goes_on_where_it_was_and_ends_at_the_total() -> None:
    svg = still_svg(plots.plot_ledger(LEDGER))
    assert svg is not None
    (tokens,), (bias,), (total,) = (shapes(svg, colour) for colour in ("#4393c3", "#d6604d", "#7a838f"))
    assert tokens[2] == bias[2] and bias[0] == total[2] and total[0] == tokens[0]


def test_stacked_bars_stand_on_each_other() -> None:
    stacked = View(np.array([[2.0, 1.0, -1.0]]), ("layer", "component"))
    svg = still_svg(plots.plot_composition(stacked))
    assert svg is not None
    (lower, *_), (upper, *_), (below, *_) = (shapes(svg, one) for one in ("#5b7894", "#e0a83e", "#7fbc8f"))
    assert upper[3] == lower[1] and below[1] == lower[3]  # a bar: left, top, right, bottom, left


def test_decades_are_equally_wide() -> None:
    figure = go.Figure(go.Scatter(x=[0.01, 0.1, 1], y=[0, 1, 2], mode="markers"))
    figure.update_xaxes(type="log", tickvals=[0.01, 0.1, 1], ticktext=["a", "b", "c"])
    circles = ElementTree.fromstring(still_svg(figure) or "").iter(f"{SVG}circle")
    first, second, third = (float(one.attrib["cx"]) for one in circles)
    assert second - first == pytest.approx(third - second, abs=0.1)  # pixels, to one decimal


def test_gaps_bands_dashes_and_errors() -> None:
    line = go.Scatter(
        x=[0, 1, 2, 3], y=[0, 1, np.nan, 3], mode="lines", line={"dash": "dot", "color": "#123456"}
    )
    band = go.Scatter(
        x=[0, 1, 1], y=[0, 0, 1], fill="toself", fillcolor="rgba(1,2,3,0.25)", line={"width": 0}
    )
    svg = still_svg(go.Figure([line, band])) or ""
    (drawn,) = re.findall(r'<path d="([^"]*)"[^>]*stroke="#123456"[^>]*stroke-dasharray', svg)
    assert drawn.count("M") == 2 and 'fill="#010203" fill-opacity="0.25"' in svg and "<circle" not in svg
    svg = still_svg(plots.plot_faithfulness_measure(SUMMARY)) or ""
    assert svg.count("v8") == 4  # the ends of two intervals


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=12))
def test_any_token_is_legal(token: str) -> None:
    heat = View(EYE, ("layer", "position"), {"position": (token, "b")}, towards=(token, "x"), name=token)
    for figure in (heat.plot(), Figure(go.Bar(x=[1, 2], y=[0, 1], orientation="h", name=plotly_text(token)))):
        figure.update_layout(showlegend=True, title=plotly_text(token))
        assert words(still_svg(figure) or "")


def test_a_figure_read_from_json_is_drawn_as_the_one_it_was() -> None:
    figure = plots.plot_layers(View(np.random.default_rng(0).normal(size=(3, 4)), ("layer", "position")))
    assert still_svg(plotly.io.from_json(figure.to_json())) == still_svg(figure)


def test_what_cannot_be_drawn_is_left_to_plotly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    pie = Figure(go.Pie(values=[1]))
    assert set(pie._repr_mimebundle_()) == {"application/vnd.plotly.v1+json", "text/plain"}
    assert still_svg(go.Figure()) is None


def test_a_notebook_gets_the_figure_and_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a terminal, where plotly opens a browser, gets what plotly does."""
    outputs: list[Any] = []
    shown = types.ModuleType("IPython.display")
    shown.display = lambda bundle, raw: outputs.append((sorted(bundle), raw))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.setattr(go.Figure, "show", lambda self, *args, **kwargs: outputs.append((args, kwargs)))
    monkeypatch.setattr(go.Figure, "_ipython_display_", lambda self: outputs.append("plotly"))
    figure = plots.plot_heads(view("layer", "head"))
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    figure._ipython_display_()
    figure.show()
    figure.show("browser", width=300)
    monkeypatch.setattr(plotly.io.renderers, "default", "browser")
    figure.show()
    monkeypatch.setattr(plotly.io.renderers, "render_on_display", False)
    figure._ipython_display_()
    kinds = ["application/vnd.plotly.v1+json", "image/svg+xml", "text/plain"]
    assert outputs == [(kinds, True), (kinds, True), (("browser",), {"width": 300}), ((), {}), "plotly"]
