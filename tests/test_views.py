"""Views: labelled arrays that never merge repeated tokens and never hide special ones."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from lrp_lens.errors import InputError
from lrp_lens.views import View
from lrp_lens.views.indexing import at_labels

TOKENS = ("<bos>", "John", "Mary", "John", "\n")
VALUES = np.array([4.0, 2.0, -1.0, 0.5, 0.5])
SPECIAL = np.array([True, False, False, False, False])


def tokens_view(**changes: object) -> View:
    given = dict(
        values=VALUES,
        dims=("position",),
        labels={"position": TOKENS},
        name="tokens",
        special=SPECIAL,
        towards=("John", "Mary"),
        notes=("ATTN_LRP",),
    )
    return View(**(given | changes))


def batch_view() -> View:
    return View(
        np.array([[0.0, 1.0, 2.0], [4.0, 4.0, -2.0]]),
        ("batch", "position"),
        {"position": (("", "a", "b"), ("<bos>", "c", "d"))},
        "tokens",
        special=np.array([[True, False, False], [True, False, False]]),
    )


def test_tokens_are_keyed_by_position() -> None:
    frame = tokens_view().to_dataframe()
    assert frame.columns.tolist() == ["position", "token", "value", "special"]
    assert frame["position"].tolist() == [0, 1, 2, 3, 4]
    assert frame["token"].tolist() == list(TOKENS)
    assert frame["value"].tolist() == VALUES.tolist()
    assert frame["special"].tolist() == SPECIAL.tolist()


def test_heads_are_labelled_as_in_the_literature() -> None:
    view = View(np.array([[0.0, 1.0], [-3.0, 2.0]]), ("layer", "head"))
    assert view.labels == {"layer": ("L0", "L1"), "head": ("H0", "H1")}
    top = view.top(2)
    assert top["label"].tolist() == ["L1H0", "L1H1"]
    assert top[["layer", "head", "value"]].to_numpy().tolist() == [[1, 0, -3.0], [1, 1, 2.0]]


def test_components_have_names_not_numbers() -> None:
    view = View(np.array([1.0, 2.0]), ("component",), {"component": ("embed", "L0H0")})
    assert view.to_dataframe().to_dict("list") == {"component": ["embed", "L0H0"], "value": [1.0, 2.0]}


def test_default_labels() -> None:
    view = View(np.zeros((2, 1, 2)), ("batch", "layer", "position"))
    assert view.labels == {"batch": ("0", "1"), "layer": ("L0",), "position": ("tok_0", "tok_1")}


def test_normalise_divides_by_the_largest_ordinary_token() -> None:
    view = tokens_view().normalise()
    assert view.values.tolist() == [2.0, 1.0, -0.5, 0.25, 0.25]
    assert view.units == "fraction of max |R|"
    assert view.special_share == 4.0 / (4.0 + 2.0 + 1.0 + 0.5 + 0.5)
    assert view.notes[-1] == (
        "divided by max |R| over non-special tokens = 2 logits; special tokens hold 50.0 % of the sum of |R|"
    )


def test_normalise_with_special_tokens_in_the_scale() -> None:
    view = tokens_view().normalise(exclude_special=False)
    assert view.values.tolist() == (VALUES / 4).tolist()
    assert "over all values = 4 logits" in view.notes[-1]


def test_normalise_is_per_example() -> None:
    view = batch_view().normalise()
    assert view.values.tolist() == [[0.0, 0.5, 1.0], [1.0, 1.0, -0.5]]
    assert np.asarray(view.special_share).tolist() == [0.0, 0.4]


@pytest.mark.parametrize("values", [np.zeros(5), np.array([7.0, 0, 0, 0, 0])])
def test_normalise_leaves_an_empty_signal_alone(values: np.ndarray) -> None:
    assert tokens_view(values=values).normalise().values.tolist() == values.tolist()


def test_layers_share_one_scale() -> None:
    values = np.array([[9.0, 1.0], [9.0, -4.0]])
    view = View(values, ("layer", "position"), special=np.array([True, False]))
    assert view.normalise().values.tolist() == (values / 4).tolist()


def test_padding_is_left_out_of_tables_only() -> None:
    view = batch_view()
    assert view.shape == (2, 3)
    frame = view.to_dataframe()
    assert frame[["batch", "position", "token"]].to_numpy().tolist() == [
        [0, 1, "a"],
        [0, 2, "b"],
        [1, 0, "<bos>"],
        [1, 1, "c"],
        [1, 2, "d"],
    ]
    assert view.select(batch=0).to_dataframe()["token"].tolist() == ["a", "b"]


def test_an_empty_token_with_relevance_is_no_padding() -> None:
    view = View(np.array([1.0]), ("position",), {"position": ("",)}, special=np.array([True]))
    assert len(view.to_dataframe()) == 1


def test_select_drops_or_keeps_axes() -> None:
    view = batch_view()
    one = view.select(batch=1)
    assert one.dims == ("position",) and one.labels["position"] == ("<bos>", "c", "d")
    assert one.special is not None and one.special.tolist() == [True, False, False]
    assert view.select(batch=1, position=-1).values == -2.0
    assert view.select(position=2).values.tolist() == [2.0, -2.0]
    assert view.select(position=2).special is None
    kept = view.select(position=[1, 2])
    assert kept.labels["position"] == (("a", "b"), ("c", "d"))
    assert kept.notes == ("position: 2 of 3, renumbered from 0",)
    assert view.select(batch=slice(1, 2)).labels["position"] == (("<bos>", "c", "d"),)


def test_select_by_label_where_it_is_unique() -> None:
    view = View(np.arange(6.0).reshape(2, 3), ("layer", "head"))
    assert view.select(layer="L1").values.tolist() == [3.0, 4.0, 5.0]
    assert view.select(layer="L1").notes == ("layer 1: 'L1'",)
    assert tokens_view().select(position="Mary").values == -1.0
    with pytest.raises(
        InputError, match=r"unique; 'John' stands at position 1, 3. Use .select\(position=1\)"
    ):
        tokens_view().select(position="John")
    with pytest.raises(InputError, match=r"no label 'L9' along layer. Did you mean 'L1' or 'L0'"):
        view.select(layer="L9")


def test_indexing_by_label() -> None:
    heads = View(np.arange(6.0).reshape(2, 3), ("layer", "head"), name="heads")
    assert heads["L1H2"] == 5.0 and isinstance(heads["L1H2"], float)
    assert heads["L1", "H2"] == heads["H2", "L1"] == heads["H2"]["L1"] == 5.0
    assert heads["H2"].dims == ("layer",) and heads["H2"].values.tolist() == [2.0, 5.0]
    assert tokens_view()["\n"] == 0.5 and tokens_view()["<bos>"] == 4.0
    many = View(np.ones((2, 2, 3)), ("batch", "layer", "head"))
    assert many["L1H2"].dims == ("batch",)
    components = View(np.array([1.0, 2.0]), ("component",), {"component": ("embed", "L0H0")})
    assert components["L0H0"] == 2.0


@pytest.mark.parametrize(
    ("view", "label", "message"),
    [
        (tokens_view(), " mary", "no label ' mary' along position. Did you mean 'Mary'"),
        (tokens_view(), "John", "'John' stands at position 1, 3"),
        (tokens_view(), "zebra", "It has '<bos>', 'John', 'Mary', …"),
        (tokens_view(), "", "no label ''"),
        (tokens_view(), 2, r"labels such as '<bos>'.*received 2. Numbers pick by .select\(position=3\)"),
        (tokens_view(), slice(2), "received slice"),
        (tokens_view(), ("Mary", "John"), "no label 'John' along any axis. It has no labels"),
        (View(np.ones((2, 2)), ("layer", "head")), "l1h1", "Did you mean 'L1H1'"),
        (View(np.ones((2, 2)), ("layer", "head")), "L1H9", "Did you mean 'L1H1'"),
        (View(np.ones((2, 2)), ("batch", "neuron")), "1", "'1' is a label of batch and neuron"),
        (batch_view(), "a", r"The examples have their own tokens; use .select\(batch=0\) first"),
    ],
)
def test_labels_that_pick_nothing_are_refused(view: View, label: object, message: str) -> None:
    """Called past `View.__getitem__`, whose annotations are checked first under pytest."""
    with pytest.raises(InputError, match=message):
        at_labels(view, label)


def test_a_view_is_no_sequence() -> None:
    """Indexed by labels, it would otherwise be iterated by number, up to an error."""
    with pytest.raises(TypeError, match="not iterable"):
        list(tokens_view())
    with pytest.raises(TypeError):
        _ = "Mary" in tokens_view()


def test_sum() -> None:
    view = batch_view()
    assert view.sum() == 9.0 and isinstance(view.sum(), float)
    assert View(np.float32([[1, 2]]), ("layer", "head")).sum() == 3.0
    assert np.isnan(tokens_view(values=np.array([1, np.nan, 0, 0, 0])).sum())
    assert view.sum("position").values.tolist() == [3.0, 6.0]
    assert view.sum("position").special is None
    with pytest.raises(InputError, match="equal tokens at equal positions"):
        view.sum("batch")
    same = View(np.ones((2, 2)), ("batch", "position"), {"position": (("a", "b"), ("a", "b"))})
    assert same.sum("batch").labels == {"position": ("a", "b")}
    assert View(np.ones((2, 3)), ("layer", "head")).sum("head").values.tolist() == [3.0, 3.0]


def test_top_is_by_magnitude_and_skips_what_is_missing() -> None:
    view = tokens_view(values=np.array([4.0, np.nan, -1.0, 0.5, 0.25]))
    assert view.top(2)["position"].tolist() == [0, 2]
    assert view.top(2, exclude_special=True)["position"].tolist() == [2, 3]
    assert len(view.top(99)) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(dims=("layer", "position")), "one distinct dim per axis"),
        (dict(labels={"position": ("a", "b")}), "5 string labels"),
        (dict(labels={"token": TOKENS}), "Labels name axes"),
        (dict(special=np.array([True])), "special marks positions"),
        (dict(values=np.array([0, 1, 2, 3, np.inf])), "finite"),
        (dict(labels={"position": (TOKENS,)}), "needs a batch dim"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tokens_view(**changes)


def test_batch_comes_first() -> None:
    with pytest.raises(InputError, match="batch dim comes first"):
        View(np.zeros((2, 2)), ("position", "batch"))


@pytest.mark.parametrize("key", [5, -6, [0, 9]])
def test_index_out_of_range(key: int | list[int]) -> None:
    with pytest.raises(InputError, match="position has 5 entries"):
        tokens_view().select(position=key)


def test_unknown_dim() -> None:
    with pytest.raises(InputError, match=r"has the dims \('position',\); received 'layer'"):
        tokens_view().sum("layer")


@pytest.mark.parametrize(
    "view", [tokens_view(), batch_view(), View(np.zeros((1, 2), np.float32), ("layer", "head"))]
)
def test_save_and_load(view: View, tmp_path: Path) -> None:
    path = tmp_path / "view.safetensors"
    view.save(path)
    back = View.load(path)
    assert (back.dims, back.labels, back.name, back.units) == (view.dims, view.labels, view.name, view.units)
    assert (back.towards, back.notes) == (view.towards, view.notes)
    assert back.values.dtype == view.values.dtype
    np.testing.assert_array_equal(back.values, view.values)
    np.testing.assert_array_equal(back.special_cells(), view.special_cells())


def test_load_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing is at"):
        View.load(tmp_path / "none")
    (tmp_path / "text").write_text(json.dumps({"a": 1}) * 9)
    with pytest.raises(InputError, match="is not"):
        View.load(tmp_path / "text")
    save_file({"weight": np.zeros(2)}, tmp_path / "weights")
    with pytest.raises(InputError, match="of the kind None"):
        View.load(tmp_path / "weights")


def test_repr_says_what_the_numbers_are() -> None:
    text = repr(tokens_view())
    for part in (
        "View 'tokens': position 5; logits",
        "towards 'John'",
        "special tokens hold 50.0 %",
        "ATTN_LRP",
    ):
        assert part in text
    assert "1 missing" in repr(tokens_view(values=np.array([1, np.nan, 0, 0, 0])))
    assert "scalar" in repr(tokens_view().select(position=1))


def test_html_is_escaped() -> None:
    html = tokens_view(
        labels={"position": ("<bos>", "<script>alert(1)</script>", "a", "b", "&")}
    )._repr_html_()
    assert "<script" not in html and "&lt;script&gt;" in html and "&lt;bos&gt;" in html


def test_empty_views() -> None:
    view = View(np.zeros(0), ("position",), special=np.zeros(0, dtype=bool))
    assert len(view.to_dataframe()) == 0 and view.special_share == 0 and view.normalise().shape == (0,)
    assert "position 0" in repr(view) and "<table>" in view._repr_html_()


def test_a_view_is_an_array() -> None:
    assert np.asarray(tokens_view()).tolist() == VALUES.tolist()
    assert np.abs(tokens_view()).sum() == 8.0
    assert len(tokens_view()) == 5
    assert View(np.array([1, 2]), ("component",)).values.dtype == np.float64


def test_no_torch_needed() -> None:
    program = "import sys, lrp_lens.views, lrp_lens.plots; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0
