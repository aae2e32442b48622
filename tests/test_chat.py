"""Messages: through the chat template, once, wherever a prompt is taken; and where each of them stands."""

import inspect
import itertools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lrp_lens
from lrp_lens import (
    Case,
    InputError,
    LogitDiff,
    RelevanceCache,
    SequenceLogitDiff,
    attribution_graph,
    circuit_curve,
    component_edges,
    decompose,
    explain,
    faithfulness,
    generate,
    message_segments,
    relevance_over,
    relevance_per_metric,
    run_circuits,
    run_with_relevance,
    tokenize,
)
from lrp_lens.hosts.chat import ChatOptions, over_tokens, render
from lrp_lens.patching import (
    compare,
    get_act_patch_resid_pre,
    patch_subsets,
    patching_pass,
    suggest_rules,
)
from tests.chat_model import TEMPLATE, TRIMMED, chat_tokenizer

MESSAGES = [
    {"role": "system", "content": "be the best"},
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "2+3?"},
]
RENDERED = "<s>system\nbe the best<e>\n<s>user\n1+1?<e>\n<s>assistant\n2<e>\n<s>user\n2+3?<e>\n<s>assistant\n"
OTHER = [*MESSAGES[:3], {"role": "user", "content": "4+3?"}]
METRIC = LogitDiff("5", "6")


# ------------------------------------------------------------------------------------ tokens
def test_messages_are_what_transformers_makes_of_them(chat_model: Any) -> None:
    batch = tokenize(chat_model, MESSAGES)
    tokenizer = chat_model.tokenizer
    expected = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=False)
    assert batch.ids[0].tolist() == expected and batch.single
    assert "".join(batch.strings[0]) == RENDERED
    assert batch.ids[0, :2].tolist().count(tokenizer.bos_token_id) == 1


def test_the_last_message_of_the_assistant_goes_on(chat_model: Any) -> None:
    begun = [*MESSAGES, {"role": "assistant", "content": "it is "}]
    expected = chat_model.tokenizer.apply_chat_template(begun, continue_final_message=True, return_dict=False)
    assert tokenize(chat_model, begun).ids[0].tolist() == expected
    assert "".join(tokenize(chat_model, begun).strings[0]) == f"{RENDERED}it is "
    ended = tokenize(chat_model, begun, continue_final_message=False).strings[0]
    assert (
        "".join(ended)
        == f"{RENDERED}it is <e>\n"
        == "".join(tokenize(chat_model, begun, add_generation_prompt=False).strings[0])
    )
    again = tokenize(chat_model, begun, add_generation_prompt=True).strings[0]
    assert "".join(again) == f"{RENDERED}it is <e>\n<s>assistant\n"
    bare = tokenize(chat_model, MESSAGES, add_generation_prompt=False).strings[0]
    assert "".join(bare) == RENDERED.removesuffix("<s>assistant\n")


def test_a_batch_of_conversations_and_texts(chat_model: Any) -> None:
    batch = tokenize(chat_model, [MESSAGES, MESSAGES[3:], "plain"])
    assert not batch.single and [bool(row) for row in batch.segments] == [True, True, False]
    for row, prompt in enumerate((MESSAGES, MESSAGES[3:], "plain")):
        alone = tokenize(chat_model, prompt)
        assert batch.ids[row, : batch.lengths[row]].tolist() == alone.ids[0].tolist()
    left = tokenize(chat_model, [MESSAGES, MESSAGES[3:]], "left")
    moved = left.lengths[0] - left.lengths[1]
    assert left.named_spans[1] == tuple(
        one._replace(start=one.start + moved, stop=one.stop + moved)
        for one in tokenize(chat_model, MESSAGES[3:]).named_spans[0]
    )


def test_template_options_and_text_parts(chat_bridge: Any) -> None:
    tokenizer = chat_tokenizer("{{ mood }}{% for m in messages %}{{ m['content'] }}{% endfor %}")
    rendered = render(
        tokenizer, [{"role": "user", "content": "x"}], ChatOptions(template_options={"mood": "!"})
    )
    assert rendered.text == "!x"
    parts = [{"type": "text", "text": "2+"}, {"text": "3?"}]
    assert tokenize(chat_bridge, [*MESSAGES[:3], {"role": "user", "content": parts}]).ids.tolist() == (
        tokenize(chat_bridge, MESSAGES).ids.tolist()
    )


# ------------------------------------------------------------------------------------ segments
def test_where_each_message_stands(chat_model: Any) -> None:
    spans = message_segments(chat_model, MESSAGES)
    strings = tokenize(chat_model, MESSAGES).strings[0]
    said = {name: "".join("".join(strings[a:b]) for a, b in one) for name, one in spans.items()}
    template = said.pop("template")
    assert said == {"system": "be the best", "user 1": "1+1?", "assistant 1": "2", "user 2": "2+3?"}
    assert template == "<s>system\n<e>\n<s>user\n<e>\n<s>assistant\n<e>\n<s>user\n<e>\n<s>assistant\n"
    covered = sorted(span for one in spans.values() for span in one)
    assert covered[0][0] == 0 and covered[-1][1] == len(strings)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(covered))
    assert Case(prompt=MESSAGES, target="5", contrast="6", segments=spans).segments == spans


TEXTS = st.lists(st.text(alphabet="he\n t2<s>\ue000é", max_size=6), min_size=1, max_size=5)


@given(TEXTS, st.sampled_from([TEMPLATE, TRIMMED]), st.booleans())
def test_spans_hold_the_texts_character_for_character(
    texts: list[str], template: str, answered: bool
) -> None:
    """Also where texts are empty, repeat each other or the template, and where white space is trimmed."""
    roles = ["user", "assistant"]
    messages = [{"role": roles[(index + answered) % 2], "content": text} for index, text in enumerate(texts)]
    tokenizer = chat_tokenizer(template)
    rendered = render(tokenizer, messages, ChatOptions())
    if (
        rendered.spans is None
    ):  # transformers takes the line break with the white space of a blank open message
        assert template is TRIMMED and not texts[-1].strip() and messages[-1]["role"] == "assistant"
        return
    found = [rendered.text[one.start : one.stop] for one in rendered.spans]
    assert found == [text.strip() if template is TRIMMED else text for text in texts]
    encoded = tokenizer(rendered.text, add_special_tokens=False, return_offsets_mapping=True)
    segments = over_tokens(rendered.spans, encoded["offset_mapping"], len(rendered.text))
    assert segments[0].start == 0 and segments[-1].stop == len(encoded["input_ids"])
    for segment in segments:
        if segment.name != "template":
            own = next(one for one in rendered.spans if one.name == segment.name)
            starts = [a for a, _ in encoded["offset_mapping"][segment.start : segment.stop]]
            stops = [b for _, b in encoded["offset_mapping"][segment.start : segment.stop]]
            assert starts[0] <= own.start and own.stop <= stops[-1]  # whole
            assert own.start < stops[0] and starts[-1] < own.stop  # nothing beside it


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}",  # changes
        "{% for m in messages %}{{ m['content'] + m['content'] }}{% endfor %}",  # repeats
        "{% for m in messages %}{{ m['content'] if not loop.last else '.' }}{% endfor %}",  # leaves out
        "{% for m in messages %}{% if '?' in m['content'] %}q{% endif %}{{ m['content'] }}{% endfor %}",  # depends
    ],
)
def test_no_span_is_guessed(chat_bridge: Any, template: str) -> None:
    kept, chat_bridge.tokenizer.chat_template = chat_bridge.tokenizer.chat_template, template
    try:
        assert tokenize(chat_bridge, MESSAGES).segments == ()
        with pytest.raises(InputError, match="its chat template changes what they say"):
            message_segments(chat_bridge, MESSAGES)
        run_with_relevance(chat_bridge, MESSAGES, METRIC)
    finally:
        chat_bridge.tokenizer.chat_template = kept


def test_relevance_by_message_adds_up(chat_model: Any, tmp_path: Path) -> None:
    cache = run_with_relevance(chat_model, MESSAGES, METRIC)[1]
    tokens, by_message = cache.tokens(), cache.segments()
    assert by_message.labels["segment"] == ("template", "system", "user 1", "assistant 1", "user 2")
    np.testing.assert_allclose(by_message.values.sum(), tokens.values.sum(), rtol=1e-5)
    ((start, stop),) = message_segments(chat_model, MESSAGES)["user 2"]
    np.testing.assert_allclose(by_message.values[4], tokens.values[start:stop].sum(), rtol=1e-5)
    again, by_role = tokens.by("message"), tokens.by("role")
    assert again.labels["message"] == by_message.labels["segment"]  # one definition, special tokens included
    np.testing.assert_array_equal(again.values, by_message.values)
    assert by_role.labels["role"] == ("template", "system", "user", "assistant")
    assert by_role["template"] == by_message["template"]
    assert by_role["user"] == pytest.approx(by_message["user 1"] + by_message["user 2"], rel=1e-12)
    layers = cache.layers().by("role")
    np.testing.assert_allclose(layers.values.sum(-1), cache.layers().values.sum(-1), rtol=1e-4, atol=1e-6)
    pair = run_with_relevance(chat_model, [MESSAGES, OTHER[:2]], METRIC)[1].tokens()
    with pytest.raises(InputError, match="parts of their own"):
        pair.by("role")
    shorter = pair.select(batch=1).by("role")  # of a batch, with padding, which is nobody's
    assert shorter.labels["role"] == ("template", "system", "user")
    assert shorter.values.sum() == pytest.approx(pair.values[1].sum(dtype=float), rel=1e-9)
    cache.save(tmp_path / "cache.safetensors")
    again = RelevanceCache.load(tmp_path / "cache.safetensors")
    assert again.batch.segments == cache.batch.segments
    np.testing.assert_array_equal(again.segments().values, by_message.values)


def test_answers_are_segments_behind_the_messages(chat_bridge: Any) -> None:
    cache = run_with_relevance(chat_bridge, MESSAGES, SequenceLogitDiff("55", "67"))[1]
    names = [one.name for one in cache.batch.named_spans[0]]
    assert names[-2:] == ["target", "contrast"]
    assert cache.segments().values.sum() == pytest.approx(cache.tokens().values.sum(), rel=1e-4)
    plain = run_with_relevance(chat_bridge, "1+1=", METRIC)[1]
    with pytest.raises(InputError, match="here none has any"):
        plain.segments()
    with pytest.raises(InputError, match="here they differ"):
        run_with_relevance(chat_bridge, [MESSAGES, MESSAGES[3:]], METRIC)[1].segments()


def _edges(model: Any, clean: Any, other: Any) -> Any:
    return component_edges(model, [clean], [other], METRIC, progress=False)


# ------------------------------------------------------------------------------------ wherever a prompt is taken
ANALYSES: dict[str, Callable[..., Any]] = {
    "run_with_relevance": lambda model, clean, _: run_with_relevance(model, clean, METRIC)[1].tokens().values,
    "decompose": lambda model, clean, _: decompose(model, clean, METRIC).by_position().values,
    "attribution_graph": lambda model, clean, _: attribution_graph(model, clean, METRIC).node_relevance,
    "component_edges": lambda model, clean, other: component_edges(model, clean, other, METRIC).values,
    "compare": lambda model, clean, other: (
        compare(
            model, [clean, other], [other, clean], METRIC, sites=["mlp_out"], methods=["GRADIENT"], samples=0
        )
        .view("mlp_out", "GRADIENT")
        .values
    ),
    "get_act_patch": lambda model, clean, other: (
        get_act_patch_resid_pre(model, clean, other, METRIC, engine="batched").numpy()
    ),
    "patching_pass": lambda model, clean, _: patching_pass(model, clean, METRIC).tokens.numpy(),
    "explain": lambda model, clean, _: explain(model, clean, "5", "6", seeds=1).tokens.values,
    "faithfulness": lambda model, clean, _: (
        faithfulness(
            model, [Case(prompt=clean, target="5", contrast="6")] if isinstance(clean, list) else [clean],
            ["random"], metric=METRIC,
        )
        .cases["metric"]
        .to_numpy()
    ),
    "relevance_over": lambda model, clean, other: np.stack(
        [one.views["tokens"].values for one in relevance_over(model, [clean, other], METRIC, progress=False)]
    ),
    "relevance_per_metric": lambda model, clean, _: np.stack(
        [one.tokens().values for one in relevance_per_metric(model, clean, [METRIC, LogitDiff("6", "5")])[1]]
    ),
    "patch_subsets": lambda model, clean, other: (
        patch_subsets(model, [clean], [other], METRIC, site="mlp_out", draws=3, progress=False).effects
    ),
    "run_circuits": lambda model, clean, other: (
        run_circuits(model, _edges(model, clean, other).top(40), [clean], [other], METRIC).values
    ),
    "circuit_curve": lambda model, clean, other: (
        circuit_curve(
            model, _edges(model, clean, other), [clean], [other], METRIC, fractions=[0.1, 0.2], random_controls=0,
            n_resamples=2,
        ).values
    ),
    "suggest_rules": lambda model, clean, other: (
        suggest_rules(
            model, [clean, other] * 2, [other, clean] * 2, METRIC, sites="mlp_out", candidates=["GRADIENT", "RELP"],
            progress=False,
        )
        .comparison.view("mlp_out", "RELP")
        .values
    ),
    "generate": lambda model, clean, _: np.array(generate(model, clean, 3).ids),
}  # fmt: skip


OF_LISTS = ("compare", "patch_subsets", "suggest_rules")
"""Those that are given lists of prompts, here."""


@pytest.mark.parametrize("name", ANALYSES)
def test_every_analysis_takes_messages(chat_model: Any, name: str) -> None:
    ids = [tokenize(chat_model, one).ids[0] for one in (MESSAGES, OTHER)]
    given_ids = ANALYSES[name](chat_model, *(one.tolist() if name in OF_LISTS else one for one in ids))
    np.testing.assert_array_equal(ANALYSES[name](chat_model, MESSAGES, OTHER), given_ids)


def test_the_prompt_of_the_signatures() -> None:
    """Every public function that takes a prompt goes through the one resolver: none is annotated as text alone."""
    rooms = (lrp_lens, lrp_lens.patching)
    checked = set()
    for name, function in [(name, getattr(room, name)) for room in rooms for name in room.__all__]:
        takes = inspect.signature(function).parameters if inspect.isfunction(function) else {}
        for parameter in takes.keys() & {"prompt", "prompts", "clean", "corrupted"}:
            annotation = takes[parameter].annotation
            anything = annotation in (object, Any, Iterable[Any])
            assert anything or "Prompt" in str(annotation), (name, parameter, annotation)
            checked.add((name, parameter))
    assert {parameter for _, parameter in checked} == {"prompt", "prompts", "clean", "corrupted"}


# ------------------------------------------------------------------------------------ errors
@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("messages", "options", "words"),
    [
        ([{"role": "user"}], {}, r"nothing else; message 0 has \['role'\]"),
        ([{"rol": "user", "content": "a"}], {}, r"message 0 has \['content', 'rol'\]"),
        ([{"role": "user", "content": "a", "name": "x"}], {}, "nothing else"),
        ([MESSAGES[0], "hello"], {}, "message 1 has str"),
        ([{"role": 3, "content": "a"}], {}, "a word such as 'user'; message 0 has 3"),
        ([{"role": "user", "content": None}], {}, "text, or a list of text parts; message 0 has NoneType"),
        ([{"role": "user", "content": [{"type": "image", "url": "x"}]}], {}, "message 0 has 'image'. Images"),
        ([{"role": "user", "content": [3]}], {}, "message 0 has int"),
        ([{"role": "tool", "content": "a"}], {}, r"refuses these messages \(roles: tool\): no such role"),
        ({"role": "user", "content": "a"}, {}, "one message alone. Put it into a list"),
        ([[]], {}, "at least one token"),
        (MESSAGES, {"prepend_bos": True}, "brings its own BOS"),
        (MESSAGES, {"add_generation_prompt": "yes"}, "add_generation_prompt is True, False or None"),
        (MESSAGES, {"continue_final_message": True}, "the last is of 'user'"),
        (
            [*MESSAGES, {"role": "assistant", "content": "a"}],
            {"continue_final_message": True, "add_generation_prompt": True},
            "received both",
        ),
    ],
)  # fmt: skip
def test_one_clear_error(chat_bridge: Any, messages: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        tokenize(chat_bridge, messages, **options)


def test_a_broken_template_and_none(chat_bridge: Any, word_model: Any) -> None:
    with pytest.raises(InputError, match="a chat template, and this model has none"):
        tokenize(word_model, MESSAGES)
    kept, chat_bridge.tokenizer.chat_template = chat_bridge.tokenizer.chat_template, "{% for m in %}"
    try:
        with pytest.raises(InputError, match="chat template refuses these messages"):
            tokenize(chat_bridge, MESSAGES)
    finally:
        chat_bridge.tokenizer.chat_template = kept
    with pytest.raises(InputError, match="received a batch"):
        message_segments(chat_bridge, [MESSAGES, OTHER])
    with pytest.raises(InputError, match="this prompt has none"):
        message_segments(chat_bridge, "plain")


@pytest.mark.usefixtures("unchecked")
def test_cases_of_messages() -> None:
    case = Case(prompt=MESSAGES, target="5", contrast="6", completion="2+3 = 6.", position="6")
    assert Case.from_dict(case.to_dict()) == case and hash(case) == hash(Case.from_dict(case.to_dict()))
    open_target = Case(prompt="a", completion="b c", position=-1)
    assert Case.from_dict({"prompt": "a", "completion": "b c", "position": -1}) == open_target
    for wrong, words in (
        ({"prompt": []}, "that is not empty"),
        ({"prompt": ["a"]}, "text or messages"),
        ({"position": 1}, "come together"),
        ({"completion": "b"}, "come together"),
        ({"completion": "b", "position": 1.5}, "index or text"),
    ):
        with pytest.raises(InputError, match=words):
            Case(**{"prompt": "a", "target": "5", "contrast": "6"} | wrong)
