"""run_with_relevance and its cache: prompts, padding, names, views, files, memory, and what is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lrp_lens import (
    ATTN_LRP,
    CP_LRP,
    GRADIENT,
    InputError,
    Logit,
    LogitDiff,
    LogProb,
    MetricError,
    Plain,
    RelevanceCache,
    RuleError,
    SiteError,
    run_with_relevance,
)
from tests import zoo

METRIC = LogitDiff(3, 7)
PROMPTS = [zoo.prompt_tokens(1, length, seed=length)[0] for length in (9, 4, 6)]


@pytest.fixture(params=zoo.HOSTS)
def build(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    return zoo.BUILD[request.param]


# ------------------------------------------------------------------------------------------ a pass
def test_one_forward_and_one_backward(build: Callable[[str], Any]) -> None:
    model, tokens, passes = build("llama"), zoo.prompt_tokens(1, 7), []
    ATTN_LRP.hooks(model)
    with (
        model.hooks(fwd_hooks=[("hook_embed", lambda tensor, hook: passes.append("forward"))]),
        mock.patch.object(torch.autograd, "grad", wraps=torch.autograd.grad) as backward,
    ):
        run_with_relevance(model, tokens, METRIC)
    assert passes == ["forward"] and backward.call_count == 1


def test_relevance_is_activation_times_gradient(build: Callable[[str], Any]) -> None:
    model, tokens = build("gpt2"), zoo.prompt_tokens(2, 7)
    _, cache = run_with_relevance(model, tokens, METRIC)
    _, plain = model.run_with_cache(tokens)
    assert list(cache) == list(cache.activations) == list(cache.gradients) and len(cache) > 20
    for name, relevance in cache.items():
        assert torch.equal(relevance, cache.activations[name] * cache.gradients[name])
        assert relevance.shape == cache.activations[name].shape
        if name != "hook_pos_embed" and name in plain:  # one row per example here
            assert torch.equal(cache.activations[name], plain[name]), name


def test_gradient_rules_are_the_gradient(build: Callable[[str], Any]) -> None:
    """Against finite differences of the metric along the embedding."""
    model, tokens = build("gpt2"), zoo.prompt_tokens(1, 5)
    _, cache = run_with_relevance(model, tokens, METRIC, rules=GRADIENT)
    embedding = cache.activations["hook_embed"]
    direction = torch.randn(embedding.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def along(step: float) -> Tensor:
        hook = ("hook_embed", lambda tensor, hook: embedding + step * direction)
        with torch.no_grad():
            return METRIC(model.run_with_hooks(tokens, fwd_hooks=[hook]))

    numeric = (along(1e-5) - along(-1e-5)) / 2e-5
    torch.testing.assert_close(
        (cache.gradients["hook_embed"] * direction).sum(), numeric[0], rtol=1e-6, atol=1e-7
    )


def test_names(build: Callable[[str], Any]) -> None:
    cache = run_with_relevance(build("gpt2"), zoo.prompt_tokens(1, 7), METRIC)[1]
    assert torch.equal(cache["z", 1], cache["blocks.1.attn.hook_z"])
    assert torch.equal(cache["resid_pre", 0], cache["blocks.0.hook_resid_pre"])
    assert torch.equal(cache["resid_post", -1], cache["blocks.1.hook_resid_post"])
    assert torch.equal(cache["embed"], cache["hook_embed"])
    assert torch.equal(cache.gradients["post", 0], cache.gradients["blocks.0.mlp.hook_post"])
    assert ("z", 1) in cache and "blocks.1.attn.hook_z" in cache
    assert ("z", 2) not in cache and "nothing" not in cache and 5 not in cache and ("pattern", 0) not in cache
    with pytest.raises(KeyError, match=r"hook_pattern.*names_filter"):
        cache["pattern", 0]
    with pytest.raises(InputError, match=r"\[0, 2\); received \('z', 7\)"):
        cache["z", 7]
    assert str(cache).startswith("RelevanceCache(") and "1 prompt of 7 tokens" in repr(cache)


def test_a_notebook_shows_a_cache(word_model: Any) -> None:
    prompts = ["then mary and john went", "mary gave the ball"] * 3
    _, cache = run_with_relevance(word_model, prompts, LogitDiff("mary", "john"), rules=CP_LRP)
    html = cache._repr_html_()
    assert f"{len(cache)} hook points" in html and "6 prompts of 6 tokens" in html and "rules CP_LRP" in html
    assert "metric " in html and f"{cache.metric_value[0].item():.4g}" in html
    assert html.count('class="lrp-name"') == 4 and "and 2 more prompts" in html
    single = run_with_relevance(word_model, prompts[0], LogitDiff("mary", "john"))[1]._repr_html_()
    assert "more prompts" not in single and 'class="lrp-name"' not in single
    tokens = [token for token in cache.token_strings[0] if token]
    assert single.count('<span class="lrp-t') == len(tokens) == 6
    filtered = run_with_relevance(word_model, prompts, names_filter=lambda name: name.endswith("hook_z"))[1]
    assert "lrp-heat" not in filtered._repr_html_() and "6 prompts" in filtered._repr_html_()


def test_what_a_notebook_shows_is_escaped(build: Callable[[str], Any]) -> None:
    cache = run_with_relevance(build("llama"), zoo.prompt_tokens(1, 3), METRIC)[1]
    cache.batch = replace(cache.batch, strings=(("<script>", "a&b", "<b>"),))
    cache.metric_text = "LogitDiff('<i>', 'x')"
    cache.towards = ("<i>", "x")
    html = cache._repr_html_()
    assert "&lt;script&gt;" in html and "a&amp;b" in html and "&lt;i&gt;" in html
    assert not any(tag in html for tag in ("<script", "<i>", "<b>&", "a&b"))


def test_names_filter(build: Callable[[str], Any]) -> None:
    model, tokens = build("llama"), zoo.prompt_tokens(1, 7)
    everything = run_with_relevance(model, tokens, METRIC)[1]
    one = run_with_relevance(model, tokens, METRIC, names_filter="blocks.1.attn.hook_z")[1]
    some = run_with_relevance(model, tokens, METRIC, names_filter=["hook_embed", "blocks.1.attn.hook_z"])[1]
    by_rule = run_with_relevance(model, tokens, METRIC, names_filter=lambda name: name.endswith("hook_z"))[1]
    assert list(one) == ["blocks.1.attn.hook_z"]
    assert set(some) == {"hook_embed", "blocks.1.attn.hook_z"}
    assert set(by_rule) == {"blocks.0.attn.hook_z", "blocks.1.attn.hook_z"}
    for cache in (one, some, by_rule):
        assert all(torch.equal(cache[name], everything[name]) for name in cache)
    quadratic = ["blocks.0.attn.hook_pattern", "blocks.0.attn.hook_attn_scores"]
    asked = run_with_relevance(model, tokens, METRIC, names_filter=quadratic)[1]
    assert [asked[name].shape for name in quadratic] == [(1, 4, 7, 7)] * 2
    nothing = run_with_relevance(model, tokens, METRIC, names_filter=[])[1]
    assert list(nothing) == [] and torch.equal(nothing.metric_value, everything.metric_value)
    all_there_is = run_with_relevance(model, tokens, METRIC, names_filter=lambda name: True)[1]
    assert set(everything) < set(all_there_is)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "mixtral", "gpt_oss"])
@pytest.mark.parametrize("rules", [ATTN_LRP, CP_LRP, GRADIENT], ids=lambda rules: rules.name)
def test_nothing_quadratic_is_kept(build: Callable[[str], Any], name: str, rules: Any) -> None:
    length = 23  # no other axis of these models has this size
    cache = run_with_relevance(build(name), zoo.prompt_tokens(1, length), METRIC, rules=rules)[1]
    assert cache.balance is not None
    calls = cache.balance.calls.values()
    held = [*cache.activations.values(), *cache.gradients.values()]
    held += [tensor for call in calls for tensor in (*call.activations, *call.gradients)]
    held += [tensor for inputs in cache.balance.norm_inputs.values() for tensor in inputs]
    assert held and all(list(tensor.shape).count(length) <= 1 for tensor in held)


def test_memory_is_bounded_by_the_filter(build: Callable[[str], Any]) -> None:
    cache = run_with_relevance(build("gpt2"), zoo.prompt_tokens(1, 9), METRIC, names_filter="hook_embed")[1]
    assert cache.balance is None
    assert len(cache.activations) == len(cache.gradients) == 1


@pytest.mark.parametrize("metric", [METRIC, LogProb(3), LogitDiff(3, 7, pos=2), None], ids=str)
def test_unembedding_only_what_the_metric_reads(build: Callable[[str], Any], metric: Any) -> None:
    with zoo.float64_throughout():
        model = build("gemma2")
        full, everything = run_with_relevance(model, PROMPTS, metric, padding_side="left")
        few, cache = run_with_relevance(model, PROMPTS, metric, padding_side="left", logits="metric")
        assert full.shape == (3, 9, zoo.D_VOCAB) and few.shape == (3, 1, zoo.D_VOCAB)
        for name in everything:
            torch.testing.assert_close(cache[name], everything[name], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(cache.ledger().metric, everything.ledger().metric)
        assert cache.ledger().relative_remainder < 1e-11


# ------------------------------------------------------------------------------- prompts and batches
@pytest.mark.parametrize(("host", "name"), zoo.models("hooked", "bridge"))
def test_a_batch_equals_the_singles(host: str, name: str) -> None:
    """Padded on either side, at every hook point with a position axis; nothing at the padding."""
    with zoo.float64_throughout():
        model = zoo.shared(host, name)
        singles = [run_with_relevance(model, prompt, METRIC)[1] for prompt in PROMPTS]
        for side in ("left", "right"):
            logits, batch = run_with_relevance(model, PROMPTS, METRIC, padding_side=side)
            assert bool(torch.isfinite(logits).all())
            for index, (prompt, single) in enumerate(zip(PROMPTS, singles, strict=True)):
                columns = torch.arange(9)[-len(prompt) :] if side == "left" else torch.arange(len(prompt))
                scale = single["hook_embed"].abs().max()
                for key in single:
                    if batch[key].shape[:2] != (3, 9):
                        continue  # a mixture's routing weights: tokens of all examples in one axis
                    found = batch[key][index, columns]
                    assert (found - single[key][0]).abs().max() < 1e-9 * scale, (side, key)
                rest = batch["hook_embed"][index].clone()
                rest[columns] = 0
                assert rest.abs().max() == 0
                assert torch.equal(batch.special[index], ~torch.isin(torch.arange(9), columns))


def test_a_batch_equals_the_singles_in_float32(build: Callable[[str], Any]) -> None:
    model = build("gpt2").to(torch.float32)
    batch = run_with_relevance(model, PROMPTS, METRIC, padding_side="left")[1].tokens()
    for index, prompt in enumerate(PROMPTS):
        single = run_with_relevance(model, prompt, METRIC)[1].tokens().values
        np.testing.assert_allclose(batch.values[index, -len(prompt) :], single, rtol=0, atol=1e-6 * 10)


@pytest.mark.usefixtures("unchecked")
def test_every_form_of_a_prompt_is_the_same(build: Callable[[str], Any]) -> None:
    model, tokens = build("gpt2"), zoo.prompt_tokens(1, 7)
    forms = {
        "row": tokens[0],
        "batch of one": tokens,
        "int32": tokens.int(),
        "numbers": tokens[0].tolist(),
        "list of numbers": [tokens[0].tolist()],
        "list of rows": [tokens[0]],
        "list of batches of one": [tokens],
    }
    expected = run_with_relevance(model, tokens, METRIC)[1]
    for what, form in forms.items():
        cache = run_with_relevance(model, form, METRIC)[1]
        assert torch.equal(cache["hook_embed"], expected["hook_embed"]), what
        assert cache.single == (not what.startswith("list")), what
        assert cache.tokens().dims == (("position",) if cache.single else ("batch", "position")), what
    pair = run_with_relevance(model, [tokens, tokens[:, :4]], METRIC)[1]
    torch.testing.assert_close(pair["hook_embed"][0], expected["hook_embed"][0], rtol=1e-9, atol=1e-12)


def test_texts(word_model: Any) -> None:
    prompt = "then mary and john went to the store"
    logits, cache = run_with_relevance(word_model, prompt, LogitDiff("mary", "john"))
    assert torch.equal(cache.token_ids, word_model.to_tokens(prompt))
    assert torch.equal(logits, word_model(prompt))
    assert cache.token_strings == (("<bos>", *prompt.split()),)
    assert cache.special.tolist() == [[True] + [False] * 8]
    assert (
        cache.tokens().dims == ("position",) and cache.tokens().labels["position"] == cache.token_strings[0]
    )
    with_unknown = run_with_relevance(word_model, "then zebra went", LogitDiff("mary", "john"))[1]
    assert with_unknown.token_strings[0][2] == "<unk>"


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("own_side", ["left", "right"])
def test_a_batch_of_texts_equals_the_singles(word_model: Any, side: Any, own_side: str) -> None:
    """Whatever side the tokenizer itself would pad on."""
    prompts = ["mary gave a ball to john", "then tom", "the store . mary went"]
    before = word_model.tokenizer.padding_side
    word_model.tokenizer.padding_side = own_side
    try:
        batch = run_with_relevance(word_model, prompts, LogitDiff("mary", "john"), padding_side=side)[1]
        for index, prompt in enumerate(prompts):
            single = run_with_relevance(word_model, prompt, LogitDiff("mary", "john"))[1]
            length = single.token_ids.shape[1]
            columns = slice(-length, None) if side == "left" else slice(length)
            torch.testing.assert_close(
                batch["hook_embed"][index, columns], single["hook_embed"][0], rtol=1e-5, atol=1e-7
            )
            assert batch.token_strings[index][columns] == single.token_strings[0]
            assert set(batch.token_strings[index]) == set(single.token_strings[0]) | (
                {""} if length < batch.token_ids.shape[1] else set()
            )
        assert word_model.tokenizer.padding_side == own_side
    finally:
        word_model.tokenizer.padding_side = before


# ----------------------------------------------------------------------------------------- views
def test_views_are_sums_of_relevance(build: Callable[[str], Any]) -> None:
    cache = run_with_relevance(build("gpt2"), zoo.prompt_tokens(1, 7), METRIC)[1]
    total = {name: value[0] for name, value in cache.items()}

    def equal(view: Any, expected: Tensor) -> None:
        np.testing.assert_allclose(view.values, expected.numpy(), rtol=1e-12, atol=1e-14)

    tokens, positions = total["hook_embed"].sum(-1), total["hook_pos_embed"].sum(-1)
    equal(cache.tokens(), tokens)
    equal(cache.positions(), positions)
    layers = cache.layers()
    assert layers.dims == ("layer", "position") and layers.axis_labels("layer") == ("embed", "L0", "L1")
    equal(
        layers,
        torch.stack(
            [
                total[f"blocks.{name}"].sum(-1)
                for name in ("0.hook_resid_pre", "0.hook_resid_post", "1.hook_resid_post")
            ]
        ),
    )
    np.testing.assert_allclose(layers.values[0], (tokens + positions).numpy(), rtol=1e-9, atol=1e-12)
    assert cache.layers(mid=True).axis_labels("layer") == ("embed", "L0 mid", "L0", "L1 mid", "L1")
    z = torch.stack([total[f"blocks.{layer}.attn.hook_z"] for layer in (0, 1)])
    equal(cache.heads(), z.sum((1, 3)))
    equal(cache.heads(by_position=True), z.sum(3).transpose(1, 2))
    equal(cache.neurons(1), total["blocks.1.mlp.hook_post"].sum(0))
    equal(cache.neurons(1, by_position=True), total["blocks.1.mlp.hook_post"])
    components = cache.components()
    names = components.axis_labels("component")
    assert names[:7] == ("embed", "pos_embed", "L0H0", "L0H1", "L0H2", "L0H3", "L0 MLP") and "L1 b_O" in names
    assert components.values[names.index("L0 MLP")] == pytest.approx(
        total["blocks.0.hook_mlp_out"].sum().item()
    )
    assert components.values[names.index("L1H2")] == pytest.approx(z[1, :, 2].sum().item())
    segments = cache.segments({"start": (0, 2), "ends": [(2, 3), (6, 7)]})
    assert segments.axis_labels("segment") == ("start", "ends", "(rest)")
    equal(segments, torch.stack([tokens[:2].sum(), tokens[2] + tokens[6], tokens[3:6].sum()]))
    largest = tokens.abs().max()
    equal(cache.tokens().normalise(), tokens / largest)


def test_normalising_leaves_special_tokens_out(word_model: Any) -> None:
    cache = run_with_relevance(word_model, "then mary and john went", LogitDiff("mary", "john"))[1]
    tokens = cache.tokens()
    largest = np.abs(tokens.values[1:]).max()
    np.testing.assert_allclose(tokens.normalise().values, tokens.values / largest, rtol=1e-12)
    everything = tokens.normalise(exclude_special=False).values
    np.testing.assert_allclose(everything, tokens.values / np.abs(tokens.values).max(), rtol=1e-12)
    assert tokens.special_share == pytest.approx(abs(tokens.values[0]) / np.abs(tokens.values).sum())


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_models_without_position_embeddings_have_none(build: Callable[[str], Any], name: str) -> None:
    cache = run_with_relevance(build(name), zoo.prompt_tokens(1, 7), METRIC)[1]
    assert "hook_pos_embed" not in cache and not cache.positions().values.any()
    assert "pos_embed" not in cache.components().axis_labels("component")


def test_a_mixture_has_no_neurons(build: Callable[[str], Any]) -> None:
    cache = run_with_relevance(build("mixtral"), zoo.prompt_tokens(1, 7), METRIC)[1]
    with pytest.raises(InputError, match=r"Layer 0 keeps no neurons[\s\S]*components\(\)"):
        cache.neurons(0)
    assert {"L0 MLP", "L1 MLP"} <= set(cache.components().axis_labels("component"))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "spans", [(0, 99), (3, 3), (-1, 2), (4, 2), 3, "ab", [(0, 1, 2)], None, (0.0, 1.0)], ids=str
)
def test_impossible_segments_are_refused(spans: Any) -> None:
    cache = run_with_relevance(zoo.bridge("gpt2"), zoo.prompt_tokens(1, 7), METRIC)[1]
    with pytest.raises(InputError, match=r"'part'"):
        cache.segments({"part": spans})
    with pytest.raises(InputError, match="do not overlap; 'b'"):
        cache.segments({"a": (0, 3), "b": (2, 4)})


# ------------------------------------------------------------------------------------------ files
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_saving_and_loading(build: Callable[[str], Any], tmp_path: Path, dtype: torch.dtype) -> None:
    model = build("gpt2").to(dtype)
    cache = run_with_relevance(model, PROMPTS, METRIC, padding_side="left")[1]
    cache.save(tmp_path / "rel.safetensors")
    again = RelevanceCache.load(tmp_path / "rel.safetensors")
    assert set(again) == set(cache)
    for name in cache:
        assert torch.equal(again[name], cache[name])
        assert again.activations[name].dtype == cache.activations[name].dtype
    for name in ("metric_value", "token_ids", "special"):
        assert torch.equal(getattr(again, name), getattr(cache, name))
    for name in ("token_strings", "single", "towards", "metric_text", "rules_text", "n_layers"):
        assert getattr(again, name) == getattr(cache, name), name
    assert str(again.ledger()) == str(cache.ledger()) and repr(again) == repr(cache)
    for view in ("tokens", "layers", "heads", "components"):
        one, other = getattr(again, view)(), getattr(cache, view)()
        np.testing.assert_allclose(one.values, other.values, rtol=1e-5, atol=1e-9)  # sums in another order
        assert one.labels == other.labels and one.notes == other.notes
    selection = run_with_relevance(model, PROMPTS, METRIC, names_filter="hook_embed")[1]
    selection.save(tmp_path / "selection.safetensors")
    with pytest.raises(InputError, match="needs all default hook points"):
        RelevanceCache.load(tmp_path / "selection.safetensors").ledger()


def test_files_hold_tensors_and_json_only(tmp_path: Path) -> None:
    path = tmp_path / "rel.safetensors"
    run_with_relevance(zoo.bridge("gpt2"), zoo.prompt_tokens(1, 7), METRIC)[1].save(path)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["lrp_lens"])
    assert header["kind"] == "RelevanceCache/4" and header["words"]["metric_text"].startswith("LogitDiff")
    assert b"pickle" not in path.read_bytes()[:4096]


@pytest.mark.parametrize("content", [None, b"", b"no safetensors at all", "other"], ids=str)
def test_other_files_are_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "file"
    if content == "other":
        save_file({"x": torch.zeros(2)}, path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="file"):
        RelevanceCache.load(path)


def test_moving(build: Callable[[str], Any]) -> None:
    cache = run_with_relevance(build("gpt2"), zoo.prompt_tokens(1, 7), METRIC)[1]
    expected = str(cache.ledger())
    assert cache.to("cpu") is cache
    assert str(cache.ledger()) == expected
    moved = run_with_relevance(build("gpt2"), zoo.prompt_tokens(1, 7), METRIC)[1].to("meta")
    held = [*moved.activations.values(), *moved.gradients.values(), moved.token_ids, moved.special]
    assert {tensor.device.type for tensor in (*held, moved.metric_value)} == {"meta"}


def test_two_caches_are_two(build: Callable[[str], Any]) -> None:
    one, other = (run_with_relevance(build("gpt2"), zoo.prompt_tokens(1, 7), METRIC)[1] for _ in range(2))
    for first, second in ((one, other), (one.activations, other.activations)):
        assert first == first and first != second and len({first, second}) == 2


# ------------------------------------------------------------------------------- what is refused
TOKENS = zoo.prompt_tokens(1, 6)
REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no prompts": (dict(prompt=[]), InputError, "at least one token"),
    "empty text": (dict(prompt=""), InputError, "empty string"),
    "empty row": (dict(prompt=TOKENS[0, :0]), InputError, "at least one token"),
    "empty batch": (dict(prompt=TOKENS[:0]), InputError, "at least one token"),
    "one empty of two": (dict(prompt=[[3], []]), InputError, "at least one token"),
    "text without tokenizer": (dict(prompt="mary gave"), InputError, "needs a tokenizer.*token ids"),
    "fractions": (dict(prompt=TOKENS.float()), InputError, "integers; received .*float32"),
    "truths": (dict(prompt=TOKENS > 3), InputError, "integers; received .*bool"),
    "three axes": (dict(prompt=TOKENS[None]), InputError, r"\[batch, pos\]; received \(1, 1, 6\)"),
    "no axis": (dict(prompt=TOKENS[0, 0]), InputError, r"received \(\)"),
    "two rows in a list": (dict(prompt=[TOKENS.expand(2, 6)]), InputError, "prompt"),
    "None": (dict(prompt=None), InputError, "received NoneType"),
    "array": (dict(prompt=np.array([3.0, 4.0])), InputError, "Token ids are integers"),
    "beyond the vocabulary": (dict(prompt=[3, 97]), InputError, r"\[0, 97\), the vocabulary; received 97"),
    "negative id": (dict(prompt=[3, -1]), InputError, "received -1"),
    "too long": (dict(prompt=[3] * 129), InputError, "128 tokens; received 129"),
    "padding side": (dict(padding_side="middle"), InputError, "'left' or 'right'; received 'middle'"),
    "rules": (dict(rules="magic"), RuleError, "rules is a RuleSet, or one of .*received 'magic'"),
    "rule": (dict(rules=Plain()), RuleError, "received Plain"),
    "logits": (dict(logits="some"), InputError, "'all' or 'metric'; received 'some'"),
    "name": (dict(names_filter="blocks.0.hook_nothing"), InputError, "'blocks.0.hook_nothing' is none"),
    "names": (dict(names_filter=["hook_embed", "x"]), InputError, "'x' is none. Names look like"),
    "names_filter": (dict(names_filter=3), InputError, "names_filter"),
    "metric": (dict(metric="mary"), MetricError, "is a Metric"),
    "metric's word": (dict(metric=Logit("mary")), MetricError, "needs a tokenizer.*token id"),
    "metric's id": (dict(metric=Logit(97)), MetricError, r"\[0, 97\)"),
    "metric's position": (dict(metric=Logit(3, pos=6)), MetricError, r"\[-6, 6\).*reads 6"),
    "metric's examples": (
        dict(metric=Logit([3, 4])),
        MetricError,
        "has 2 and reads 2 rows of logits, for a batch of 1",
    ),
    "override": (
        dict(rules=ATTN_LRP.override(layers=[2], norm=Plain())),
        RuleError,
        r"0 to 1; received \[2\]",
    ),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("what", REFUSED)
def test_bad_input_is_refused_before_the_pass(build: Callable[[str], Any], what: str) -> None:
    changes, error, message = REFUSED[what]
    model, passes = build("gpt2"), []
    ATTN_LRP.hooks(model)
    arguments = dict(prompt=TOKENS, metric=METRIC) | changes
    before = {name: len(point.fwd_hooks) for name, point in model.hook_dict.items()}
    counted = ("hook_embed", lambda tensor, hook: passes.append(hook.name))
    with model.hooks(fwd_hooks=[counted]), pytest.raises(error, match=message):
        run_with_relevance(model, **arguments)
    assert passes == []
    assert {name: len(point.fwd_hooks) for name, point in model.hook_dict.items()} == before
    assert all(parameter.requires_grad for parameter in model.parameters())
    run_with_relevance(model, TOKENS, METRIC)


def test_train_mode_is_refused(build: Callable[[str], Any]) -> None:
    model = build("gpt2")
    model.train()
    with pytest.raises(InputError, match=r"in train mode. Call model.eval\(\)"):
        run_with_relevance(model, TOKENS, METRIC)
    assert model.training
    model.eval()
    run_with_relevance(model, TOKENS, METRIC)


@pytest.mark.parametrize("part", ["original_model", "attention"])
def test_a_bridge_with_a_part_in_train_mode_is_refused(part: str) -> None:
    """Llama's attention dropout is a function, not a module, so no module in train mode is called dropout."""
    model = variant("llama", attention_dropout=0.5)
    (model.original_model if part == "original_model" else model.blocks[0].attn).train()
    assert not torch.equal(model(TOKENS), model(TOKENS))
    with pytest.raises(InputError, match="train mode"):
        run_with_relevance(model, TOKENS, METRIC)


@pytest.mark.parametrize("seen_before", [False, True])
def test_nan_logits_are_refused(build: Callable[[str], Any], seen_before: bool) -> None:
    """With the same words on a model's first pass, which checks its operations, as on a later one."""
    model = build("gpt2")
    if seen_before:
        run_with_relevance(model, TOKENS, METRIC)
    with torch.no_grad():
        next(iter(model.blocks[1].mlp.parameters())).view(-1)[0] = float("nan")
    with pytest.raises(InputError, match=r"finite[\s\S]*NaN"):
        run_with_relevance(model, TOKENS, METRIC)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.usefixtures("unchecked")
def test_other_models_are_refused() -> None:
    for model in (nn.Linear(3, 3), zoo.hugging_face("gpt2"), None, "gpt2"):
        for call in (
            lambda m=model: run_with_relevance(m, TOKENS, METRIC),
            lambda m=model: ATTN_LRP.hooks(m),
        ):
            with pytest.raises(InputError, match=r"HookedTransformer or TransformerBridge, received \w+"):
                call()


@pytest.mark.parametrize(
    "change", ["solu_ln", "clip_qkv", "shortformer"] if zoo.HAS_HOOKED_TRANSFORMER else []
)
def test_operations_without_a_rule_are_refused(change: str) -> None:
    model = zoo.native_hooked("solu_ln" if change == "solu_ln" else "ln_gelu")
    if change == "clip_qkv":
        model.cfg.clip_qkv = 8.0
    elif change == "shortformer":
        model.cfg.positional_embedding_type = "shortformer"
    with pytest.raises(
        SiteError, match=rf"needs a relevance rule; HookedTransformer with .*{change}[\s\S]*Use"
    ):
        run_with_relevance(model, TOKENS, METRIC)


def variant(name: str, **changes: Any) -> Any:
    """A bridge around an architecture with other configuration fields."""
    recipe = zoo.RECIPES[name]
    with mock.patch.dict(zoo.RECIPES, {name: (*recipe[:2], recipe[2] | changes)}):
        return zoo.bridge(name)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("olmoe", dict(clip_qkv=0.5), "clip_qkv"),
        ("opt", dict(word_embed_proj_dim=16), "OPT|word_embed_proj_dim"),
        ("gpt2", dict(activation_function="mish"), "known ratio"),
        ("qwen3_moe", dict(mlp_only_layers=[0]), "mixture of experts needs its experts"),
    ],
)
def test_variants_with_other_operations_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    """A clamp of q, k and v, for instance, would be counted as softmax, or not at all."""
    model = variant(name, **changes)
    with pytest.raises(SiteError, match=message):
        run_with_relevance(model, TOKENS, METRIC)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("neox", dict(use_parallel_residual=False)),
        ("bloom", dict(apply_residual_connection_post_layernorm=True)),
        ("gpt2", dict(scale_attn_by_inverse_layer_idx=True)),
        ("opt", dict(enable_bias=False, activation_function="gelu")),
        ("qwen3_moe", dict(norm_topk_prob=False)),
        ("gemma2", dict(attn_logit_softcapping=None, final_logit_softcapping=None)),
        ("gpt_oss", dict(swiglu_limit=2.0)),
    ],
)
def test_variants_with_the_same_operations_work(name: str, changes: dict[str, Any]) -> None:
    model = variant(name, **changes)
    for rules in (ATTN_LRP, CP_LRP):
        logits, cache = run_with_relevance(model, TOKENS, METRIC, rules=rules)
        assert torch.equal(logits, model(TOKENS))
        assert cache.ledger().relative_remainder < 1e-5


def test_split_inputs_of_a_bridge_are_refused() -> None:
    model = zoo.bridge("llama")
    run_with_relevance(model, TOKENS, METRIC)
    model.set_use_split_qkv_input(True)
    with pytest.raises(SiteError, match=r"use_split_qkv_input[\s\S]*set_use_split_qkv_input\(False\)"):
        run_with_relevance(model, TOKENS, METRIC)
