"""What is meaningless or impossible is refused in one clear sentence, before any work."""

import io
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor
from typer.testing import CliRunner

from lrp_lens import (
    Case,
    InputError,
    LogitDiff,
    MetricError,
    RelevanceCache,
    SequenceLogit,
    SequenceLogitDiff,
    SiteError,
    attribution_graph,
    component_edges,
    decompose,
    explain,
    faithfulness,
    load_demo_model,
    load_model,
    run_with_relevance,
)
from lrp_lens.cli import app
from lrp_lens.cli.console import terminal
from lrp_lens.cli.inputs import read_prompt
from lrp_lens.cli.terminal import print_explanation
from lrp_lens.hosts.loading.options import as_dtype, require_name
from lrp_lens.hosts.names import Names, resolve_name
from lrp_lens.hosts.tokens import tokenize
from lrp_lens.hosts.vocabulary import TextWarning
from lrp_lens.patching import get_act_patch_resid_pre, integrated_pass, patching_pass
from lrp_lens.patching.compare import compare
from tests import zoo
from tests.test_characters import HOSTILE, TEXTS, unsafe
from tests.test_report import example

METRIC = LogitDiff(3, 7)


@pytest.fixture(scope="module")
def model() -> Any:
    return zoo.bridge("gpt2")


@pytest.fixture(scope="module")
def cache(model: Any) -> RelevanceCache:
    return run_with_relevance(model, zoo.prompt_tokens(1, 7), METRIC)[1]


# ------------------------------------------------------------------------------------ token ids
NO_IDS = [
    b"abc",
    bytearray(b"abc"),
    memoryview(b"abc"),
    [b"ab", b"cd"],
    [True, False],
    (True, 2),
    [[1, 2], [True, 2]],
    torch.tensor([True, False]),
    torch.tensor([[True], [False]]),
    torch.tensor([1.0, 2.0]),
    np.array([True, False]),
    np.array([1.0, 2.0]),
    [np.array([1, 2])],
    [np.True_, 2],
    np.array([b"a"]),
    [None],
    3,
]


def test_only_whole_numbers_are_token_ids(model: Any) -> None:
    for prompt in NO_IDS:
        with pytest.raises(InputError, match="received"):
            tokenize(model, prompt, None)
    for prompt in ([1, 2], (1, 2), np.array([1, 2]), torch.tensor([1, 2]), [np.int64(1), np.int64(2)]):
        assert tokenize(model, prompt, None).ids.tolist() == [[1, 2]]


def test_only_whole_numbers_and_text_are_a_metrics_tokens() -> None:
    for token in (
        b"a",
        bytearray(b"a"),
        memoryview(b"a"),
        True,
        [True],
        torch.tensor([True]),
        np.array([True]),
        [b"a"],
        1.5,
    ):
        for make in (
            lambda one: LogitDiff(one, 3),
            lambda one: LogitDiff(3, one),
            lambda one: LogitDiff([3], [[one]]),
            lambda one: SequenceLogit(one),
            lambda one: SequenceLogitDiff([1], [one]),
        ):
            with pytest.raises(MetricError, match="received"):
                make(token)


# ------------------------------------------------------------------------------------ metrics
def doubling(logits: Tensor) -> Tensor:
    logits *= 2
    return logits[:, -1, 3]


def doubling_a_part(logits: Tensor) -> Tensor:
    logits[:, -1].mul_(2)
    return logits[:, -1, 3]


def doubling_unseen(logits: Tensor) -> Tensor:
    logits.data[0] += 1
    return logits[:, -1, 3]


def doubling_by_numpy(logits: Tensor) -> Tensor:
    logits.detach().numpy()[..., 0] = 0.5
    return logits[:, -1, 3]


@pytest.mark.parametrize("metric", [doubling, doubling_a_part, doubling_unseen, doubling_by_numpy])
def test_a_metric_leaves_the_logits_alone(model: Any, metric: Callable[[Tensor], Tensor]) -> None:
    tokens, other = zoo.prompt_tokens(2, 5), zoo.prompt_tokens(2, 5, seed=1)
    for run in (
        lambda: run_with_relevance(model, tokens, metric),
        lambda: attribution_graph(model, tokens[:1], metric),
        lambda: faithfulness(model, tokens[0], ["GRADIENT"], metric=metric, steps=2, progress=False),
        lambda: compare(model, tokens, other, metric, sites=["mlp_out"], methods=["GRADIENT"], samples=0),
        lambda: component_edges(model, tokens, other, metric),
    ):
        with pytest.raises(
            MetricError, match=rf"leaves them as they are; {metric.__name__} changed them in place"
        ):
            run()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_metric_is_finite(model: Any, value: float) -> None:
    tokens, other = zoo.prompt_tokens(2, 5), zoo.prompt_tokens(2, 5, seed=1)

    def odd(logits: Tensor) -> Tensor:
        return logits[:, -1, 3] * torch.tensor([value, 1.0])[: len(logits)]

    for run in (
        lambda: run_with_relevance(model, tokens, odd),
        lambda: decompose(model, tokens, odd),
        lambda: attribution_graph(model, tokens[:1], odd),
        lambda: faithfulness(model, tokens[0], ["GRADIENT"], metric=odd, steps=2, progress=False),
        lambda: compare(model, tokens, other, odd, sites=["mlp_out"], methods=["GRADIENT"], samples=0),
        lambda: component_edges(model, tokens, other, odd),
    ):
        with pytest.raises(MetricError, match="a finite number for each prompt; odd is"):
            run()


# ------------------------------------------------------------------------------------ identical pairs
def test_clean_and_corrupted_prompts_differ(model: Any) -> None:
    clean = zoo.prompt_tokens(3, 5)
    corrupted = clean.clone()
    corrupted[1, 2] += 1
    calls = [
        lambda clean, corrupted: compare(model, clean, corrupted, METRIC, sites=["mlp_out"]),
        lambda clean, corrupted: get_act_patch_resid_pre(model, corrupted, clean, METRIC),
        lambda clean, corrupted: get_act_patch_resid_pre(
            model, corrupted, clean, METRIC, direction="noising"
        ),
        lambda clean, corrupted: integrated_pass(model, corrupted, clean, METRIC),
        lambda clean, corrupted: patching_pass(model, corrupted, METRIC).other(clean, ["hook_embed"]),
        lambda clean, corrupted: component_edges(model, clean, corrupted, METRIC),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"differs from its clean prompt; all pairs of 3"):
            call(clean, clean)
        with pytest.raises(InputError, match=r"differs from its clean prompt; pairs 0, 2 of 3"):
            call(clean, corrupted)


# ------------------------------------------------------------------------------------ names
@pytest.mark.parametrize(
    ("key", "words"),
    [
        (("resid_prre", 1), "Did you mean.*|such as blocks.1.hook_resid_pre"),
        ("blocks.1.hook_resid_prre", "such as blocks.1.hook_resid_pre, .*Did you mean one of these"),
        ("hook_embd", "such as hook_embed"),
        ("nonsense", "No activation was kept at"),
        (("resid_pre", 9), r"A layer lies in \[0, 2\)"),
        (("z", -3), r"A layer lies in \[0, 2\)"),
        (("z", True), "A layer is a whole number"),
        (("z", "1"), "A layer is a whole number"),
        (("z", 1.0), "A layer is a whole number"),
    ],
)
def test_names_of_hook_points(cache: RelevanceCache, key: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        cache[key]
    assert not str(caught.value).startswith("'")
    assert key not in cache and cache.get(key if isinstance(key, str) else "x.y") is None


@given(
    st.one_of(st.text(), st.tuples(st.text(), st.integers()), st.tuples(st.text(), st.text()), st.tuples())
)
def test_any_key_is_a_name_or_an_error(key: Any) -> None:
    with suppress(InputError):  # any other error fails
        assert isinstance(resolve_name(key, 2), str)


def test_views_of_what_is_not_there(cache: RelevanceCache) -> None:
    for layer in (99, -3, True):
        with pytest.raises(InputError, match="A layer"):
            cache.neurons(layer)
    for segments in ([(1, 5)], (1, 5), "ab"):
        with pytest.raises((InputError, TypeCheckError), match=r"Segments have names|segments"):
            cache.segments(segments)
    assert cache["z", np.int64(1)].shape == cache["z", 1].shape


# ------------------------------------------------------------------------------------ loading and cases
@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("", {}, "a name on the hub such as 'gpt2', a directory, .* received ''"),
        (" ", {}, "received ' '"),
        (Path("nowhere/\x1b[2J"), {}, r"no such model directory: 'nowhere/\\x1b"),
        ("x", {"device": "tpu9"}, "a device is one of cpu.* received 'tpu9'"),
        ("x", {"device": "meta"}, "a device is one of cpu"),
        ("x", {"device": "cuda:99"}, "received 'cuda:99'"),
        ("x", {"dtype": torch.int8}, r"floating-point dtype, one of torch.float64.* received torch.int8"),
        ("x", {"dtype": torch.complex64}, "received torch.complex64"),
    ],
)
def test_what_cannot_be_loaded(name: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_model(name, **options)


def test_what_a_type_checker_would_catch_is_refused_without_one() -> None:
    for refuse, value in (
        (require_name, None),
        (require_name, 3),
        (as_dtype, "float32"),
    ):
        with pytest.raises(InputError, match="received"):
            refuse(value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompt": 3}, "the prompt of a case is text or messages, got 3"),
        ({"target": b"a"}, "the target of a case is text"),
        ({"contrast": None}, "the contrast of a case is text"),
        ({"suite": 1}, "the suite of a case is text"),
        ({"segments": [(1, 5)]}, "the segments of a case have names"),
        ({"segments": {"evidence": 3}}, r"segment 'evidence' needs \(start, stop\)"),
        ({"segments": {"evidence": [3]}}, r"segment 'evidence' needs \(start, stop\)"),
        ({"answer_rank": "1"}, "answer_rank counts from 1"),
    ],
)
def test_bad_cases(changes: dict[str, Any], words: str) -> None:
    fields = {"prompt": "a b", "target": "a", "contrast": "b"} | changes
    with pytest.raises((InputError, TypeCheckError)):
        Case(**fields)
    with pytest.raises(InputError, match=words):
        Case.from_dict(fields)


# ------------------------------------------------------------------------------------ the terminal
@given(TEXTS)
def test_the_terminal_gets_text_only(words: list[str]) -> None:
    """Whatever the words are, only rich's own codes reach the terminal: none, where it has no colours."""
    page = io.StringIO()
    said = example(
        prompt="".join(words), model_name=words[0], title=words[1], notes=tuple(words), rules=words[2]
    )
    console = terminal(file=page, width=80)
    print_explanation(said, console)
    console.print(words[3], markup=False)
    assert not unsafe(page.getvalue().replace("\n", "")) and repr(said).encode()
    assert not unsafe(repr(said))
    page.getvalue().encode()


@pytest.mark.parametrize(("length", "left_out"), [(1200, 0), (1201, 401)])
def test_the_terminal_shows_both_ends_of_a_long_prompt(length: int, left_out: int) -> None:
    prompt = "a" * 400 + "b" * (length - 800) + "c" * 400
    page = io.StringIO()
    print_explanation(example(prompt=prompt), terminal(file=page, width=2000))
    shown_of_it = page.getvalue().partition("Prompt\n")[2].partition("token")[0].split()
    both_ends = ["a" * 400, "…", str(left_out), "characters", "…", "c" * 400]
    expected = both_ends if left_out else [prompt]
    assert shown_of_it[: len(expected)] == expected


def test_colours_stay() -> None:
    page = io.StringIO()
    terminal(file=page, force_terminal=True, color_system="truecolor", no_color=False).print(
        "[bold]a\x1b[2J[/]", highlight=False
    )
    assert page.getvalue() == "\x1b[1ma\\x1b[2J\x1b[0m\n"


def test_errors_of_the_command_are_text() -> None:
    for word in filter(lambda one: "\x00" not in one and one.isascii(), HOSTILE):
        for arguments in (
            ["explain", "--prompt-file", f"no{word}"],
            ["explain", f"--{word}x"],
            ["explain", "--rules", f"no{word}"],
        ):
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 2 and not unsafe(result.output), (arguments, result.output)


def test_a_byte_order_mark_is_no_token(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbfmary gave\r\n")
    assert read_prompt(None, None, str(tmp_path / "prompt.txt")) == "mary gave"


def test_what_a_reviewer_found() -> None:
    """Lone surrogates, ids as target, paths of explanations, complex metrics, a hook that cuts the logits off."""
    model = load_demo_model(device="cpu")
    prompt = "then mary and john went to the park . john gave the key to"
    with pytest.warns(TextWarning, match="lone surrogate"):
        run_with_relevance(model, "then mary \ud800 went to the", LogitDiff("mary", "john"))
    mary = model.to_tokens("mary", prepend_bos=False).item()
    explained = explain(model, prompt, mary, "john")
    assert explained.target.text == "mary"
    for path in ("a\0.json", "/tmp/a\ud800.json", "/nope/x"):
        with pytest.raises(InputError):
            explained.save(path)
    for wrong in (10**6, -1, True):
        with pytest.raises(InputError, match="an id in"):
            explain(model, prompt, wrong, "john")
    with pytest.raises(MetricError, match="real numbers"):
        run_with_relevance(model, prompt, lambda logits: logits[:, -1, 5] * 1j)
    last = Names.resid_post(model.cfg.n_layers - 1)
    cut = [(last, lambda tensor, hook: tensor.detach())]
    with model.hooks(fwd_hooks=cut), pytest.raises((MetricError, SiteError), match="a hook on the model"):
        run_with_relevance(model, prompt, LogitDiff("mary", "john"))
