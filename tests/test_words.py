"""Words, sentences, messages and named parts from tokens: boundaries of every vocabulary, and sums that are kept."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lrp_lens import LogitDiff, SequenceLogitDiff, decompose, load_demo_model, run_with_relevance
from lrp_lens.attribution_graphs.arrays import AttributionGraph
from lrp_lens.attribution_graphs.arrays.nodes import place_name
from lrp_lens.attribution_graphs.closed_form import attribution_graph
from lrp_lens.errors import InputError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.pieces import decoded, looked_up, token_pieces
from lrp_lens.hosts.token_batch import Segment
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.hosts.vocabulary import token_strings
from lrp_lens.plots import (
    graph_html,
    plot_components,
    plot_graph,
    plot_layers,
    plot_segments,
    plot_sources,
    token_heatmap_html,
    token_heatmap_text,
)
from lrp_lens.plots.comparison import plot_comparison
from lrp_lens.plots.graph_data import graph_data
from lrp_lens.plots.wording import worded
from lrp_lens.rules import DEFAULT_RULES, PRESETS, conserving
from lrp_lens.views import View
from lrp_lens.views.groups import groups_of, words_of
from lrp_lens.views.segmentation import begins
from tests import zoo
from tests.frozen_network import FrozenNetwork

CORPUS = ["the unhappiness of playing players is unplayable", "don't stop at 3.14 or 42", "foo_bar(x)"] * 20
TEXTS = {
    "Don't panic, 3.14!": ["Don't", " panic", ",", " 3.14", "!"],
    "pay 1,234.5% of it": ["pay", " 1,234.5", "%", " of", " it"],
    "x = foo_bar.baz(n)[0]": ["x", " =", " foo_bar", ".", "baz", "(", "n", ")", "[", "0", "]"],
    "state-of-the-art": ["state", "-", "of", "-", "the", "-", "art"],
    "東京タワー です。": ["東", "京", "タワー", " で", "す", "。"],
    "👍🏽 👩‍🔬!": ["👍🏽", " 👩‍🔬", "!"],
    "नमस्ते दुनिया": ["नमस्ते", " दुनिया"],
    "l’été e\u0301t": ["l’été", " e\u0301t"],
}
"""Text → its words, where every byte or character is a token."""


def byte_level(merges: int = 0) -> Any:
    """A byte-level vocabulary (Ġ): without merges each byte is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + merges, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def sentence_piece() -> Any:
    """▁ marks the beginning of a word; a decoded text begins without it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=60, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def word_piece() -> Any:
    """## marks what continues a word."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=False)
    trainer = trainers.WordPieceTrainer(vocab_size=60, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


VOCABULARIES = {
    "bytes": byte_level(),
    "byte-level": byte_level(30),
    "sentence pieces": sentence_piece(),
    "word pieces": word_piece(),
}


def read(tokenizer: Any, text: str) -> tuple[list[int], tuple[str, ...], tuple[str, ...]]:
    """Ids, strings and pieces of a text."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    strings = token_strings(SimpleNamespace(tokenizer=tokenizer), ids)
    return ids, strings, token_pieces(tokenizer, ids, strings)


def view_of(tokenizer: Any, text: str, **marks: Any) -> View:
    _, strings, pieces = read(tokenizer, text)
    values = np.random.default_rng(0).normal(size=len(strings)).astype(np.float32)
    return View(values, ("position",), {"position": strings}, pieces=pieces, **marks)


# ------------------------------------------------------------------------------------------ each token's text
@pytest.mark.parametrize("name", VOCABULARIES)
@pytest.mark.parametrize("text", ["the unplayable players don't stop", "at 42 foo_bar(x)", *TEXTS])
def test_pieces_are_what_each_token_adds(name: str, text: str) -> None:
    """Against the definition: the text of the first i + 1 tokens without that of the first i."""
    tokenizer = VOCABULARIES[name]
    if name in ("sentence pieces", "word pieces") and not text.isascii():
        pytest.skip("not in this vocabulary")
    ids, strings, pieces = read(tokenizer, text)
    whole = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert "".join(pieces) == whole
    ends = [tokenizer.decode(ids[: i + 1], clean_up_tokenization_spaces=False) for i in range(len(ids))]
    complete = [(i, end) for i, end in enumerate(ends) if not end.endswith("\ufffd")]
    for i, end in complete:
        assert "".join(pieces[: i + 1]) == end, (strings, pieces)
    windows = decoded(lambda some: tokenizer.decode(list(some), clean_up_tokenization_spaces=False), ids)
    assert windows == pieces or name == "word pieces"


def test_what_does_not_fit_is_decoded_in_windows() -> None:
    assert looked_up("a b", ["a", "c"]) is None and looked_up("a b", ["a"]) is None
    assert looked_up("éé", ["\ufffd", "\ufffd", "é"]) is None
    cut = token_pieces(VOCABULARIES["bytes"], VOCABULARIES["bytes"].encode("👍")[:2], ["\ufffd", "\ufffd"])
    assert cut[0] == "" and cut[1]  # a prompt that ends inside a character
    assert token_pieces(None, [1, 2], ["<1>", "<2>"]) == ("<1>", "<2>")


# ------------------------------------------------------------------------------------------ boundaries
@pytest.mark.parametrize("text", TEXTS)
def test_words_of_single_bytes(text: str) -> None:
    words = view_of(VOCABULARIES["bytes"], text).by("word")
    assert list(words.axis_labels("word")) == TEXTS[text]


@pytest.mark.parametrize("text", [text for text in TEXTS if not text.isascii()])
def test_tokens_decoded_alone_would_cut_characters(text: str) -> None:
    """What the test above is for: neighbours have to be decoded together."""
    view = view_of(VOCABULARIES["bytes"], text)
    alone = replace(view, pieces=view.axis_labels("position")).by("word")
    assert list(alone.axis_labels("word")) != TEXTS[text]


@pytest.mark.parametrize("name", VOCABULARIES)
def test_words_are_the_same_in_every_vocabulary(name: str) -> None:
    text = (
        "the unhappiness of unplayable players don't stop"
        if name != "word pieces"
        else "the unplayable players"
    )
    view = view_of(VOCABULARIES[name], text)
    assert view.shape[0] > len(text.split())
    words = view.by("word")
    assert [word.strip() for word in words.axis_labels("word")] == text.split()


@pytest.mark.parametrize(
    ("pieces", "level", "expected"),
    [
        ([], "word", []),
        (["", ""], "word", [1, 0]),
        ([" ", "a", "  ", " b"], "word", [1, 0, 1, 1]),
        ([" .for", "ward", "(", "x", "())", "."], "word", [1, 0, 1, 1, 1, 1]),
        (["a", " ", "b", "."], "word", [1, 1, 0, 1]),
        (["A", " b", ".", " C", " d", "."], "sentence", [1, 0, 0, 1, 0, 0]),
        (["Mr", ".", " Li", " et", " al", ".", " sat", "!", "\n\n", "So"], "sentence", [1] + 8 * [0] + [1]),
        (["a", " .", " b", " ?", " c"], "sentence", [1, 0, 1, 0, 1]),
        (["東", "。", "京", "。"], "sentence", [1, 0, 1, 0]),
        ([], "sentence", []),
    ],
)
def test_where_words_and_sentences_begin(pieces: list[str], level: Any, expected: list[int]) -> None:
    assert begins(pieces, level).astype(int).tolist() == expected


# ------------------------------------------------------------------------------------------ sums
def kept(before: View, after: View) -> bool:
    """Whether sums over the text are the same, axis by axis."""
    axis = next(i for i, dim in enumerate(before.dims) if dim not in ("batch", "layer", "head"))
    old, new = before.values.astype(np.float64).sum(axis), after.values.sum(axis)
    return bool(np.allclose(old, new, rtol=0, atol=1e-12))


@pytest.mark.parametrize("level", ["word", "sentence", {"a": (0, 3), "b": [(4, 6), (8, 9)]}], ids=str)
@pytest.mark.parametrize("dims", [(), ("layer",), ("layer", "head")])
def test_sums_are_kept(level: Any, dims: tuple[str, ...]) -> None:
    line = view_of(VOCABULARIES["byte-level"], "The players don't stop. 👍 Unhappiness is unplayable!")
    shape = (3, 2)[: len(dims)] + line.shape
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    before = replace(
        line, values=values, dims=(*dims, "position"), labels={"position": line.labels["position"]}
    )
    after = before.by(level)
    assert kept(before, after) and after.values.dtype == np.float64
    assert after.shape[-1] < before.shape[-1] and after.dims[:-1] == dims
    assert not kept(before, replace(after, values=np.roll(after.values, 1, 0) + 1e-9))


def test_special_tokens_and_answers_stay_apart() -> None:
    strings = ("<s>", "un", "happy", "</s>", "un", "do", "ne")
    special = np.array([True, False, False, True, False, False, False])
    answer = np.array(["", "", "", "", "", "answer", "answer"])
    view = View(
        np.arange(7.0), ("position",), {"position": strings}, special=special, answer=answer, pieces=strings
    )
    words = view.by("word")
    assert words.axis_labels("word") == ("<s>", "unhappy", "</s>", "un", "done")
    assert (
        words.values.tolist() == [0, 3, 3, 4, 11] and words.special is not None and words.answer is not None
    )
    assert words.special.tolist() == [True, False, True, False, False]
    assert words.answer.tolist() == ["", "", "", "", "answer"]
    assert list(words.to_dataframe().columns) == ["word", "text", "value", "special", "answer"]
    assert "'unhappy'" in repr(words) and "unhappy" in words._repr_html_()


def test_a_batch_keeps_its_examples_apart() -> None:
    strings = (("un", "do", " it", ""), ("", "", "a", "b"))
    special = np.array([[False, False, False, True], [True, True, False, False]])
    values = np.array([[1.0, 2, 3, 0], [0, 0, 4, 5]])
    view = View(values, ("batch", "position"), {"position": strings}, special=special, pieces=strings)
    words = view.by("word")
    assert words.labels["word"] == (("undo", " it"), ("ab", ""))
    assert words.values.tolist() == [[3, 3], [9, 0]]
    assert len(words.to_dataframe()) == 3 and words.select(batch=1).axis_labels("word") == ("ab", "")
    assert words.select(batch=0).sum("word").values == 6 and view.select(batch=0).by("word").shape == (2,)


def test_messages_are_the_spans_of_a_chat() -> None:
    strings = ("<s>", "user", "hi", "there", "</s>", "x")
    special = np.array([True, False, False, False, True, False])
    view = View(
        np.arange(6.0), ("position",), {"position": strings}, special=special, pieces=strings,
        spans={"message": {"user 1": ((2, 3),), "user 2": ((3, 5),)}, "role": {"user": ((2, 3), (3, 5))}},
    )  # fmt: skip
    messages, roles = view.by("message"), view.by("role")
    assert messages.axis_labels("message") == ("user 1", "user 2", "(rest)")
    assert messages.values.tolist() == [2, 7, 6] and messages.special is None
    assert (
        roles.axis_labels("role") == ("user", "(rest)") and roles["user"] == 9 and roles.sum() == view.sum()
    )
    assert messages.plot().data[0].x == (2, 7, 6) and roles.plot().data[0].x == (9, 6)
    assert roles.to_dataframe()["role"].tolist() == ["user", "(rest)"]
    for level in ("message", "role"):
        with pytest.raises(
            InputError, match=f"{level.capitalize()}s are .* has none: its prompt was no chat"
        ):
            replace(view, spans=None).by(level)


def test_what_cannot_be_put_together_is_refused() -> None:
    view = View(np.ones(2), ("position",), {"position": ("a", "b")}, pieces=("a", "b"))
    for parts, words in (
        ("line", "'word', 'sentence', 'message', 'role' or named parts"),
        ({"a": (0, 9)}, "0 <= start < stop <= 2"),
        ({"a": (0, 2), "b": (1, 2)}, "do not overlap; 'b'"),
    ):
        with pytest.raises(InputError, match=words):
            view.by(parts)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="does not know it"):
        replace(view, pieces=None).by("word")
    with pytest.raises(InputError, match="does not know it"):
        view.select(position=[0]).by("word")
    with pytest.raises(InputError, match=r"has the dims \('word',\)"):
        view.by("word").by("sentence")
    with pytest.raises(InputError, match="one each"):
        replace(view, pieces=("a",))
    assert view.select(position=slice(0, 2)).by("word").axis_labels("word") == ("ab",)


def test_files_keep_what_a_view_knows_of_its_text(tmp_path: Path) -> None:
    strings = ("un", "do")
    view = View(
        np.ones(2), ("position",), {"position": strings}, pieces=strings, spans={"message": {"user": ((0, 2),)}},
        cautions=("the tokens hold 9 % of the metric: +1 of +9",),
    )  # fmt: skip
    view.save(tmp_path / "view")
    again = View.load(tmp_path / "view")
    assert (again.pieces, again.spans, again.cautions) == (view.pieces, view.spans, view.cautions)


# ------------------------------------------------------------------------------------------ from a model
PROMPT = "then mary and john went to the park . john gave the key to"


def test_on_a_vocabulary_of_words_nothing_changes() -> None:
    _, cache = run_with_relevance(load_demo_model(), PROMPT, LogitDiff("mary", "john"))
    tokens = cache.tokens()
    assert tokens.by("word").axis_labels("word") == tokens.axis_labels("position")
    np.testing.assert_array_equal(tokens.by("word").values, tokens.values.astype(np.float64))
    assert token_heatmap_html(tokens) == token_heatmap_html(tokens, by="position")
    assert worded(cache.layers()).view.dims == ("layer", "position")
    assert tokens.by("sentence").axis_labels("sentence")[1:] == (
        "then mary and john went to the park .",
        "john gave the key to",
    )
    assert tokens.by({"a": (1, 3)}).values.tolist() == cache.segments({"a": (1, 3)}).values.tolist()


def test_answers_that_a_metric_appends_keep_their_pieces() -> None:
    model = load_demo_model()
    metric = SequenceLogitDiff("mary and", "john and")
    _, cache = run_with_relevance(model, [PROMPT, PROMPT], metric)
    tokens = cache.tokens()
    assert tokens.by("word").labels["word"] == tokens.labels["position"]
    assert kept(tokens, tokens.by("word")) and kept(cache.layers(), cache.layers().by("sentence"))
    one = cache.batch.example(1)
    assert len(one.pieces) == len(one.ids) and one.pieces[0] == cache.batch.pieces[2][: len(one.pieces[0])]


def test_messages_travel_with_a_batch() -> None:
    model = load_demo_model()
    user = Segment("user 1", "user", 1, 5)
    batch = replace(tokenize(model, PROMPT), segments=((user,),))
    _, cache = run_with_relevance(model, batch, LogitDiff("mary", "john"))
    messages = cache.tokens().by("message")
    assert messages.axis_labels("message") == ("user 1", "(rest)")
    assert messages.values[0] == pytest.approx(cache.tokens().values[1:5].sum(), rel=1e-5)


def test_source_maps_are_put_together() -> None:
    sources = decompose(load_demo_model(), PROMPT, LogitDiff("mary", "john")).by_source()
    assert kept(sources, sources.by("sentence")) and sources.by("sentence").plot().data[0].z.shape[1] == 3


# ------------------------------------------------------------------------------------------ figures
def pieces_view() -> View:
    strings = ("<s>", " un", "happy", " cat")
    special = np.array([True, False, False, False])
    return View(
        np.array([9.0, 2, -0.5, 1]), ("position",), {"position": strings}, special=special, pieces=strings
    )


def test_figures_show_words_and_their_tokens_on_hover() -> None:
    view = pieces_view()
    page = token_heatmap_html(view)
    assert "word &#x27; unhappy&#x27; · positions 1–2 · +1.5 logits" in page
    assert (
        "tokens &#x27; un&#x27; +2, &#x27;happy&#x27; −0.5" in page
        and "token &#x27; cat&#x27; · position 3" in page
    )
    assert (
        "·unhappy" in token_heatmap_text(view).plain
        and "·un happy" in token_heatmap_text(view, by="position").plain
    )
    assert "position 2" in token_heatmap_html(view, by="position")
    assert "word 1" in view.by("word").plot()
    layers = replace(
        view,
        values=np.stack([view.values, -view.values]),
        dims=("layer", "position"),
        labels={"position": view.labels["position"]},
    )
    figure = plot_layers(layers)
    assert figure.layout.xaxis.ticktext == ("&lt;s&gt;", "·unhappy", "·cat")
    said = "positions 1–2: <b>·unhappy</b><br>−1.5 logits<br>tokens ' un' −2, 'happy' +0.5"
    assert said in figure.data[0].customdata[1][1]
    assert plot_layers(layers, touched_only=True).layout.xaxis.ticktext == ("·unhappy 1", "·cat 3")
    assert len(plot_layers(layers, by="position").data[0].x) == 4
    dims, labels = ("layer", "head", "position"), {"position": view.labels["position"]}
    sources = replace(layers, values=layers.values[None], dims=dims, labels=labels)
    assert plot_sources(sources).layout.xaxis.ticktext[1] == "·unhappy"


def test_a_comparison_and_a_graph_tell_a_piece_with_its_word(tmp_path: Path) -> None:
    """Effects and states are of single tokens: they are not summed, but one reads the word."""
    view = pieces_view()
    assert words_of(view) == ("", " unhappy", " unhappy", "")
    assert words_of(replace(view, pieces=None)) == ("",) * 4
    cells = replace(
        view, values=np.ones((2, 4)), dims=("layer", "position"), special=None, labels=view.labels
    )
    hover = plot_comparison(cells, [cells]).data[0].customdata
    assert list(hover[0][1:3]) == ["L0, position 1: ·un of ·unhappy", "L0, position 2: happy of ·unhappy"]
    assert hover[1][3] == "L1, position 3: ·cat"

    whole = FrozenNetwork(positions=4, layers=2).graph()
    strings = view.labels["position"]
    graph = replace(whole, token_strings=strings, pieces=strings)
    graph.save(tmp_path / "graph.npz")
    for one in (graph, graph.prune(mass=0.5), AttributionGraph.load(tmp_path / "graph.npz")):
        assert (
            one.words == ("", " unhappy", " unhappy", "") and place_name(one, 2) == "'happy'@2 of ' unhappy'"
        )
    assert graph_data(graph, 100)["words"] == ["", "·unhappy", "·unhappy", ""]
    assert any("happy @2 of ·unhappy" in str(one.customdata) for one in plot_graph(graph).data)
    silent = replace(graph, pieces=())
    assert not any(silent.words) and " of " not in " ".join(silent.paths(5)["text"])
    with pytest.raises(InputError, match="a piece of text for each of its 4 tokens, or none; received 3"):
        replace(graph, pieces=strings[:3])


@pytest.mark.usefixtures("unchecked")
def test_figures_know_words_and_tokens_only() -> None:
    with pytest.raises(InputError, match="by='word' or by='position'"):
        token_heatmap_html(pieces_view(), by="letter")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------ what tokens hold
def test_a_view_that_hardly_accounts_for_the_metric_says_so() -> None:
    model = load_demo_model()
    _, cache = run_with_relevance(model, PROMPT, LogitDiff("mary", "john"), rules="ATTN_LRP")
    (said,) = cache.cautions
    tokens = cache.tokens()
    held, metric = float(tokens.values.sum()), float(cache.metric_value)
    assert held / metric < 0.5 and said.startswith(
        f"the tokens hold {100 * held / metric:.0f} % of the metric: "
    )
    assert said.endswith(f"; under {conserving(resolve(model))} nothing but biases is lost")
    for shown in (
        repr(cache),
        repr(tokens),
        tokens._repr_html_(),
        cache._repr_html_(),
        token_heatmap_html(tokens),
    ):
        assert said in shown
    assert (
        said in token_heatmap_text(tokens).plain
        and said in repr(tokens.by("word"))
        and said in repr(cache.layers())
    )
    assert said.partition(":")[0] in plot_layers(cache.layers()).layout.title.text
    parts = tokens.by({"start": (0, 5)})
    assert said.partition(":")[0] in plot_segments(parts).layout.title.text and said in repr(parts)
    assert (
        cache.heads().cautions == ()
        and "caution" not in plot_components(cache.components()).layout.title.text
    )
    _, conserved = run_with_relevance(model, PROMPT, LogitDiff("mary", "john"))
    assert conserved.cautions == ("",) and "caution" not in repr(conserved.tokens()) + repr(conserved)
    assert "aution" not in token_heatmap_html(conserved.tokens())
    assert "aution" not in plot_segments(conserved.tokens().by({"start": (0, 5)})).layout.title.text


def test_a_graph_whose_tokens_hardly_account_for_the_metric_says_so() -> None:
    """In its repr, in a notebook, on its page, above its figure and in its file; not from a later boundary on."""
    model, metric = load_demo_model(), LogitDiff("mary", "john")
    _, cache = run_with_relevance(model, PROMPT, metric, rules="ATTN_LRP")
    (said,) = cache.cautions
    graph = attribution_graph(model, PROMPT, metric, rules="ATTN_LRP")
    for shown in (repr(graph), graph._repr_html_(), repr(AttributionGraph.from_bytes(graph.to_bytes()))):
        assert f"caution: {said}" in shown and f"note: caution: {said}" not in shown
    assert f'<p class="lrp-caution">caution: {said}</p>' in graph_html(graph)
    assert f"caution: {said.partition(':')[0]}" in plot_graph(graph).layout.title.text
    for other in (
        attribution_graph(model, PROMPT, metric),
        attribution_graph(model, PROMPT, metric, rules="ATTN_LRP", layers=[1, 2, 3]),
    ):
        assert "caution" not in repr(other) + plot_graph(other).layout.title.text
        assert 'class="lrp-caution"' not in graph_html(other)


def test_each_example_has_its_own(tmp_path: Path) -> None:
    model = load_demo_model()
    _, cache = run_with_relevance(
        model, [PROMPT, "mary went to"], LogitDiff("mary", "john"), rules="ATTN_LRP"
    )
    shares = cache.tokens().values.sum(1) / cache.metric_value.numpy()
    assert [bool(one) for one in cache.cautions] == [not 0.5 <= share <= 2 for share in shares]
    assert cache.tokens().select(batch=1).cautions == cache.cautions[1:]
    assert cache.tokens().select(batch=[1, 0]).cautions == cache.cautions[::-1]
    assert cache.tokens().sum("position").cautions == ()
    cache.save(tmp_path / "cache")
    assert type(cache).load(tmp_path / "cache").cautions == cache.cautions
    assert type(cache).load(tmp_path / "cache").tokens().by("word").shape == cache.tokens().by("word").shape


@pytest.mark.parametrize("name", ["gpt2", "llama", "mixtral", "gemma2"])
def test_the_rule_set_that_is_named_conserves(name: str) -> None:
    """Whatever its name: asked of the rules, and seen in the ledger."""
    model = zoo.bridge(name)
    chosen = conserving(resolve(model))
    _, cache = run_with_relevance(model, zoo.prompt_tokens(1, 7), rules=chosen)
    taken = {
        row.kind
        for row in cache.ledger().rows
        if abs(row.amount).max() > 1e-4 * cache.ledger().magnitude.max()
    }
    assert chosen in PRESETS and taken <= {"bias"}
    assert chosen == ("CP_LRP" if name == "mixtral" else DEFAULT_RULES.name)  # a router takes its part
    _, loses = run_with_relevance(model, zoo.prompt_tokens(1, 7), rules="ATTN_LRP")
    assert any(
        abs(row.amount).max() > 1e-4 * loses.ledger().magnitude.max()
        for row in loses.ledger().rows
        if row.kind == "softmax"
    )


def test_groups_of_a_view_without_tokens() -> None:
    with pytest.raises(InputError, match="Tokens are put into groups"):
        groups_of(View(np.ones(2), ("layer",)), "word")
